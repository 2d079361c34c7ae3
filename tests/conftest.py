"""Fixtures and settings that every test may use."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import hypothesis
import matplotlib as mpl
import pytest

from scheduler import compiled
from tests.tiers import COLLECTED, TOGETHER, Tier, folder_of, shares_a_cluster, tier_of

REPOSITORY = Path(__file__).resolve().parents[1]
#: public traces and peers' results; they lie beside the repository and are not part of it
SHARED = REPOSITORY.parent / "shared"

mpl.use("Agg")

# What a shell without job control runs in the background ignores Ctrl-C, and passes that on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: a busy machine is not a failure. HYPOTHESIS_PROFILE=thorough searches for longer.
hypothesis.settings.register_profile("quick", deadline=None, max_examples=50)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "quick")
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tier", choices=list(Tier), help="run the tests of one tier; tests/tiers.py")
    parser.addoption("--compiled", action="store_true", help="fail if the core runs interpreted")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--compiled") and compiled.which() != "compiled":
        raise pytest.UsageError(f"--compiled: the core and the engines run {compiled.which()}")


def pytest_report_header() -> str:
    return f"muster's core and engines: {compiled.which()}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put tests in order, and leave out what is of another tier than the chosen."""
    # tests with a cluster of their own come before the one that all others share is started
    items.sort(key=shares_a_cluster)
    config.stash[COLLECTED] = tuple(items)
    chosen = config.getoption("--tier")
    if chosen is not None:
        config.hook.pytest_deselected(items=[one for one in items if tier_of(one) != chosen])
        items[:] = [one for one in items if tier_of(one) == chosen]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share tests between processes (`pytest -n`) by file; never two clusters at once.

    The mark xdist_group would say the same; pytest-xdist 3.8 does nothing with it under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "together" if folder_of(nodeid) in TOGETHER else nodeid.partition("::")[0]

    return ByFile(config, log)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the control plane before the first test that needs it: it takes longer than a test may.

    Where it cannot be built, the tests say so themselves.
    """
    needing = [item for item in session.items if item.get_closest_marker("k8s")]
    if not needing or session.config.option.collectonly:
        return
    from scheduler.controlplane import components, requirements

    real_nodes = not requirements.lack() and any(tier_of(one) is Tier.E2E for one in needing)
    if not components.lack(real_nodes=real_nodes):
        # where processes share the tests, what one of them prints is not shown, stderr is
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        shared = hasattr(session.config, "workerinput")
        say = reporter.write_line if reporter and not shared else _say
        components.build(say, real_nodes=real_nodes)
        modules = {getattr(item, "module", None) for item in needing}
        for component in {one for module in modules for one in getattr(module, "NEEDED", ())}:
            components.provide(component)


def _say(text: str) -> None:
    print(text, file=sys.__stderr__, flush=True)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of public traces and peers' results; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the traces and golden results of the folder 'shared' beside the clone")
    return SHARED
