"""Access to a local cluster: certificates, tokens and a kubeconfig for each component."""

from __future__ import annotations

import base64
import json
import secrets

from scheduler import whole
from scheduler.controlplane import nodes
from scheduler.controlplane.certificates import Authority, signing_key
from scheduler.controlplane.record import Cluster

#: user and group by kubeconfig; muster has the rights of its manifests and no others
USERS = {
    "admin": ("admin", "system:masters"),
    "kube-controller-manager": ("kube-controller-manager", "system:masters"),
    "kube-scheduler": ("kube-scheduler", "system:masters"),
    "kwok": ("kwok", "system:masters"),
    "training-operator": ("training-operator", "system:masters"),
    "coredns": ("coredns", "system:masters"),
    "muster": ("system:serviceaccount:muster-system:muster", "system:serviceaccounts"),
}


def write_etcd(cluster: Cluster) -> None:
    """Write keys for etcd and its only client, unless they exist; etcd admits no other client.

    Whoever may write to etcd controls the cluster, whatever the API server allows.
    """
    folder = cluster.dir / "certificates" / "etcd"
    done = folder / "done"  # the last that is written
    if done.exists():
        return
    authority = Authority(folder)
    for name in ("etcd", "client"):
        authority.issue(name)
    done.touch()


def write(cluster: Cluster) -> None:
    """Write all of it into the cluster's folder, unless it exists."""
    path = cluster.dir / "tokens.csv"  # the last that is written
    if path.exists():
        return
    authority = Authority(cluster.dir / "certificates")
    for name in ("kube-apiserver", "kube-scheduler", "muster"):
        authority.issue(name, cluster.host)
    signing_key(cluster.dir / "certificates" / "service-accounts.key")
    ca = base64.b64encode(authority.path.read_bytes()).decode()
    users = dict(USERS)
    for name in map(nodes.name_of, range(cluster.kubelets)):
        users[name] = (f"system:node:{name}", "system:nodes")
    tokens = []
    for name, (user, group) in users.items():
        token = secrets.token_urlsafe(24)
        tokens.append(f'{token},{user},{user},"{group}"')
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "muster",
                    "cluster": {"server": cluster.api_url, "certificate-authority-data": ca},
                }
            ],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "muster", "context": {"cluster": "muster", "user": name}}],
            "current-context": "muster",
        }
        whole.write_text(cluster.dir / f"{name}.kubeconfig", json.dumps(config), mode=0o600)
    whole.write_text(path, "\n".join(tokens) + "\n", mode=0o600)
