"""Measure how fast the simulator is, against AccaSim 1.1.3 and against bare simpy.

    python bench/sim.py              all rows; bench/out/sim.json; about fifteen minutes
    python bench/sim.py --quick      smaller sizes, for a quick look
    python bench/sim.py --write-docs also write the table into docs/benchmarks.md
    python bench/sim.py --reading    only the two rows about large files
    python bench/sim.py --queues     only the rows about queues
    python bench/sim.py --profile gang-fifo | gang-easy

Every measurement is a fresh process. Times are CPU seconds; the two sides of a ratio take turns,
and the median of each side counts. A row that misses its target is printed as missed; one that
falls below its floor, well under earlier measurements, fails the command.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))
from bench import queues  # noqa: E402
from bench.rows import OUT, Row, in_turns, median, peak_mib, report, row, table  # noqa: E402
from scheduler import compiled, whole  # noqa: E402

ACCASIM = "1.1.3"
#: a published peer's workload, beside the checkout where there is one
WHOLE = ROOT.parent / "shared" / "golden" / "_traces" / "scale7500.csv.gz"
PEER_NODES, GPUS_PER_NODE = 64, 8
LOAD, SEED = 1.10, 0


@dataclass(frozen=True)
class Size:
    """How large the measurements are."""

    peer_jobs: int = 20_000
    nodes: int = 7_500
    days: float = 30.0
    growth: tuple[tuple[int, float], tuple[int, float]] = ((2_500, 30.0), (75_000, 3.0))
    pod_days: tuple[float, ...] = (2.0, 7.0)  #: the cluster begins empty and is full after a day
    repeats: int = 3
    rows: int = 5_000_000  #: of a jobs file


FULL = Size()
QUICK = Size(5_000, 750, 10.0, ((250, 30.0), (2_500, 10.0)), (1.0,), 1, 1_000_000)


# -- one measurement, in a process of its own --------------------------------------------------


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


def month(nodes: int, days: float) -> Any:
    """Return the calibrated jobs of the scaling rows."""
    from traces.synthetic import generate

    return generate("openai_like", num_gpus=nodes * GPUS_PER_NODE, days=days, load=LOAD, seed=SEED)


def measure_peer_jobs(count: str, discipline: str) -> dict[str, float]:
    """Time muster on the jobs of the AccaSim rows."""
    from sim.engines.workload import Workload
    from traces import schema

    return _measure_gang(
        Workload(schema.complete(peer_jobs(int(count)))), PEER_NODES, discipline, ""
    )


def measure_month(nodes: str, days: str, discipline: str) -> dict[str, float]:
    """Time muster on a calibrated month."""
    from sim.engines.workload import Workload

    return _measure_gang(Workload(month(int(nodes), float(days))), int(nodes), discipline, "k8s")


def _measure_gang(work: Any, num_nodes: int, discipline: str, plane: str) -> dict[str, float]:
    simulation = _gang_simulation(work, num_nodes, discipline, plane)
    began_s = time.process_time()
    end_s = simulation.simulate()
    simulated_s = time.process_time()
    simulation.records(end_s)
    return {
        "cpu_s": simulated_s - began_s,
        "records_s": time.process_time() - simulated_s,
        "jobs": work.num_jobs,
        "pods": sum(work.num_pods),
    }


def _gang_simulation(work: Any, num_nodes: int, discipline: str, plane: str) -> Any:
    from scheduler.policies.spec import PolicySpec
    from sim.engines.gangs import GangSimulation
    from sim.schema import planes
    from sim.schema.cluster import Cluster
    from sim.schema.config import RunConfig

    config = RunConfig(
        policy=PolicySpec(discipline=discipline),
        control_plane=planes.load("kubernetes" if plane else "ideal"),
    )
    return GangSimulation(work, Cluster.uniform(num_nodes, GPUS_PER_NODE).build(), config, [])


def measure_pods(nodes: str, days: str) -> dict[str, float]:
    """Time pod mode on the beginning of the month."""
    from sim.engines.pods import PodSimulation
    from sim.engines.workload import Workload
    from sim.schema import planes
    from sim.schema.cluster import Cluster
    from sim.schema.config import RunConfig

    until_s = float(days) * 86_400.0
    jobs = month(int(nodes), 30.0)
    work = Workload(jobs[jobs["submit_s"] < until_s])
    config = RunConfig(admission="pod", control_plane=planes.load("kubernetes"), until_s=until_s)
    cluster = Cluster.uniform(int(nodes), GPUS_PER_NODE).build()
    began_s = time.process_time()
    PodSimulation(work, cluster, config, []).run()
    cpu_s = time.process_time() - began_s
    return {"cpu_s": cpu_s, "jobs": work.num_jobs, "pods": sum(work.num_pods)}


def measure_simpy(nodes: str, days: str, per: str) -> dict[str, float]:
    """Time simpy alone: an arrival and a completion event for each job, or for each pod."""
    import simpy

    jobs = month(int(nodes), 30.0 if per == "pod" else float(days))
    if per == "pod":
        jobs = jobs[jobs["submit_s"] < float(days) * 86_400.0]
        jobs = jobs.loc[jobs.index.repeat(jobs["num_pods"])]
    submit_s, duration_s = jobs["submit_s"].tolist(), jobs["duration_s"].tolist()
    env = simpy.Environment()

    def arrivals() -> Iterator[Any]:
        for at_s, takes_s in zip(submit_s, duration_s, strict=True):
            wait_s = at_s - env.now
            if wait_s > 0:
                yield env.timeout(wait_s)
            env.timeout(takes_s).callbacks.append(lambda _: None)

    env.process(arrivals())
    began_s = time.process_time()
    env.run()
    return {"cpu_s": time.process_time() - began_s}


def measure_reading(side: str, path: str, first: str) -> dict[str, float]:
    """Read a large CSV with pyarrow alone, or as a jobs file.

    Memory is beyond what reading its first lines takes: imports, pools and buffers.
    """
    from pyarrow import csv

    import traces

    csv.read_csv(first, csv.ReadOptions(use_threads=False))
    traces.load(first)
    before_mib, began_s = peak_mib(), time.process_time()
    held_mib = 0.0
    if side == "pyarrow":
        table = csv.read_csv(path, csv.ReadOptions(use_threads=False))
        held_mib = table.nbytes / (1 << 20)
    else:
        traces.load(path)
    cpu_s = time.process_time() - began_s
    return {"cpu_s": cpu_s, "table_mib": held_mib, "more_mib": peak_mib() - before_mib}


MEASUREMENTS: dict[str, Callable[..., dict[str, float]]] = {
    "peer-jobs": measure_peer_jobs,
    "month": measure_month,
    "pods": measure_pods,
    "simpy": measure_simpy,
    "reading": measure_reading,
    "teams": queues.measure_teams,
    "one-queue": queues.measure_one_queue,
    "evictions": queues.measure_evictions,
    "flood": queues.measure_flood,
}


# -- all of them -------------------------------------------------------------------------------


def measured(*arguments: object, interpreted: bool = False) -> dict[str, float]:
    """Run one measurement in a fresh process, compiled if it can be."""
    command = [sys.executable, __file__, "--one", *map(str, arguments)]
    env = {**os.environ, **({compiled.SWITCH: "1"} if interpreted else {})}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=env)
    return _json(done)


def _json(done: subprocess.CompletedProcess[str]) -> dict[str, float]:
    if done.returncode:
        raise RuntimeError(f"{' '.join(done.args)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


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
            return _json(subprocess.run(command, capture_output=True, text=True, check=False))

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


def process_s(command: list[str], extra: dict[str, str] | None = None) -> float:
    """Run a command and return the CPU seconds of its process, start and end included.

    Python keeps its compiled files in `bench/out`, also where the environment forbids to write
    them beside the source: whoever installs a program has them.
    """
    env = {**os.environ, "PYTHONPYCACHEPREFIX": str(OUT / "bytecode"), **(extra or {})}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=env,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def scaling_rows(size: Size, quick: bool) -> Iterator[Row]:
    """Measure against simpy alone."""
    nodes, days = size.nodes, size.days
    bare, fifo, easy, fifo_source, easy_source = in_turns(
        size.repeats,
        lambda: measured("simpy", nodes, days, "job"),
        lambda: measured("month", nodes, days, "strict"),
        lambda: measured("month", nodes, days, "easy"),
        lambda: measured("month", nodes, days, "strict", interpreted=True),
        lambda: measured("month", nodes, days, "easy", interpreted=True),
    )
    where = f"openai_like {days:g} days, {nodes:,} nodes"
    for name, results, must, floor in (
        ("gang-fifo", fifo, "<= 7", 16.0),
        ("gang-easy", easy, "<= 12", 30.0),
        ("gang-fifo interpreted", fifo_source, "<= 15", 45.0),
        ("gang-easy interpreted", easy_source, "<= 28", 110.0),
    ):
        yield row(
            f"{where}, {name}: time / bare simpy, two events per job",
            median(results) / median(bare),
            "x",
            must,
            floor,
            f"{results[0]['jobs'] / median(results):,.0f} jobs/s; simpy alone "
            f"{median(bare):.2f} s; tables afterwards {median(results, 'records_s'):.1f} s",
        )
    peak = max(median(fifo, "peak_mib"), median(easy, "peak_mib")) * 2**20 / 1e9
    yield row(
        f"{where}: peak memory, {fifo[0]['pods'] / 1e6:.2f} M pods", peak, "GB", "<= 0.6", 0.8
    )
    (small, small_days), (large, large_days) = size.growth
    ratios = []
    for count, length in ((small, small_days), (large, large_days)):
        alone, gangs = in_turns(
            size.repeats,
            lambda n=count, d=length: measured("simpy", n, d, "job"),  # type: ignore[misc]
            lambda n=count, d=length: measured("month", n, d, "strict"),  # type: ignore[misc]
        )
        ratios.append((median(gangs) / median(alone), gangs[0]["jobs"]))
    yield row(
        f"gang-fifo: ratio to bare simpy at {large:,} nodes ({large_days:g} days) / at {small:,} "
        f"nodes ({small_days:g} days)",
        ratios[1][0] / ratios[0][0],
        "x",
        "<= 1.3",
        2.5 if quick else 2.0,
        f"ratios {ratios[1][0]:.1f} and {ratios[0][0]:.1f}; {ratios[1][1]:,.0f} and "
        f"{ratios[0][1]:,.0f} jobs",
    )
    for pod_days in size.pod_days:
        alone, pods = in_turns(
            size.repeats,
            lambda d=pod_days: measured("simpy", nodes, d, "pod"),  # type: ignore[misc]
            lambda d=pod_days: measured("pods", nodes, d),  # type: ignore[misc]
        )
        yield row(
            f"pod mode, first {pod_days:g} days, {nodes:,} nodes: time / bare simpy, two events "
            "per pod",
            median(pods) / median(alone),
            "x",
            "<= 12",
            30.0,
            f"{pods[0]['pods'] / median(pods):,.0f} pods/s, {pods[0]['pods']:,.0f} pods",
        )


def reading_rows(size: Size, quick: bool) -> Iterator[Row]:
    """Read a jobs table of millions of rows beside pyarrow's own reader of CSV."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(SEED)
    count = size.rows
    table = pd.DataFrame(
        {
            "job": [f"job-{number}" for number in range(count)],
            "submit_s": np.sort(rng.uniform(0, 30 * 86_400, count)).round(1),
            "duration_s": rng.lognormal(6, 2, count).round(1),
            "num_pods": rng.integers(1, 65, count),
            "gpus_per_pod": rng.integers(1, 9, count),
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        path, first = Path(folder) / "jobs.csv", Path(folder) / "first.csv"
        table.to_csv(path, index=False)
        table.head(1000).to_csv(first, index=False)
        del table
        alone, ours = in_turns(
            size.repeats,
            lambda: measured("reading", "pyarrow", path, first),
            lambda: measured("reading", "muster", path, first),
        )
    rows = f"CSV of {count:,} jobs"
    yield row(
        f"{rows}, CPU time / pyarrow's reader", median(ours) / median(alone), "x", "<= 2",
        note=f"{median(ours):.1f} s beside {median(alone):.1f} s",
    )  # fmt: skip
    held = median(alone, "table_mib")
    more = median(ours, "more_mib")
    yield row(
        f"{rows}, peak memory / pyarrow's table", more / held, "x", "<= 3",
        note=f"{more:,.0f} MiB beside {held:,.0f} MiB",
    )  # fmt: skip


def queue_rows(size: Size, quick: bool) -> Iterator[Row]:
    """Measure several queues with quota, preemption included."""
    nodes, days = size.nodes, size.days
    names = ("strict", "skip", "easy")
    bare, *teams = in_turns(
        size.repeats,
        lambda: measured("simpy", nodes, days, "job"),
        *(lambda name=name: measured("teams", nodes, days, name) for name in names),  # type: ignore[misc]
    )
    for name, results in zip(names, teams, strict=True):
        yield row(
            f"openai_like {days:g} days, {nodes:,} nodes, 60 {name} queues in 3 levels that borrow "
            "and evict: time / bare simpy, two events per job",
            median(results) / median(bare),
            "x",
            "<= 15",
            note=f"{results[0]['jobs'] / median(results):,.0f} jobs/s; "
            f"{results[0]['evictions']:,.0f} evictions",
        )
    for name in ("strict", "easy"):
        without, with_one = in_turns(
            size.repeats,
            lambda name=name: measured("one-queue", nodes, days, name, "no"),  # type: ignore[misc]
            lambda name=name: measured("one-queue", nodes, days, name, "yes"),  # type: ignore[misc]
        )
        same = "same starts" if without[0]["starts"] == with_one[0]["starts"] else "OTHER STARTS"
        yield row(
            f"one {name} queue with all the quota, {days:g} days, {nodes:,} nodes: time / without",
            median(with_one) / median(without), "x", "<= 1.05", note=same,
        )  # fmt: skip
    found = measured("evictions", size.nodes, 2_000)
    what = f"one decision to evict, {size.nodes:,} nodes, 2,000 running gangs"
    told = f"{found['decisions']:,.0f} decisions, {found['evicting']:,.0f} evict somebody"
    yield row(f"{what}, median", found["p50_ms"], "ms", "<= 20", note=told)
    yield row(f"{what}, p99", found["p99_ms"], "ms", "<= 50")
    yield row(
        f"the longest slice of a pass, {size.nodes:,} nodes, 60 heads that all look for victims",
        found["slice_ms"], "ms", "<= 50", note=f"{found['slices']:,.0f} slices in all",
    )  # fmt: skip
    flood = measured("flood", 2_500 if not quick else 250, size.days)
    for team in ("b", "c"):
        yield row(
            f"three teams, {size.days:g} days, one floods: wait p95 of {team} / alone on its quota",
            flood[f"{team}_ratio"], "x", "<= 1.2",
            note=f"{flood[f'{team}_p95_s']:,.0f} s beside {flood[f'{team}_alone_p95_s']:,.0f} s",
        )  # fmt: skip


def study_row() -> Row:
    """Time a whole study, wall clock; it needs a machine that does nothing else."""
    out = OUT / "study"
    subprocess.run(["rm", "-rf", str(out)], check=True)
    began_s = time.perf_counter()
    code = "import sys; from sim.commands.main import invoke; sys.exit(invoke(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "study", "--out", str(out)]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    took_min = (time.perf_counter() - began_s) / 60
    cores = len(os.sched_getaffinity(0))
    return row("make study after installation", took_min, "min", "<= 5", note=f"{cores} cores")


def profile(name: str) -> None:
    """Print where a month spends its time, by function."""
    import cProfile
    import pstats

    from sim.engines.workload import Workload

    work = Workload(month(FULL.nodes, FULL.days))
    discipline = {"gang-fifo": "strict", "gang-easy": "easy"}[name]
    simulation = _gang_simulation(work, FULL.nodes, discipline, "k8s")
    profiler = cProfile.Profile()
    profiler.enable()
    simulation.simulate()
    profiler.disable()
    stats: Any = pstats.Stats(profiler)
    total = sum(one[2] for one in stats.stats.values())
    calls = sum(one[1] for one in stats.stats.values())
    print(f"{calls / work.num_jobs:.0f} calls per job\n")
    print("| function | calls per job | own time |\n|---|---|---|")
    ranked = sorted(stats.stats.items(), key=lambda item: -item[1][2])
    for (file, _, function), one in ranked[:15]:
        where = f"{Path(file).stem}.{function}" if file != "~" else function
        print(f"| `{where}` | {one[1] / work.num_jobs:.1f} | {one[2] / total:.1%} |")


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--no-study", action="store_true", help="do not time a whole study")
    parser.add_argument(
        "--write-docs", action="store_true", help="write the table into docs/benchmarks.md"
    )
    parser.add_argument("--profile", choices=["gang-fifo", "gang-easy"])
    parser.add_argument("--reading", action="store_true", help="only the reading of large files")
    parser.add_argument("--queues", action="store_true", help="only the rows about queues")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        name, *arguments = chosen.one
        result = MEASUREMENTS[name](*arguments)
        print(json.dumps({**result, "peak_mib": peak_mib()}))
        return 0
    if chosen.profile:
        profile(chosen.profile)
        return 0
    size = QUICK if chosen.quick else FULL
    print(f"The core and the engines run {compiled.which()}", flush=True)
    rows: list[Row] = []
    sources = (peer_rows, scaling_rows, reading_rows, queue_rows)
    if chosen.reading or chosen.queues:
        sources = (reading_rows,) if chosen.reading else (queue_rows,)
    for source in sources:
        for one in source(size, chosen.quick):
            print(table([one])[-1], flush=True)
            rows.append(one)
    if not (chosen.quick or chosen.no_study or chosen.reading or chosen.queues):
        rows.append(study_row())
        print(table(rows[-1:])[-1])
    return report(rows, write_docs=chosen.write_docs)


if __name__ == "__main__":
    sys.exit(main())
