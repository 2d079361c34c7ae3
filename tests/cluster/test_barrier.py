"""The bind verb and the real kube-scheduler: nothing for a caller who does not wait any more."""

from __future__ import annotations

import time

import pytest

from tests.chaos.proxy import Rule
from tests.cluster.conftest import Kube, gang
from tests.cluster.test_failure_extender import Verbs, planned
from tests.cluster.test_failure_pods import bound
from tests.cluster.test_failure_wire import RECORDS, Lay
from tests.cluster.test_journal import of_muster


def num_aborts(kube: Kube) -> float:
    """Return how many barriers failed since muster started."""
    try:
        return of_muster(kube, r'muster_aborts_total\{cause="barrier"\}')
    except AssertionError:
        return 0.0


@pytest.mark.k8s
@pytest.mark.slow
def test_35_a_commit_without_an_answer_binds_nothing_late(
    kube: Kube, space: str, ungated: None, rules: Lay
) -> None:
    """The real kube-scheduler waits 10 s; the plan that could not be committed then is over."""
    before = num_aborts(kube)

    def told() -> list[str]:
        """Return what kube-scheduler wrote of pods that it could not bind."""
        events = kube.call("GET", f"/apis/events.k8s.io/v1/namespaces/{space}/events")["items"]
        return [event["note"] for event in events if event["reason"] == "FailedScheduling"]

    commit: Rule = rules("PATCH", RECORDS + "/muster-plan-[0-9a-f]+$", hold="answer")
    bindings: Rule = rules("POST", f"/namespaces/{space}/pods/one-[0-9]/binding$", times=0)
    kube.create(*gang(space, "one", 3))
    assert commit.met.wait(30)
    said = "the plan could not be committed in time"
    kube.until("kube-scheduler listened", lambda: sum(said in note for note in told()) == 3)
    assert not bindings.seen_s and not bound(kube, space, "one")
    commit.let_go.set()
    kube.until("it is given up", lambda: num_aborts(kube) > before)
    kube.until("the next plan is carried out", lambda: len(bound(kube, space, "one")) == 3)
    assert len(bindings.seen_s) == 3


@pytest.mark.k8s
@pytest.mark.slow
def test_35_no_binding_is_written_once_kube_scheduler_was_answered(
    kube: Kube, space: str, rules: Lay
) -> None:
    kube.create(*gang(space, "held", 1, schedulerName="nobody"))
    where = planned(kube, space, "held", 1)["held-0"]
    bindings: Rule = rules(
        "POST", f"/namespaces/{space}/pods/held-0/binding$", status=503, times=99
    )
    began_s = time.monotonic()
    said = Verbs(kube.cluster).bind(kube.pods(space)["held-0"], where)
    ended_s = time.monotonic()
    assert "no time is left" in said and "503" in said
    assert 7.0 < ended_s - began_s < 10.0
    assert len(bindings.seen_s) > 3
    kube.until("nothing more comes", lambda: time.monotonic() > bindings.seen_s[-1] + 2)
    assert bindings.seen_s[-1] < ended_s
