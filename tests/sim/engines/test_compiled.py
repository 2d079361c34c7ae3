"""The core and the engines do the same compiled and interpreted: equal tables, equal errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler import compiled

pytestmark = pytest.mark.skipif(
    compiled.which() != "compiled", reason=f"runs {compiled.which()}: there is nothing to compare"
)

#: prints the hash of each file of a run, for every policy and engine
TABLES = """
import hashlib, json, sys, tempfile
from pathlib import Path
from scheduler import compiled
from scheduler.policies.catalog import DISCIPLINES, ORDERS, PLACERS
from sim import Faults, run
from sim.schema.costs import Costs, Interrupt, Kind, Quantity
from traces.synthetic import generate

jobs = generate("openai_like", num_gpus=256, days=1.0, load=1.2, seed=3)
jobs["priority"] = [i % 3 for i in range(len(jobs))]
asks = {name: {"discipline": name} for name in DISCIPLINES} | {"easy": {"backfill": "easy"}}
costs = Costs(
    save_interval_s=600.0, step_s=Quantity(p50=2.0, p90=3.0), startup_s=Quantity(p50=30.0),
    restore_s=Quantity(p50=20.0, p90=60.0), stop_s=Quantity(p50=5.0), detect_s=Quantity(p50=30.0),
)
faults = Faults(source="calibrated", per_1000_node_days=400.0)
cuts = tuple(
    Interrupt(job=name, kind=kind, at_s=40_000.0 + 1_000.0 * i)
    for i, (name, kind) in enumerate(zip(jobs["job"], list(Kind) * 4, strict=False))
)
arms = {f"{o} {d}": {"order": o, **asks[d]} for o in ORDERS for d in DISCIPLINES}
arms |= {p: {"placement": p, "discipline": "skip"} for p in PLACERS}
for d in DISCIPLINES:
    arms[f"{d} slow"] = {"control_plane": "kubernetes", "faults": faults, **asks[d]}
    arms[f"{d} costs"] = {"costs": costs, "interrupt": cuts, "faults": faults, **asks[d]}
for admission in ("pod", "permit"):
    arms[admission] = {"admission": admission}
    arms[f"{admission} slow"] = {
        "admission": admission, "control_plane": "kubernetes", "faults": faults,
    }
hashes = {}
for name, settings in arms.items():
    result = run(jobs, nodes=32, until_s=2 * 86400.0, **settings)
    with tempfile.TemporaryDirectory() as folder:
        result.save(folder)
        for file in sorted(Path(folder).glob("*")):
            if file.name != "manifest.json":
                hashes[f"{name}: {file.name}"] = hashlib.sha256(file.read_bytes()).hexdigest()
json.dump([compiled.which(), hashes], sys.stdout)
"""

#: prints what the core says to a driver that is wrong, and the simulator to its user
ERRORS = """
import json, sys
from scheduler import compiled
from scheduler.core import events as e, ordering, placement
from scheduler.core.decisions import Admit
from scheduler.core.model import Gang, Node, PodShape, Role, Slice
from scheduler.core.state import ClusterState, apply
from scheduler.policies.decide import decide
from scheduler.policies.explain import explain
from scheduler.policies.policy import Policy
from scheduler.policies.strict import strict
from sim import run
import pandas as pd

pod = PodShape(8)
policy = Policy(name="p", order=ordering.fifo, placer=placement.pack, discipline=strict)
gang = Gang("a", (Role(1, pod),))
def state(order=ordering.fifo):
    made = ClusterState([Node("n", pod)], order)
    apply(made, e.GangSubmitted(gang))
    return made
def admitted():
    made = state()
    apply(made, e.Admitted("a", (Slice(0, 0, 1, 1),), 0, 10))
    return made
jobs = pd.DataFrame({"job": ["a"], "submit_s": [0.0], "duration_s": [1.0], "gpus": [8]})
cut = {"job": "b", "kind": "kill", "at_s": 1.0}
step = {"job": "a", "kind": "kill", "at_step": 4}
wrong = {
    "node twice": lambda: ClusterState([Node("n", pod), Node("n", pod)]),
    "gang twice": lambda: apply(state(), e.GangSubmitted(gang)),
    "unknown gang": lambda: apply(state(), e.GangFinished("b")),
    "admitted twice": lambda: apply(admitted(), e.Admitted("a", (Slice(0, 0, 1, 1),), 0, 10)),
    "unknown member": lambda: apply(admitted(), e.MemberLost("a", 0, "m")),
    "unknown node": lambda: apply(state(), e.NodeLost("m")),
    "another node": lambda: apply(state(), e.NodeAdded(Node("n", pod))),
    "unknown pod": lambda: apply(state(), e.ForeignPodGone("p")),
    "resized": lambda: apply(admitted(), e.GangResized("a", (Role(2, PodShape(4)),))),
    "a decision": lambda: apply(state(), Admit("a", (Slice(0, 0, 1, 1),))),
    "another order": lambda: decide(state(ordering.sjf), policy, 0),
    "explained": lambda: explain(admitted(), "a"),
    "no job": lambda: run(jobs, nodes=1, costs={}, interrupt=(cut,)),
    "no step": lambda: run(jobs, nodes=1, costs={}, interrupt=(step,)),
    "late step": lambda: run(jobs, nodes=1, costs={"step_s": {"p50": 1.0}}, interrupt=(step,)),
}
said = {}
for name, act in wrong.items():
    try:
        act()
    except Exception as error:
        said[name] = f"{type(error).__name__}: {error}"
json.dump([compiled.which(), said], sys.stdout)
"""


def both(repository: Path, script: str) -> list[dict[str, str]]:
    """Run a script compiled and interpreted; return what each printed."""
    printed = []
    for wanted, interpreted in (("compiled", ""), ("interpreted: MUSTER_INTERPRETED is set", "1")):
        ended = subprocess.run(
            [sys.executable, "-c", script],
            cwd=repository,
            env={
                **os.environ,
                "PYTHONPATH": str(repository),
                "MUSTER_INTERPRETED": interpreted,
            },
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, f"{wanted}: {ended.stderr}"
        ran, found = json.loads(ended.stdout)
        assert ran == wanted
        printed.append(found)
    return printed


@pytest.mark.slow
def test_tables_are_equal_byte_by_byte(repository: Path) -> None:
    one, other = both(repository, TABLES)
    assert len(one) > 100
    assert len(set(one.values())) > 60, "the arms differ, so that this compares something"
    assert [name for name in one if one[name] != other[name]] == []
    assert one.keys() == other.keys()


def test_errors_read_the_same(repository: Path) -> None:
    one, other = both(repository, ERRORS)
    assert len(one) == 15
    assert not [text for text in other.values() if not text.startswith("ValueError: ")]
    assert one == other
