"""The rows of a benchmark: a figure, its target, and where the table goes."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from scheduler import compiled, whole

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "bench" / "out"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    value: float | None  #: None if it could not be measured
    unit: str
    must: str
    met: bool
    floor: float | None = None  #: the command fails beyond it; None where the row has none
    note: str = ""

    @property
    def is_broken(self) -> bool:
        """True if the value is beyond the floor."""
        if self.value is None or self.floor is None:
            return False
        return self.value < self.floor if self.must.startswith(">=") else self.value > self.floor


def row(
    what: str,
    value: float | None,
    unit: str,
    must: str,
    floor: float | None = None,
    note: str = "",
) -> Row:
    """Return a row; `must` is ">= NUMBER" or "<= NUMBER"."""
    relation, limit = must.split()
    met = value is not None and (
        value >= float(limit) if relation == ">=" else value <= float(limit)
    )
    return Row(what, value, unit, must, met, floor, note)


def in_turns(repeats: int, *sides: Callable[[], dict[str, float]]) -> list[list[dict[str, float]]]:
    """Run the sides one after the other, `repeats` times; return the results of each."""
    results: list[list[dict[str, float]]] = [[] for _ in sides]
    for _ in range(repeats):
        for side, into in zip(sides, results, strict=True):
            into.append(side())
    return results


def median(results: list[dict[str, float]], name: str = "cpu_s") -> float:
    """Return the median of one figure."""
    return statistics.median(result[name] for result in results)


def peak_mib() -> float:
    """Return the peak memory of this process; `ru_maxrss` would count what it was forked from."""
    status = Path("/proc/self/status").read_text("ascii")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


def table(rows: list[Row]) -> list[str]:
    """Return the rows as a Markdown table."""
    lines = ["| what | measured | target | met | more |", "|---|---|---|---|---|"]
    for one in rows:
        value = "not measured" if one.value is None else f"{one.value:.3g} {one.unit}"
        met = "yes" if one.met else "**no**"
        lines.append(f"| {one.what} | {value} | {one.must} | {met} | {one.note} |")
    return lines


def write_between(path: Path, name: str, lines: list[str]) -> None:
    """Replace what stands between the two markers `name` of a document."""
    text = path.read_text("utf-8")
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    pattern = re.compile(re.escape(begin) + r".*?" + re.escape(end), re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise ValueError(f"{path}: needs the markers {begin!r} and {end!r} once")
    inside = "\n".join([begin, *lines, end])
    whole.write_text(path, pattern.sub(lambda _: inside, text))


def show(figures: Mapping[str, float], marker: str = "") -> None:
    """Print a table of figures; with a marker, put it in place in docs/benchmarks.md, too."""
    lines = ["| what | figure |", "|---|---:|"]
    lines += [f"| {what} | {value:,.3g} |" for what, value in figures.items()]
    print(f"the core runs {compiled.which()} here\n")
    print("\n".join(lines))
    if marker:
        write_between(ROOT / "docs" / "benchmarks.md", marker, lines)


def report(rows: list[Row], *, write_docs: bool = False, out: Path = OUT) -> int:
    """Write the rows and say which miss; return 1 if one is beyond its floor."""
    out.mkdir(parents=True, exist_ok=True)
    kept = [{k: v for k, v in asdict(one).items() if k != "floor"} for one in rows]
    whole.write_text(out / "sim.json", json.dumps(kept, indent=1) + "\n")
    if write_docs:
        write_between(ROOT / "docs" / "benchmarks.md", "measured", table(rows))
    missed = [one for one in rows if not one.met]
    if missed:
        print(f"{len(missed)} of {len(rows)} rows miss; docs/benchmarks.md says why")
    broken = [one for one in rows if one.is_broken]
    for one in broken:
        print(f"BROKEN: {one.what}: {one.value:.3g} {one.unit}, floor {one.floor:g}")
    return 1 if broken else 0
