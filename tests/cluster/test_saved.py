"""A training pod may say until when it is saved, on itself alone, and the core hears of it."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler.controlplane.record import Cluster
from tests.cluster.conftest import Kube, pod
from trainer.saved import SAVED, Saved

pytestmark = [pytest.mark.k8s, pytest.mark.slow]

SHIPPED = Path(__file__).resolve().parents[2] / "deploy" / "trainer" / "saved" / "saved.yaml"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces/{space}"
PATHS = {
    "ServiceAccount": "/api/v1/namespaces/{space}/serviceaccounts",
    "Role": f"{RBAC}/roles",
    "RoleBinding": f"{RBAC}/rolebindings",
    "ValidatingAdmissionPolicy": f"{ADMISSION}/validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": f"{ADMISSION}/validatingadmissionpolicybindings",
}


def mounted(kube: Kube, space: str, name: str, folder: Path) -> Path:
    """Write the token that Kubernetes would mount into a pod."""
    meta = kube.pods(space)[name]["metadata"]
    bound = {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": meta["uid"]}
    asked = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": 3600, "boundObjectRef": bound},
    }
    path = f"/api/v1/namespaces/{space}/serviceaccounts/muster-trainer/token"
    token = folder / f"{name}.token"
    token.write_text(kube.call("POST", path, asked)["status"]["token"])
    return token


def test_a_trainer_says_what_it_saved_on_its_own_pod_alone(
    cluster: Cluster, kube: Kube, space: str, tmp_path: Path
) -> None:
    made = list(yaml.safe_load_all(SHIPPED.read_text("utf-8")))
    for item in made:
        if item["kind"] == "RoleBinding":
            item["subjects"][0]["namespace"] = space
        kube.call("POST", PATHS[item["kind"]].format(space=space), item)
    try:
        own = {"muster.dev/group": "t", "muster.dev/min-member": "2"}
        both = [
            pod(space, f"t-{i}", annotations=own, serviceAccountName="muster-trainer")
            for i in range(2)
        ]
        kube.create(*both)
        kube.until("both run", lambda: len(kube.bound(space)) == 2)
        ca = cluster.dir / "certificates" / "ca.crt"
        token = mounted(kube, space, "t-0", tmp_path)
        urls = [f"{cluster.api_url}/api/v1/namespaces/{space}/pods/t-{i}" for i in range(2)]

        def write(url: str, body: Any) -> int:
            headers = {"Authorization": f"Bearer {token.read_text()}"}
            headers["Content-Type"] = "application/merge-patch+json"
            asked = urllib.request.Request(url, json.dumps(body).encode(), headers, method="PATCH")
            try:
                with urllib.request.urlopen(asked, context=kube._tls, timeout=30) as reply:
                    return int(reply.status)
            except urllib.error.HTTPError as error:
                return error.code

        def said(text: str) -> dict[str, Any]:
            return {"metadata": {"annotations": {SAVED: text}}}

        kube.until("the policy holds", lambda: write(urls[1], said("x")) in (403, 422))
        assert write(urls[1], said("y")) in (403, 422), "another pod is not its own"
        assert write(urls[0], {"metadata": {"labels": {"a": "b"}}}) in (403, 422)
        assert write(urls[0], {"metadata": {"annotations": {"muster.dev/plan": "x"}}}) in (403, 422)
        now_s = time.time()
        thread = Saved(urls[0], token, ca).note(now_s)
        assert thread is not None
        thread.join(20.0)
        seen = kube.pods(space)
        assert SAVED in seen["t-0"]["metadata"]["annotations"]
        assert seen["t-1"]["metadata"]["annotations"].get(SAVED) in (None, "x"), "before it held"
        journal = cluster.dir / "journal.jsonl"
        kube.until("the core was told", lambda: b"CheckpointSaved" in journal.read_bytes())
    finally:
        for item in made:
            kube.delete(f"{PATHS[item['kind']].format(space=space)}/{item['metadata']['name']}")
