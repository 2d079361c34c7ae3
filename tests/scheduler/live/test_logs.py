"""What muster logs: one JSON object a line, that says apart from its text what it is about."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from scheduler import compiled
from scheduler.kube.api import ApiError
from scheduler.kube.lease import LeaseLostError
from scheduler.live import service
from scheduler.live.cli import Lines, leaves
from sim.commands.main import invoke
from tests.scheduler.controller.rig import Rig, pod, tried
from tests.scheduler.extender.test_barrier import GROUP, Slow, with_slow


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_names_gang_pod_and_node_apart_from_its_text() -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(Lines())
    logger = logging.getLogger("muster")
    logger.addHandler(handler)

    async def story(rig: Rig) -> None:
        slow: Slow = with_slow(rig)
        slow.held, slow.code = "PATCH /api/v1/namespaces/n/pods", 500
        rig.thing("coscheduling", "g", {"minMember": 1})
        rig.see(pod("g-0", labels={GROUP: "g"}))
        rig.control.step()
        await rig.control.finish_work(5.0)

    try:
        tried(story)
    finally:
        logger.removeHandler(handler)
    (line,) = lines_of(out.getvalue())
    assert line["message"] == "pod not released: 500: not now"
    about = {name: line[name] for name in ("gang", "pod", "node", "level")}
    assert about == {
        "gang": "n/g",
        "pod": "n/g-0",
        "node": "node-00000",
        "level": "warning",
    }


def test_the_end_of_the_process_is_a_line_for_each_thing_that_went_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def serve(settings: object) -> None:
        async def fail(error: Exception) -> None:
            raise error

        async with asyncio.TaskGroup() as group:
            group.create_task(fail(ApiError(403, "pods is forbidden")))
            group.create_task(fail(KeyError("n/g")))
            group.create_task(fail(LeaseLostError("the lease was lost")))

    monkeypatch.setattr(service, "serve", serve)
    settings = tmp_path / "muster.toml"
    settings.write_text("")
    root = logging.getLogger()
    before = root.handlers[:]
    try:
        assert invoke(["live", "--config", str(settings)]) == 1
    finally:
        root.handlers[:] = before
    first, *lines = lines_of(capsys.readouterr().err)
    assert first["message"] == f"starting; the core is {compiled.which()}"
    assert [line["message"] for line in lines] == [
        "muster exits: 403: pods is forbidden",
        "muster exits: 'n/g'",
        "muster exits: the lease was lost",
    ]
    assert {line["level"] for line in lines} == {"critical"}
    said = ["Traceback" in line.get("error", "") for line in lines]
    assert said == [True, True, False], "losing the lease is no failure"


def test_groups_within_groups_are_taken_apart() -> None:
    one, two = KeyError("a"), OSError("b")
    assert list(leaves(ExceptionGroup("x", [one, ExceptionGroup("y", [two])]))) == [one, two]


def test_a_connection_that_is_cut_off_is_a_line_and_no_failure() -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(Lines())
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel("INFO")

    async def meet() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(service.on_trouble)
        closed = RuntimeError("unable to perform operation; the handler is closed")
        report = {"message": "Fatal error on SSL protocol", "exception": closed}
        loop.call_exception_handler({**report, "transport": object()})
        loop.call_exception_handler({"message": "a task failed", "exception": KeyError("n/g")})

    try:
        asyncio.run(meet())
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    cut, failed = lines_of(out.getvalue())
    assert (cut["level"], "error" in cut) == ("info", False)
    assert failed["level"] == "error"
    assert "KeyError" in failed["error"]
