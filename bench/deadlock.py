"""Two gangs that each want the whole cluster, in every admission mode: prints a Markdown table.

`together`: both are submitted at once on ten idle nodes. `draining`: they come one second apart
while ten one-node jobs end one after the other, 100 s apart.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sim import RunResult, run

NODES = 10
MODES = ("pod", "permit", "gang")


def _job(name: str, submit_s: float, duration_s: float, num_pods: int) -> dict[str, object]:
    return {
        "job": name,
        "submit_s": submit_s,
        "duration_s": duration_s,
        "num_pods": num_pods,
        "gpus_per_pod": 8,
    }


SCENARIOS = {
    "together": pd.DataFrame([_job(name, 0.0, 1000.0, NODES) for name in "ab"]),
    "draining": pd.DataFrame(
        [_job(f"small-{i}", 0.0, 100.0 * (i + 1), 1) for i in range(NODES)]
        + [_job("a", 1.0, 1000.0, NODES), _job("b", 2.0, 1000.0, NODES)]
    ),
}


def simulate(scenario: str, mode: str) -> RunResult:
    """Run one scenario with control plane `kubernetes`."""
    return run(SCENARIOS[scenario], nodes=NODES, admission=mode, control_plane="kubernetes")


def table() -> pd.DataFrame:
    """Return attempts, last end and GPU-hours lost of the two gangs, per scenario and mode."""
    rows = []
    for scenario in SCENARIOS:
        for mode in MODES:
            result = simulate(scenario, mode)
            gangs = result.jobs[result.jobs["job"].isin(["a", "b"])]
            ours = result.attempts[result.attempts["job"].isin(["a", "b"])]
            rows.append(
                {
                    "scenario": scenario,
                    "mode": mode,
                    "attempts": int(gangs["attempts"].sum()),
                    "timeouts": int(ours["outcome"].str.endswith("timeout").sum()),
                    "both done after s": round(float(gangs["end_s"].max())),
                    "GPU-hours lost": round(float(gangs["lost_gpu_s"].sum()) / 3600, 2),
                }
            )
    return pd.DataFrame(rows)


def main() -> None:
    rows = table()
    print("| " + " | ".join(rows.columns) + " |")
    print("|" + "---|" * len(rows.columns))
    for row in rows.itertuples(index=False):
        print("| " + " | ".join(str(value) for value in row) + " |")


if __name__ == "__main__":
    main()
