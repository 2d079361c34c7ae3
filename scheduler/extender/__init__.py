"""kube-scheduler's verbs and binds, and how they are served."""
