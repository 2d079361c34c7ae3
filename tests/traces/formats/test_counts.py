"""Published files against counts by a few lines that know nothing of the readers."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from pathlib import Path

import pytest

import traces
from traces.description import total_gpus


def lines(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
        return file.read().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["NASA-iPSC-1993-3.1-cln", "RICC-2010-2", "alea-hpc2n-sample", "lublin_256"]
)
def test_swf(shared: Path, name: str) -> None:
    path = shared / f"traces/swf/{name}.swf.gz"
    if not path.is_file():
        pytest.skip(f"needs {path.name}")
    rows = [line.split() for line in lines(path) if line.strip() and not line.startswith(";")]
    assert not {row[10] for row in rows} & {"2", "3", "4"}, "no partial executions"
    sizes = [float(row[4]) if float(row[4]) > 0 else float(row[7]) for row in rows]
    ran = [(row, size) for row, size in zip(rows, sizes, strict=True)
           if float(row[3]) > 0 and size > 0]  # fmt: skip
    loaded = traces.load(path)
    assert (loaded.kind, loaded.num_bad) == ("swf", 0)
    assert len(loaded.jobs) == len(ran)
    assert sum(loaded.left_out.values()) == len(rows) - len(ran)
    assert total_gpus(loaded.jobs).sum() == sum(size for _, size in ran)
    assert loaded.jobs["duration_s"].sum() == pytest.approx(sum(float(row[3]) for row, _ in ran))
    words = {"0": "failed", "1": "completed", "5": "cancelled", "-1": "unknown"}
    assert Counter(loaded.jobs["outcome"]) == Counter(words[row[10]] for row, _ in ran)


@pytest.mark.slow
def test_philly_list(shared: Path) -> None:
    path = shared / "traces/philly/philly_jobs_sia.csv.gz"
    rows = list(csv.DictReader(lines(path)))
    loaded = traces.load(path)
    assert (loaded.kind, len(loaded.jobs), dict(loaded.left_out)) == ("philly", len(rows), {})
    assert total_gpus(loaded.jobs).sum() == sum(int(row["num_gpus"]) for row in rows)
    assert loaded.jobs["duration_s"].sum() == sum(float(row["duration"]) for row in rows)
    assert Counter(loaded.jobs["queue"]) == Counter(row["cluster"] for row in rows)
