"""What users write reaches no terminal as more than text, and no page or metric without bound."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from scheduler.kube.objects import Pod
from scheduler.kube.watch import Change
from scheduler.status import story
from scheduler.status.facts import MOST_RESOURCES
from scheduler.status.plain import MOST, plain
from scheduler.status.plugin import _Muster, _say, _table
from scheduler.status.story import Memory
from tests.scheduler.controller.rig import Rig, pod, tried
from tests.scheduler.status.test_pages import service

ODD = ["\x1b[2J\x1b[1;1Hall is well", "two\nlines", "tab\t", "\x9b31m", "\x7f", "\u202egnp.exe"]


@pytest.mark.parametrize("text", [*ODD, "x" * 10_000, "\ud800"])
def test_a_text_is_one_line_that_a_terminal_prints(text: str) -> None:
    found = plain(text)
    assert found.isprintable()
    assert len(found) <= MOST + 3
    assert plain("Straße 7, 東京: 8 GPUs") == "Straße 7, 東京: 8 GPUs"


@pytest.mark.parametrize("text", ODD)
def test_the_plugin_prints_no_control_characters(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _say(f"  {text}")
    _table(["GANG", "WHY"], [["n/g", text], [text, 1]])
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 5
    assert all(line.isprintable() for line in lines)


def gang_of(text: str, **more: Any) -> list[Pod]:
    """Return pods whose owner wrote a text wherever one may be written."""
    annotations = {
        "scheduling.k8s.io/group-name": f"g{text}", "volcano.sh/task-spec": text,
        "muster.dev/min-member": text, "muster.dev/queue": text, "muster.dev/walltime": text,
    }  # fmt: skip
    labels = {"training.kubeflow.org/job-name": "j", "muster.dev/min-member": "2"}
    owner = ("PyTorchJob", text, text)
    return [
        pod("volcano", annotations=annotations, **more),
        pod("owned", labels=labels, owner=owner, env={"WORLD_SIZE": text}, **more),
        pod("alike", labels=labels, owner=("PyTorchJob", text, f"{text} too"), **more),
        pod("named", labels={"muster.dev/group": "named"}, schedulerName=text, **more),
        pod("own", annotations={"muster.dev/group": text}, **more),
    ]


@pytest.mark.parametrize("text", [*ODD, "9" * 250_000])
def test_no_event_page_or_journal_line_repeats_what_is_no_text(text: str) -> None:
    async def over(rig: Rig) -> None:
        rig.see(*gang_of(text))
        await rig.settle()
        await rig.pass_s(100.0)
        said = [note for _, note in rig.events()]
        said += [gang.name for gang in rig.control.gangs.values()]
        assert said
        assert all(one.isprintable() and len(one) <= 1000 for one in said)
        assert all(len(line) < 5000 for line in rig.lines[1:])
        for line in rig.lines:
            assert text not in str(msgspec.json.decode(line))

    tried(over)


def test_metrics_and_stories_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    found = service()
    short = {f"example.com/r{number}": 1 for number in range(5000)}

    async def pending(breath: object) -> Any:
        from collections import Counter

        return Counter(), Counter(), Counter(short)

    monkeypatch.setattr(found.facts, "pending", pending)

    async def page() -> bytes:
        return await found.facts.pages["/metrics"].get()

    content = asyncio.run(page())
    assert content.count(b"muster_short_pods{") == MOST_RESOURCES + 1
    monkeypatch.setattr(story, "MOST_STORIES", 100)
    memory = Memory()
    for number in range(1000):
        memory.note(f"n/g{number}", "waits", "x" * 10_000)
    assert len(memory._stories) == 100
    assert len(memory.story("n/g999", 0.0)[0].text) < 1100


def test_a_page_lists_so_many_gangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.status.facts.MOST_LISTED", 3)
    found = service()
    for number in range(5):
        made = pod(f"p{number}", labels={"muster.dev/group": f"g{number}"})
        found.controller.on_pod(Change.ADDED, made)

    async def page() -> bytes:
        return await found.facts.pages["/queue"].get()

    assert len(msgspec.json.decode(asyncio.run(page()))) == 3


def test_an_address_that_cannot_be_one_is_said_in_a_line() -> None:
    with pytest.raises(ValueError, match="set MUSTER_URL"):
        _Muster("http://127.0.0.1:port", "", "").get("/queue")
