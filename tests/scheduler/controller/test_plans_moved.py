"""Records that an earlier version wrote beside muster are moved to a namespace of their own."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import msgspec
import pytest

from scheduler.controller.plans import PlanRecord, PlanRecords, SlotRecord, record_name
from scheduler.kube.api import ApiError

OLD, NEW = (f"/api/v1/namespaces/{name}/configmaps" for name in ("muster", "muster-plans"))


class Records:
    """ConfigMaps of two namespaces, as an API server keeps them."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, dict[str, Any]]] = {OLD: {}, NEW: {}}
        self.breaks_after = 1 << 30  #: writes
        self._version = itertools.count(1)

    def put(self, where: str, name: str, **content: Any) -> None:
        """Have one."""
        meta = {"name": name, "labels": {"muster.dev/plan": "true"}}
        meta["resourceVersion"] = str(next(self._version))
        self.kept[where][name] = {"metadata": meta, **content}

    async def persist(self, method: str, path: str, body: Any = None, **_: Any) -> bytes:
        """Answer."""
        if method == "GET":
            assert path.endswith("?labelSelector=muster.dev/plan%3Dtrue")
            items = list(self.kept[path.partition("?")[0]].values())
            return msgspec.json.encode({"items": items})
        self.breaks_after -= 1
        if self.breaks_after < 0:
            raise ApiError(0, "the process is killed")
        if method == "POST":
            if body["metadata"]["name"] in self.kept[path]:
                raise ApiError(409, "there")
            self.put(
                path,
                body["metadata"]["name"],
                **{k: body[k] for k in ("data", "binaryData") if k in body},
            )
            return b"{}"
        where, _, name = path.rpartition("/")
        seen = self.kept[where][name]["metadata"]["resourceVersion"]
        assert body["preconditions"] == {"resourceVersion": seen}
        del self.kept[where][name]
        return b"{}"


def plan(number: int, epoch: str = "old/1") -> str:
    """Return a record as it is written."""
    slots = [SlotRecord("", number, "p", "node", "uid")]
    made = PlanRecord(
        f"n/g{number}", ("n", f"g{number}", "PodGroup.scheduling.x-k8s.io", ""), 1, epoch, slots
    )
    return msgspec.json.encode(made).decode()


async def moved(api: Records, epoch: str, breaks_after: int) -> PlanRecords:
    """Move all records; if the process dies after so many writes, the next one does it again."""
    api.breaks_after = breaks_after
    records = PlanRecords(api, "muster-plans", epoch)  # type: ignore[arg-type]
    try:
        await records.move_from("muster")
    except ApiError:
        api.breaks_after = 1 << 30
        await records.move_from("muster")
    return records


@pytest.mark.parametrize("breaks_after", range(8))
def test_all_records_are_found_wherever_the_move_broke_off(breaks_after: int) -> None:
    async def story() -> None:
        api = Records()
        for number in range(3):
            api.put(OLD, record_name(f"n/g{number}"), data={"plan": plan(number)})
        records = await moved(api, "new/2", breaks_after)
        found, unreadable = await records.read_all()
        assert sorted(one.unit for one in found) == ["n/g0", "n/g1", "n/g2"] and not unreadable
        assert not api.kept[OLD]

    asyncio.run(story())


def test_what_was_written_here_since_is_kept() -> None:
    async def story() -> None:
        api = Records()
        api.put(OLD, record_name("n/g0"), data={"plan": plan(0, "old/1")})
        api.put(NEW, record_name("n/g0"), data={"plan": plan(0, "new/2")})
        api.put(OLD, "long", binaryData={"packed": "eJw="})
        records = PlanRecords(api, "muster-plans", "new/2")  # type: ignore[arg-type]
        await records.move_from("muster")
        found, unreadable = await records.read_all()
        assert [one.epoch for one in found] == ["new/2"] and unreadable == ["long"]
        assert api.kept[NEW]["long"]["binaryData"] == {"packed": "eJw="} and not api.kept[OLD]
        await records.move_from("muster-plans")  # where it is: nothing to move
        assert len(api.kept[NEW]) == 2

    asyncio.run(story())


def test_records_stay_where_they_are_if_the_new_namespace_is_missing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It ended muster at each start."""

    class Missing(Records):
        async def persist(self, method: str, path: str, body: Any = None, **more: Any) -> bytes:
            if method == "POST":
                raise ApiError(404, 'namespaces "muster-plans" not found')
            return await super().persist(method, path, body, **more)

    async def story() -> None:
        api = Missing()
        api.put(OLD, record_name("n/g0"), data={"plan": plan(0)})
        await PlanRecords(api, "muster-plans", "new/2").move_from("muster")  # type: ignore[arg-type]
        assert len(api.kept[OLD]) == 1
        assert "cannot move plan records" in caplog.text and "muster-plans" in caplog.text

    asyncio.run(story())


@pytest.mark.parametrize("breaks_after", range(4))
@pytest.mark.parametrize("num_digits", [1, 3])
def test_what_an_earlier_version_wrote_since_takes_the_place_of_what_was_left_here(
    num_digits: int, breaks_after: int
) -> None:
    """It was rolled back and updated again: a generation counts anew with its gang, no version."""

    async def story() -> None:
        api = Records()
        api._version = itertools.count(10**num_digits - 1)
        api.put(NEW, record_name("n/g0"), data={"plan": plan(0, "new/1")})
        api.put(OLD, record_name("n/g0"), data={"plan": plan(0, "old/2")})
        records = await moved(api, "new/3", breaks_after)
        found, _ = await records.read_all()
        assert [one.epoch for one in found] == ["old/2"] and not api.kept[OLD]

    asyncio.run(story())


def test_one_record_that_nobody_can_read_hides_no_other() -> None:
    async def story() -> None:
        api = Records()
        api.put(NEW, record_name("n/g0"), data={"plan": plan(0, "new/2")})
        api.put(NEW, "deep", data={"plan": '{"x":' + "[" * 100_000})
        records = PlanRecords(api, "muster-plans", "new/2")  # type: ignore[arg-type]
        found, unreadable = await records.read_all()
        assert [one.epoch for one in found] == ["new/2"] and unreadable == ["deep"]

    asyncio.run(story())
