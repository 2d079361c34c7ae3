"""What only tells something starts at once: no library is imported that it does not need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: each takes from a tenth of a second to a whole one
HEAVY = {
    "aiohttp", "cryptography", "jinja2", "joblib", "kubernetes", "matplotlib", "numpy", "pandas",
    "pyarrow", "simpy", "starlette", "torch", "tqdm", "uvicorn", "yaml",
}  # fmt: skip

SCRIPT = """
import sys
from importlib import import_module
module, *sys.argv[1:] = sys.argv[1:]
try:
    import_module(module).main()
finally:
    print(*sys.modules)
"""


def loaded(repository: Path, *words: str) -> tuple[str, set[str]]:
    """Run a command; return what it printed and the top modules that it imported."""
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words],
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=True,
    )
    *printed, modules = ended.stdout.splitlines()
    return "\n".join(printed), {name.partition(".")[0] for name in modules.split()}


@pytest.mark.parametrize(
    ("module", "argument", "says"),
    [
        ("sim.commands.main", "--version", "muster "),
        ("sim.commands.main", "--help", "Usage: muster"),
        ("scheduler.status.plugin", "--help", "Why pods wait"),
    ],
)
def test_telling_takes_no_library_of_numbers_or_pictures(
    repository: Path, module: str, argument: str, says: str
) -> None:
    printed, modules = loaded(repository, module, argument)
    assert says in printed
    assert "msgspec" in modules
    assert not modules & HEAVY


@pytest.mark.parametrize(
    ("options", "needs"),
    [
        ([], {"jinja2", "matplotlib", "numpy", "pandas", "pyarrow", "tqdm"}),
        (["--no-report"], {"numpy", "pandas", "pyarrow", "tqdm"}),
    ],
)
def test_a_run_of_whole_gangs_imports_what_it_uses(
    repository: Path, tmp_path: Path, options: list[str], needs: set[str]
) -> None:
    jobs = tmp_path / "jobs.csv"
    jobs.write_text("job,submit_s,duration_s,gpus\na,0,60,8\n")
    words = ["run", "--jobs", str(jobs), "--nodes", "2", "--out", str(tmp_path / "run"), *options]
    _, modules = loaded(repository, "sim.commands.main", *words)
    assert modules & (HEAVY | {"asyncio", "scipy"}) == needs


def test_names_of_the_simulator_are_imported_when_asked_for(repository: Path) -> None:
    script = (
        "import sys, sim\n"
        "assert 'pandas' not in sys.modules and 'run' in dir(sim)\n"
        "sim.RunConfig\n"
        "assert 'pandas' not in sys.modules\n"
        "assert [name for name in sim.__all__ if not hasattr(sim, name)] == []\n"
        "assert 'pandas' in sys.modules and not hasattr(sim, 'walk')\n"
    )
    subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(repository)},
        check=True,
    )
