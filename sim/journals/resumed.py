"""Continue a live cluster in the simulator: from its snapshot, its journal, or both.

Running gangs hold their nodes until they end, waiting gangs are submitted at time 0, and gangs of
the journal arrive at their times. A gang's run time is, in this order: what the journal saw; its
walltime; the caller's assumption. Left out are gangs whose pods do not all exist, and gangs that
their users took back before they started.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from scheduler.core.events import ForeignPodBound
from scheduler.core.model import Gang, Node, NodeStatus, Phase, Placement, Role, Selector, Slice
from scheduler.core.state import apply
from scheduler.core.times import FOREVER_US, to_s, to_us
from scheduler.journal.history import Entry, holding, read, told
from scheduler.policies.spec import PolicySpec
from sim.engines.gangs import GangSimulation, ProgressCallback
from sim.engines.workload import Workload
from sim.journals.recorded import Job, Recorder, cluster_of
from sim.runs.experiment import result_of
from sim.runs.folder import RunResult
from sim.schema.config import RunConfig

SHORTEST_S = 1.0  #: a gang that should have ended already ends so soon
INSTANT_S = 1e-6  #: a journal's resolution


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Held:
    """A gang that runs when the run begins."""

    placement: Placement
    left_s: float
    expected_s: float  #: when the policy believes that it ends
    submit_s: float  #: before the run: negative


@dataclass(frozen=True, slots=True)
class _Present:
    """A gang at the moment at which the run begins."""

    gang: Gang
    phase: Phase
    placement: Placement
    submit_s: float
    expected_end_s: float
    epoch: int


#: nodes, foreign pods, policy, epochs and gangs at one moment
_Found = tuple[list[Node], list[ForeignPodBound], PolicySpec, list[dict[str, str]], list[_Present]]


@dataclass
class Scene:
    """What a run begins with, and the gangs that arrive later."""

    nodes: list[Node]
    foreign: list[ForeignPodBound]
    policy: PolicySpec
    gangs: list[Gang] = field(default_factory=list)  #: those that run first, then by submission
    duration_s: list[float] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)  #: of the first gangs
    #: when nodes open, close, or are gone (None), by the journal: those that come later, too
    doors: list[tuple[float, str, bool | None]] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)  #: lines of the journal that were left out
    num_assumed: int = 0  #: gangs whose run time nobody knows
    num_left_out: int = 0

    def sentence(self) -> str:
        """Say what was taken from where."""
        num_closed = sum(node.status is not NodeStatus.SCHEDULABLE for node in self.nodes)
        foreign = sum(pod.shape.gpus for pod in self.foreign)
        now = sum(gang.submit_us <= 0 for gang in self.gangs) - len(self.held)
        later = len(self.gangs) - len(self.held) - now
        text = [
            f"{_counted(len(self.held), 'gang')} run{'s' * (len(self.held) == 1)}, "
            f"{now} wait{'s' * (now == 1)}, {later} arrive{'s' * (later == 1)} later"
        ]
        if self.num_assumed:
            text.append(f"{self.num_assumed} run for an assumed time")
        if self.num_left_out:
            text.append(f"{self.num_left_out} left out (pods missing, or taken back)")
        if num_closed:
            text.append(f"{_counted(num_closed, 'node')} accept{'s' * (num_closed == 1)} no pods")
        if self.doors:
            text.append(f"{len(self.doors)} times a node joins, opens, closes or leaves")
        if self.aside:
            more = f" and {len(self.aside) - 1} more" if len(self.aside) > 1 else ""
            text.append(f"set aside: {self.aside[0]}{more}")
        if foreign:
            are = "is" if foreign == 1 else "are"
            text.append(f"{_counted(foreign, 'GPU')} {are} held by pods of no gang")
        return "; ".join(text)


class _State(msgspec.Struct):
    """What is read of `/state`."""

    zero_unix_s: float
    now_s: float
    lines: list[dict[str, Any]] | None = None


def scene(snapshot: Path | None, journal: Sequence[Path], assumed_s: float) -> Scene:
    """Return what a run begins with.

    Where both are given, gangs of the journal arrive that came after the snapshot; none, if the
    journal ends before it. Nodes come and go as in the journal.

    Raises:
        ValueError: a file is not valid; the text says which and why.
    """
    later = Recorder()
    found: _Found | None = None
    state = None
    if snapshot is not None:
        state = _read_state(snapshot)
        at_start = Recorder()
        for entry in told(
            (f"{snapshot}: lines[{i}]", line) for i, line in enumerate(state.lines or ())
        ):
            at_start.take(entry)
        at_start.settle()
        found = _present(at_start, 0.0)
    from_s = 0.0
    if journal:
        entries = list(read(journal))
        if state is None:
            found = _play(later, entries, 0.0)
        else:
            _play(later, entries, inf)
            from_s = _moment(state, later, entries)
    assert found is not None, "a snapshot or a journal is given"
    nodes, foreign, policy, epochs, present = found
    doors = _doors(nodes, later, from_s)
    built = Scene(nodes, foreign, policy, doors=doors, aside=later.aside)
    pools = _Pools(nodes, [*epochs, *later.epochs])
    _add_present(built, present, pools, later, from_s, assumed_s)
    names = {one.gang.name for one in present}
    _add_later(built, later, pools, len(epochs), names, from_s, assumed_s)
    if not built.gangs:
        source = snapshot if snapshot is not None else journal[0]
        raise ValueError(f"{str(source)!r}: no gang runs, waits or arrives; nothing to simulate")
    return built


def _read_state(path: Path) -> _State:
    try:
        state = msgspec.json.decode(path.read_bytes(), type=_State)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(
            f"snapshot {str(path)!r}: {error}; give the answer of muster's /state"
        ) from None
    if not state.lines:
        raise ValueError(
            f"snapshot {str(path)!r} has no 'lines'; give the answer of /state of this version "
            "of muster, or a journal"
        )
    return state


def _play(recorder: Recorder, entries: Sequence[Entry], until_s: float) -> _Found | None:
    """Take in all entries; return the state once those up to `until_s` are in."""
    found = None
    for entry in entries:
        if entry.now_s > until_s and found is None:
            recorder.settle()
            found = _present(recorder, recorder.end_s)
        recorder.take(entry)
    recorder.settle()
    if found is None and until_s < inf:
        found = _present(recorder, recorder.end_s)
    return found


def _present(recorder: Recorder, now_s: float) -> _Found:
    """Return nodes, foreign pods and gangs as they stand."""
    state = recorder.follower.state
    capacity = state.capacity
    closed = (NodeStatus.SCHEDULABLE, NodeStatus.CORDONED)
    nodes = [
        replace(node, status=closed[at in capacity.unschedulable])
        for at, node in enumerate(capacity.nodes)
    ]
    foreign = [
        ForeignPodBound(pod, capacity.nodes[at].name, shape)
        for pod, (at, shape) in state.foreign.items()
    ]
    offset_s = now_s - recorder.line_s
    present = []
    for name, member in state.gangs.items():
        submit_s = recorder.jobs[recorder.open[name]].submit_s - now_s
        end_s = to_s(member.expected_end_us) + offset_s - now_s
        epoch = len(recorder.epochs) - 1
        if member.held:
            gang, held = holding(member)
            present.append(_Present(gang, Phase.RUNNING, held, submit_s, end_s, epoch))
        if member.missing:
            gang = member.gang._replace(roles=member.missing)
            if member.held:
                gang = gang._replace(name=f"{name} (missing)")
            present.append(_Present(gang, member.phase, (), submit_s, end_s, epoch))
    return nodes, foreign, recorder.policy, list(recorder.epochs), present


def _moment(state: _State, later: Recorder, entries: Sequence[Entry]) -> float:
    """Return when in the journal the snapshot was taken: 0 before its first line."""
    if later.zero_unix_s is not None:
        at_s = state.zero_unix_s + state.now_s - later.zero_unix_s
    else:
        at_s = state.now_s - later.line_s + later.end_s
    return max(at_s, 0.0)


def _doors(
    nodes: list[Node], later: Recorder, from_s: float
) -> list[tuple[float, str, bool | None]]:
    """Return the changes of nodes after `from_s`; nodes that come later are added to `nodes`.

    They exist from the start but are away until they join, so no gang is forever too large.
    """
    known = {node.name for node in nodes}
    found: list[tuple[float, str, bool | None]] = []
    for name, doors in later.doors.items():
        changes = [(at_s - from_s, name, is_open) for at_s, is_open in doors if at_s > from_s]
        if name not in known:
            if not any(is_open is not None for _, _, is_open in changes):
                continue  # it left before
            nodes.append(replace(later.nodes[name], status=NodeStatus.SCHEDULABLE))
            changes.insert(0, (0.0, name, None))
        found += changes
    return sorted(found, key=lambda change: change[0])


def _run_s(job: Job, from_s: float) -> float | None:
    """Return how long a job ran, after `from_s`; None if the journal did not see its end."""
    if job.end_s == inf or not job.attempts:
        return None
    return sum(
        one.end_s - max(one.admitted_s, from_s) for one in job.attempts if one.end_s > from_s
    )


def _add_present(
    built: Scene,
    present: Sequence[_Present],
    pools: _Pools,
    later: Recorder,
    from_s: float,
    assumed_s: float,
) -> None:
    seen = {job.name: job for job in later.jobs if job.submit_s <= from_s < job.end_s}
    for one in sorted(present, key=lambda one: not one.placement):
        gang = one.gang
        job = seen.get(gang.name)
        run_s = None if job is None else _run_s(job, from_s)
        if one.placement:
            left_s = max(one.expected_end_s, SHORTEST_S)
            if run_s is not None:
                left_s = max(run_s, INSTANT_S)
            elif left_s == inf:
                left_s = max(assumed_s, SHORTEST_S)
                built.num_assumed += 1
            # a policy must not know more here than it knew there
            told_s = one.expected_end_s if one.expected_end_s < inf else left_s
            expected_s = max(told_s, SHORTEST_S)
            built.held.append(Held(one.placement, left_s, expected_s, min(one.submit_s, 0.0)))
            roles = tuple(replace(role, selector=Selector()) for role in gang.roles)
            built.gangs.append(gang._replace(roles=roles, submit_us=0))
            built.duration_s.append(left_s)
        elif one.phase is Phase.GATHERING or (job is not None and _is_taken_back(job)):
            built.num_left_out += 1
        else:
            _add(built, gang, pools.roles(gang.roles, one.epoch), 0.0, run_s, assumed_s)


def _is_taken_back(job: Job) -> bool:
    return job.end_s < inf and not job.attempts


def _add_later(
    built: Scene,
    later: Recorder,
    pools: _Pools,
    first_epoch: int,
    names: set[str],
    from_s: float,
    assumed_s: float,
) -> None:
    jobs = list(zip(later.jobs, later.names(), strict=True))
    for job, name in sorted(jobs, key=lambda pair: pair[0].complete_s):
        if job.name in names and job.submit_s <= from_s:
            continue  # it is there when the run begins
        if job.complete_s <= from_s:
            continue  # before the snapshot, and gone by then
        if job.complete_s == inf or _is_taken_back(job):
            built.num_left_out += 1
            continue
        gang = job.gang._replace(name=f"{name} (later)" if name in names else name)
        roles = pools.roles(gang.roles, first_epoch + job.epoch)
        _add(built, gang, roles, job.complete_s - from_s, _run_s(job, from_s), assumed_s)


def _add(
    built: Scene,
    gang: Gang,
    roles: tuple[Role, ...],
    submit_s: float,
    run_s: float | None,
    assumed_s: float,
) -> None:
    walltime_s = to_s(gang.walltime_us)
    if run_s is None and walltime_s == inf:
        built.num_assumed += 1
    duration_s = assumed_s if walltime_s == inf else walltime_s
    built.gangs.append(gang._replace(roles=roles, submit_us=to_us(submit_s)))
    if run_s is None:
        built.duration_s.append(max(duration_s, SHORTEST_S))
    else:
        built.duration_s.append(max(run_s, INSTANT_S))


class _Pools:
    """Names for the nodes that no gang can tell apart, whenever it came.

    Live muster renames classes of nodes when a pod arrives that distinguishes them more finely, so
    that a selector means something only in its epoch.
    """

    def __init__(self, nodes: list[Node], epochs: list[dict[str, str]]) -> None:
        self._epochs = epochs
        pool_of: dict[tuple[str, ...], str] = {}
        self._example: dict[str, str] = {}
        for at, node in enumerate(nodes):
            seen = tuple(epoch.get(node.name, "") for epoch in epochs)
            pool = pool_of.setdefault(seen, f"pool{len(pool_of)}")
            self._example.setdefault(pool, node.name)
            nodes[at] = replace(node, pool=pool)

    def roles(self, roles: tuple[Role, ...], epoch: int) -> tuple[Role, ...]:
        """Return roles with selectors that hold here."""
        return tuple(replace(role, selector=self._selector(role, epoch)) for role in roles)

    def _selector(self, role: Role, epoch: int) -> Selector:
        wanted = role.selector.pool
        if not wanted:
            return role.selector
        classes = set(wanted.split("|"))
        fits = [
            pool
            for pool, node in self._example.items()
            if self._epochs[epoch].get(node, "") in classes
        ]
        return role.selector._replace(pool="|".join(fits) or "none")


def _workload(built: Scene, seed: int) -> Workload:
    """Return gangs whose roles are known, however many; those of `held` run when the run begins."""
    work = Workload(_jobs(built), seed, roles=[gang.roles for gang in built.gangs])
    submit_s = work.table["submit_s"].to_numpy().copy()
    submit_s[: len(built.held)] = [one.submit_s for one in built.held]
    work.table = work.table.assign(submit_s=submit_s)
    return work


def _jobs(built: Scene) -> pd.DataFrame:
    """Return the jobs table; what it cannot say of roles, `_workload` gives beside it."""
    rows = [
        {
            "job": gang.name,
            "queue": gang.queue,
            "priority": gang.priority,
            "evicts": gang.evicts,
            "evictable": gang.evictable,
            "submit_s": to_s(gang.submit_us),
            "duration_s": duration_s,
            "walltime_s": to_s(gang.walltime_us) if gang.walltime_us < FOREVER_US else duration_s,
            "num_pods": gang.num_pods,
            "gpus_per_pod": max(role.pod.gpus for role in gang.roles),
        }
        for gang, duration_s in zip(built.gangs, built.duration_s, strict=True)
    ]
    return pd.DataFrame(rows)


def _resumed(
    work: Workload, built: Scene, config: RunConfig, progress: ProgressCallback | None
) -> GangSimulation:
    """Return a run that begins with gangs on their nodes."""
    simulation = GangSimulation(work, built.nodes, config, [], progress)
    for pod in built.foreign:
        apply(simulation.state, pod)
    at = simulation.state.capacity.index_of
    place = [at[node.name] for node in built.nodes]  # nodes get new numbers: there may be more
    for held in built.held:
        moved = _moved(held.placement, place)
        simulation.go_on(moved, to_us(held.expected_s), to_us(held.left_s))
    for time_s, name, is_open in built.doors:
        simulation.change_node(to_us(time_s), at[name], is_open)
    return simulation


def _moved(placement: Placement, place: list[int]) -> Placement:
    """Return a placement with other node numbers."""
    nodes = [
        Slice(role, place[node], place[node] + 1, pods)
        for role, lo, hi, pods in placement
        for node in range(lo, hi)
    ]
    return tuple(sorted(nodes)) if place != list(range(len(place))) else placement


def resume(
    built: Scene, config: RunConfig, source: str, progress: ProgressCallback | bool = False
) -> RunResult:
    """Simulate what happens next; pods are there when the live cluster had them."""
    plane = msgspec.structs.replace(config.control_plane, create_per_s=inf)
    config = msgspec.structs.replace(config, control_plane=plane)
    work = _workload(built, config.seed)

    def simulate(callback: ProgressCallback | None) -> RunResult:
        records = _resumed(work, built, config, callback).run()
        cluster = cluster_of(built.nodes)
        return result_of(records, cluster, config, pd.DataFrame(), {"input": source})

    if progress is True:
        from sim.runs.progress import run_progress

        with run_progress(work) as callback:
            return simulate(callback)
    return simulate(progress or None)
