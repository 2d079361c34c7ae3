"""The notebooks run from top to bottom on a tiny study and plan, and their two forms agree."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sim.study import costcurve
from sim.study.plan import Plan
from sim.study.search import solve
from sim.study.study import Study, run_study

jupytext = pytest.importorskip(
    "jupytext", reason="needs jupytext: pip install 'muster-scheduler[notebook]'"
)

NAMES = ["capacity_plan", "pending_pods"]

STUDY = """
control_plane = "kubernetes"
nodes = [16, 32]

[[workload]]
name = "openai_like"
profile = "openai_like"
load = 0.9
days = 0.5
carry_in_days = 1.0

[[arm]]
name = "pod"
admission = "pod"

[[arm]]
name = "gang-easy"
backfill = "easy"
"""

PLAN = """
nodes = 24
control_plane = "ideal"
seeds = [0, 1]

[workload]
name = "openai_like"
profile = "openai_like"
load = 0.5
days = 0.5
tail_scale = 0.0

[arm]
name = "gang-fifo"

[vary]
what = "nodes"
low = 12
high = 44
step = 8

[[target]]
metric = "queueing_delay_p90_s"
at_most = 3600

[[target]]
metric = "allocation_ratio"
at_least = 0.01
"""


def cells(notebook: Any) -> list[tuple[str, str]]:
    """Return type and source of every cell."""
    return [(cell["cell_type"], cell["source"]) for cell in notebook["cells"]]


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_agree_and_hold_no_outputs(repository: Path, name: str) -> None:
    notebook = jupytext.read(repository / "notebooks" / f"{name}.ipynb")
    script = jupytext.read(repository / "notebooks" / f"{name}.py")
    assert cells(notebook) == cells(script), (
        f"notebooks/{name}: write one form from the other with "
        f"jupytext --to ipynb notebooks/{name}.py"
    )
    assert notebook["metadata"]["jupytext"]["formats"] == "ipynb,py:percent"
    for cell in notebook["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_simulate_nothing(repository: Path, name: str) -> None:
    source = (repository / "notebooks" / f"{name}.py").read_text()
    for module in ("engine", "podmode", "study", "search", "workload"):
        assert f"sim.{module}" not in source
    assert "import run" not in source


def study_of(folder: Path) -> Path:
    (folder / "study.toml").write_text(STUDY)
    out = folder / "study"
    study = Study.load(folder / "study.toml")
    assert not run_study(study, out, processes=1, progress=False).missing
    return out


def plan_of(folder: Path) -> Path:
    (folder / "plan.toml").write_text(PLAN)
    plan = Plan.load(folder / "plan.toml")
    out = folder / "plan"
    costcurve.write(plan, solve(plan, out, processes=1, progress=False), out)
    return out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:zmq")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client")
@pytest.mark.parametrize(
    ("name", "variable", "make", "says"),
    [
        ("pending_pods", "MUSTER_STUDY", study_of, "openai_like, "),
        ("capacity_plan", "MUSTER_PLAN", plan_of, "Smallest cluster that meets the targets"),
    ],
)
def test_notebook_runs_from_top_to_bottom(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    variable: str,
    make: Callable[[Path], Path],
    says: str,
) -> None:
    nbclient = pytest.importorskip(
        "nbclient", reason="needs nbclient: pip install 'muster-scheduler[notebook]'"
    )
    monkeypatch.setenv(variable, str(make(tmp_path)))
    monkeypatch.setenv("PYTHONPATH", str(repository))
    monkeypatch.setenv("PYTHONWARNINGS", "error::FutureWarning")
    copy = Path(shutil.copy(repository / "notebooks" / f"{name}.ipynb", tmp_path))
    notebook = jupytext.read(copy)
    notebook["metadata"]["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    client = nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [out for cell in notebook["cells"] for out in cell.get("outputs", [])]
    printed = "".join(out.get("text", "") for out in outputs if out["output_type"] == "stream")
    assert says in printed
    assert "Warning" not in printed
    pictures = [out for out in outputs if "image/png" in out.get("data", {})]
    assert pictures
