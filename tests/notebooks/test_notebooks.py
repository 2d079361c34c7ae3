"""The notebooks run from top to bottom on a small Slurm log, and their two forms agree."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.notebooks.slurm_log import lines

jupytext = pytest.importorskip(
    "jupytext", reason="needs jupytext: pip install 'muster-scheduler[notebook]'"
)

NAMES = ["capacity_plan", "compare_policies", "pending_pods"]


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


def test_the_log_is_what_its_lines_write(repository: Path) -> None:
    log = repository / "notebooks" / "slurm.txt"
    assert log.read_text().splitlines() == list(lines()), (
        "write it with python tests/notebooks/slurm_log.py > notebooks/slurm.txt"
    )


def run_all(notebook: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a notebook in a folder, as one would from top to bottom."""
    nbclient = pytest.importorskip(
        "nbclient", reason="needs nbclient: pip install 'muster-scheduler[notebook]'"
    )
    monkeypatch.setenv("PYTHONWARNINGS", "error::FutureWarning")
    notebook["metadata"]["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(folder)}}
    )
    client.execute()


def outputs_of(notebook: Any) -> tuple[str, int]:
    """Return what all cells printed, and how many pictures they show."""
    outputs = [out for cell in notebook["cells"] for out in cell.get("outputs", [])]
    printed = "".join(out.get("text", "") for out in outputs if out["output_type"] == "stream")
    return printed, sum("image/png" in out.get("data", {}) for out in outputs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:zmq")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client")
@pytest.mark.parametrize(
    ("name", "num_pictures", "says"),
    [
        ("pending_pods", 3, ("What waits, and why?", "In the hour before the peak")),
        ("capacity_plan", 4, ("Smallest cluster that meets the target", "The same jobs on more")),
        (
            "compare_policies",
            2,
            ("gang-easy instead of gang-fifo", "muster diff"),
        ),
    ],
)
def test_notebook_runs_from_top_to_bottom(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    num_pictures: int,
    says: tuple[str, ...],
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(repository))
    folder = tmp_path / "notebooks"
    folder.mkdir()
    shutil.copy(repository / "notebooks" / "slurm.txt", folder)
    notebook = jupytext.read(repository / "notebooks" / f"{name}.ipynb")
    run_all(notebook, folder, monkeypatch)
    printed, shown = outputs_of(notebook)
    for text in ("300: a step of a job", *says):
        assert text in printed
    assert "Warning" not in printed
    assert shown == num_pictures
