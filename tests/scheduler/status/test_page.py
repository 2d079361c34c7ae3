"""The page in a browser: links, search, map, hostile names, and a browser that is never held up."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import msgspec
import pytest
import uvicorn

from scheduler.core.decisions import PendingReason
from scheduler.status.curve import Curve
from scheduler.status.nodemap import NodeView, OnNode, Pool, Rack
from scheduler.status.pages import Breath, mapping
from scheduler.status.serving import front_page, status_app
from scheduler.status.shapes import Shapes
from scheduler.status.snapshot import ROW, reasons_in, rows, snapshot, steps
from scheduler.status.status import GangView, PodView
from scheduler.status.story import Moment
from tests.browser import Tab, chromium

LONGEST_MS = 200
EVIL = (
    "<img src=x onerror=document.title='broken'></script><script>document.title='broken'</script>"
)
_encode = msgspec.json.Encoder().encode


def gang(name: str, phase: str, number: int, node: str = "") -> GangView:
    """Return a gang of two pods."""
    blank: dict[str, Any] = dict.fromkeys(GangView.__struct_fields__, 0)
    waits = phase == "waiting"
    texts = {"aside": False, "ahead": None, "short": None, "starts_in_s": None, "way_out": None}
    states = ["waiting" if waits else "bound"] * 2
    return GangView(
        **blank
        | texts
        | {
            "gang": name,
            "source": "coscheduling",
            "phase": phase,
            "reason": "capacity" if waits else "",
            "text": f"needs 16 GPUs for 2 pods; {number} are free {EVIL}"
            if waits
            else "all pods run",
            "position": number if waits else None,
            "pods_present": 2,
            "pods_total": 2,
            "pods_needed": 2,
            "pods_bound": 0 if waits else 2,
            "gpus": 16,
            "waited_s": float(number),
            "pods": [
                PodView(f"{name.partition('/')[2]}-{rank}", "worker", rank, node, state)
                for rank, state in enumerate(states)
            ],
            "advice": [f"advice {EVIL}"] if waits else [],
            "story": [Moment(time.time() - 60.0, "submitted", EVIL)],
        }
    )


class Made:
    """Facts of a cluster that nobody runs: `size` gangs, every other one waits, and nodes."""

    def __init__(self, size: int, num_nodes: int, steps_of_curve: int = 3) -> None:
        self.num_nodes = num_nodes
        names = [f"team-{n % 7}/train-{n:05d}" for n in range(size)]
        self.gangs = {
            name: gang(name, "waiting" if n % 2 else "running", n, f"node-{n % num_nodes:05d}")
            for n, name in enumerate(names)
        }
        self.curve = Curve()
        now_s = time.time()
        for number in range(steps_of_curve):
            ago_s = 80_000.0 * (1 - number / steps_of_curve)
            reason = list(PendingReason)[number % 7]
            self.curve.add(now_s - ago_s, {str(reason): 1 + number % 50, "capacity": number % 300})
        self.number = 0
        self.pages: dict[str, Any] = {"/now": self}

    async def get(self) -> bytes:
        """Return what the page shows."""
        breath = Breath()
        self.number += 1
        seen = snapshot(self.number, time.time(), list(self.gangs.values()), self.curve)
        reasons = reasons_in(seen.curve, list(map(str, PendingReason)))
        states = ("", "", "", "cordoned", "not ready")
        racks: dict[str, list[tuple[str, int, int, str]]] = {}
        for n in range(self.num_nodes):
            free = (n + self.number) % 9
            racks.setdefault(f"rack-{n // 72:03d}", []).append(
                (f"node-{n:05d}", 8, free, states[n % 5])
            )
        pools = [Pool("h100", [Rack(name, nodes) for name, nodes in racks.items()])]
        return mapping(
            number=_encode(seen.number),
            unix_s=_encode(seen.unix_s),
            pods=_encode(seen.pods),
            waiting=_encode(seen.waiting),
            phases=_encode(seen.phases),
            fields=_encode(ROW),
            gangs=await rows(seen.gangs, breath),
            reasons=_encode(reasons),
            curve=await steps(seen.curve, reasons, breath),
            pools=_encode(pools),
            shapes=_encode(Shapes([], [])),
        )

    def alive(self) -> tuple[bool, str]:
        """It lives."""
        return True, "ok"

    ready = alive

    async def explain(self, name: str) -> bytes:
        """Return a gang."""
        return _encode(self.gangs[name]) if name in self.gangs else b""

    async def unknown(self, name: str) -> str:
        """Say that there is none."""
        return f"no gang or pod {name!r}"

    async def node(self, name: str) -> bytes:
        """Return a node with the gangs that run there."""
        here = [
            OnNode(g.gang, g.phase, 16, [p.name for p in g.pods])
            for g in self.gangs.values()
            if g.pods[0].node == name and g.phase == "running"
        ]
        number = int(name.rpartition("-")[2])
        if number >= self.num_nodes:
            return b""
        return _encode(NodeView(name, "h100", "rack-000", 8, 0, "", here, [], 2))

    async def journal(self, *, whole: bool = False) -> AsyncIterator[bytes]:
        """Yield nothing."""
        yield b""


@asynccontextmanager
async def served(facts: Made) -> AsyncIterator[str]:
    """Serve the pages of these facts; yield the address."""
    server = uvicorn.Server(uvicorn.Config(status_app(facts), log_level="error"))
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        task = asyncio.create_task(server.serve(sockets=[door]))
        try:
            yield f"http://127.0.0.1:{door.getsockname()[1]}/"
        finally:
            server.should_exit = True
            await task


def looked_at(facts: Made, story: Callable[[Tab, str], Awaitable[None]]) -> None:
    """Let a browser look at the page of these facts."""

    async def run() -> None:
        async with served(facts) as url, chromium() as tab:
            await story(tab, url)
            assert not tab.complaints
            assert all(address.startswith((url, "data:,")) for address in tab.requested)

    try:
        asyncio.run(run())
    except FileNotFoundError as error:
        pytest.skip(str(error))


def text_of(name: str) -> str:
    return f"document.getElementById({name!r}).innerText"


def click(selector: str, text: str) -> str:
    """Return the script that clicks a link with a text."""
    return (
        f"[...document.querySelectorAll({json.dumps(selector)})]"
        f".find(a => a.textContent === {json.dumps(text)}).click()"
    )


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_links_lead_from_a_gang_to_its_node_and_back_and_hold_on_load(
    width: int, dark: bool
) -> None:
    async def story(tab: Tab, url: str) -> None:
        await tab.open(f"{url}#gang=team-4%2Ftrain-00004", width, dark=dark)
        assert "team-4/train-00004 runs" in await tab.value(text_of("story"))
        await tab.value(click("#story-pods a", "node-00004"))
        await tab.until(f"!document.getElementById('node').hidden && {text_of('node-name')}")
        assert await tab.value("location.hash") == "#node=node-00004"
        assert await tab.value("document.getElementById('story').hidden")
        said = await tab.value(text_of("node"))
        assert "pool h100, rack rack-000" in said and "2 pods of no gang" in said
        assert await tab.value("document.querySelectorAll('#map .here').length") == 1
        drawn = "[...document.querySelectorAll('#map svg')].map(svg => svg.rack.nodes.length)"
        assert sum(await tab.value(drawn)) == 20
        await tab.value(click("#node-gangs a", "team-4/train-00004"))
        await tab.until("!document.getElementById('story').hidden")
        await tab.value("history.back()")
        await tab.until("!document.getElementById('node').hidden")
        await tab.value("document.getElementById('close-node').click()")
        await tab.until("document.getElementById('node').hidden")
        await tab.open(f"{url}#node=node-00006", width, dark=dark)
        assert "team-6/train-00006" in await tab.value(text_of("node"))
        await tab.open(f"{url}#team-4%2Ftrain-00004", width, dark=dark)  # as it was once
        assert "team-4/train-00004 runs" in await tab.value(text_of("story"))
        await tab.open(f"{url}#gang=team-4%2Fgone", width, dark=dark)
        assert "no gang or pod 'team-4/gone'" in await tab.value(text_of("story"))
        assert await tab.value("document.documentElement.scrollWidth") <= width
        assert all("404" in said for said in tab.complaints)
        tab.complaints.clear()

    looked_at(Made(40, 20), story)


def test_the_search_finds_gangs_nodes_and_namespaces() -> None:
    async def story(tab: Tab, url: str) -> None:
        async def sought(text: str) -> str:
            await tab.value(
                f"(() => {{ const box = document.getElementById('search'); box.value = '{text}';"
                " box.dispatchEvent(new Event('input')); })()"
            )
            found: str = await tab.value(text_of("found"))
            return found

        await tab.open(url, 1280)
        assert "Nodes: node-00007" in await sought("00007")
        assert "Gangs: team-0/train-00007" in await sought("Train-00007")
        assert "Gangs: 1 of 40 match" in await tab.value(text_of("gangs-head"))
        assert "Namespaces: team-3 (6)" in await sought("team-3")
        await tab.value(click("#found a", "team-3 (6)"))
        await tab.until("location.hash === '#namespace=team-3'")
        await tab.until("document.getElementById('search').value === 'team-3/'")
        rows = await tab.value("[...document.querySelectorAll('#queue a')].map(a => a.textContent)")
        assert len(rows) == 6 and all(name.startswith("team-3/") for name in rows)
        assert "No gang, node or namespace" in await sought("nowhere")

    looked_at(Made(40, 20), story)


def test_headline_list_and_curve_say_the_same() -> None:
    async def story(tab: Tab, url: str) -> None:
        await tab.open(url, 1280)
        assert await tab.value(text_of("headline")) == "40 pods of 20 gangs are pending"
        assert "now 40" in await tab.value("document.getElementById('curve').ariaLabel")
        await tab.value(
            "document.getElementById('curve').dispatchEvent(new PointerEvent('pointermove',"
            " {clientX: document.getElementById('curve').getBoundingClientRect().right}))"
        )
        assert await tab.value(text_of("tip")) == "now\n40 capacity"

    looked_at(Made(40, 20), story)


def test_names_and_texts_of_users_are_text_and_no_script_but_the_page_s_runs() -> None:
    async def story(tab: Tab, url: str) -> None:
        await tab.open(f"{url}#gang=team-1%2Ftrain-00001", 1280)
        assert EVIL in await tab.value(text_of("queue-table"))
        for part in ("story-text", "advice", "moments"):
            assert EVIL in await tab.value(text_of(part))
        assert await tab.value("document.images.length") == 0
        assert "broken" not in await tab.value("document.title")

    looked_at(Made(4, 2), story)

    async def smuggled(tab: Tab, url: str) -> None:
        await tab.open(url, 1280)
        await tab.value(
            "(() => { const s = document.createElement('script'); s.textContent = 'window.bad = 1';"
            " document.body.append(s); })()"
        )
        assert await tab.value("window.bad") is None
        tab.complaints.clear()  # the browser says that it kept it out

    looked_at(Made(4, 2), smuggled)


def test_the_policy_of_the_page_names_its_own_script_and_style() -> None:
    page = front_page()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for tag in ("script", "style"):
        content = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert len(content) == 1
        digest = b64encode(sha256(content[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "{{" not in page and not re.search(r"""(src|href)=["']?(https?:)?//""", page)


@pytest.mark.slow
def test_five_thousand_gangs_hold_no_browser_up() -> None:
    """No task lasts for long, and no more is in the page than can be seen. The best of three."""
    longest: list[float] = []

    async def story(tab: Tab, url: str) -> None:
        await tab.trace()
        await tab.open(f"{url}#gang=team-0%2Ftrain-00000", 1280)
        parts = await tab.value("document.getElementsByTagName('*').length")
        assert parts < 3000, "only rows in sight are in the page"
        number = "document.getElementById('sub').textContent"
        was = await tab.value(number)
        await tab.value(
            "(async () => { const box = document.getElementById('gangs-box');"
            " for (let i = 1; i <= 20; i++) { box.scrollTop = i * box.scrollHeight / 20;"
            " await new Promise(requestAnimationFrame); } })()"
        )
        last = await tab.value("[...document.querySelectorAll('#queue a')].pop().textContent")
        assert last.startswith("team-") and last != "team-0/train-00000"
        await tab.value(
            "(async () => { const box = document.getElementById('search');"
            " for (const text of ['t', 'train-0', 'node-0', '']) { box.value = text;"
            " box.dispatchEvent(new Event('input'));"
            " await new Promise(requestAnimationFrame); } })()"
        )
        await tab.until(f"{number} !== {json.dumps(was)}")  # and it was drawn anew
        tasks_ms = await tab.tasks_ms()
        assert len(tasks_ms) > 100, "the trace has the page's tasks"
        longest.append(tasks_ms[0])

    for _ in range(3):
        looked_at(Made(5000, 7500, 4000), story)
        if longest[-1] < LONGEST_MS:
            break
    print(f"longest tasks: {', '.join(f'{length_ms:.0f} ms' for length_ms in longest)}")
    assert min(longest) < LONGEST_MS
