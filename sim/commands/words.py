"""Advice about a jobs file that a settings file names, in the words of that file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def _quoted(names: str) -> str:
    return ", ".join(name if name == "..." else f'"{name}"' for name in names.split(","))


#: how a settings file spells the flags that say how a jobs file is read
SPELT: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    ("--map theirs=ours", 'map = { theirs = "ours" }'),
    ("--ignore-extra", "ignore_extra = true"),
    (r"--columns ([^\s,]+(?:,[^\s,]+)+)", lambda found: f"columns = [{_quoted(found[1])}]"),
    (r"--map (\w+)=queue", r'map = { \1 = "queue" }'),
    (r"--(on-bad-row|dates|kind) ([a-z][\w-]*)", r'--\1 = "\2"'),
)


@contextmanager
def of_settings(path: Path | None) -> Iterator[None]:
    """Have errors advise words of a settings file, if there is one, instead of flags."""
    try:
        yield
    except ValueError as error:
        from sim.runs.reader import OPTIONS  # not where commands are only listed: it takes pandas

        text = str(error)
        for flag, word in (*SPELT, *((f"--{name.replace('_', '-')}", name) for name in OPTIONS)):
            text = re.sub(rf"(?<![\w-]){flag}(?![\w-])", word, text)
        if path is None or text == str(error):
            raise
        raise ValueError(f"{text}; in the workload in {str(path)!r}") from None
