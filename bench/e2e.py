"""From nothing to a trained gang on four real nodes, and from a deleted worker to training again.

Nothing is mocked: PyTorchJob, training operator, gate, plan, kube-scheduler, kubelet, containers,
torchrun, DDP over gloo. Prints a table and writes bench/out/e2e.json. Needs root.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scheduler import whole
from scheduler.controlplane import cluster as clusters
from scheduler.controlplane import requirements
from tests.cluster.conftest import Kube
from tests.e2e.conftest import until_account
from tests.e2e.jobs import Job, pytorchjob, volume

OUT = Path(__file__).resolve().parent / "out" / "e2e.json"
NODES, SPACE = 4, "bench"
VICTIM = "worker-1"
#: parts of a recovery, in order; what ends each is found in `Recovery`
PARTS = (
    ("all ranks stopped and saved", "stopped"),
    ("pod gone", "gone"),
    ("gang recreated by the operator", "created"),
    ("admitted by muster", "admitted"),
    ("bound by kube-scheduler", "bound"),
    ("pods started by kubelets", "started"),
    ("Python and torch loaded", "loaded"),
    ("rendezvous", "met"),
    ("restore", "restored"),
    ("first step", "training"),
)
Row = dict[str, Any]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Watch(threading.Thread):
    """Keeps when each state of a namespace's pods was seen."""

    def __init__(self, kube: Kube, space: str) -> None:
        super().__init__(daemon=True)
        self.seen: list[tuple[float, str, dict[str, Any]]] = []
        request = urllib.request.Request(
            f"{kube.cluster.api_url}/api/v1/namespaces/{space}/pods?watch=1",
            headers={"Authorization": f"Bearer {kube._token}"},
        )
        self._stream = urllib.request.urlopen(request, context=kube._tls, timeout=600)
        self.start()

    def run(self) -> None:
        for line in self._stream:
            event = json.loads(line)
            self.seen.append((time.time(), event["type"], event["object"]))

    def first(self, wanted: Callable[[str, dict[str, Any]], bool]) -> float:
        """Return when something was first seen; raises where it never was."""
        return next(at for at, kind, pod in list(self.seen) if wanted(kind, pod))


def moments(job: Job, watch: Watch, old: dict[str, Any], deleted_unix_s: float) -> dict[str, float]:
    """Return when each part of a recovery had ended."""
    name, uid = old["metadata"]["name"], old["metadata"]["uid"]

    def successor(wanted: Callable[[dict[str, Any]], bool]) -> float:
        return watch.first(
            lambda kind, pod: (
                pod["metadata"]["name"] == name and pod["metadata"]["uid"] != uid and wanted(pod)
            )
        )

    def running(other: str) -> float:
        """When the container that now trains in a pod was first seen."""
        made = job.pods()[other]
        container = made["status"]["containerStatuses"][0]["containerID"]
        return watch.first(
            lambda kind, pod: (
                pod["metadata"]["uid"] == made["metadata"]["uid"]
                and any(
                    c.get("containerID") == container and "running" in c["state"]
                    for c in pod["status"].get("containerStatuses", ())
                )
            )
        )

    last = int(job.events("first_step")[-1]["attempt"])

    def told(*events: str, attempt: int = last, rank: int = 0) -> float:
        found = [e for e in job.events(*events, rank=rank) if e["attempt"] == attempt]
        return float(found[0]["t_unix_s"])

    return {
        "deleted": deleted_unix_s,
        "stopped": told("exit", attempt=1),
        "gone": watch.first(lambda kind, pod: kind == "DELETED" and pod["metadata"]["uid"] == uid),
        "created": successor(lambda pod: True),
        "admitted": successor(lambda pod: not pod["spec"].get("schedulingGates")),
        "bound": successor(lambda pod: bool(pod["spec"].get("nodeName"))),
        "started": max(running(pod) for pod in job.pods()),
        "loaded": max(told("process_start", rank=rank) for rank in range(job.size)),
        "met": told("pg_ready"),
        "restored": told("restore"),
        "training": told("first_step"),
    }


def submit(kube: Kube, name: str, **settings: object) -> Job:
    """Submit a job of a master and three workers."""
    kube.create(pytorchjob(SPACE, name, NODES - 1, **settings))
    return Job(kube, SPACE, name, NODES, kube.cluster.dir / "shared" / SPACE / name)


def recovery(kube: Kube, name: str) -> dict[str, float]:
    """Delete a worker of a job that trains; return the seconds of each part of its recovery."""
    watch = Watch(kube, SPACE)
    job = submit(kube, name, steps=100_000, log_every=5, **{"checkpoint.every_steps": 50})
    job.until_trained(20)
    old = job.pods()[VICTIM]
    began_unix_s = time.time()
    kube.call("DELETE", job.path(VICTIM))
    kube.until("all ranks train again", lambda: len(job.events("first_step")) > 1, 180.0)
    at = moments(job, watch, old, began_unix_s)
    kube.call(
        "DELETE", f"/apis/kubeflow.org/v1/namespaces/{SPACE}/pytorchjobs/{name}",
        {"propagationPolicy": "Background"},
    )  # fmt: skip
    kube.until("the job is gone", lambda: not job.pods(), 90.0)
    marks = ["deleted", *(mark for _, mark in PARTS)]
    # clocks of parts differ by their sources; an earlier end of a later part counts as at once
    ends = [max(at[mark] for mark in marks[: i + 1]) for i in range(len(marks))]
    parts = {what: ends[i + 1] - ends[i] for i, (what, _) in enumerate(PARTS)}
    return parts | {"fault to all ranks training again": at["training"] - began_unix_s}


def row(what: str, value: float, unit: str = "s", at_most: float | None = None) -> Row:
    """Return a line of the table."""
    must = "" if at_most is None else f"<= {at_most:g}"
    return {
        "what": what,
        "value": round(value, 3),
        "unit": unit,
        "must": must,
        "met": None if at_most is None else value <= at_most,
    }


def measure(folder: Path, repeats: int) -> list[Row]:
    """Return all rows."""
    began_s = time.monotonic()
    cluster = clusters.up(folder, nodes=0, kubelets=NODES, say=say)
    up_s = time.monotonic() - began_s
    try:
        kube = Kube(cluster)
        kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}})
        kube.create(*volume(SPACE, cluster.dir / "shared" / SPACE))
        until_account(kube, SPACE)
        job = submit(kube, "canonical", steps=100, log_every=10)
        job.until_succeeded()
        whole_s = time.monotonic() - began_s
        assert len(set(job.parameters())) == 1, "ranks differ"
        rows = [
            row("muster cluster up --kubelets 4", up_s),
            row("... until the job of 4 ranks and 100 steps has succeeded", whole_s, at_most=120.0),
        ]
        taken = []
        for number in range(repeats):
            say(f"deleting a worker, {number + 1} of {repeats}")
            taken.append(recovery(kube, f"deleted-{number}"))
    finally:
        clusters.down(folder)
    for what in taken[0]:
        at_most = 2.0 if what == "admitted by muster" else None
        value = statistics.median(parts[what] for parts in taken)
        rows.append(row(f"worker deleted: {what}", value, at_most=at_most))
    return rows


def main() -> int:
    """Measure, print, write; 1 if a number is not met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one recovery instead of three")
    quick = parser.parse_args().quick
    lacking = requirements.lack()
    if lacking:
        print(lacking, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        rows = measure(Path(folder) / "cluster", 1 if quick else 3)
    for line in rows:
        met = {True: "met", False: "MISSED", None: ""}[line["met"]]
        print(f"{line['what']:60}{line['value']:>9.2f} {line['unit']:4}{line['must']:>9} {met}")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    whole.write_text(OUT, json.dumps(rows, indent=1) + "\n")
    return int(any(line["met"] is False for line in rows))


if __name__ == "__main__":
    sys.exit(main())
