"""Rules of the live controller, tried on facts alone; the live tests try them on a cluster."""

from __future__ import annotations

import asyncio
import re

import msgspec
import pytest

from scheduler.controller.asking import duration_s
from scheduler.controller.plans import PlanRecord, record_name
from scheduler.core.model import Selector
from scheduler.extender.binds import BindArgs, Binds
from scheduler.kube.objects import Pod, Thing
from scheduler.kube.watch import Change
from scheduler.status.status import view
from scheduler.workloads.gangs import KUEUE_COUNT, KUEUE_GROUP, LWS, LWS_SIZE
from tests.scheduler.controller.rig import Rig, pod, tried

GROUP = "scheduling.x-k8s.io/pod-group"


def own(name: str, group: str, least: int | str = 1, **more: object) -> object:
    """Return a pod of a group that its annotations name."""
    said = {"muster.dev/group": group, "muster.dev/min-member": str(least)}
    extra = more.pop("annotations", {})
    return pod(name, annotations={**said, **extra}, **more)  # type: ignore[arg-type, dict-item]


# -- one gang that nobody can read stops no other ------------------------------------------------

POISON = {
    "a group with a plus": own("bad", "exp+1"),
    "a group that looks like a later request": own("bad", "good+1"),
    "a group with a slash and a tilde": own("bad", "a/b~c"),
    "walltime of 400 digits": own("bad", "bad", annotations={"muster.dev/walltime": "9" * 400}),
    "walltime of 0": own("bad", "bad", annotations={"muster.dev/walltime": "0"}),
    "a minimum of 30 digits": own("bad", "bad", 10**30),
    "a minimum of 5,000 digits": own("bad", "bad", "9" * 5000),
    "a negative minimum": own("bad", "bad", -3),
    "a quantity that is none": own("bad", "bad", gpus="abc"),
    "more GPUs than a machine word": own("bad", "bad", gpus=10**30),
    "an affinity of the wrong form": own("bad", "bad", affinity={"nodeAffinity": [1]}),
    "terms of the wrong form": own(
        "bad",
        "bad",
        affinity={
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": ["x"]}
            }
        },
    ),
    "a Kueue count of -3": pod(
        "bad",
        labels={"kueue.x-k8s.io/pod-group-name": "bad"},
        annotations={"kueue.x-k8s.io/pod-group-total-count": "-3"},
    ),
    "a Volcano group with a plus": pod("bad", annotations={"scheduling.k8s.io/group-name": "a+b"}),
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
def test_no_pod_stops_the_others(poison: object) -> None:
    async def story(rig: Rig) -> None:
        rig.see(poison, own("good-0", "good", 2))  # type: ignore[arg-type]
        await rig.settle()
        rig.see(own("good-1", "good", 2))  # type: ignore[arg-type]
        await rig.settle()
        assert {"good-0", "good-1"} <= set(rig.placed())
        rig.lose(poison)  # type: ignore[arg-type]
        rig.see(own("later", "later"))  # type: ignore[arg-type]
        await rig.settle()
        assert "later" in rig.placed()

    tried(story)


SPECS = {
    "replicas that are text": {"Worker": {"replicas": "many"}},
    "replicas that are a list": {"Worker": [1, 2]},
    "a list of parts": [{"replicas": 1}],
    "a negative number": {"Worker": {"replicas": -4}},
}


COUNTS = ["0", "-5", "two", "1e3", "", "9" * 4_300, "2147483648", "1_000", "٣", " 3", "3.0"]


@pytest.mark.parametrize("text", COUNTS)
@pytest.mark.parametrize("where", ["muster.dev/min-member", KUEUE_COUNT, LWS_SIZE])
def test_what_is_no_count_is_said_in_an_event(where: str, text: str) -> None:
    async def story(rig: Rig) -> None:
        labels = {KUEUE_COUNT: KUEUE_GROUP, LWS_SIZE: LWS}
        group = {labels[where]: "g"} if where in labels else {}
        own_group = {} if group else {"muster.dev/group": "g"}
        said = {where: text, **own_group}
        rig.see(*(pod(f"g-{i}", gpus=2, labels=group, annotations=said) for i in range(2)))
        rig.see(own("good", "good"))  # type: ignore[arg-type]
        await rig.settle()
        assert set(rig.placed()) == {"good"}
        (bad,) = (gang for gang in rig.control.gangs.values() if "g-0" in gang.pods)
        assert bad.problem.startswith(f"{where}: ")
        assert "write a whole number from 1 to 2147483647" in bad.problem
        assert [reason for reason, _ in rig.events()] == ["NotUnderstood"]
        for gang in rig.control.gangs.values():
            seen = view(gang, rig.ledger, rig.control.now_s(), pods=True)
            assert len(msgspec.json.encode(seen)) < 2_000

    tried(story)


def test_a_gang_that_cannot_be_described_says_so_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(rig: Rig) -> None:
        rig.see(own("bad", "bad"), own("good", "good"))  # type: ignore[arg-type]
        await rig.settle()

        def fails() -> list[Pod]:
            raise ZeroDivisionError("as if by a pod that nobody thought of")

        monkeypatch.setattr(rig.control.names["n/bad"], "live_pods", fails)
        texts = {g.name: view(g, rig.ledger, 0.0).text for g in rig.control.gangs.values()}
        assert texts["n/good"].startswith("admitted")
        assert "muster cannot describe it (ZeroDivisionError" in texts["n/bad"]

    tried(story)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_job_that_cannot_be_read_names_its_trouble(spec: object) -> None:
    async def story(rig: Rig) -> None:
        rig.thing("PyTorchJob", "odd", {"pytorchReplicaSpecs": spec})
        rig.see(kubeflow("odd", 0), own("good", "good"))  # type: ignore[arg-type]
        await rig.settle()
        assert set(rig.placed()) == {"good"}
        assert rig.problem("n/odd")

    tried(story)


def test_a_gang_that_the_core_cannot_take_is_set_aside_and_the_others_are_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever is wrong with it: it is told, counted, and tried again later."""
    from scheduler.policies import decide as core

    decide = core.decide

    def broken(state: object, *more: object) -> object:
        if "n/bad" in state.gangs:  # type: ignore[attr-defined]
            raise ZeroDivisionError("as if by a gang that breaks a rule of the core")
        return decide(state, *more)  # type: ignore[arg-type]

    async def story(rig: Rig) -> None:
        monkeypatch.setattr(core, "decide", broken)
        rig.see(own("bad", "bad"), own("good", "good"))  # type: ignore[arg-type]
        await rig.settle()
        assert set(rig.placed()) == {"good"}
        assert "ZeroDivisionError" in rig.problem("n/bad")
        assert [reason for reason, _ in rig.events()] == ["NotUnderstood"]
        assert rig.control.metrics.set_aside.labels(where="decide")._value.get() == 1
        monkeypatch.setattr(core, "decide", decide)
        await rig.pass_s(61)
        assert set(rig.placed()) == {"good", "bad"}
        assert not rig.problem("n/bad")

    tried(story)


@pytest.mark.parametrize(
    "text", ["9" * 400, "9" * 400 + "d", "1d" * 2, "-3", "", "1 h", "0", "0s", "0d0h"]
)
def test_a_walltime_that_is_none_is_no_limit(text: str) -> None:
    assert duration_s(text) == float("inf")


def kubeflow(job: str, index: int, role: str = "worker", kind: str = "PyTorchJob", **more: object):  # type: ignore[no-untyped-def]
    """Return a pod as the training operator makes it."""
    labels = {
        "training.kubeflow.org/job-name": job,
        "training.kubeflow.org/replica-type": role,
        "training.kubeflow.org/replica-index": str(index),
    }
    more.setdefault("owner", (kind, job, f"uid-{job}"))
    return pod(f"{job}-{role}-{index}", labels=labels, **more)  # type: ignore[arg-type]


# -- names ---------------------------------------------------------------------------------------


def test_four_gangs_may_have_one_name() -> None:
    async def story(rig: Rig) -> None:
        rig.thing("native", "g", {"schedulingPolicy": {"gang": {"minCount": 1}}})
        rig.thing("coscheduling", "g", {"minMember": 1})
        rig.thing("volcano", "g", {"minMember": 1})
        pods = [
            pod("a", labels={GROUP: "g"}),
            pod("b", annotations={"scheduling.k8s.io/group-name": "g"}),
            pod("c", schedulingGroup={"podGroupName": "g"}),
            own("d", "g"),
        ]
        rig.see(*pods)  # type: ignore[arg-type]
        await rig.settle()
        assert set(rig.placed()) == {"a", "b", "c", "d"}
        assert len({gang.name for gang in rig.control.gangs.values()}) == 4
        rig.lose(*pods)  # type: ignore[arg-type]
        await rig.settle()
        assert not rig.control.gangs and not rig.control.names

    tried(story)


@pytest.mark.parametrize(
    "name", ["g+1", "a/b", "\x1b[2Jyou have been had", "two\nlines", "x" * 254, "\ud800", "-a", "é"]
)
@pytest.mark.parametrize(
    "where", ["muster.dev/group", "scheduling.k8s.io/group-name", "muster.dev/queue"]
)
def test_what_is_no_name_is_that_gangs_problem_and_is_shown_to_nobody(
    where: str, name: str
) -> None:
    """Earlier versions had such names for what a running gang asks for beyond its minimum."""

    async def story(rig: Rig) -> None:
        rig.thing("coscheduling", "g", {"minMember": 1})
        for good in ("g-0", "g-1"):
            rig.see(pod(good, labels={GROUP: "g"}))
            await rig.settle()
        bad = pod("x", annotations={where: name})  # of a queue: a gang of its own
        rig.see(bad)
        await rig.settle()
        assert set(rig.placed()) == {"g-0", "g-1"}
        (called,) = (gang.name for gang in rig.control.gangs.values() if "x" in gang.pods)
        assert re.fullmatch(r"n/misnamed-[0-9a-f]{10}|n/x", called)
        assert rig.problem(called).startswith(where)
        assert len(rig.problem(called)) < 250
        ((reason, text),) = rig.events()
        assert (reason, text) == ("NotUnderstood", rig.problem(called))
        assert text.isascii() and text.isprintable()
        rig.lose(bad)
        await rig.settle()
        assert len(rig.ledger.requests) == 1

    tried(story)


# -- rank ---------------------------------------------------------------------------------------


def test_one_pod_of_a_high_class_does_not_lift_its_gang() -> None:
    async def story(rig: Rig) -> None:
        rig.see(
            own("a-0", "a", 3, gpus=0, priority=2_000_001_000),  # type: ignore[arg-type]
            own("a-1", "a", 3, priority=1_000),  # type: ignore[arg-type]
            own("a-2", "a", 3, priority=10),  # type: ignore[arg-type]
            own("b-0", "b", 1, gpus=0, priority=7),  # type: ignore[arg-type]
        )
        await rig.settle()
        said = {name: request.priority for name, request in rig.ledger.requests.items()}
        assert said == {"n/a": 10, "n/b": 7}

    tried(story)


@pytest.mark.parametrize("counts", [False, True])
def test_the_class_that_a_job_names_counts_only_where_its_operator_says_so(counts: bool) -> None:
    """Admission and quotas look at pods alone: whoever may create jobs may name any class."""

    async def story(rig: Rig) -> None:
        rig.control.on_thing(
            "PriorityClass",
            Change.ADDED,
            msgspec.convert({"metadata": {"name": "top"}, "value": 2_000_001_000}, Thing),
        )
        policy = {"schedulingPolicy": {"priorityClass": "top", "queue": "research"}}
        rig.thing("PyTorchJob", "j", {**replicas(Worker=2), "runPolicy": policy})
        rig.see(kubeflow("j", 0), kubeflow("j", 1))
        await rig.settle()
        asked = rig.ledger.requests["n/j"]
        assert (asked.priority, asked.queue) == (2_000_001_000 if counts else 0, "research")
        rig.see(*(kubeflow("k", i, priority=5) for i in range(2)))
        rig.thing("PyTorchJob", "k", {**replicas(Worker=2), "runPolicy": policy})
        await rig.settle()
        assert rig.ledger.requests["n/k"].priority == 5, "what pods say stands before it"

    tried(story, job_priority=counts)


def test_gangs_of_one_second_start_in_the_order_in_which_they_were_made() -> None:
    """Creation times have whole seconds: a name must not decide who is first."""

    async def story(rig: Rig) -> None:
        rig.see(own("filler", "filler"))  # type: ignore[arg-type]
        await rig.settle()
        rig.see(own("z", "z"))  # type: ignore[arg-type]
        rig.see(own("a", "a"))  # type: ignore[arg-type]
        await rig.settle()
        assert set(rig.placed()) == {"filler"}
        rig.lose(own("filler", "filler"))  # type: ignore[arg-type]
        await rig.settle()
        assert set(rig.placed()) == {"filler", "z"}

    tried(story, nodes=1)


# -- runs that end, and those that follow under the same name -------------------------------------


def test_a_name_that_is_used_again_is_a_new_gang() -> None:
    """What succeeded in the last run is no part of the next."""

    async def story(rig: Rig) -> None:
        label = {GROUP: "g"}
        rig.thing("coscheduling", "g", {"minMember": 3})
        old = [
            pod(f"old-{i}", labels=label, phase="Succeeded", node=f"node-0000{i}") for i in range(3)
        ]
        rig.see(*old)
        await rig.settle()
        rig.see(pod("new-0", labels=label))
        await rig.settle()
        assert not rig.placed()
        rig.lose(*old)
        rig.see(pod("new-1", labels=label))
        await rig.settle()
        assert not rig.placed()
        rig.see(pod("new-2", labels=label))
        await rig.settle()
        assert set(rig.placed()) == {"new-0", "new-1", "new-2"}

    tried(story)


def test_a_run_that_ended_before_muster_started_is_over() -> None:
    async def story(rig: Rig) -> None:
        label = {GROUP: "g"}
        rig.thing("coscheduling", "g", {"minMember": 3})
        rig.see(pod("new-0", labels=label), pod("new-1", labels=label))
        rig.see(
            *(pod(f"old-{i}", labels=label, phase="Succeeded", node="node-00000") for i in range(3))
        )
        await rig.settle()
        assert not rig.placed()

    tried(story)


@pytest.mark.parametrize("gone", [False, True], ids=["its pod stays", "its pod is removed"])
def test_a_rank_that_ends_early_is_not_waited_for(gone: bool) -> None:
    async def story(rig: Rig) -> None:
        label = {GROUP: "g"}
        rig.thing("coscheduling", "g", {"minMember": 3})
        runs = [pod(f"g-{i}", labels=label, node=f"node-0000{i}") for i in range(3)]
        rig.see(*runs)
        await rig.settle()
        done = pod("g-0", labels=label, node="node-00000", phase="Succeeded")
        rig.see(done)
        await rig.settle()
        if gone:
            rig.lose(done)
        await rig.pass_s(1000)
        await rig.pass_s(1000)
        assert not rig.evicted()
        rig.lose(runs[2])
        rig.see(pod("g-2", labels=label, uid="again"))
        await rig.settle()
        assert set(rig.placed()) == {"g-2"}

    tried(story)


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
@pytest.mark.parametrize("removed", [False, True], ids=["there", "removed"])
@pytest.mark.parametrize("indexed", [False, True], ids=["other names", "same ranks"])
def test_a_run_that_ended_and_began_anew_between_two_looks_starts_whole(
    phase: str, removed: bool, indexed: bool
) -> None:
    if phase == "Failed" and indexed:
        return  # their ranks are made anew, and go on where they were

    async def story(rig: Rig) -> None:
        def rank(run: str, number: int, node: str = "", phase: str = "") -> Pod:
            name = f"{run}-{number if indexed else 'xyz'[number]}"
            return pod(name, labels={GROUP: "g"}, node=node, phase=phase)

        rig.thing("coscheduling", "g", {"minMember": 3})
        rig.see(*(rank("a", number) for number in range(3)))
        await rig.settle()
        nodes = rig.placed()
        where = sorted(nodes.values())
        rig.see(*(rank("a", number, where[number]) for number in range(3)))
        await rig.settle()
        done = [rank("a", number, where[number], phase) for number in range(3)]
        rig.see(*done)
        if removed:
            rig.lose(*done)
        rig.see(rank("b", 0), rank("b", 1))
        await rig.settle()
        await rig.pass_s(70.0)
        assert rig.placed().keys() == nodes.keys(), "the third is not there yet"
        rig.see(rank("b", 2))
        await rig.settle()
        assert len(rig.placed()) == 6

    tried(story)


@pytest.mark.parametrize("restarted", [False, True], ids=["seen to end", "seen ended"])
def test_a_rank_that_was_lost_when_the_others_had_ended_runs_alone(restarted: bool) -> None:
    """A run is not over while a rank of it is to come again, whoever saw the others end."""

    async def story(rig: Rig) -> None:
        label = {GROUP: "g"}
        rig.thing("coscheduling", "g", {"minMember": 3})
        done = [
            pod(f"g-{i}", labels=label, node=f"node-0000{i}", phase="Succeeded") for i in (0, 2)
        ]
        if not restarted:
            rig.see(*(pod(f"g-{i}", labels=label, node=f"node-0000{i}") for i in range(3)))
            await rig.settle()
            rig.lose(pod("g-1", labels=label))
        rig.see(*done)
        if not restarted:
            await rig.settle()
        rig.see(pod("g-1", labels=label, uid="again"))
        await rig.settle()
        assert set(rig.placed()) == {"g-1"}

    tried(story)


def test_ranks_that_had_ended_before_muster_started_count_for_those_that_run() -> None:
    async def story(rig: Rig) -> None:
        label = {GROUP: "g"}
        rig.thing("coscheduling", "g", {"minMember": 3})
        rig.see(pod("g-0", labels=label, node="node-00000", phase="Succeeded"))
        rig.see(*(pod(f"g-{i}", labels=label, node=f"node-0000{i}") for i in (1, 2)))
        await rig.settle()
        await rig.pass_s(1000)
        await rig.pass_s(1000)
        assert not rig.evicted(), "nobody is missing"

    tried(story)


def test_a_record_of_a_gang_that_has_ended_is_erased() -> None:
    """Its predecessor died before it was; the ended pods are still there."""

    async def story(rig: Rig) -> None:
        done = own("done-0", "done", node="node-00000", phase="Succeeded")
        rig.see(done)  # type: ignore[arg-type]
        key = rig.control.names["n/done"].key
        where = (key.namespace, key.name, str(key.source), key.owner)
        rig.found(PlanRecord("n/done+1", where, 1, "old", []))
        await rig.settle()
        gone = [path for method, path, _ in rig.api.requests if method == "DELETE"]
        assert [path.rpartition("/")[2] for path in gone] == [record_name("n/done+1")]

    tried(story)


def test_a_jobset_that_starts_again_needs_all_its_ranks() -> None:
    async def story(rig: Rig) -> None:
        rig.thing("JobSet", "js", {"replicatedJobs": [part("w", 3)]})

        def rank(index: int, attempt: int, **more: object):  # type: ignore[no-untyped-def]
            return jobset_pod("js", "w", index, attempt, **more)

        first = [rank(i, 0, node=f"node-0000{i}") for i in range(3)]
        rig.see(*first)
        await rig.settle()
        rig.see(rank(0, 0, node="node-00000", phase="Succeeded"))
        await rig.settle()
        rig.lose(*first[1:])
        rig.see(rank(1, 1), rank(2, 1))
        await rig.settle()
        assert not rig.placed(), "rank 0 is run again, too"
        rig.see(rank(0, 1))
        await rig.settle()
        assert len(rig.placed()) == 3

    tried(story)


def part(name: str, count: int, **more: object) -> dict[str, object]:
    """Return a replicated job of a JobSet."""
    template = {"spec": {"parallelism": count, "completions": count}}
    return {"name": name, "replicas": 1, "template": template, **more}


def jobset_pod(name: str, role: str, index: int, attempt: int = 0, **more: object):  # type: ignore[no-untyped-def]
    """Return a pod as the JobSet controller's jobs make it."""
    labels = {
        "jobset.sigs.k8s.io/jobset-name": name,
        "jobset.sigs.k8s.io/replicatedjob-name": role,
        "jobset.sigs.k8s.io/job-index": "0",
        "jobset.sigs.k8s.io/restart-attempt": str(attempt),
        "batch.kubernetes.io/job-completion-index": str(index),
    }
    owner = ("Job", f"{name}-{role}-0", f"uid-{name}-{role}-{attempt}")
    return pod(f"{name}-{role}-{index}-{attempt}", labels=labels, owner=owner, **more)  # type: ignore[arg-type]


# -- what the training operator makes of a job ----------------------------------------------------


def replicas(**roles: int) -> dict[str, object]:
    """Return the spec of a PyTorchJob."""
    return {"pytorchReplicaSpecs": {role: {"replicas": count} for role, count in roles.items()}}


def rank(index: int, world: object, **more: object):  # type: ignore[no-untyped-def]
    """Return a worker that was made for a job of this many ranks."""
    return kubeflow("j", index, env={"WORLD_SIZE": str(world)}, **more)


def test_pods_of_the_old_size_are_made_anew_while_they_wait() -> None:
    async def story(rig: Rig) -> None:
        rig.thing("PyTorchJob", "j", replicas(Worker=3))
        rig.see(rank(0, 2), rank(1, 2), rank(2, 3))
        await rig.settle()
        assert sorted(rig.deleted()) == ["j-worker-0", "j-worker-1"]
        assert not rig.placed()
        rig.lose(rank(0, 2), rank(1, 2))
        rig.see(rank(0, 3, uid="b0"), rank(1, 3, uid="b1"))
        await rig.settle()
        assert len(rig.placed()) == 3

    tried(story)


def test_pods_beyond_what_a_job_asks_for_are_not_started() -> None:
    """Scaled down: the operator may make some of the new size before it sees which are to go."""

    async def story(rig: Rig) -> None:
        rig.thing("PyTorchJob", "j", replicas(Master=1, Worker=2))
        rig.see(rank(0, 3), rank(5, 3), rank(2, 3))
        await rig.settle()
        assert not rig.placed()
        rig.see(rank(1, 3), kubeflow("j", 0, "master", env={"WORLD_SIZE": "3"}))
        await rig.settle()
        assert rig.placed().keys() == {"j-master-0", "j-worker-0", "j-worker-1"}
        assert not rig.deleted()

    tried(story)


def test_pods_that_were_never_gated_are_made_anew_as_well() -> None:
    async def story(rig: Rig) -> None:
        rig.thing("PyTorchJob", "j", replicas(Worker=3))
        rig.see(rank(0, 2, gated=False), rank(1, 3, gated=False))
        await rig.settle()
        assert rig.deleted() == ["j-worker-0"]

    tried(story)


def test_the_last_of_two_values_counts() -> None:
    """The operator appends its own variable to the template's; the container sees the last."""
    container = {
        "name": "pytorch",
        "env": [{"name": "WORLD_SIZE", "value": "16"}, {"name": "WORLD_SIZE", "value": "2"}],
        "resources": {"limits": {"nvidia.com/gpu": "8"}},
    }
    sidecar = {"name": "log", "env": [{"name": "WORLD_SIZE", "value": "7"}]}

    async def story(rig: Rig) -> None:
        rig.thing("PyTorchJob", "j", replicas(Worker=2))
        rig.see(*(kubeflow("j", i, containers=[sidecar, container]) for i in range(2)))
        await rig.settle()
        assert not rig.deleted()
        assert len(rig.placed()) == 2

    tried(story)


def test_pods_whose_owner_makes_them_so_again_start_if_they_agree() -> None:
    async def story(rig: Rig) -> None:
        rig.thing("PyTorchJob", "j", replicas(Worker=2))
        pods = [rank(i, 16) for i in range(2)]
        for life in range(5):
            rig.see(*pods)
            await rig.pass_s(6.0)
            if rig.placed():
                break
            rig.lose(*pods)
            pods = [rank(i, 16, uid=f"{i}-{life}") for i in range(2)]
        assert life == 2, "made anew twice, then believed"
        assert len(rig.deleted()) == 4
        assert len(rig.placed()) == 2

    tried(story)


def test_an_owner_has_time_to_see_that_its_job_was_scaled() -> None:
    """Until then it makes pods of the old size again, which must not start as if it meant that."""

    async def story(rig: Rig) -> None:
        rig.thing("PyTorchJob", "j", replicas(Worker=2))
        pods = [rank(i, 4) for i in range(4)]
        for life in range(10):  # within two seconds
            rig.see(*pods)
            await rig.pass_s(0.2)
            rig.lose(*pods)
            pods = [rank(i, 4, uid=f"{i}-{life}") for i in range(4)]
        assert not rig.placed()
        assert rig.deleted() == ["j-worker-0", "j-worker-1"], "each once; the others are to go"
        rig.see(*(rank(i, 2, uid=f"good-{i}") for i in range(2)))
        await rig.settle()
        assert rig.placed().keys() == {"j-worker-0", "j-worker-1"}

    tried(story)


def test_pods_that_disagree_for_ever_are_held_and_told() -> None:
    async def story(rig: Rig) -> None:
        rig.thing("PyTorchJob", "j", replicas(Worker=2))
        pods = [rank(0, 16), rank(1, 2)]
        for life in range(6):
            rig.see(*pods)
            await rig.pass_s(6.0)
            if len(rig.deleted()) > life:
                rig.lose(pods[0])
                pods[0] = rank(0, 16, uid=f"again-{life}")
        assert rig.deleted() == ["j-worker-0"] * 2
        assert not rig.placed()
        assert "disagree on WORLD_SIZE (16, 2)" in rig.problem("n/j")
        assert [reason for reason, _ in rig.events()] == ["WorldSizesDisagree"]

    tried(story)


def test_a_running_job_that_is_scaled_keeps_running_and_the_new_pods_are_held() -> None:
    async def story(rig: Rig) -> None:
        rig.thing("PyTorchJob", "j", replicas(Worker=2))
        runs = [rank(i, 2, node=f"node-0000{i}", gpus=4) for i in range(2)]
        rig.see(*runs)
        await rig.settle()
        rig.thing("PyTorchJob", "j", replicas(Worker=4))
        rig.see(rank(2, 4, gpus=4))
        await rig.settle()
        rig.see(rank(3, 4, gpus=4))
        await rig.settle()
        for _ in range(3):
            await rig.pass_s(1000)
        assert not rig.placed() and not rig.deleted() and not rig.evicted()
        said = [text for reason, text in rig.events() if reason == "ScaledWhileRunning"]
        assert len(said) == 1, "once, however many pods come"
        assert "WORLD_SIZE 4" in said[0] and "job-name=j" in said[0]
        assert rig.problem("n/j") == said[0]
        rig.lose(*runs)  # as the text says
        rig.see(*(rank(i, 4, uid=f"b{i}", gpus=4) for i in range(2)))
        await rig.settle()
        assert len(rig.placed()) == 4

    tried(story)


def test_a_job_that_is_scaled_between_its_plan_and_its_binds_starts_as_it_was() -> None:
    async def story(rig: Rig) -> None:
        rig.thing("PyTorchJob", "j", replicas(Worker=2))
        rig.see(rank(0, 2, gpus=1), rank(1, 2, gpus=1))
        await rig.settle()
        assert len(rig.placed()) == 2
        rig.thing("PyTorchJob", "j", replicas(Worker=4))
        rig.see(rank(2, 4, gpus=1), rank(3, 4, gpus=1))
        await rig.settle()
        assert set(rig.placed()) == {"j-worker-0", "j-worker-1"}
        assert not rig.deleted()

    tried(story)


def test_a_running_job_that_is_scaled_and_scaled_back_goes_on() -> None:
    async def story(rig: Rig) -> None:
        rig.thing("PyTorchJob", "j", replicas(Worker=2))
        rig.see(*(rank(i, 2, node=f"node-0000{i}") for i in range(2)))
        await rig.settle()
        rig.thing("PyTorchJob", "j", replicas(Worker=3))
        rig.see(rank(2, 3))
        await rig.settle()
        assert rig.problem("n/j")
        rig.thing("PyTorchJob", "j", replicas(Worker=2))
        rig.lose(rank(2, 3))
        await rig.settle()
        assert not rig.problem("n/j") and not rig.placed() and not rig.evicted()

    tried(story)


def test_a_running_elastic_job_may_grow() -> None:
    async def story(rig: Rig) -> None:
        elastic = {"elasticPolicy": {"minReplicas": 1, "maxReplicas": 4}}
        rig.thing("PyTorchJob", "j", {**replicas(Worker=2), **elastic})
        rig.see(*(kubeflow("j", i, node=f"node-0000{i}") for i in range(2)))
        await rig.settle()
        rig.thing("PyTorchJob", "j", {**replicas(Worker=3), **elastic})
        rig.see(kubeflow("j", 2))
        await rig.settle()
        assert set(rig.placed()) == {"j-worker-2"}

    tried(story)


def test_a_master_without_a_gpu_that_runs_early_is_let_be() -> None:
    """Without the admission policy nobody holds it; it is in nobody's way."""

    async def story(rig: Rig) -> None:
        rig.thing("PyTorchJob", "j", replicas(Master=1, Worker=2))
        workers = [kubeflow("j", i, gated=False) for i in range(2)]
        rig.see(kubeflow("j", 0, "master", gpus=0, node="node-00000"), workers[0])
        for _ in range(3):
            await rig.pass_s(1000)
        assert not rig.evicted()
        rig.see(workers[1])
        await rig.settle()
        assert set(rig.placed()) == set()
        assert rig.lanes() == {"j-worker-0": "extender", "j-worker-1": "extender"}

    tried(story)


def test_a_master_without_a_gpu_is_made_anew_when_its_job_is_scaled_before_it_starts() -> None:
    async def story(rig: Rig) -> None:
        rig.thing("PyTorchJob", "j", replicas(Master=1, Worker=2))
        size = {"WORLD_SIZE": "2"}
        rig.see(kubeflow("j", 0, "master", gpus=0, node="node-00000", env=size))
        rig.see(rank(0, 3, gated=False), rank(1, 3, gated=False))
        await rig.settle()
        assert rig.evicted() == ["j-master-0"]
        assert not rig.lanes()

    tried(story)


KINDS: dict[str, dict[str, dict[str, dict[str, int]]]] = {
    "TFJob": {"tfReplicaSpecs": {"Chief": {}, "PS": {"replicas": 1}, "Worker": {"replicas": 1}}},
    "MPIJob": {"mpiReplicaSpecs": {"Launcher": {"replicas": 1}, "Worker": {"replicas": 2}}},
    "XGBoostJob": {"xgbReplicaSpecs": {"Master": {"replicas": 1}, "Worker": {"replicas": 2}}},
    "PaddleJob": {"paddleReplicaSpecs": {"Worker": {"replicas": 3}}},
    "JAXJob": {"jaxReplicaSpecs": {"Worker": {"replicas": 3}}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_job_of_the_training_operator_starts_whole(kind: str) -> None:
    async def story(rig: Rig) -> None:
        ((_, roles),) = KINDS[kind].items()
        pods = [
            kubeflow("j", i, role.lower(), kind=kind)
            for role, part in roles.items()
            for i in range(part.get("replicas", 1))
        ]
        rig.see(pods[0])
        await rig.settle()
        assert "cannot be read yet" in rig.problem("n/j")
        rig.thing(kind, "j", KINDS[kind])
        rig.see(pods[1])
        await rig.settle()
        assert not rig.placed()
        rig.see(pods[2])
        await rig.settle()
        assert len(rig.placed()) == 3

    tried(story)


# -- roles ----------------------------------------------------------------------------------------


def volcano(role: str, index: int, **more: object):  # type: ignore[no-untyped-def]
    """Return a pod as Volcano's job controller makes it."""
    said = {"scheduling.k8s.io/group-name": "rl", "volcano.sh/task-spec": role}
    return pod(f"rl-{role}-{index}", annotations=said, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("lost", ["learner", "actor"])
def test_pods_of_one_role_do_not_make_up_for_those_of_another(lost: str) -> None:
    async def story(rig: Rig) -> None:
        spec = {"minMember": 2, "minTaskMember": {"actor": 1, "learner": 1}}
        rig.thing("volcano", "rl", spec)
        pods = {"learner": volcano("learner", 0, node="node-00000")}
        pods |= {f"actor-{i}": volcano("actor", i, node=f"node-0000{i + 1}") for i in range(2)}
        rig.see(*pods.values())
        await rig.settle()
        rig.lose(pods["learner"] if lost == "learner" else pods["actor-1"])
        await rig.settle()
        await rig.pass_s(61)
        await rig.pass_s(61)
        if lost == "actor":
            assert not rig.evicted(), "one actor is enough"
            return
        assert sorted(rig.evicted()) == ["rl-actor-0", "rl-actor-1"]
        assert "0 of 1 pods of role learner" in dict(rig.events())["Evicted"]

    tried(story)


def test_workers_do_not_make_up_for_a_master() -> None:
    async def story(rig: Rig) -> None:
        least = {"runPolicy": {"schedulingPolicy": {"minAvailable": 2}}}
        rig.thing("PyTorchJob", "j", {**replicas(Master=1, Worker=3), **least})
        master = kubeflow("j", 0, "master", node="node-00000")
        rig.see(master, *(kubeflow("j", i, node=f"node-0000{i + 1}") for i in range(3)))
        await rig.settle()
        rig.lose(master)
        await rig.settle()
        await rig.pass_s(61)
        await rig.pass_s(61)
        assert len(rig.evicted()) == 3

    tried(story)


def test_a_minimum_is_not_made_of_workers_that_come_before_their_master() -> None:
    async def story(rig: Rig) -> None:
        least = {"runPolicy": {"schedulingPolicy": {"minAvailable": 2}}}
        rig.thing("PyTorchJob", "j", {**replicas(Master=1, Worker=4), **least})
        rig.see(*(kubeflow("j", i) for i in range(3)))
        await rig.settle()
        assert rig.placed() == {}
        rig.see(kubeflow("j", 0, "master"))
        await rig.settle()
        assert {"j-master-0", "j-worker-0"} <= rig.placed().keys()

    tried(story)


def test_initializers_of_a_trainjob_are_not_waited_for_in_a_volcano_group() -> None:
    async def story(rig: Rig) -> None:
        parts = [part("dataset-initializer", 1), part("model-initializer", 1), part("node", 2)]
        rig.thing("JobSet", "tj", {"replicatedJobs": parts})
        rig.thing("volcano", "tj", {"minMember": 4})

        def member(name: str, step: str):  # type: ignore[no-untyped-def]
            return pod(
                name,
                annotations={"scheduling.k8s.io/group-name": "tj"},
                labels={"trainer.kubeflow.org/trainjob-ancestor-step": step},
            )

        rig.see(member("data", "dataset-initializer"))
        await rig.settle()
        assert set(rig.placed()) == {"data"}
        rig.see(member("n-0", "trainer"))
        await rig.settle()
        assert set(rig.placed()) == {"data"}
        rig.see(member("n-1", "trainer"))
        await rig.settle()
        assert set(rig.placed()) == {"data", "n-0", "n-1"}

    tried(story)


# -- pods that are seen before the object that says what they are -------------------------------


def test_pods_seen_before_their_jobset_are_a_gang_per_part() -> None:
    async def story(rig: Rig) -> None:
        rig.see(*(jobset_pod("js", "prepare", i) for i in range(2)))
        await rig.settle()
        assert not rig.placed()
        order = {"startupPolicy": {"startupPolicyOrder": "InOrder"}}
        parts = [part("prepare", 2), part("train", 3)]
        rig.thing("JobSet", "js", {"replicatedJobs": parts, **order})
        await rig.settle()
        assert len(rig.placed()) == 2
        assert [gang.name for gang in rig.control.gangs.values()] == ["n/js-prepare"]

    tried(story)


@pytest.mark.parametrize("gated", [True, False])
def test_pods_seen_before_their_job_are_no_gang_if_it_is_none(gated: bool) -> None:
    async def story(rig: Rig) -> None:
        labels = {"batch.kubernetes.io/job-completion-index": "0"}
        one = pod("l-0", labels=labels, owner=("Job", "l", "uid-l"), gated=gated)
        rig.see(one)
        await rig.settle()
        assert not rig.placed()
        rig.thing("Job", "l", {"parallelism": 2, "completions": 9})
        await rig.settle()
        assert set(rig.placed()) == ({"l-0"} if gated else set())
        assert ("l-0" in rig.control.key_of_pod) is gated

    tried(story)


# -- lanes ----------------------------------------------------------------------------------------

CLAIM = [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
UNMODELLED = {
    "volume data": {"volumes": CLAIM},
    "host port 80": {"containers": [{"name": "main", "ports": [{"hostPort": 80}]}]},
    "podAntiAffinity": {"affinity": {"podAntiAffinity": {REQUIRED: [{"topologyKey": "host"}]}}},
    "podAffinity": {"affinity": {"podAffinity": {REQUIRED: [{"topologyKey": "host"}]}}},
    "topologySpreadConstraints": {
        "topologySpreadConstraints": [{"whenUnsatisfiable": "DoNotSchedule", "maxSkew": 1}]
    },
    "resourceClaims": {"resourceClaims": [{"name": "gpu"}]},
}
MODELLED = {
    "nothing": {},
    "volumes that go anywhere": {"volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}]},
    "preferences": {
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{}]}},
        "topologySpreadConstraints": [{"whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 1}],
    },
    "a node selector": {"nodeSelector": {"kubernetes.io/hostname": "node-00002"}},
}


@pytest.mark.parametrize("spec", MODELLED.values(), ids=MODELLED)
@pytest.mark.parametrize("by", ["queue", "scheduler"])
def test_the_direct_lane_is_for_a_queue_or_a_scheduler_name(
    by: str, spec: dict[str, object]
) -> None:
    async def story(rig: Rig) -> None:
        more = {"schedulerName": "muster-direct", "gated": False} if by == "scheduler" else {}
        said = {"muster.dev/queue": "fast"} if by == "queue" else {}
        rig.see(own("a", "a", annotations=said, **more, **spec))  # type: ignore[arg-type]
        rig.see(own("b", "b", annotations={"muster.dev/queue": "slow"}))  # type: ignore[arg-type]
        await rig.settle()
        assert rig.lanes() == {"a": "direct", "b": "pinned"}
        assert rig.placed()["a"] == "node-00002" or "nodeSelector" not in spec

    tried(story, direct_queues=["fast"])


@pytest.mark.parametrize("what", UNMODELLED)
def test_what_muster_does_not_check_never_takes_the_direct_lane(what: str) -> None:
    async def story(rig: Rig) -> None:
        spec = UNMODELLED[what]
        said = {"muster.dev/queue": "fast"}
        rig.see(
            own("gated", "a", annotations=said, **spec),  # type: ignore[arg-type]
            own("ungated", "b", annotations=said, gated=False, **spec),  # type: ignore[arg-type]
            own("alone", "c", gated=False, schedulerName="muster-direct", **spec),  # type: ignore[arg-type]
        )
        await rig.settle()
        assert rig.lanes() == {"gated": "pinned", "ungated": "extender"}
        assert f"has {what}, which only kube-scheduler checks" in rig.problem("n/c")
        assert ("NotServed", rig.problem("n/c")) in rig.events()

    tried(story, direct_queues=["fast"])


# -- leading, and being left alone ---------------------------------------------------------------


def test_a_process_whose_lease_ran_out_while_it_was_stopped_writes_nothing() -> None:
    async def story(rig: Rig) -> None:
        rig.see(own("a", "a"))  # type: ignore[arg-type]
        await rig.settle()
        written = len(rig.api.requests)
        rig.control.work.leads = lambda: False  # as the lease says after a stop
        rig.see(own("b", "b"), rank(0, 9), rank(1, 9))  # type: ignore[arg-type]
        rig.thing("PyTorchJob", "j", replicas(Worker=2))
        rig.lose(own("a", "a"))  # type: ignore[arg-type]
        await rig.pass_s(1000)
        assert len(rig.api.requests) == written
        assert not rig.control.active

    tried(story)


def test_a_lease_that_runs_out_between_two_writes_stops_the_second() -> None:
    """The plan record is written; then the process is stopped for longer than its lease."""

    async def story(rig: Rig) -> None:
        rig.control.work.leads = lambda: not any(m == "POST" for m, _, _ in rig.api.requests)
        rig.see(own("a", "a"))  # type: ignore[arg-type]
        await rig.settle()
        assert [(m, p.split("/")[-1]) for m, p, _ in rig.api.requests] == [("POST", "configmaps")]

    tried(story)


def test_heartbeats_and_conditions_wake_nobody() -> None:
    async def story(rig: Rig) -> None:
        alone = pod("alone", gpus=0, node="node-00000")
        waits = own("waits", "waits", 2)
        rig.see(alone, waits)  # type: ignore[arg-type]
        await rig.settle()
        work = rig.control.work
        work._wake.clear()
        for number in range(4):
            rig.node(number, change=Change.MODIFIED)
        rig.see(pod("alone", gpus=0, node="node-00000"), own("waits", "waits", 2))  # type: ignore[arg-type]
        rig.see(pod("other", gpus=0, gated=False))
        assert not work._wake.is_set() and not work.take()
        rig.node(1, 4, change=Change.MODIFIED)
        assert work._wake.is_set()
        work._wake.clear()
        rig.lose(alone)
        assert work._wake.is_set()

    tried(story)


def test_what_people_see_of_pods_of_no_gang_waits_for_no_decision() -> None:
    """Nobody queues: a Deployment is scaled, and scaled down again."""

    async def story(rig: Rig) -> None:
        await rig.settle()
        many = [pod(f"d-{n}", gpus=1, node=f"node-{n % 4:05d}", gated=False) for n in range(20)]
        for tell, free in ((rig.see, 12), (rig.lose, 32)):
            rig.control.work._wake.clear()
            tell(*many)
            assert rig.control.work._wake.is_set()
            rig.control.step()
            assert rig.ledger.state.capacity.free_gpus(Selector()) == free

    tried(story)


def test_a_bind_of_a_pod_that_has_just_gone_is_refused() -> None:
    """Between the watch's word and the next step the slot is still the pod's."""

    async def story(rig: Rig) -> None:
        one = own("a", "a")
        rig.see(one)  # type: ignore[arg-type]
        await rig.settle()
        rig.lose(one)  # type: ignore[arg-type]

        gone = asyncio.get_running_loop().create_future()
        args = BindArgs("a", "n", "a", rig.placed()["a"])
        answer = await Binds(rig.control).bind(args, gone.get_loop().time(), gone)
        assert answer.error == "this pod is gone"

    tried(story)
