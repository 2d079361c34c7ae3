"""Where the peers' results lie, and which of them a file of tests takes.

`MUSTER_GOLDEN=DIR` reads them from another folder, laid out like the usual one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SHARED
from tests.golden.files import Result, results
from tests.golden.scenarios import scenarios

CHOSEN = os.environ.get("MUSTER_GOLDEN", "")
GOLDEN = Path(CHOSEN).resolve() if CHOSEN else SHARED / "golden"
#: larger files take more than a second
QUICK_BYTES = 45_000


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test its cases.

    Those with the argument `result` get the results that their module's `takes` names; those with
    `scenario` get the scenarios of its `KINDS`.
    """
    if "scenario" in metafunc.fixturenames:
        kinds: tuple[str, ...] = metafunc.module.KINDS
        told = [pytest.param(one, id=one.name) for one in scenarios(GOLDEN) if one.kind in kinds]
        metafunc.parametrize("scenario", told or [pytest.param(None, id="none", marks=_absent())])
    if "result" not in metafunc.fixturenames:
        return
    takes: Callable[[Result], bool] = metafunc.module.takes
    cases = [
        pytest.param(one, id=one.name, marks=_marks(one)) for one in results(GOLDEN) if takes(one)
    ]
    metafunc.parametrize("result", cases or [pytest.param(None, id="none", marks=_absent())])


def _marks(result: Result) -> list[pytest.MarkDecorator]:
    return [] if result.path.stat().st_size <= QUICK_BYTES else [pytest.mark.slow]


def _absent() -> list[pytest.MarkDecorator]:
    return [pytest.mark.skip(reason=f"no such results in {GOLDEN}")]


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of peers' results; skips where it is absent, unless it was asked for."""
    if not GOLDEN.is_dir():
        if CHOSEN:
            pytest.fail(f"MUSTER_GOLDEN={CHOSEN}: no such folder")
        pytest.skip("needs the peers' results in the folder 'shared/golden' beside the clone")
    return GOLDEN


#: SHA-256 of traces of which numbers are known, first 16 digits
KNOWN = {
    "hpc2n_c.swf": "7bb9de23eb523f87",
    "hpc2n_perfect_c.swf": "6a055315793402b4",
    "lublin256_c.swf": "40e0910c82252749",
    "nasa_c.swf": "adcd90e1a35ce62a",
    "ricc20k_c.swf": "48671b2e74413831",
    "ricc20k_perfect_c.swf": "6767605a93f3dd24",
    "bench2500.csv": "88a1f1503041f942",
}


@pytest.fixture(scope="session")
def known(golden: Path) -> Callable[[str], Path]:
    """Return a way to the traces of which numbers are known; skips where one is not there."""

    def find(name: str) -> Path:
        path = golden / "_traces" / name
        if not path.is_file() and CHOSEN:
            pytest.skip(f"{path} is not there")
        if hashlib.sha256(path.read_bytes()).hexdigest()[:16] != KNOWN[name]:
            assert CHOSEN, f"{path} is not the file of which numbers are known"
            pytest.skip(f"{path} is another trace than that of which numbers are known")
        return path

    return find
