"""Data that travels with the code: small, named in NOTICE, readable without anything else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd


def carried(repository: Path) -> list[Path]:
    return [path for path in (repository / "traces" / "data").rglob("*") if path.is_file()]


def test_notice_and_readme_name_every_data_file(repository: Path) -> None:
    notice = (repository / "NOTICE").read_text(encoding="utf-8")
    readme = (repository / "traces/data/README.md").read_text(encoding="utf-8")
    names = {path.name for path in carried(repository)} - {"README.md"}
    assert names == {"philly_jobs.parquet", "stepfun_faults.csv", "published_cdfs.csv"}
    for name in names:
        assert f"traces/data/{name}\n" in notice
        assert f"`{name}`" in readme
    for licence in ("CC-BY-4.0", "Apache\n  License", "MIT"):
        assert licence in notice


def test_all_of_it_is_at_most_3_mb(repository: Path) -> None:
    assert 0 < sum(path.stat().st_size for path in carried(repository)) <= 3_000_000


def test_readme_counts_the_rows(repository: Path) -> None:
    readme = (repository / "traces/data/README.md").read_text(encoding="utf-8")
    folder = repository / "traces/data"
    assert f"| {len(pd.read_parquet(folder / 'philly_jobs.parquet')):,} |" in readme
    assert f"| {len(pd.read_csv(folder / 'stepfun_faults.csv')):,} |" in readme


def test_published_curves_rise(repository: Path) -> None:
    table = pd.read_csv(repository / "traces/data/published_cdfs.csv")
    assert table["y"].between(0, 100.001).all()
    for (figure, series), curve in table.groupby(["figure", "series"]):
        ordered = curve.sort_values("x")
        assert ordered["y"].is_monotonic_increasing, (figure, series)
        assert ordered["y"].iloc[-1] > 99.8, (figure, series)


def test_traces_stand_alone(repository: Path) -> None:
    """Reading and generating jobs needs neither the simulator nor the policy core."""
    code = (
        "import sys, traces\n"
        "from traces import faults, philly, synthetic, validation\n"
        "synthetic.generate('seren', num_gpus=64, days=1, load=0.5)\n"
        "roots = {name.split('.')[0] for name in sys.modules}\n"
        "assert roots.isdisjoint({'sim', 'simpy', 'matplotlib', 'typer'}), roots\n"
        "ours = {name for name in sys.modules if name.startswith('scheduler')}\n"
        "assert ours <= {'scheduler', 'scheduler.compiled', 'scheduler.whole'}, ours\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=repository, check=True)
