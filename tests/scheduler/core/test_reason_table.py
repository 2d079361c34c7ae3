"""One table of reasons: complete, readable in grey, and the only place with such words."""

from __future__ import annotations

import ast
import colorsys
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from scheduler.core.decisions import PendingReason
from scheduler.core.reasons import TABLE, label

ROOT = Path(__file__).parents[3]
SOURCES = ("scheduler", "sim", "notebooks", "bench", "traces", "trainer")
#: reasons that stand in one curve, in its order, beside the whole table
STACKS = {
    "all": tuple(PendingReason),
    "gang": ("capacity", "fragmentation", "behind_head", "own_partial_hold", "control_plane"),
    "pod": ("fragmentation", "held_by_others", "own_partial_hold", "control_plane", "starting"),
    "permit": ("held_by_others", "own_partial_hold", "permit_backoff", "control_plane", "starting"),
    "live": ("never_fits", "capacity", "fragmentation", "behind_head", "members", "control_plane"),
}


def lightness(colour: str) -> float:
    """Return L* of CIELAB, 0 to 100: what is left of a colour on a greyscale print."""
    linear = []
    for at in (1, 3, 5):
        part = int(colour[at : at + 2], 16) / 255
        linear.append(part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)
    light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return 116 * light ** (1 / 3) - 16 if light > 0.008856 else 903.3 * light


def test_every_reason_has_its_row_in_the_order_of_the_words() -> None:
    assert list(TABLE) == list(PendingReason)
    for row in TABLE.values():
        assert row.label and row.means and row.binds
        assert re.fullmatch("#[0-9a-f]{6}", row.colour)
    for field in ("label", "means", "colour"):
        assert len({getattr(row, field) for row in TABLE.values()}) == len(TABLE), field


def test_a_word_of_another_version_reads_as_it_stands() -> None:
    assert label("never_fits") == "never fits"
    assert label("over_quota") == "over quota"
    assert label("") == ""


@pytest.mark.parametrize("stack", STACKS)
def test_neighbours_differ_in_a_greyscale_print(stack: str) -> None:
    rows = [TABLE[PendingReason(word)] for word in STACKS[stack]]
    for below, above in pairwise(rows):
        apart = abs(lightness(below.colour) - lightness(above.colour))
        assert apart > 14, f"{below.label} and {above.label} differ by {apart:.0f} of 100"


def test_waiting_is_never_green() -> None:
    for row in TABLE.values():
        red, green, blue = (int(row.colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
        hue, _, saturation = colorsys.rgb_to_hls(red, green, blue)
        assert not (saturation > 0.1 and 70 <= 360 * hue <= 175), row.label


def test_the_dashboard_has_the_same_colours() -> None:
    text = (ROOT / "deploy" / "grafana" / "muster.json").read_text("utf-8")
    panels = [panel for panel in json.loads(text)["panels"] if "fixedColor" in json.dumps(panel)]
    by_reason = [
        {each["matcher"]["options"]: each["properties"][0]["value"]["fixedColor"] for each in found}
        for panel in panels
        if (found := panel["fieldConfig"]["overrides"])
        and found[0]["matcher"]["options"] in set(PendingReason)
    ]
    assert by_reason == [{str(word): row.colour for word, row in TABLE.items()}] * 2


def test_the_status_page_draws_every_pattern() -> None:
    """What it does not know it would draw plain."""
    text = (ROOT / "scheduler" / "status" / "page.js").read_text("utf-8")
    (tiles,) = re.findall(r"^const LINES = (\{.+\});$", text, re.MULTILINE)
    known = {*json.loads(tiles), *re.findall(r"^LINES\.(\w) = ", text, re.MULTILINE)}
    assert {row.hatch[0] for row in TABLE.values() if row.hatch} == known
    assert {row.hatch for row in TABLE.values()} <= {"", *(3 * one for one in known)}


def test_the_documents_have_the_same_words() -> None:
    text = (ROOT / "docs" / "tables.md").read_text("utf-8")
    section = text[text.index("## Reasons") :]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", section, re.MULTILINE)
    assert rows == [(str(word), row.means, row.binds) for word, row in TABLE.items()]
    binds: dict[str, set[str]] = {}
    for word, row in TABLE.items():
        binds.setdefault(row.binds, set()).add(str(word))
    study = (ROOT / "docs" / "study.md").read_text("utf-8")
    table = study[study.index("| binds | reasons |") :].split("\n\n")[0].splitlines()[2:]
    listed = {line.split("|")[1].strip(): line.split("|")[2].strip().split(", ") for line in table}
    assert {name: set(words) for name, words in listed.items()} == binds


def _words(node: ast.AST) -> Iterator[str]:
    """Yield the reasons that a key spells, as members or as text."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        if node.value.id == "PendingReason":
            yield node.attr.lower()
    elif isinstance(node, ast.Constant) and node.value in set(PendingReason):
        yield str(node.value)


def _says(node: ast.AST) -> bool:
    """True if a value is text, or made of text."""
    return any(isinstance(n, ast.Constant) and isinstance(n.value, str) for n in ast.walk(node))


def second_tables(tree: ast.AST) -> list[int]:
    """Return the lines at which reasons are given words or colours of their own."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            pairs = list(zip(node.keys, node.values, strict=True))
            told = [key for key, value in pairs if key and list(_words(key)) and _says(value)]
            if len(told) > 1:
                found.append(node.lineno)
    return found


def test_nothing_else_gives_reasons_words_of_its_own() -> None:
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path != ROOT / "scheduler" / "core" / "reasons.py":
                assert not second_tables(ast.parse(path.read_text("utf-8"))), path
    pages = [p for kind in ("*.html", "*.j2", "*.js") for p in sorted(ROOT.rglob(kind))]
    assert pages
    for path in pages:
        if not {".venv", "build", "runs", "cache", "out"} & set(path.relative_to(ROOT).parts):
            text = path.read_text("utf-8")
            for word, row in TABLE.items():
                assert f"{word}:" not in text and f'{{"{word}"' not in text, path
                assert row.means not in text, path


def test_a_second_table_would_be_seen() -> None:
    one = "LABELS = {PendingReason.CAPACITY: 'full', PendingReason.STARTING: 'starts'}"
    two = "style = {'never_fits': ('#fff', ''), 'behind_head': ('#000', '')}"
    counts = "pods = {PendingReason.CAPACITY: 3, PendingReason.STARTING: 4}"
    found = [bool(second_tables(ast.parse(text))) for text in (one, two, counts)]
    assert found == [True, True, False]
