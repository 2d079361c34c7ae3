"""PyTorchJobs as users submit them, on a volume that all pods of the job share."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scheduler.controlplane import images
from tests.cluster.conftest import Kube

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "tests" / "e2e" / "script.py"
GRACE_S = 30
PATIENCE_S = 400.0  #: loading torch in every pod takes minutes where other programs have the cores
SHARED = "/shared"  #: where a job's pods see the volume
LAUNCH = (
    "exec python -m torch.distributed.run --nproc_per_node 1 --nnodes $WORLD_SIZE "
    "--node_rank $RANK --master_addr $MASTER_ADDR --master_port $MASTER_PORT"
)


def volume(space: str, folder: Path) -> list[dict[str, Any]]:
    """Return a claim named `runs` and the folder of this machine that serves it."""
    size = {"storage": "1Gi"}
    folder.mkdir(parents=True, exist_ok=True)
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": space},
            "spec": {
                "capacity": size,
                "accessModes": ["ReadWriteMany"],
                "storageClassName": "shared",
                "hostPath": {"path": str(folder)},
                "claimRef": {"namespace": space, "name": "runs"},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "runs", "namespace": space},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "storageClassName": "shared",
                "resources": {"requests": size},
            },
        },
    ]


def pytorchjob(space: str, name: str, workers: int = 3, **settings: object) -> dict[str, Any]:
    """Return a job of a master and workers, one GPU each; settings go to the trainer."""
    sets = " ".join(f"--set {key}={value}" for key, value in settings.items())
    container = {
        "name": "pytorch",
        "image": images.TRAIN,
        "command": ["sh", "-c", f"{LAUNCH} {SCRIPT} --set out={SHARED}/{name} {sets}"],
        "resources": {
            "limits": {"nvidia.com/gpu": 1},
            "requests": {"cpu": "100m", "memory": "256Mi"},
        },
        "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
        "volumeMounts": [{"name": "runs", "mountPath": SHARED}],
    }
    part = {
        "restartPolicy": "OnFailure",
        "template": {
            "spec": {
                "terminationGracePeriodSeconds": GRACE_S,
                "containers": [container],
                "volumes": [{"name": "runs", "persistentVolumeClaim": {"claimName": "runs"}}],
            }
        },
    }
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name, "namespace": space},
        "spec": {
            "runPolicy": {"backoffLimit": 100, "cleanPodPolicy": "None"},
            "pytorchReplicaSpecs": {
                "Master": {"replicas": 1, **part},
                "Worker": {"replicas": workers, **part},
            },
        },
    }


@dataclass(frozen=True)
class Job:
    """A submitted job, seen from outside: its pods by the API, its log by the shared volume."""

    kube: Kube
    space: str
    name: str
    size: int
    folder: Path  #: what its pods see as /shared/NAME

    def path(self, what: str) -> str:
        """Return the address of one of its pods."""
        return f"/api/v1/namespaces/{self.space}/pods/{self.name}-{what}"

    def pods(self) -> dict[str, dict[str, Any]]:
        """Return its pods, by their names without the job's."""
        return self.among(self.kube.pods(self.space))

    def among(self, found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return its pods among these, by their names without the job's."""
        prefix = f"{self.name}-"
        return {n.removeprefix(prefix): p for n, p in found.items() if n.startswith(prefix)}

    def holding(self, found: dict[str, dict[str, Any]] | None = None) -> set[str]:
        """Return its pods that hold a GPU, among those of one reading or as they are now."""
        pods = self.pods() if found is None else self.among(found)
        return {
            name
            for name, pod in pods.items()
            if pod["spec"].get("nodeName") and pod["status"]["phase"] in ("Pending", "Running")
        }

    def restarts(self) -> dict[str, int]:
        """Return how often each pod's container was started again."""
        return {
            name: sum(c["restartCount"] for c in pod["status"].get("containerStatuses", ()))
            for name, pod in self.pods().items()
        }

    def condition(self) -> str:
        """Return the operator's last word on it."""
        path = f"/apis/kubeflow.org/v1/namespaces/{self.space}/pytorchjobs/{self.name}"
        said = self.kube.call("GET", path).get("status", {}).get("conditions") or []
        return next((c["type"] for c in reversed(said) if c["status"] == "True"), "")

    def events(self, *names: str, rank: int = 0) -> list[dict[str, Any]]:
        """Return what a rank wrote into its goodput log so far, of these names or all."""
        path = self.folder / "goodput" / f"rank_{rank:05d}.jsonl"
        if not path.exists():
            return []
        lines = path.read_text().splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [e for e in found if not names or e["event"] in names]

    def trained(self, attempt: int = 1) -> int:
        """Return how many steps are known to be done, in this attempt or a later one."""
        return max((e["step"] for e in self.events("steps") if e["attempt"] >= attempt), default=0)

    def until_trained(self, steps: int, attempt: int = 1, within_s: float = PATIENCE_S) -> None:
        """Wait until it has done so many steps, in this attempt or a later one."""
        what = f"{self.name} has done {steps} steps in attempt {attempt}"
        self.kube.until(what, lambda: self.trained(attempt) >= steps, within_s)

    def until_succeeded(self, within_s: float = PATIENCE_S) -> None:
        """Wait until the operator says that it succeeded."""

        def succeeded() -> bool:
            said = self.condition()
            assert said != "Failed", {n: p["status"] for n, p in self.pods().items()}
            return said == "Succeeded"

        try:
            self.kube.until(f"{self.name} succeeded", succeeded, within_s)
        except pytest.fail.Exception as failure:
            pytest.fail(f"{failure}\n{self.words()}")

    def words(self) -> str:
        """Return how the containers of its pods are, and the last that each said."""
        said = []
        for name, pod in self.pods().items():
            states = json.dumps(pod["status"].get("containerStatuses"))
            try:
                log = self.kube.call_raw("GET", self.path(name) + "/log?tailLines=20").decode()
            except OSError as error:
                log = str(error)
            said.append(f"{name}: {states}\n{log}")
        return "\n".join(said)

    def parameters(self) -> list[str]:
        """Return the digest of every rank's parameters, as it ended."""
        steps = self.trained()
        files = [self.folder / "parameters" / f"step_{steps}_rank_{r}" for r in range(self.size)]
        return [file.read_text() for file in files]

    def process_of(self, what: str) -> int:
        """Return the id on this machine of the process that trains in one of its pods."""
        uid = self.pods()[what]["metadata"]["uid"]
        for entry in Path("/proc").iterdir():
            try:
                group = (entry / "cgroup").read_text()
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if uid in group and str(SCRIPT).encode() in words and b"--nnodes" not in words:
                return int(entry.name)
        raise AssertionError(f"no process trains in {what}")

    def kill_rank(self, what: str) -> None:
        """End the training process of a pod without a word."""
        os.kill(self.process_of(what), signal.SIGKILL)
