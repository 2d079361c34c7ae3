"""Measure how fast the simulator is, against AccaSim 1.1.3 and against bare simpy.

    python bench/sim.py              all rows; bench/out/sim.json; about twenty-five minutes
    python bench/sim.py --quick      smaller sizes, for a quick look
    python bench/sim.py --write-docs also write the table into docs/benchmarks.md
    python bench/sim.py --only peers | scaling | queues | reading
    python bench/sim.py --profile gang-fifo | gang-easy

Every measurement is a fresh process. Times are CPU seconds; the two sides of a ratio take turns,
and the median of each side counts. A row that misses its target is printed as missed; one that
falls below its floor, well under earlier measurements, fails the command.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import queues
from bench.peer import PEER_NODES, peer_jobs, peer_rows
from bench.processes import FULL, QUICK, Size, measured
from bench.rows import OUT, ROOT, Row, in_turns, median, peak_mib, report, row, table
from bench.workloads import GPUS_PER_NODE, SEED, gang_simulation, month, timed
from scheduler import compiled

# -- one measurement, in a process of its own --------------------------------------------------


def measure_peer_jobs(count: str, discipline: str) -> dict[str, float]:
    """Time muster on the jobs of the AccaSim rows."""
    from sim.engines.workload import Workload
    from traces import schema

    work = Workload(schema.complete(peer_jobs(int(count))))
    return timed(gang_simulation(work, PEER_NODES, discipline, "ideal"))


def measure_month(nodes: str, days: str, discipline: str) -> dict[str, float]:
    """Time muster on a calibrated month."""
    from sim.engines.workload import Workload

    work = Workload(month(int(nodes), float(days)))
    return timed(gang_simulation(work, int(nodes), discipline))


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
    **queues.MEASUREMENTS,
}


# -- all of them -------------------------------------------------------------------------------


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


#: rows by what they are about
SOURCES: dict[str, Callable[[Size, bool], Iterator[Row]]] = {
    "peers": peer_rows,
    "scaling": scaling_rows,
    "queues": queues.queue_rows,
    "reading": reading_rows,
}


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
    simulation = gang_simulation(work, FULL.nodes, discipline)
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
    parser.add_argument("--only", choices=SOURCES, help="only the rows about this")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.only and chosen.write_docs:
        parser.error("--write-docs writes the whole table; leave out --only")
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
    for source in [SOURCES[chosen.only]] if chosen.only else SOURCES.values():
        for one in source(size, chosen.quick):
            print(table([one])[-1], flush=True)
            rows.append(one)
    if not (chosen.quick or chosen.no_study or chosen.only):
        rows.append(study_row())
        print(table(rows[-1:])[-1])
    return report(rows, write_docs=chosen.write_docs)


if __name__ == "__main__":
    sys.exit(main())
