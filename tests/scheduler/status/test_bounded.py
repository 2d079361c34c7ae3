"""However often people ask for what is long or costly, it is made a few times."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from scheduler.status import facts as facts_module
from scheduler.status.facts import MOST_EXPLAINED
from scheduler.status.serving import MOST_JOURNALS, status_app
from tests.scheduler.status.test_pages import _gang, service


class Slow:
    """Facts whose journal ends when the test says so."""

    def __init__(self) -> None:
        self.pages: dict[str, Any] = {}
        self.goes_on = asyncio.Event()

    async def journal(self, *, whole: bool = False) -> AsyncIterator[bytes]:
        """Yield a line, and another at last."""
        yield b"first\n"
        await self.goes_on.wait()
        yield b"last\n"


async def asked(app: Any, path: str, codes: list[int]) -> bytes:
    """Ask; the status is noted as soon as it is known. Returns the body."""
    body, over = [], asyncio.Event()

    async def receive() -> dict[str, Any]:
        await over.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            codes.append(message["status"])
        else:
            body.append(message.get("body", b""))

    where, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": "GET",
        "path": where,
        "query_string": query.encode(),
        "headers": [],
        "root_path": "",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }
    await app(scope, receive, send)
    return b"".join(body)


def test_the_journal_is_sent_to_few_at_once() -> None:
    async def story() -> None:
        facts = Slow()
        app = status_app(facts)  # type: ignore[arg-type]
        codes: list[int] = []
        sent = [
            asyncio.create_task(asked(app, "/journal?files=all", codes))
            for _ in range(MOST_JOURNALS)
        ]
        while len(codes) < MOST_JOURNALS:
            await asyncio.sleep(0)
        assert b"try again" in await asked(app, "/journal?files=all", codes)
        assert codes == [200] * MOST_JOURNALS + [429]
        gone = sent.pop()
        gone.cancel()  # one hangs up
        await asyncio.wait({gone})
        facts.goes_on.set()
        assert await asked(app, "/journal", codes) == b"first\nlast\n"
        assert await asyncio.gather(*sent) == [b"first\nlast\n"] * (MOST_JOURNALS - 1)
        assert codes[-1] == 200

    asyncio.run(story())


def test_a_story_is_made_once_for_all_who_ask_and_pods_are_found_without_a_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = service()
    _gang(found, "g", 4, [])
    found.controller.step()
    made: list[str] = []
    explain = facts_module.explain_gang

    def counted(gang: Any, *more: Any) -> Any:
        made.append(gang.name)
        return explain(gang, *more)

    monkeypatch.setattr(facts_module, "explain_gang", counted)
    monkeypatch.setattr("scheduler.status.pages.KEPT_TIMES", 1e6)

    async def story() -> None:
        for name in ("n/g", "n/g-2"):
            answers = {await found.facts.explain(name) for _ in range(100)}
            assert len(answers) == 1 and b'"n/g"' in answers.pop()
        assert made == ["n/g", "n/g"]
        for number in range(3 * MOST_EXPLAINED):
            assert not await found.facts.explain(f"n/nobody-{number}")
        assert len(found.facts._explained) == MOST_EXPLAINED, "what is kept has an end"

    asyncio.run(story())
