"""A muster that is told to stop finishes what it writes, hands over, and leaves a whole journal."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from scheduler.controlplane.processes import Process, stop
from scheduler.controlplane.record import Cluster
from scheduler.journal.lines import ends_whole
from scheduler.journal.replay import replay
from tests.cluster.conftest import Kube, gang
from tests.cluster.test_failure_replicas import leader
from tests.cluster.test_failure_replicas import second as second
from tests.cluster.test_failure_wire import Lay, record_of
from tests.cluster.test_failures import muster_pids

pytestmark = [pytest.mark.k8s, pytest.mark.slow]

LEASE_S = 120.0  #: of both: nobody has to wait for its end


def is_over(pid: int) -> bool:
    """True once a process ended, whether or not its parent noticed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_sigterm_ends_a_leader_in_order(
    kube: Kube, space: str, cluster: Cluster, second: Process, rules: Lay
) -> None:
    first = leader(kube, "muster-system", "muster")
    write = rules("PATCH", f"/namespaces/{space}/pods/one-0$", hold="answer")
    kube.create(*gang(space, "one", 3))
    assert write.met.wait(30)
    promised = record_of(kube, space, "one")
    assert len(promised) == 3
    (pid,) = muster_pids(kube)
    paused = [cluster.process("muster").pid, second.pid]
    for one in paused:  # neither takes the lease before it was looked at
        os.kill(one, signal.SIGSTOP)
    try:
        os.kill(pid, signal.SIGTERM)
        kube.until("it is ready no more", lambda: not cluster.healthy("muster"))
        assert not is_over(pid), "a write is under way"
        assert leader(kube, "muster-system", "muster") == first, "and nobody else may lead"
        write.let_go.set()
        kube.until("it ends", lambda: is_over(pid), within_s=15)
        assert leader(kube, "muster-system", "muster") == "", "the lease is given up"
        journal = cluster.dir / "journal.jsonl"
        assert ends_whole(journal) and not replay(journal).difference
        os.kill(second.pid, signal.SIGCONT)
        kube.until(
            "the second leads, long before the lease would have run out",
            lambda: leader(kube, "muster-system", "muster") not in ("", first),
            within_s=LEASE_S / 4,
        )
    finally:
        for one in paused:
            os.kill(one, signal.SIGCONT)
    stop([second])  # kube-scheduler asks the first, which by now waits for the lease
    kube.until("the first leads again", lambda: leader(kube, "muster-system", "muster") == first)
    kube.until("the gang runs as planned", lambda: kube.bound(space) == promised)
