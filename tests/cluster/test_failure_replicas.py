"""Two of a kind, and clocks that disagree. Numbers are failure modes."""

from __future__ import annotations

import json
import os
import signal
import sys
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from scheduler.controlplane.processes import Process, free_ports, start, stop
from scheduler.controlplane.record import Cluster, answers
from tests.chaos.clock import own_clock
from tests.chaos.proxy import Rule
from tests.cluster.conftest import NODES, Kube, gang
from tests.cluster.test_failure_extender import Verbs, num_calls, planned
from tests.cluster.test_failure_pods import bound, reason, remove
from tests.cluster.test_failure_wire import record_of
from tests.cluster.test_failures import kill_muster, muster_pids

pytestmark = [pytest.mark.k8s, pytest.mark.slow]

LEASES = "/apis/coordination.k8s.io/v1/namespaces"


@pytest.fixture
def second(
    cluster: Cluster, kube: Kube, proxy: object, request: pytest.FixtureRequest
) -> Iterator[Process]:
    """Start another muster beside the cluster's, which is behind the proxy; both soon lead."""
    path = cluster.dir / "muster.toml"
    before = path.read_bytes()
    settings = tomllib.loads(before.decode())
    settings["leader"] = {"lease_s": getattr(request.module, "LEASE_S", 6.0), "renew_s": 2.0}
    path.write_bytes(msgspec.toml.encode(settings))
    cluster.restart("muster")
    kube.until("the first leads", lambda: cluster.healthy("muster"))
    direct = json.loads((cluster.dir / "muster.kubeconfig").read_text())
    direct["clusters"][0]["cluster"]["server"] = cluster.api_url
    (cluster.dir / "second.kubeconfig").write_text(json.dumps(direct))
    settings["kubeconfig"] = str(cluster.dir / "second.kubeconfig")
    settings["journal"] = str(cluster.dir / "second.jsonl")
    settings["serve"]["port"], settings["status"]["port"] = free_ports(2)
    config = cluster.dir / "second.toml"
    config.write_bytes(msgspec.toml.encode(settings))
    command = [sys.executable, "-m", "sim.commands.main", "live", "--config", str(config)]
    process = start("second", command, cluster.dir)
    try:
        url = f"http://127.0.0.1:{settings['status']['port']}"
        kube.until("the second is there", lambda: answers(f"{url}/healthz"))
        assert not answers(f"{url}/readyz"), "one of two leads"
        yield process
    finally:
        stop([process])
        path.write_bytes(before)
        cluster.restart("muster")
        kube.until("muster is ready", lambda: cluster.healthy("muster"))


def leader(kube: Kube, namespace: str, name: str) -> str:
    """Return who holds a lease."""
    lease = kube.call("GET", f"{LEASES}/{namespace}/leases/{name}")
    return str(lease["spec"].get("holderIdentity") or "")


def test_19_a_leader_that_slept_commits_nothing_when_it_wakes(
    kube: Kube, space: str, second: Process, rules: Callable[..., Rule]
) -> None:
    """Stopped with its commit on the way, it comes back to a gang that another has started."""
    first = leader(kube, "muster-system", "muster")
    commit = rules("PATCH", "/namespaces/muster-system-plans/configmaps/", hold="request")
    kube.create(*gang(space, "one", 3, schedulerName="muster-direct"))
    assert commit.met.wait(30)
    promised = record_of(kube, space, "one")
    binds = rules("POST", f"/namespaces/{space}/pods/.*/binding", times=0)
    pids = muster_pids(kube)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        kube.until("the second leads", lambda: leader(kube, "muster-system", "muster") != first)
        kube.until("it starts the gang", lambda: len(kube.bound(space)) == 3)
        assert kube.bound(space) == promised
        uids = {n: p["metadata"]["uid"] for n, p in kube.pods(space).items()}
        commit.let_go.set()
        kube.until("the late commit is answered", lambda: commit.codes)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert commit.codes[0] in (404, 409), "the record is the other's, or done with"
    kube.until("the first gives up", lambda: muster_pids(kube) not in (pids, []))
    assert not binds.seen_s, "a leader that was bound nothing"
    assert kube.bound(space) == promised
    assert {n: p["metadata"]["uid"] for n, p in kube.pods(space).items()} == uids


@pytest.fixture
def schedulers(cluster: Cluster, kube: Kube) -> Iterator[list[Process]]:
    """Run two kube-schedulers with leader election in place of the one without."""
    usual = cluster.process("kube-scheduler")
    stop([usual])
    config = json.loads((cluster.dir / "scheduler.json").read_text())
    config["leaderElection"] = {
        "leaderElect": True,
        "leaseDuration": "9s",  # longer than a barrier waits
        "renewDeadline": "6s",
        "retryPeriod": "500ms",
        "resourceLock": "leases",
        "resourceName": "two-schedulers",
        "resourceNamespace": "kube-system",
    }
    path = cluster.dir / "two-schedulers.json"
    path.write_text(json.dumps(config))
    changed = ("--config", "--secure-port")
    rest = [part for part in usual.command if part.split("=")[0] not in changed]
    commands = [[*rest, f"--config={path}", f"--secure-port={port}"] for port in free_ports(2)]
    pair = [start(f"scheduler-{i}", command, cluster.dir) for i, command in enumerate(commands)]
    try:
        kube.until("one leads", lambda: holder(kube, cluster, pair))
        yield pair
    finally:
        stop(pair)
        cluster.restart("kube-scheduler")
        kube.until("the usual one is back", lambda: cluster.healthy("kube-scheduler"))
        kube.delete(f"{LEASES}/kube-system/leases/two-schedulers")


def holder(kube: Kube, cluster: Cluster, pair: list[Process]) -> Process | None:
    """Return the kube-scheduler that leads, by what it says in its log."""
    said = "Successfully acquired lease"
    found = [one for one in pair if one.alive() and said in Path(one.log).read_text()]
    return found[-1] if found else None


def test_21_kube_scheduler_changes_its_leader_while_binds_are_parked(
    kube: Kube, space: str, cluster: Cluster, schedulers: list[Process], ungated: None
) -> None:
    """A bind whose caller died counts for nothing; the next leader's calls start the gang."""
    calls = num_calls(cluster, "filter")
    whole = gang(space, "one", 3)
    whole[3]["spec"]["schedulerName"] = "nobody"
    kube.create(*whole)
    nodes = planned(kube, space, "one", 3)
    kube.until("two binds are parked", lambda: num_calls(cluster, "filter") >= calls + 2)
    first = holder(kube, cluster, schedulers)
    assert first is not None
    first.signal(signal.SIGKILL)
    kube.until("it is dead", lambda: not first.alive())
    third = kube.pods(space)["one-2"]
    assert Verbs(cluster).bind(third, nodes["one-2"]), "alone it is refused"
    assert kube.bound(space) == {}
    kube.until("the other leads", lambda: holder(kube, cluster, schedulers) not in (None, first))

    def started() -> bool:
        now = {p["name"]: p["node"] for p in kube.explain(space, "one").get("pods", [])}
        if now.get("one-2") and not kube.bound(space).get("one-2"):
            Verbs(cluster).bind(third, now["one-2"])
        return len(kube.bound(space)) == 3

    kube.until("one is bound whole", started)
    assert len(set(kube.bound(space).values())) == 3


@pytest.fixture(scope="module")
def clock(cluster: Cluster) -> Iterator[Path]:
    """Give muster a wall clock of its own."""
    kube, usual = Kube(cluster), list(cluster.process("muster").command)
    found = own_clock(cluster)
    if found is None:
        pytest.skip("no libfaketime here; Debian has it in the package faketime")
    cluster.restart("muster")
    kube.until("muster is ready", lambda: cluster.healthy("muster"))
    yield found
    found.write_text("+0s\n")
    cluster.process("muster").command[:] = usual
    cluster.restart("muster")
    kube.until("muster is ready", lambda: cluster.healthy("muster"))


@pytest.mark.parametrize("jump", ["+3600s", "-3600s"])
def test_36_the_wall_clock_jumps_by_an_hour(kube: Kube, space: str, clock: Path, jump: str) -> None:
    """Neither lease nor queue nor waits depend on it; a muster that starts with it keeps order."""
    # gangs: one that waits for the room of other pods stands aside, and has no place in the queue
    names = [f"filler{number}" for number in range(NODES)]
    fillers = [f"{name}-0" for name in names]
    kube.create(*(one for name in names for one in gang(space, name, 1)))
    kube.until("the fillers run", lambda: set(fillers) <= set(kube.bound(space)))
    kube.create(*gang(space, "first", 2))
    reason(kube, space, "first", "capacity")
    clock.write_text("+0s\n")
    kill_muster(kube)  # the one before may have started with another time
    kube.until("it is back", lambda: kube.cluster.healthy("muster"))
    reason(kube, space, "first", "capacity")
    pids = muster_pids(kube)
    clock.write_text(f"{jump}\n")
    kube.create(*gang(space, "second", 2))
    reason(kube, space, "second", "capacity")
    story: list[dict[str, Any]] = [kube.explain(space, name) for name in ("first", "second")]
    assert [one["position"] for one in story] == [1, 2]
    assert all(one["waited_s"] < 60 for one in story)
    remove(kube, space, *fillers[:2])
    kube.until("first is bound", lambda: len(bound(kube, space, "first")) == 2)
    assert bound(kube, space, "second") == {}
    kube.until("muster says so, and has the other time", lambda: off_s(kube, space) > 3000)
    assert muster_pids(kube) == pids, "the lease was kept"
    kube.create(*gang(space, "third", 2))
    reason(kube, space, "third", "capacity")
    kill_muster(kube)
    kube.until("it starts with the other time", lambda: kube.cluster.healthy("muster"))
    kube.until("second is next", lambda: kube.explain(space, "second").get("position") == 1)
    assert kube.explain(space, "third")["position"] == 2
    remove(kube, space, *fillers[2:])
    kube.until("all are bound", lambda: len(kube.bound(space)) == 6)


def off_s(kube: Kube, space: str) -> float:
    """Return how far from now the last of muster's events in a namespace claims to be."""
    items = kube.call("GET", f"/apis/events.k8s.io/v1/namespaces/{space}/events")["items"]
    texts = [item["eventTime"] for item in items if item["reason"] == "Started"]
    times = [datetime.fromisoformat(text) for text in texts]
    return max((abs((time - datetime.now(UTC)).total_seconds()) for time in times), default=0.0)
