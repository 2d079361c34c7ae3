"""What muster's own steps cost, without a cluster: plans, events, filter calls, the controller.

`python bench/live_steps.py --against DIR` measures another checkout, too, with the file of this
name there: in turns, each number the median of three processes. The core runs compiled where it is
(`make compile`).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.rows import write_between
from scheduler import compiled
from scheduler.controller.mirror import Ledger
from scheduler.controller.parts import Part, Request
from scheduler.controlplane import objects
from scheduler.core.model import PodShape
from scheduler.extender.serving import ExtenderApp
from scheduler.extender.verbs import Extender
from scheduler.kube.objects import NodeObject, Pod
from scheduler.kube.watch import Change
from scheduler.policies import catalog
from scheduler.policies.spec import PolicySpec
from scheduler.workloads.lean import lean_pod
from tests.scheduler.controller.rig import RESOURCE, Rig, pod

ROOT = Path(__file__).resolve().parents[1]
NODES = 7500
TURNS = 3
STEPS = ("seen and planned", "released", "seen bound")


def plan_ms(nodes: int = NODES, waiting: int = 500, size: int = 100) -> float:
    """Return what a plan for one gang takes that others wait behind, on a full cluster."""
    book = full_book(nodes, size)
    for number in range(waiting):
        book.set_gang(waits(f"waits-{number:04d}", size))
    book.decide(0.0)
    plans = []
    for at in range(nodes // size):
        book.drop_gang(f"runs-{at}")
        began_s = time.perf_counter()
        admitted = book.decide(1.0 + at)
        plans.append(1e3 * (time.perf_counter() - began_s))
        assert [len(one.nodes) for one in admitted] == [size], "one gang for the one that left"
    return statistics.median(plans)


def event_us(nodes: int = NODES, size: int = 100) -> float:
    """Return what a fact takes: a foreign pod comes to a node, or leaves it."""
    book = full_book(nodes, size)
    book.settle(0.0)
    name, pairs = book_node(nodes - 1), []
    for _ in range(2500):
        began_s = time.perf_counter()
        book.set_foreign("lone", name, PodShape(0, 100, 1))
        book.settle(30.0)
        book.drop_foreign("lone")
        book.settle(30.0)
        pairs.append(1e6 * (time.perf_counter() - began_s))
    return statistics.median(pairs) / 2


def book_node(number: int) -> str:
    return f"node-{number:05d}"


def full_book(nodes: int, size: int) -> Ledger:
    """Return a cluster on which gangs hold every GPU."""
    policy = catalog.policy(PolicySpec("priority"))
    book = Ledger(policy, RESOURCE, lambda now_s, item: None)
    for number in range(nodes):
        book.set_node(msgspec.convert(objects.node(number, 8), NodeObject))
    stride = nodes // size  # each runs all over the cluster, so that a plan has many pieces
    for first in range(stride):
        on = [book_node(number) for number in range(first, stride * size, stride)]
        book.set_gang(Request(f"runs-{first}", [Part("w", PodShape(8, 1000, 0), nodes=on)], 0.0))
    return book


def waits(name: str, size: int) -> Request:
    uids = [f"{name}-{rank}" for rank in range(size)]
    return Request(name, [Part("w", PodShape(8, 1000, 0), pod("one"), uids=uids)], 0.0)


def filter_ms(num_names: int, *, full: bool, calls: int = 1000, nodes: int = NODES) -> float:
    """Return what a filter call takes from body to answer; sockets and TLS are others' work."""
    rig = quiet_rig(nodes)
    if full:
        for number in range(nodes):
            rig.see(*(_runs(number, at, gpus) for at, gpus in enumerate((2, 3, 3))))
        rig.control.step()
    names = [objects.node(number, 8)["metadata"]["name"] for number in range(num_names)]
    has = {"limits": {RESOURCE: "8"}, "requests": {"cpu": "1"}}
    spec = {"containers": [{"name": "main", "image": "train:1", "resources": has}]}
    other = {"metadata": {"name": "other", "namespace": "n", "uid": "0"}, "spec": spec}
    body = msgspec.json.encode({"Pod": other, "Nodes": None, "NodeNames": names})
    app = ExtenderApp(Extender(rig.control), rig.control.metrics, 1 << 24)
    scope = {"type": "http", "path": "/v1/filter", "method": "POST", "headers": []}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: dict[str, Any]) -> None:
        assert message.get("status", 200) == 200

    async def run() -> list[float]:
        taken = []
        for _ in range(calls):
            began_s = time.perf_counter()
            await app(scope, receive, send)
            taken.append(1e3 * (time.perf_counter() - began_s))
        return taken

    return statistics.median(asyncio.run(run()))


def _runs(number: int, at: int, gpus: int) -> Pod:
    """Return a running pod of a gang of a hundred nodes."""
    labels = {"muster.dev/group": f"runs-{number // 100}"}
    node = objects.node(number, 8)["metadata"]["name"]
    return pod(f"runs-{number}-{at}", labels=labels, gpus=gpus, node=node)


def quiet_rig(nodes: int) -> Rig:
    """Return a controller whose journal nobody writes."""
    rig = Rig(nodes)
    rig.ledger.record = lambda now_s, item: None
    rig.ledger.rebuilt = lambda now_s, state: None
    rig.control.step()
    return rig


def gang_of(name: str, size: int, least: int, rig: Rig) -> list[Pod]:
    rig.thing("coscheduling", name, {"minMember": least})
    labels = {"scheduling.x-k8s.io/pod-group": name}
    return [pod(f"{name}-{rank}", labels=labels) for rank in range(size)]


def bound(one: Pod, node: str) -> Pod:
    spec = msgspec.structs.replace(one.spec, node_name=node, scheduling_gates=[])
    return msgspec.structs.replace(one, spec=spec)


async def controller_ms(beyond: int, repeats: int) -> list[float]:
    """Return what 100 pods of a gang take of the controller, or so many beyond its 100 that run.

    Facts of the pods and the step that plans them; the step after all were told; the facts that
    all are bound and the step after them. The least of some tries, as others use the machine.
    """
    found = []
    for at in range(repeats):
        rig = quiet_rig(2 * (100 + beyond))
        pods = gang_of(f"g{at}", 100 + beyond, 100, rig)
        figures = await begun(rig, pods[:100])
        if beyond:
            figures = await begun(rig, pods[100:])
        found.append(figures)
    return [1e3 * min(column) for column in zip(*found, strict=True)]


async def begun(rig: Rig, pods: list[Pod]) -> tuple[float, float, float]:
    """Have pods planned, told and bound; return the CPU seconds of each."""
    known = len(rig.control.slot_of)
    pods = [kept for one in pods if (kept := lean_pod(one))]  # as the informers hand them on
    gc.collect()
    gc.freeze()
    began_s = time.process_time()
    tell(rig, pods)
    rig.control.step()
    planned_s = time.process_time() - began_s
    assert len(rig.control.slot_of) == known + len(pods)
    await rig.control.finish_work(5.0)
    began_s = time.process_time()
    rig.control.step()
    told_s = time.process_time() - began_s
    placed = rig.placed()
    now_bound = [bound(one, placed[one.metadata.name]) for one in pods]
    began_s = time.process_time()
    tell(rig, now_bound)
    rig.control.step()
    bound_s = time.process_time() - began_s
    await rig.settle()
    return planned_s, told_s, bound_s


def tell(rig: Rig, pods: list[Pod]) -> None:
    for one in pods:
        known = one.metadata.uid in rig.control.pods
        rig.control.on_pod(Change.MODIFIED if known else Change.ADDED, one)


def rows() -> dict[str, float]:
    """Return what each step takes, by words with its unit."""
    # as muster does: what the cluster is lives long
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    found = {
        f"plan of 100 pods, {NODES:,} nodes, 500 gangs waiting, ms": plan_ms(),
        "one event applied, us": event_us(),
        "filter of 7,500 names, no GPU held, ms": filter_ms(NODES, full=False),
        "filter of 1 name, no GPU held, ms": filter_ms(1, full=False),
        "filter of 7,500 names, every GPU held, ms": filter_ms(NODES, full=True),
        "filter of 1 name, every GPU held, ms": filter_ms(1, full=True),
    }
    for beyond, repeats in ((0, 15), (500, 5)):
        what = f"{beyond} pods beyond the minimum" if beyond else "100 pods"
        figures = asyncio.run(controller_ms(beyond, repeats))
        for step, value in zip(STEPS, figures, strict=True):
            found[f"controller: {what} {step}, ms"] = value
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout")
    parser.add_argument("--write-docs", action="store_true", help="update docs/benchmarks.md")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        print(json.dumps(rows()))
        return 0
    trees = [ROOT] if given.against is None else [given.against.resolve(), ROOT]
    runs: dict[Path, list[dict[str, float]]] = {tree: [] for tree in trees}
    for _ in range(TURNS):
        for tree in trees:
            command = [sys.executable, str(tree / "bench" / "live_steps.py"), "--once"]
            env = {**os.environ, "PYTHONPATH": str(tree)}
            done = subprocess.run(command, cwd=tree, env=env, check=True, stdout=subprocess.PIPE)
            runs[tree].append(json.loads(done.stdout))
    print(f"the core runs {compiled.which()} here\n")
    lines = table([{what: statistics.median(run[what] for run in runs[tree])
                    for what in runs[tree][0]} for tree in trees])  # fmt: skip
    print("\n".join(lines))
    if given.write_docs:
        write_between(ROOT / "docs" / "benchmarks.md", "steps", lines)
    return 0


def table(medians: list[dict[str, float]]) -> list[str]:
    """Return a row for each step: there and here, and their ratio; or here alone."""
    here, alone = medians[-1], len(medians) == 1
    lines = ["| what | here |", "|---|---:|"]
    if not alone:
        lines = ["| what | before | now | now / before |", "|---|---:|---:|---:|"]
    for what, value in here.items():
        before = medians[0].get(what)  # an older checkout may word the row differently
        there = "" if alone else f" {before:.3g} |" if before else " |"
        ratio = "" if alone else f" {value / before:.2f} |" if before else " |"
        lines.append(f"| {what} |{there} {value:.3g} |{ratio}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
