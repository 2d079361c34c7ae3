"""A journal stays whole while the disk is full and while its writer is killed."""

from __future__ import annotations

import os
import re
import signal
import urllib.request

import pytest

from scheduler.controlplane.processes import marked
from scheduler.journal.replay import replay
from tests.cluster.conftest import Kube, gang
from tests.scheduler.journal.test_replay import full_at


def of_muster(kube: Kube, series: str) -> float:
    with urllib.request.urlopen(f"{kube.cluster.status_url}/metrics", timeout=10) as reply:
        found = re.search(rf"^{series} (\S+)$", reply.read().decode(), re.M)
    assert found is not None
    return float(found[1])


def muster_itself(kube: Kube) -> int:
    """Return the process that the supervisor of muster runs."""
    supervisor = kube.cluster.process("muster")
    (found,) = {pid for pid, log in marked() if log == supervisor.log} - {supervisor.pid}
    return found


@pytest.mark.k8s
@pytest.mark.slow
def test_gangs_start_while_the_disk_is_full(kube: Kube, space: str) -> None:
    path = kube.cluster.dir / "journal.jsonl"
    gaps = len(replay(path).gaps)
    with full_at(path.stat().st_size + 50, muster_itself(kube)):
        kube.create(*gang(space, "first", 2))
        kube.until("the gang runs", lambda: len(kube.bound(space)) == 2)
        kube.until("it is said", lambda: of_muster(kube, "muster_journal_failing") == 1)
        kube.create(*gang(space, "second", 2))
        kube.until("the next runs, too", lambda: len(kube.bound(space)) == 4)
        kube.until("lines are lost", lambda: of_muster(kube, "muster_journal_lost_lines_total") > 5)

    def goes_on() -> bool:
        kube.patch(f"/api/v1/namespaces/{space}/pods/first-0", {"metadata": {"labels": {"a": "b"}}})
        return of_muster(kube, "muster_journal_failing") == 0

    kube.until("the journal goes on", goes_on)
    kube.create(*gang(space, "third", 2))
    kube.until("the third runs", lambda: len(kube.bound(space)) == 6)
    kube.until("it is told", lambda: b"third" in path.read_bytes())
    done = replay(path)
    assert not done.difference and len(done.gaps) == gaps + 1


@pytest.mark.k8s
@pytest.mark.slow
def test_a_muster_that_was_killed_while_it_wrote_is_followed_by_a_whole_journal(
    kube: Kube, space: str
) -> None:
    path = kube.cluster.dir / "journal.jsonl"
    supervisor = kube.cluster.process("muster").pid
    os.kill(supervisor, signal.SIGSTOP)
    try:
        os.kill(muster_itself(kube), signal.SIGKILL)
        kube.until("it is gone", lambda: not kube.cluster.healthy("muster"))
        with path.open("ab") as file:
            file.write(b'{"n":1,"t":3.0,"is":"Gang')
    finally:
        os.kill(supervisor, signal.SIGCONT)
    kube.until("the next is ready", lambda: kube.cluster.healthy("muster"))
    kube.create(*gang(space, "one", 2))
    kube.until("one runs", lambda: len(kube.bound(space)) == 2)
    kube.until("it is told", lambda: space.encode() in path.read_bytes())
    assert not replay(path).difference
