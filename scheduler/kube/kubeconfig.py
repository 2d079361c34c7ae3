"""Finds the cluster of a command as kubectl does."""

from __future__ import annotations

import os
from pathlib import Path

from kubernetes.aio.config import ConfigException
from kubernetes.aio.config.kube_config import KubeConfigLoader, KubeConfigMerger


def chosen(named: str = "") -> str:
    """Return the kubeconfig to use: the one named, KUBECONFIG, ~/.kube/config; empty: in-cluster.

    KUBECONFIG may list several files; they are returned unchanged.

    Raises:
        ValueError: there is none, and this is not a pod.
    """
    listed = named or os.environ.get("KUBECONFIG", "")
    if listed:
        if not any(Path(path).expanduser().is_file() for path in listed.split(os.pathsep) if path):
            source = "--kubeconfig" if named else "KUBECONFIG"
            raise ValueError(f"{source} {listed!r}: no such file; name one with --kubeconfig FILE")
        return listed
    usual = Path.home() / ".kube" / "config"
    if usual.is_file():
        return str(usual)
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return ""
    raise ValueError(
        f"no cluster is given: {usual} does not exist, KUBECONFIG is not set, and this is not a "
        "pod; name a file with --kubeconfig FILE"
    )


def namespace_of(kubeconfig: str, context: str = "") -> str:
    """Return the namespace of a kubeconfig's context, or of this pod if there is no kubeconfig.

    Raises:
        ValueError: the kubeconfig cannot be read, or has no such context.
    """
    if not kubeconfig:
        own = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
        return own.read_text().strip() if own.is_file() else "default"
    try:
        merged = KubeConfigMerger(kubeconfig).config  # type: ignore[no-untyped-call]
        loader = KubeConfigLoader(merged, active_context=context or None)  # type: ignore[no-untyped-call]
        found = loader.current_context["context"].get("namespace")
    except (ConfigException, OSError) as error:
        raise ValueError(f"{kubeconfig!r}: {error}; see kubectl config get-contexts") from None
    return str(found or "default")
