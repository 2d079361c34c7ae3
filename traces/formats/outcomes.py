"""How jobs ended: the words of each format, and what each becomes.

A word that a table lacks becomes "unknown", and is counted and named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import pandas as pd

from traces.schema import shown

COMPLETED, CANCELLED, FAILED, UNKNOWN = "completed", "cancelled", "failed", "unknown"
#: it still ran when the file was made: its run time is a lower bound
UNFINISHED = "unfinished"

#: Slurm's job states (sacct, Helios, Acme), of which a job that ran may have these
SLURM = {
    "COMPLETED": COMPLETED,
    "CANCELLED": CANCELLED,
    "FAILED": FAILED,
    "TIMEOUT": FAILED,
    "DEADLINE": FAILED,
    "NODE_FAIL": FAILED,
    "OUT_OF_MEMORY": FAILED,
    "BOOT_FAIL": FAILED,
    "LAUNCH_FAILED": FAILED,
    "PREEMPTED": FAILED,
    "REVOKED": CANCELLED,
    "REQUEUED": FAILED,  # this attempt; another one follows
    "SPECIAL_EXIT": FAILED,
    "RESIZING": COMPLETED,  # the part of its life in one size
    "RUNNING": UNFINISHED,
    "SUSPENDED": UNFINISHED,
    "STOPPED": UNFINISHED,
    "COMPLETING": UNFINISHED,
    "SIGNALING": UNFINISHED,
    "STAGE_OUT": UNFINISHED,
}
#: field 11 of SWF; 2 to 4 are of partial executions without a summary, and 2 the last that is known
SWF = {"0": FAILED, "1": COMPLETED, "2": UNFINISHED, "3": COMPLETED, "4": FAILED, "5": CANCELLED,
       "-1": UNKNOWN}  # fmt: skip
#: phases of a Kubernetes pod (openb, pod lists)
POD_PHASES = {"Succeeded": COMPLETED, "Failed": FAILED, "Running": UNFINISHED}
#: `status` of Microsoft's cluster_job_log
PHILLY = {"Pass": COMPLETED, "Killed": CANCELLED, "Failed": FAILED}
#: `status` of Alibaba PAI's tables: "only Terminated tasks are successful"
PAI = {"Terminated": COMPLETED, "Failed": FAILED, "Running": UNFINISHED, "Waiting": UNKNOWN}
#: field 11 of the Grid Workload Format
GWF = {"0": FAILED, "1": COMPLETED, "5": CANCELLED, "-1": UNKNOWN}
#: the words of a jobs table, in lower case: ours, and those of every format above
WORDS = {word: word for word in (COMPLETED, CANCELLED, FAILED, UNKNOWN, UNFINISHED)} | {
    word.lower(): outcome
    for table in (SLURM, POD_PHASES, PHILLY, PAI)
    for word, outcome in table.items()
}
_CANCELED = re.compile(r"cancell?ed( by .*|\+)?")

#: why a gang of a cluster's log is left out
NEVER_WHOLE = "its pods were never seen running all at once"


def still_ran(count: int) -> tuple[str, ...]:
    """Return the sentence about jobs that had not ended when their file was made, if any."""
    if not count:
        return ()
    return (
        f"jobs still running when the file ends: {count:,}; their run time is the time until then",
    )


def slurm_states(words: pd.Series[str]) -> pd.Series[str]:
    """Return Slurm's states without what follows them, as in "CANCELLED by 1000".

    A narrow column cuts them, as OUT_OF_ME+: such a word is the one state that begins so.
    """
    texts = words.fillna("").astype("str").str.upper()
    states = {text: _slurm_state(text) for text in texts.unique()}
    return texts.map(states).astype("str")


def _slurm_state(text: str) -> str:
    match = re.match(r"([A-Z_]+)(\+?)", text)
    if match is None:
        return text
    if match[2] and match[1] not in SLURM:
        begins_so = [state for state in SLURM if state.startswith(match[1])]
        return begins_so[0] if len(begins_so) == 1 else text
    return match[1]


def in_any_words(
    words: pd.Series[str], notes: list[str], column: str = "outcome"
) -> pd.Series[str]:
    """Return outcomes in muster's words; they may come in those of any format and in any case."""
    table = {}
    for word in words.unique():
        plain = str(word).strip().lower()
        if plain in WORDS or _CANCELED.fullmatch(plain):
            table[word] = WORDS.get(plain, CANCELLED)
    is_ours = all(word == outcome for word, outcome in table.items())
    if is_ours and words.isin(list(table)).all():
        return words
    return outcomes(words, table, notes, column)


def outcomes(
    words: pd.Series[str], table: Mapping[str, str], notes: list[str], column: str
) -> pd.Series[str]:
    """Return what each word becomes; add a sentence to `notes` about words that `table` lacks."""
    found = words.map(table)
    strange = words[found.isna()].map(shown)
    if len(strange):
        counts = strange.value_counts()
        named = ", ".join(f"{word!r} ({count:,})" for word, count in counts.head(5).items())
        more = f" and {len(counts) - 5} more words" if len(counts) > 5 else ""
        notes.append(
            f"jobs with an unknown outcome in column {column!r}: {len(strange):,}, {named}{more}; "
            f"they count as {UNKNOWN}"
        )
    return found.fillna(UNKNOWN).astype("str")
