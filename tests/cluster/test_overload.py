"""A control plane that is slow, away, or says no: gangs start later, and nothing else happens.

The gangs are batch Jobs that may not fail once: a pod that is deleted ends its Job. Numbers are
those of docs/failure-modes.md; `bind_s` is 10 s here.
"""

from __future__ import annotations

import signal
import time
import urllib.error
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from scheduler.controlplane.access import USERS
from tests.chaos.proxy import Proxy, Rule
from tests.cluster.conftest import NODES, Kube, counted
from tests.cluster.test_failure_extender import planned
from tests.cluster.test_failures import owned
from tests.cluster.test_people import events

pytestmark = [pytest.mark.k8s, pytest.mark.slow]

Lay = Callable[..., Rule]
FLOWS = "/apis/flowcontrol.apiserver.k8s.io/v1"
POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/muster-system/leases/muster"


def fragile(space: str, name: str, size: int, gpus: int = 8) -> dict[str, Any]:
    """Return a Job of one gang that ends with its first failure."""
    job = owned(space, name, size)
    job["spec"]["backoffLimit"] = 0
    (container,) = job["spec"]["template"]["spec"]["containers"]
    container["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}}
    return job


def uids(kube: Kube, space: str, size: int) -> set[str]:
    """Return the uids of all pods, once they are there."""

    def there() -> set[str]:
        found = {pod["metadata"]["uid"] for pod in kube.pods(space).values()}
        return found if len(found) == size else set()

    return kube.until("all pods are there", there)


def runs(kube: Kube, space: str, name: str, made: set[str], within_s: float = 60.0) -> None:
    """Wait until a Job runs, the very pods that were made for it."""
    kube.until(f"{name} is bound", lambda: len(kube.bound(space)) == len(made), within_s)
    assert {pod["metadata"]["uid"] for pod in kube.pods(space).values()} == made
    status = kube.call("GET", f"/apis/batch/v1/namespaces/{space}/jobs/{name}")["status"]
    assert not status.get("failed") and not status.get("conditions"), status


def test_69_a_job_lives_while_kube_scheduler_is_away_for_longer_than_bind_s(
    kube: Kube, space: str
) -> None:
    kube.create(fragile(space, "before", 1))
    runs(kube, space, "before", uids(kube, space, 1))
    kube.delete(f"/apis/batch/v1/namespaces/{space}/jobs/before")
    kube.until("it is gone", lambda: not kube.pods(space))
    scheduler = kube.cluster.process("kube-scheduler")
    scheduler.signal(signal.SIGSTOP)
    try:
        kube.create(fragile(space, "patient", 3))
        made = uids(kube, space, 3)
        where = planned(kube, space, "patient", 3)
        time.sleep(25.0)  # how long it is away is what is tested
        assert set(where.values()) == set(planned(kube, space, "patient", 3).values())
    finally:
        scheduler.signal(signal.SIGCONT)
    runs(kube, space, "patient", made)


def test_70_a_binding_that_is_answered_late_is_written_once(
    kube: Kube, space: str, rules: Lay
) -> None:
    """Later than kube-scheduler waits for the verb, and later than bind_s."""
    binding = rules("POST", f"/namespaces/{space}/pods/late-.*/binding$", times=2, hold="request")
    kube.create(fragile(space, "late", 2))
    made = uids(kube, space, 2)
    assert binding.met.wait(30)
    time.sleep(22.0)  # how late it is is what is tested
    binding.let_go.set()
    runs(kube, space, "late", made)
    assert (binding.codes, len(binding.seen_s)) == ([201, 201], 2)


def test_71_an_api_server_that_takes_its_time_for_each_answer(
    kube: Kube, space: str, proxy: Proxy
) -> None:
    """96 pods at 0.7 s per answer: each is written once, and the lease is renewed in between."""
    seen = kube.call("GET", LEASE)["spec"]
    before = counted(kube.cluster, "muster_api_requests_total{", 'code="409"')
    proxy.delay_s = 0.7
    try:
        kube.create(fragile(space, "slow", 8 * NODES, gpus=1))
        made = uids(kube, space, 8 * NODES)
        runs(kube, space, "slow", made, within_s=90.0)
    finally:
        proxy.delay_s = 0.0
    assert counted(kube.cluster, "muster_api_requests_total{", 'code="409"') == before
    assert kube.call("GET", LEASE)["spec"]["leaseTransitions"] == seen["leaseTransitions"]


@pytest.fixture
def few_seats(kube: Kube) -> Iterator[Callable[[], None]]:
    """Let the API server do one request of muster's at a time, its lease aside, and refuse others.

    What is returned ends that.
    """
    version = "flowcontrol.apiserver.k8s.io/v1"
    levels = [
        {
            "apiVersion": version,
            "kind": "PriorityLevelConfiguration",
            "metadata": {"name": name},
            "spec": {
                "type": "Limited",
                "limited": {
                    "nominalConcurrencyShares": shares,  # all others here are exempt
                    "lendablePercent": 0,
                    "borrowingLimitPercent": 0,
                    "limitResponse": {"type": "Reject"},
                },
            },
        }
        for name, shares in (("few", 1), ("all-others", 100_000))
    ]
    everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}
    schema = {
        "apiVersion": version,
        "kind": "FlowSchema",
        "metadata": {"name": "few"},
        "spec": {
            "priorityLevelConfiguration": {"name": "few"},
            "matchingPrecedence": 200,  # after deploy/base/flow.yaml, which is for the lease
            "rules": [
                {
                    "subjects": [{"kind": "User", "user": {"name": USERS["muster"][0]}}],
                    "resourceRules": [{**everything, "clusterScope": True}],
                }
            ],
        },
    }
    for level in levels:
        kube.call("POST", f"{FLOWS}/prioritylevelconfigurations", level)
    kube.call("POST", f"{FLOWS}/flowschemas", schema)

    def end() -> None:
        kube.delete(f"{FLOWS}/flowschemas/few")
        for level in levels:
            kube.delete(f"{FLOWS}/prioritylevelconfigurations/{level['metadata']['name']}")

    yield end
    end()


def test_72_flow_control_that_leaves_muster_next_to_nothing(
    kube: Kube, space: str, few_seats: Callable[[], None]
) -> None:
    """A burst of Jobs: muster writes few at once, is seldom refused, then writes more again."""

    def at_once() -> float:
        return counted(kube.cluster, "muster_api_writes_at_once{", 'of="write"')

    def refusals() -> float:
        return counted(kube.cluster, "muster_api_requests_total{", 'code="429"')

    lease, before = kube.call("GET", LEASE)["spec"], refusals()
    names = [f"throttled-{number}" for number in range(4)]
    kube.create(*(fragile(space, name, 2 * NODES, gpus=1) for name in names))
    made = uids(kube, space, 8 * NODES)
    for name in names:
        runs(kube, space, name, made, within_s=60.0)
    least = at_once()
    assert least <= 4.0
    assert kube.call("GET", LEASE)["spec"]["leaseTransitions"] == lease["leaseTransitions"]
    assert 0 < refusals() - before < 8 * NODES
    few_seats()

    def remove(*jobs: str) -> None:
        for name in jobs:
            kube.delete(f"/apis/batch/v1/namespaces/{space}/jobs/{name}")
        kube.until("they are gone", lambda: not kube.pods(space))

    def more_after_a_burst() -> bool:
        """A limit that was halved stays so for some seconds, and grows with answers alone."""
        kube.create(fragile(space, "free", 8 * NODES, gpus=1))
        runs(kube, space, "free", uids(kube, space, 8 * NODES))
        remove("free")
        return at_once() > least

    remove(*names)

    kube.until("muster writes more at once again", more_after_a_burst)


@pytest.fixture
def no_records(kube: Kube) -> Iterator[Callable[[], None]]:
    """Have the API server take no plan record, until what is returned is called."""
    version = "admissionregistration.k8s.io/v1"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"]}
    policy = {
        "apiVersion": version,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "no-records"},
        "spec": {
            "matchConstraints": {"resourceRules": [{**rule, "resources": ["configmaps"]}]},
            "validations": [{"expression": "false", "message": "there are enough of them"}],
        },
    }
    binding = {
        "apiVersion": version,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "no-records"},
        "spec": {"policyName": "no-records", "validationActions": ["Deny"]},
    }
    kube.call("POST", POLICIES, policy)
    kube.call("POST", f"{POLICIES.removesuffix('ies')}ybindings", binding)
    probe = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "probe"}}

    def refuses() -> bool:
        try:
            kube.call("POST", "/api/v1/namespaces/muster-system/configmaps?dryRun=All", probe)
        except urllib.error.HTTPError as error:
            return error.code == 422
        return False

    def end() -> None:
        kube.delete(f"{POLICIES.removesuffix('ies')}ybindings/no-records")
        kube.delete(f"{POLICIES}/no-records")
        kube.until("it takes them again", lambda: not refuses())

    kube.until("it refuses them", refuses)
    yield end
    end()


def test_73_a_plan_record_that_is_refused_is_told_of_and_holds_nothing(
    kube: Kube, space: str, no_records: Callable[[], None]
) -> None:
    kube.create(fragile(space, "refused", 2))
    made = uids(kube, space, 2)
    said = kube.until(
        "its Job says so",
        lambda: [e for e in events(kube, space, "Job", "refused") if e["reason"] == "PlanRefused"],
    )
    assert "there are enough of them" in said[0]["note"]
    kube.until(
        "and muster, too",
        lambda: "there are enough of them" in kube.explain(space, "refused").get("text", ""),
    )
    first = counted(kube.cluster, "muster_aborts_total{", "plan record")
    time.sleep(8.0)  # how often it is tried in that time is what is tested
    assert counted(kube.cluster, "muster_aborts_total{", "plan record") - first <= 1
    no_records()
    runs(kube, space, "refused", made)


@pytest.fixture
def slow_controllers(kube: Kube) -> Iterator[None]:
    """Have the controllers, that of Jobs among them, write twice a second."""
    usual = kube.cluster.process("kube-controller-manager").command

    def begin(command: list[str]) -> None:
        kube.cluster.process("kube-controller-manager").command = command
        kube.cluster.restart("kube-controller-manager")
        kube.until("they run", lambda: kube.cluster.healthy("kube-controller-manager"))

    begin([*usual, "--kube-api-qps=2", "--kube-api-burst=1"])
    yield
    begin(usual)


def test_74_pods_that_are_made_slowly_of_several_jobs_in_turns(
    kube: Kube, space: str, slow_controllers: None
) -> None:
    """Each Job starts once all its pods are there; one that lacks pods takes no room of others."""
    size, early, lacking = NODES // 3, set(), set()
    names = {f"slow-{number}" for number in range(3)}
    ever: dict[str, str] = {}
    kube.create(*(fragile(space, name, size) for name in sorted(names)))

    def all_run() -> bool:
        pods = kube.pods(space).values()
        ever.update({one["metadata"]["uid"]: one["metadata"]["labels"]["job-name"] for one in pods})
        there = Counter(ever.values())
        free = {ever[o["metadata"]["uid"]] for o in pods if not o["spec"].get("schedulingGates")}
        early.update(name for name in free if there[name] < size)
        lacking.add(frozenset(name for name in names if 0 < there[name] < size))
        return len(kube.bound(space)) == NODES

    kube.until("all run", all_run)
    assert not early, "let go before all pods of the Job were there"
    assert max(map(len, lacking)) > 1, "they came in turns"
    for name in names:
        runs(kube, space, name, set(ever))
