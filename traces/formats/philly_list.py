"""Microsoft Philly's jobs as a list: timestamp, duration, num_gpus, gpu_time, cluster.

The form in which Sia's artifact publishes them (Jayaram Subramanya et al., SOSP 2023).
"""

from __future__ import annotations

import pandas as pd

from traces.formats.dates import times
from traces.formats.interface import Options, Reading
from traces.formats.rows import numbers, reject, settle_columns, sound_and
from traces.formats.source import Source
from traces.formats.text import read_table
from traces.philly import canonical
from traces.schema import BadCell


def read(source: Source, options: Options) -> Reading:
    """Return the jobs in order of submission.

    Raises:
        TraceError: the file is not of that form, or has bad rows that may not be skipped.
    """
    table = read_table(source, options.columns)
    settle_columns(table, ("timestamp", "duration", "num_gpus", "cluster"))
    bad: list[BadCell] = []
    submit_s = times(table, "timestamp", bad, options.dates)
    duration_s = numbers(table, "duration", 0.0, bad)
    gpus = numbers(table, "num_gpus", 1.0, bad, whole=True)
    bad = sound_and(table, bad)
    rejected = reject(table, bad, options.on_bad_row)
    kept = table.rows_but(bad)
    parsed = pd.DataFrame(
        {
            "submit_unix_s": submit_s[kept],
            "duration_s": duration_s[kept],
            "gpus": gpus[kept].astype("int32"),
            "vc": table.rows["cluster"][kept].fillna("").astype("str"),
        }
    ).sort_values("submit_unix_s", kind="stable", ignore_index=True)
    return Reading(canonical(parsed, options.gpus_per_node), rejected)
