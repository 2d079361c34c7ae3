"""docs/failure-modes.md says which test each mode has, or why none; this holds it to that."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "failure-modes.md"
MODES = range(1, 75)
NOT_TESTED = "no test: "


def numbers(name: str) -> set[int]:
    """Return the modes that a test's name begins with."""
    return {int(part) for part in re.findall(r"\d+", re.match(r"test((?:_\d\d)*)", name)[1])}


def with_tests() -> set[int]:
    """Return the modes that tests name."""
    found: set[int] = set()
    for path in TESTS.rglob("test_*.py"):
        for item in ast.walk(ast.parse(path.read_text())):
            if isinstance(item, ast.FunctionDef) and item.name.startswith("test_"):
                found |= numbers(item.name)
    return found


def rows() -> dict[int, str]:
    """Return what the page says of each mode."""
    lines = re.findall(r"^\| (\d+) \| [^|]+ \| ([^|]+) \|$", PAGE.read_text(), re.M)
    return {int(number): text.strip() for number, text in lines}


def test_every_mode_has_a_row_and_a_test_or_a_reason() -> None:
    said, there = rows(), with_tests()
    assert sorted(said) == list(MODES)
    assert there <= set(MODES)
    open_modes = {number for number, text in said.items() if text.startswith(NOT_TESTED)}
    assert open_modes == set(MODES) - there, "a row and the tests disagree"
    assert all(len(said[number]) > len(NOT_TESTED) + 10 for number in open_modes), "a reason"
    head = f"{len(MODES) - len(open_modes)} of {len(MODES)} have a test of their own"
    assert head in PAGE.read_text()


def test_files_that_the_page_names_are_there() -> None:
    there = {path.name for path in TESTS.rglob("test_*.py")}
    assert set(re.findall(r"`(test_\w+\.py)`", PAGE.read_text())) <= there
