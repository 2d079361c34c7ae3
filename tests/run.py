"""Run a tier of tests, as `make` and `.ci/run` do, and sum up what all tiers said.

    python -m tests.run live -k gang    one tier; all but its name goes to pytest
    python -m tests.run all             every tier, one after another, and their sum
    python -m tests.run sum             the sum of the tiers that ran; its last line is pytest's

A test of the tiers `live` and `e2e` that fails is run once more, alone, after the others: on a busy
machine real programs may take longer than a test waits. One that passes then is named at the end.
More than two such fail the run: then it is not the machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import msgspec

from scheduler import compiled
from tests.outcomes import COUNTED, Outcomes
from tests.tiers import Tier

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "build" / "tests"
#: more arguments for pytest: only tests that share nothing but files run in several processes
OPTIONS = {Tier.TEST: ("-n", "logical", "--maxprocesses", "8", "--no-loadscope-reorder")}
RUN_AGAIN = (Tier.LIVE, Tier.E2E)
MAY_PASS_ALONE = 2
INTERPRETED = "-interpreted"  #: in the name of a run that was asked to run the source
MOST_RUN_AGAIN = 10  #: when more have failed, it is not the machine either
NO_TESTS = 5  #: pytest's exit code


def execute(arguments: Sequence[str], out: Path, folder: Path = REPOSITORY) -> Outcomes:
    """Run pytest in a folder; a run that does not come to its end counts as an error."""
    out.unlink(missing_ok=True)
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", "pytest", "-p", "tests.outcomes", f"--outcomes={out}"]
    code = subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=False,
    ).returncode
    found = msgspec.json.decode(out.read_bytes(), type=Outcomes) if out.exists() else Outcomes()
    if not out.exists() or (code not in (0, 1, NO_TESTS) and "collect" not in _phases(found)):
        found.counts["error"] = found.counts.get("error", 0) + 1
        found.failed[f"pytest {' '.join(arguments)}".rstrip()] = [f"exit code {code}"]
    return found


def _phases(found: Outcomes) -> set[str]:
    return {phase for phases in found.failed.values() for phase in phases}


def once_more(found: Outcomes, out: Path, folder: Path = REPOSITORY) -> None:
    """Run each test that failed alone; note those that pass now.

    What is checked at the end of the session is not forgiven: it speaks of all tests.
    """
    may = [
        name for name, phases in found.failed.items() if {"setup", "call", "teardown"} >= {*phases}
    ]
    for name in may if len(may) <= MOST_RUN_AGAIN else ():
        print(f"\nonce more, alone: {name}", flush=True)
        second = execute([name], out, folder)
        found.seconds += second.seconds
        if second.counts.get("passed") and not second.failed:
            found.passed_alone.append(name)


def run(tier: Tier, arguments: Sequence[str] = ()) -> Outcomes:
    """Run a tier and write down how it went."""
    options = OPTIONS.get(tier, ())
    name = f"{tier}{INTERPRETED}" if compiled.switched_off() else str(tier)
    found = execute([f"--tier={tier}", *options, *arguments], RESULTS / f"{name}.part")
    if tier in RUN_AGAIN:
        once_more(found, RESULTS / f"{name}.part")
    (RESULTS / f"{name}.part").unlink(missing_ok=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_bytes(msgspec.json.encode(found))
    return found


def settled(results: Iterable[Outcomes]) -> Counter[str]:
    """Return the counts of all results; tests that passed alone are forgiven, if they are few."""
    results = list(results)
    counts: Counter[str] = Counter()
    for one in results:
        counts.update(one.counts)
    if sum(len(one.passed_alone) for one in results) > MAY_PASS_ALONE:
        return counts
    for one in results:
        for name in one.passed_alone:
            phases = one.failed[name]
            counts["failed"] -= phases.count("call")
            counts["error"] -= len(phases) - phases.count("call")
            counts["passed"] += phases != ["teardown"]
    return +counts


def closing_line(counts: Mapping[str, int], seconds: float) -> str:
    """Return counts in the form of pytest's last line."""
    parts = [
        f"{counts[kind]} {kind}{'s' if kind == 'error' and counts[kind] != 1 else ''}"
        for kind in COUNTED
        if counts.get(kind)
    ]
    took = f"{seconds:.2f}s" + (f" ({timedelta(seconds=int(seconds))})" if seconds >= 60 else "")
    return f"{', '.join(parts) or 'no tests ran'} in {took}"


def report(results: Mapping[str, Outcomes]) -> int:
    """Print skips with their reasons, what failed, and the sum; return the exit code."""
    failed = False
    print()
    for tier, one in results.items() if len(results) > 1 else ():
        print(f"{tier}: {closing_line(one.counts, one.seconds)}")
    for tier, one in results.items():
        for why, number in Counter(one.skipped.values()).items():
            print(f"skipped in {tier}: {number} x {why}")
    for one in results.values():
        for name in one.failed:
            if name in one.passed_alone:
                print(f"failed under load, passed alone: {name}")
            else:
                print(f"failed: {name}")
                failed = True
    num_alone = sum(len(one.passed_alone) for one in results.values())
    if num_alone > MAY_PASS_ALONE:
        print(f"{num_alone} failed under load and passed alone; at most {MAY_PASS_ALONE} may")
        failed = True
    print(closing_line(settled(results.values()), sum(one.seconds for one in results.values())))
    return int(failed)


def results_of(tiers: Iterable[Tier]) -> dict[str, Outcomes]:
    """Read how tiers went; one that left nothing behind counts as an error.

    A run that was asked to run the source is a second one of its tier, and may be absent.
    """
    found = {}
    for tier in tiers:
        for name in (str(tier), f"{tier}{INTERPRETED}"):
            path = RESULTS / f"{name}.json"
            if path.exists():
                found[name] = msgspec.json.decode(path.read_bytes(), type=Outcomes)
        if str(tier) not in found:
            found[str(tier)] = Outcomes(0.0, {"error": 1}, {f"make of tier {tier}": ["collect"]})
    return found


def main(arguments: Sequence[str]) -> int:
    """Do what the first word says; return the exit code."""
    what, *more = arguments or [""]
    if what == "sum":
        return report(results_of(Tier))
    if what == "all":
        return report({str(tier): run(tier, more) for tier in Tier})
    if what not in set(Tier):
        print(f"'{what}' is no tier; give one of: {', '.join(Tier)}, all, sum", file=sys.stderr)
        return 2
    return report({what: run(Tier(what), more)})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
