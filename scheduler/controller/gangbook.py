"""Gangs as reported to the core: what each holds, what it lost, and what it asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from math import inf

from scheduler.controller.leaving import Lasts
from scheduler.controller.nodebook import ZERO, NodeBook
from scheduler.controller.parts import Held, Request, held_by, placement_of
from scheduler.core.events import (
    Admitted,
    CheckpointSaved,
    ForeignPodGone,
    GangCancelled,
    GangInterrupted,
    GangMends,
    GangResized,
    GangSubmitted,
    MemberAppeared,
    MemberLost,
    Overtaken,
)
from scheduler.core.model import PodShape, Role, Selector
from scheduler.core.times import ends_us, to_us


class GangBook(NodeBook):
    """Requests of gangs, beside the nodes that they hold."""

    def __post_init__(self) -> None:
        super().__post_init__()
        #: by gang: pods on nodes that have no room for them beside what was there before
        self._beyond: dict[str, dict[str, PodShape]] = {}
        self._look_anew: set[str] = set()  #: gangs of which such a node has got room

    def set_gang(self, request: Request) -> Request:
        """Report a gang's present state, whatever the core knew of it; return what is kept."""
        old = self.requests.get(request.name)
        if old is not None:
            if old.says() == request.says():
                return old
            request.overtaken = old.overtaken
        self.requests[request.name] = request
        if old is not None and old.held() - request.held():
            self.num_freed += 1
        if self._is_told_later(request.name):
            return request
        try:
            self._take_in(request)
        except Exception:
            del self.requests[request.name]
            self._start_over = True
            raise
        return request

    def _take_in(self, request: Request) -> None:
        """Tell the core of a gang, unless that takes another state."""
        for part in request.parts:
            if part.asks and part.pod is not None and self.classes.learn(part.pod, part.avoid):
                self._start_over = True
        if not self._start_over:
            self._tell_gang(request)

    def _is_told_later(self, gang: str) -> bool:
        """True if the core hears of a gang by a state that is made anew."""
        if self._meanwhile is not None:
            self._meanwhile.gangs.add(gang)
            return True
        return self._start_over

    def ask_more(self, request: Request) -> None:
        """Report that a known gang asks for more pods of parts that it has."""
        if self._is_told_later(request.name):
            return
        if request.name in self._beyond:
            self._tell_gang(request)
        else:
            self._tell_asked(request)

    def drop_gang(self, name: str) -> None:
        """Forget a gang, waiting or running."""
        request = self.requests.pop(name, None)
        if request is None:
            return
        self.num_freed += bool(request.nodes)
        if not self._is_told_later(name):
            self._tell_end(name)

    def _tell_end(self, name: str) -> None:
        """Tell the core that a gang is no more."""
        self._count_beyond(name, Counter())
        member = self.state.gangs.get(name)
        if member is not None:  # else its nodes are gone
            nodes = {node for _, node in held_by(self.state, member)}
            self._tell(GangCancelled(name))
            self._freed(nodes)

    def _freed(self, nodes: Collection[str]) -> None:
        """Look again at nodes that had more on them than they have."""
        self._stale.update(self._short.intersection(nodes))
        for gang, beyond in self._beyond.items():
            if not beyond.keys().isdisjoint(nodes):
                self._look_anew.add(gang)

    def _tell_gang(self, request: Request) -> None:
        """Tell the core what changed of a gang: what it lost, what it has, what it asks for."""
        self._left |= {name for name in request.nodes if name not in self._facts}
        wanted = request.on(self.state.capacity.index_of)
        name, gang = request.name, request.gang(())
        member = self.state.gangs.get(name)
        if member is not None and member.gang._replace(roles=()) != gang:
            self._tell(GangCancelled(name))
            self._freed(tuple(node for _, node in held_by(self.state, member)))
            member = None
        told = held_by(self.state, member) if member is not None else Counter()
        held = wanted.held()
        if lost := told - held:
            self._tell_lost(name, lost, not +(told - lost))
        gained = held - told
        if gained or name in self._beyond:
            beyond = self._find_beyond(wanted, gained)
            self._count_beyond(name, beyond, wanted)
            wanted, gained = wanted.without(beyond), gained - beyond
        if gained:
            self._tell_held(wanted.running(), gained)
        if not wanted.parts:
            if name in self.state.gangs:
                self._tell(GangCancelled(name))
            return
        self._tell_asked(wanted)
        if request.saved_s > -inf:
            member, saved_us = self.state.gangs[name], to_us(request.saved_s)
            # what was saved before this admission is of an earlier one, and counts no more
            if member.held and saved_us >= member.admitted_us and saved_us > member.saved_us:
                self._tell(CheckpointSaved(name, saved_us))

    def _tell_lost(self, name: str, lost: Held, whole: bool) -> None:
        if whole:
            self._tell(GangInterrupted(name))
        else:
            for (part, node), count in lost.items():
                for _ in range(count):
                    roles = [role.name for role in self.state.gangs[name].gang.roles]
                    self._tell(MemberLost(name, roles.index(part), node))
        self._freed(tuple(node for _, node in lost))

    def _tell_held(self, request: Request, gained: Held) -> None:
        """Count pods on their nodes that no decision of the core put there."""
        name, gang = request.name, request.gang(self._roles(request))
        if name in self.state.gangs:
            self._tell(GangResized(name, gang.roles, request.present))
        placement = placement_of(self.state.capacity, gang.roles, gained)
        assert placement is not None, "what has no room is not among what is held"
        if name not in self.state.gangs:
            self._tell(GangSubmitted(gang))
        missing = [role.name for role in self.state.gangs[name].missing]
        index = [missing.index(r.name) if r.name in missing else -1 for r in gang.roles]
        placement = tuple(piece._replace(role=index[piece.role]) for piece in placement)
        now_us = to_us(request.admitted_s)
        self._tell(Admitted(name, placement, now_us, ends_us(now_us, gang.walltime_us)))

    def _find_beyond(self, request: Request, gained: Held) -> Held:
        """Return the pods that a node has no room for, whoever bound them there.

        A kubelet may still refuse them; the node does not grow by them. Pods of no gang make room.
        """
        shapes = {part.name: part.shape for part in request.parts}
        capacity = self.state.capacity
        beyond: Held = Counter()
        left: dict[str, PodShape] = {}
        for (part, node), count in gained.items():
            shape = shapes[part]
            room = left.get(node)
            if room is None:
                room = capacity.free_on(capacity.index_of[node])
            fits = min(count, room.holds(shape))
            if fits < count and node in self.state.foreign:
                without = room.plus(self.state.foreign[node][1])
                if without.holds(shape) > fits:
                    room, fits = without, min(count, without.holds(shape))
                    self._tell(ForeignPodGone(node))
                    self._stale.add(node)
            if fits < count:
                beyond[part, node] = count - fits
            left[node] = room.plus(shape, -fits)
        return beyond

    def _count_beyond(self, name: str, beyond: Held, request: Request | None = None) -> None:
        """Count what a gang has beyond the room of its nodes as pods of no gang, from now on."""
        for node, shape in self._beyond.pop(name, {}).items():
            self._count_on(node, shape, Lasts.WITH_A_GANG, -1)
        if not beyond:
            return
        assert request is not None
        shapes = {part.name: part.shape for part in request.parts}
        taken: dict[str, PodShape] = {}
        for (part, node), count in beyond.items():
            taken[node] = taken.get(node, ZERO).plus(shapes[part], count)
        self._beyond[name] = taken
        for node, shape in taken.items():
            self._count_on(node, shape, Lasts.WITH_A_GANG, 1)

    def _tell_asked(self, request: Request) -> None:
        """Tell which pods the gang has and which of them are there."""
        name, roles, present = request.name, self._roles(request), request.present
        member = self.state.gangs.get(name)
        if member is None:
            self._tell(GangSubmitted(request.gang(roles), present))
            if request.overtaken:
                self._tell(Overtaken(name, request.overtaken))
        elif member.gang.roles != roles or member.present > present:
            self._tell(GangResized(name, roles, present))
        elif member.present < present:
            self._tell(MemberAppeared(name, present - member.present))
        member = self.state.gangs[name]
        if member.mends != request.mends and (member.held or member.mends):
            self._tell(GangMends(name, request.mends))

    def _roles(self, request: Request) -> tuple[Role, ...]:
        """Return the parts of a gang as the core's roles.

        What has a node asks for none: its pin would make a class of every node.
        """
        member = self.state.gangs.get(request.name)
        known = member.gang.roles if member is not None else ()
        roles = []
        for part in request.parts:
            if part.asks and part.pod is not None:
                selector = self.classes.selector(part.pod, part.avoid)
            else:
                told = (role.selector for role in known if role.name == part.name)
                selector = next(told, Selector())
            roles.append(Role(part.count, part.shape, selector, part.name))
        return tuple(roles)
