"""Write notebooks/slurm.txt: three days of a small cluster, as `sacct -a -P` prints them.

Run from the root of the repository: python tests/notebooks/slurm_log.py > notebooks/slurm.txt
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import numpy as np

HEADER = (
    "JobID|JobIDRaw|User|Account|Partition|State|Submit|Start|End|ElapsedRaw|TimelimitRaw"
    "|NNodes|NCPUS|ReqTRES|AllocTRES"
)
BEGIN = datetime(2026, 10, 5)  # a Monday
NUM_JOBS = 300
DAYS = 3
CPUS_PER_GPU = 16
GPUS_PER_NODE = 4
USERS = (("ana", "vision"), ("ben", "vision"), ("chen", "language"), ("dina", "language"),
         ("emil", "biology"))  # fmt: skip


def lines(seed: int = 5) -> Iterator[str]:
    """Yield the log: jobs of 0 to 16 GPUs that come mostly by day, each with its batch step."""
    random = np.random.default_rng(seed)
    yield HEADER
    days = random.integers(0, DAYS, NUM_JOBS)
    hours = np.clip(random.normal(13.5, 3.5, NUM_JOBS), 0.0, 23.9)
    for number, at_s in enumerate(np.sort(days * 86_400 + hours * 3_600), start=4001):
        user, account = USERS[random.integers(len(USERS))]
        gpus = int(random.choice([0, 1, 2, 4, 8, 16], p=[0.25, 0.32, 0.13, 0.17, 0.09, 0.04]))
        nodes = max(1, gpus // GPUS_PER_NODE)
        cpus = gpus * CPUS_PER_GPU or int(random.choice([4, 16, 32]))
        run_s = int(np.clip(random.lognormal(8.3, 1.1), 60, 86_400))
        limit_min = int(60 * np.ceil(run_s * random.uniform(1.1, 4.0) / 3_600))
        wait_s = int(random.exponential(900 if gpus < 8 else 5_400))
        state = random.choice(["COMPLETED", "FAILED", "CANCELLED by 1003"], p=[0.86, 0.09, 0.05])
        submit = BEGIN + timedelta(seconds=int(at_s))
        start = submit + timedelta(seconds=wait_s)
        times = (start.isoformat(), (start + timedelta(seconds=run_s)).isoformat(), str(run_s))
        gres = f",gres/gpu:a100={gpus},gres/gpu={gpus}" if gpus else ""
        tres = f"billing={cpus},cpu={cpus}{gres},mem={8 * cpus}G,node={nodes}"
        partition = "gpu" if gpus else "cpu"
        shape = (str(nodes), str(cpus))
        yield "|".join(
            (str(number), str(number), user, account, partition, str(state), submit.isoformat(),
             *times, str(limit_min), *shape, tres, tres)
        )  # fmt: skip
        step = f"{number}.batch"
        yield "|".join(
            (step, step, "", account, "", str(state).split()[0], start.isoformat(), *times, "",
             "1", str(cpus // nodes), "", f"cpu={cpus // nodes},mem={8 * cpus // nodes}G,node=1")
        )  # fmt: skip


if __name__ == "__main__":
    print("\n".join(lines()))
