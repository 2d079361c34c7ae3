"""Kinds of jobs that a cluster may know, as far as muster reads them: any spec is taken."""

from __future__ import annotations

import urllib.error
import urllib.request
from functools import partial
from typing import Any

from tests.cluster.conftest import Kube

KINDS = (
    ("scheduling.volcano.sh", "v1beta1", "PodGroup"),
    ("jobset.x-k8s.io", "v1alpha2", "JobSet"),
    ("leaderworkerset.x-k8s.io", "v1", "LeaderWorkerSet"),
    ("trainer.kubeflow.org", "v1alpha1", "TrainJob"),
)
WATCHED = ("volcano", "JobSet", "LeaderWorkerSet")  #: the words by which muster's metrics name them
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def definition(group: str, version: str, kind: str) -> dict[str, Any]:
    """Return the definition of a kind with nothing checked."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    plural = f"{kind.lower()}s"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "properties": {"spec": anything, "status": anything},
                        }
                    },
                }
            ],
        },
    }


def define(kube: Kube) -> None:
    """Make the kinds known, and wait until muster watches those whose sizes it reads."""
    for kind in KINDS:
        try:
            kube.call("POST", DEFINITIONS, definition(*kind))
        except urllib.error.HTTPError as error:
            if error.code != 409:
                raise
    for word in WATCHED:
        kube.until(f"muster watches {word}", partial(watches, kube, word))


def watches(kube: Kube, word: str) -> bool:
    """True once muster has listed a kind."""
    return f'muster_watch_age_seconds{{kind="{word}"}}' in metrics(kube)


def metrics(kube: Kube) -> str:
    """Return muster's metrics."""
    with urllib.request.urlopen(f"{kube.cluster.status_url}/metrics", timeout=10) as reply:
        return str(reply.read().decode())


def create(kube: Kube, item: dict[str, Any]) -> dict[str, Any]:
    """Create an object of one of the kinds; return it as the server has it."""
    path = f"/apis/{item['apiVersion']}/namespaces/{item['metadata']['namespace']}"
    made: dict[str, Any] = kube.call("POST", f"{path}/{item['kind'].lower()}s", item)
    return made


def thing(space: str, version: str, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Return an object."""
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "namespace": space},
        "spec": spec,
    }


def define_job(kube: Kube, kind: str) -> None:
    """Make another job of the training operator known, and wait until muster watches it."""
    try:
        kube.call("POST", DEFINITIONS, definition("kubeflow.org", "v1", kind))
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise
    kube.until(f"muster watches {kind}", partial(watches, kube, kind))
