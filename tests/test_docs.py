"""What documents name is there: links, files and modules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "tests/**/*.md", "traces/**/*.md", "deploy/**/*.md")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
#: a file or folder of the repository, as running text or a command names it
NAMED = re.compile(
    r"(?<![\w./$~-])((?:sim|scheduler|traces|trainer|tests|docs|deploy|bench|notebooks|requirements)"
    r"/[\w./-]*\w)"
)
MODULE = re.compile(r"(?<![\w./-])((?:sim|scheduler|traces|trainer)(?:\.[a-z_]+)+)\b(?!\.?[(/\w])")
#: what a command makes, which no clone has
MADE = re.compile(r"bench/(out|\.venv)\b|docs/images/[^ ]*\{")
#: files that the worked page has its reader write
EXAMPLES = {"scheduler/policies/patient.py", "tests/theory/schedules/patient.toml"}
#: files of other projects and of running systems that look like modules of ours
NOT_OURS = re.compile(r"\.(md|yaml|json|toml|lock|crt|key|conf|config|html|dev|py)$")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_there_are_pages_to_look_at() -> None:
    assert {"README.md", "docs/architecture.md", "CHANGELOG.md"} <= set(map(name_of, PAGES))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    wrong = [
        target
        for target in LINK.findall(page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not wrong, f"{name_of(page)} links to what is not there"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    wrong = sorted(
        named
        for named in set(NAMED.findall(text))
        if named not in EXAMPLES
        and not MADE.match(named)
        and not (ROOT / named).exists()
        and not (ROOT / f"{named}.py").exists()
    )
    assert not wrong, f"{name_of(page)} names what is not there"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_modules_that_a_page_names_are_there(page: Path) -> None:
    def is_there(dotted: str) -> bool:
        parts = dotted.split(".")
        public = (ROOT / parts[0] / "__init__.py").read_text(encoding="utf-8")
        return f'"{parts[1]}"' in public or any(
            (ROOT.joinpath(*parts[:upto]).with_suffix(".py")).is_file()
            or (ROOT.joinpath(*parts[:upto]) / "__init__.py").is_file()
            for upto in range(len(parts), 1, -1)
        )

    text = page.read_text(encoding="utf-8")
    wrong = sorted(
        named
        for named in set(MODULE.findall(text))
        if not NOT_OURS.search(named) and not is_there(named)
    )
    assert not wrong, f"{name_of(page)} names modules that are not there"
