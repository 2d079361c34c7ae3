"""sacct's output with commas between cells (`--delimiter=,`), which also part what a cell holds.

A TRES is a list such as cpu=8,mem=4G,node=1, and NodeList has commas in brackets.
"""

from __future__ import annotations

import re

from traces.formats.source import LINE_END, Source, encoding_of

_CELLS = re.compile(r",(?![^\[\]]*\])")
_PART = re.compile(
    r"(billing|cpu|energy|mem|node|pages|vmem|(?:gres|fs|bb|license|ic|usage)/[^=]*)="
)


def with_bars(source: Source) -> Source:
    """Return the same table with bars between its cells, as `sacct -P` prints it.

    A line whose cells cannot be told apart stays as it is.
    """
    text = source.content.decode(encoding_of(source.content), "replace")
    width = len(source.columns or source.layout.header)
    lines = [_with_bars(line, width) for line in LINE_END.split(text)]
    found = Source(source.path, source.columns, source.names)
    found.content = "\n".join(lines).encode()
    found.start = found.content
    source.is_table = True
    return found


def _with_bars(line: str, width: int) -> str:
    cells: list[str] = []
    keys: set[str] = set()  #: of the TRES that the last cell holds
    for one in _CELLS.split(line):
        part = _PART.match(one)
        if part is not None and keys and part[1] not in keys:
            cells[-1] += f",{one}"
        else:  # a resource that the cell has already begins the next cell
            cells.append(one)
            keys = set()
        if part is not None:
            keys.add(part[1])
    if cells[-1] == "" and len(cells) == width + 1:
        cells.pop()
    return "|".join(cells) if len(cells) == width and "|" not in line else line
