"""The curves of a report in a browser: what the pointer says, zoom, fingers, print, no scripts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from scheduler.core.decisions import PendingReason
from scheduler.core.reasons import TABLE
from sim import RunResult, run
from sim.report.report import build_report
from sim.runs.steps import pending_steps
from tests.browser import WITHIN_S, Tab, chromium
from traces.synthetic import generate

pytestmark = pytest.mark.slow

NODES = 12
Look = Callable[[Callable[[Tab], Awaitable[None]]], None]
HOSTILE = "</script><img src=x onerror=alert(1)> $x_1$ \"'&"
LOADED = "document.readyState == 'complete'"
READY = "document.querySelector('.live')?.dataset.ready == 'yes'"
#: the text of an element with that of the shadow trees in it
SAID = """(() => {
  const text = (node) => node.nodeType == 3 ? node.data
    : ["STYLE", "SCRIPT"].includes(node.nodeName) ? ""
    : [...(node.shadowRoot?.childNodes ?? []), ...node.childNodes].map(text).join("\\n");
  return text(document.querySelector(".live")).replace(/\\s*\\n\\s*/g, " ");
})()"""
#: where the first curve is
PANEL = """(() => {
  const find = (node) => node.classList?.contains("bk-events") ? node
    : [...(node.shadowRoot?.children ?? []), ...node.children].map(find).find((one) => one);
  const {x, y, width, height} = find(document.querySelector(".live")).getBoundingClientRect();
  return {x, y, width, height};
})()"""
RANGE = "Object.values(Bokeh.documents)[0].get_model_by_name('time')"
PODS = "Object.values(Bokeh.documents)[0].get_model_by_name('pods')"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunResult]:
    jobs = generate("openai_like", num_gpus=NODES * 8, days=1, load=1.2, seed=3).iloc[:120]
    return {
        HOSTILE: run(jobs, nodes=NODES, control_plane="kubernetes", admission="pod"),
        "gang-fifo": run(jobs, nodes=NODES, control_plane="kubernetes"),
    }


@pytest.fixture(scope="module")
def page(results: dict[str, RunResult], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    folders = [
        result.save(root / str(at), point={"workload": "tiny", "arm": arm})
        for at, (arm, result) in enumerate(results.items())
    ]
    return build_report(folders, root / "report")


@pytest.fixture(scope="module")
def look() -> Iterator[Look]:
    """One browser for all tests: each opens the page again, with settings of its own."""
    stack = AsyncExitStack()
    with asyncio.Runner() as runner:
        try:
            tab = runner.run(stack.enter_async_context(chromium()))
        except FileNotFoundError as error:
            pytest.skip(str(error))

        async def check(with_: Callable[[Tab], Awaitable[None]]) -> None:
            tab.requested.clear()
            tab.complaints.clear()
            await with_(tab)

        yield lambda with_: runner.run(check(with_))
        runner.run(stack.aclose())


async def explored(tab: Tab, page: Path, **options: Any) -> dict[str, float]:
    """Open the page, bring its curves into sight and return where the first is."""
    await tab.open(page.as_uri(), 1280, ready=LOADED, **options)
    await tab.value("document.querySelector('.curves').scrollIntoView()")
    await tab.until(READY)
    found: dict[str, float] = await tab.value(PANEL)
    return found


def seconds(clock: str) -> float:
    found = re.search(r"day (\d+) (\d\d):(\d\d):(\d\d)", clock)
    assert found, clock
    day, hour, minute, second = map(int, found.groups())
    return ((day * 24 + hour) * 60 + minute) * 60 + second


def test_the_pointer_says_what_the_tables_say(
    look: Look, page: Path, results: dict[str, RunResult]
) -> None:
    async def check(tab: Tab) -> None:
        box = await explored(tab, page)
        before = await tab.value(SAID)
        for share in (0.35, 0.6, 0.85):
            await tab.point(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
            said = await tab.until(f"{SAID} != {before!r} && {SAID}")
            before = said
            at_s = seconds(said)
            for arm, result in results.items():
                part = said[said.index(arm) :]
                part = part[: part.index("largest waiting")] + part[part.index("largest") :]
                end_s = float(result.manifest["end_s"])
                curve = pending_steps(result.pending, end_s)
                # the clock has whole seconds: the state is one of those within this one
                first, last = curve.time_s.searchsorted([at_s, at_s + 1], side="right") - 1
                states = [curve.values[row] for row in range(first, last + 1)]
                assert any(_shows(part, state, curve.columns) for state in states), (part, states)
                largest = re.search(r"largest waiting: (\S+) \(([\d,]+) GPUs", part)
                assert largest
                job = result.jobs.set_index("job").loc[largest[1]]
                assert job["gpus"] == int(largest[2].replace(",", ""))
                assert job["submit_s"] <= at_s + 1
        assert not tab.complaints
        assert all(re.match(r"(file|data|blob|about):", one) for one in tab.requested)

    def _shows(part: str, state: Any, columns: tuple[str, ...]) -> bool:
        labels = {
            TABLE[PendingReason(name)].label: int(n) for name, n in zip(columns, state, strict=True)
        }
        head = part.split("largest")[0]
        return f" {int(state.sum()):,} pod" in head and all(
            (f" {count:,} {label}" in head) == (count > 0) for label, count in labels.items()
        )

    look(check)


def test_one_zooms_all_panels_and_a_wheel_alone_scrolls_the_page(look: Look, page: Path) -> None:
    async def check(tab: Tab) -> None:
        box = await explored(tab, page)
        whole = await tab.value(f"{RANGE}.end - {RANGE}.start")
        top = await tab.value(f"{PODS}.end")
        y = box["y"] + box["height"] / 2
        await tab.drag(box["x"] + 0.2 * box["width"], box["x"] + 0.3 * box["width"], y)
        await tab.until(f"{RANGE}.end - {RANGE}.start < {0.2 * whole}")
        assert await tab.value(f"{PODS}.end") <= top
        middle = {"x": box["x"] + 0.5 * box["width"], "y": y}
        for click in (1, 2):
            for kind in ("mousePressed", "mouseReleased"):
                await tab.call("Input.dispatchMouseEvent", type=kind, **middle, button="left",
                               clickCount=click)  # fmt: skip
        await tab.until(f"{RANGE}.end - {RANGE}.start > {0.999 * whole}")
        wheel = {"type": "mouseWheel", **middle, "deltaX": 0}
        await tab.call("Input.dispatchMouseEvent", **wheel, deltaY=-240, modifiers=2)
        await tab.until(f"{RANGE}.end - {RANGE}.start < {0.95 * whole}")
        await tab.value("document.querySelector('[data-do=all]').click()")
        await tab.until(f"{RANGE}.end - {RANGE}.start > {0.999 * whole}")
        scrolled = await tab.value("scrollY")
        await tab.call("Input.dispatchMouseEvent", **wheel, deltaY=60)
        await tab.until(f"scrollY > {scrolled}")
        assert await tab.value(f"{RANGE}.end - {RANGE}.start") == pytest.approx(whole)
        await tab.value("document.querySelector('[data-do=in]').click()")
        await tab.until(f"{RANGE}.end - {RANGE}.start < {0.6 * whole}")
        assert not tab.complaints

    look(check)


@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_fingers_scroll_and_taps_tell(look: Look, page: Path, dark: bool) -> None:
    async def check(tab: Tab) -> None:
        await tab.open(page.as_uri(), 390, dark=dark, ready=LOADED)
        assert await tab.value("document.documentElement.scrollWidth") == 390
        await tab.value("document.querySelector('.curves').scrollIntoView()")
        assert await tab.value("document.querySelector('.live').hidden"), "it waits for a tap"
        await tab.value("document.querySelector('[data-do=open]').click()")
        await tab.until(READY)
        assert await tab.value("document.documentElement.scrollWidth") == 390
        await tab.value("document.querySelector('.live').scrollIntoView()")
        panel, scrolled = await tab.value(PANEL), await tab.value("scrollY")
        await tab.swipe(panel["x"] + 150, panel["y"] + panel["height"] / 2, 150)
        await tab.until(f"scrollY > {scrolled} + 50")
        await tab.value("document.querySelector('.live').scrollIntoView()")
        before = await tab.value(SAID)
        async with asyncio.timeout(WITHIN_S):  # a tap on a page that still glides only stops it
            while await tab.value(SAID) == before:
                panel = await tab.value(PANEL)
                await tab.tap(panel["x"] + 0.4 * panel["width"], panel["y"] + panel["height"] / 2)
                await asyncio.sleep(0.5)
        assert not tab.complaints

    look(check)


def test_print_and_pages_without_scripts_have_still_pictures(
    look: Look, page: Path, tmp_path: Path
) -> None:
    shown = """[".still", ".live", ".tools"].map((part) =>
      document.querySelector(part).getBoundingClientRect().height > 0)"""

    async def check(tab: Tab) -> None:
        await explored(tab, page)
        assert await tab.value(shown) == [False, True, True]
        await tab.call("Emulation.setEmulatedMedia", media="print")
        assert await tab.value(shown) == [True, False, False]
        assert await tab.value(
            "[...document.images].every((one) => { one.loading = 'eager'; return one.alt; })"
        )
        await tab.until("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
        await tab.print(tmp_path / "page.pdf")
        assert (tmp_path / "page.pdf").stat().st_size > 20_000
        await tab.call("Emulation.setEmulatedMedia", media="")
        await tab.open(page.as_uri(), 1280, ready=LOADED, scripts=False)
        assert await tab.value(shown) == [True, False, False]

    look(check)
