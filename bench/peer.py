"""The rows against AccaSim: on the same jobs, and as whole processes."""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.processes import Size, measured, process_s, read
from bench.rows import OUT, ROOT, Row, in_turns, median, row
from bench.workloads import GPUS_PER_NODE
from scheduler import compiled, whole

ACCASIM = "1.1.3"
#: a published peer's workload, beside the checkout where there is one
WHOLE = ROOT.parent / "shared" / "golden" / "_traces" / "scale7500.csv.gz"
PEER_NODES = 64
HERE = ROOT / "bench"


def peer_jobs(count: int) -> Any:
    """Return the first Philly jobs from 2017-10-01 on with at most 64 GPUs."""
    import pandas as pd

    from traces import philly

    jobs = philly.jobs()
    october_s = pd.Timestamp("2017-10-01").timestamp()
    chosen = jobs[(jobs["submit_unix_s"] >= october_s) & (jobs["gpus"] <= 64)].head(count)
    submit_s = (chosen["submit_unix_s"] - chosen["submit_unix_s"].iloc[0]).astype("float64")
    return pd.DataFrame(
        {
            "job": [str(i) for i in range(len(chosen))],
            "submit_s": submit_s.to_numpy(),
            "duration_s": chosen["duration_s"].to_numpy("float64"),
            "gpus": chosen["gpus"].to_numpy(),
        }
    )


def write_swf(jobs: Any, path: Path) -> None:
    """Write jobs for AccaSim: one processor stands for one GPU, the request is the run time."""
    lines = [f"; MaxJobs: {len(jobs)}", f"; MaxProcs: {PEER_NODES * GPUS_PER_NODE}"]
    rows = zip(jobs["submit_s"], jobs["duration_s"], jobs["gpus"], strict=True)
    for number, (submit_s, duration_s, gpus) in enumerate(rows, start=1):
        run_s, start = int(duration_s), int(submit_s)
        lines.append(
            f"{number} {start} -1 {run_s} {gpus} -1 -1 {gpus} {run_s} -1 1 1 1 -1 -1 -1 -1 -1"
        )
    whole.write_text(path, "\n".join(lines) + "\n")


def accasim_python() -> Path:
    """Return the interpreter of AccaSim's own environment, made at the first call.

    It lies in the user's cache, named after what is in it, and is not part of the checkout.
    """
    lock = HERE / "accasim.lock"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "muster"
    minor = f"py{sys.version_info.major}.{sys.version_info.minor}"
    home = cache / f"accasim-{ACCASIM}-{minor}-{digest}"
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        print(f"Installing AccaSim {ACCASIM} into {home}", file=sys.stderr)
        venv.create(home, clear=True, with_pip=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        subprocess.run([*pip, "--require-hashes", "-r", str(lock)], check=True)
        (home / "complete").touch()
    return python


def peer_rows(size: Size, quick: bool) -> Iterator[Row]:
    """Measure against AccaSim on the same jobs."""
    try:
        python = accasim_python()
    except (OSError, subprocess.CalledProcessError) as error:
        python, why = None, f"AccaSim could not be installed: {error}"
    OUT.mkdir(parents=True, exist_ok=True)
    swf = OUT / f"peer{size.peer_jobs}.swf"
    write_swf(peer_jobs(size.peer_jobs), swf)
    for policy, discipline, must, floor in (
        ("fifo", "strict", ">= 80", 4.0 if quick else 40.0),
        ("easy", "easy", ">= 50", 3.0 if quick else 25.0),
    ):
        what = f"{policy.upper()}, {size.peer_jobs:,} jobs on 64 x 8 GPUs: AccaSim / muster"
        if python is None:
            yield row(what, None, "x", must, note=why)
            continue

        def peer(policy: str = policy, python: Path = python) -> dict[str, float]:
            command = [
                str(python),
                str(HERE / "accasim_peer.py"),
                str(swf),
                policy,
                str(PEER_NODES),
                str(GPUS_PER_NODE),
            ]
            return read(subprocess.run(command, capture_output=True, text=True, check=False))

        def ours(discipline: str = discipline) -> dict[str, float]:
            return measured("peer-jobs", size.peer_jobs, discipline)

        mine = [ours()]
        first = peer()  # it takes a minute: once has to do
        mine += in_turns(size.repeats - 1, ours)[0]
        source = measured("peer-jobs", size.peer_jobs, discipline, interpreted=True)
        yield row(
            what,
            first["cpu_s"] / median(mine),
            "x",
            must,
            floor,
            f"{size.peer_jobs / first['cpu_s']:,.0f} and {size.peer_jobs / median(mine):,.0f} "
            f"jobs/s; peak {first['peak_mib']:,.0f} and {median(mine, 'peak_mib'):,.0f} MiB; "
            f"interpreted {first['cpu_s'] / source['cpu_s']:.0f} x",
        )
    yield whole_row(python)


def whole_row(accasim: Path | None) -> Row:
    """Measure two whole processes: 58,500 jobs from a file to all files and the report."""
    what = "whole process, 58,500 jobs on 7,500 x 8 GPUs, with files and report: "
    what += "AccaSim / muster run"
    if not WHOLE.is_file():
        return row(what, None, "x", ">= 35", note=f"no {os.path.relpath(WHOLE, ROOT)}")
    if accasim is None:
        return row(what, None, "x", ">= 35", note="AccaSim could not be installed")
    import pandas as pd

    jobs = pd.read_csv(WHOLE).rename(
        columns={"job_id": "job", "submit_time": "submit_s", "duration": "duration_s"}
    )
    table, swf = OUT / "whole.csv", OUT / "whole.swf"
    with whole.replacing(table) as part:
        jobs.to_csv(part, index=False)
    write_swf(jobs, swf)
    nodes = ("7500", str(GPUS_PER_NODE))
    run = [sys.executable, "-m", "sim.commands.main", "run", "--jobs", str(table)]
    run += ["--nodes", nodes[0], "--out", str(OUT / "whole"), "--force"]
    first = OUT / "first.swf"
    write_swf(jobs.head(1), first)
    peer = [str(accasim), str(HERE / "accasim_peer.py")]
    for unmeasured in (run, [*peer, str(first), "fifo", *nodes]):
        process_s(unmeasured)  # so that Python's compiled files lie there, as where it is installed
    mine = [process_s(run) for _ in range(3)]
    theirs = process_s([*peer, str(swf), "fifo", *nodes])
    source = process_s(run, {compiled.SWITCH: "1"})
    middle = statistics.median(mine)
    return row(
        what,
        theirs / middle,
        "x",
        ">= 35",
        17.0,
        f"{theirs:.0f} s and {middle:.1f} s; interpreted {theirs / source:.0f} x",
    )
