"""Dates: one form a column, none guessed, and words that are none."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

import traces
from traces import TraceError

Write = Callable[..., Path]
#: a table of each format that has dates; its first column of dates is to be filled in
FORMS = {
    "helios": (
        "job_id,user,gpu_num,cpu_num,node_num,state,submit_time,start_time,end_time,duration,queue,vc",
        "{n},u,8,8,1,COMPLETED,{date},x,x,60,q,v",
    ),
    "acme": (
        "job_id,user,node_num,gpu_num,cpu_num,type,state,submit_time,start_time,end_time,duration,queue",
        "{n},u,1,8,8,Pretrain,COMPLETED,{date},x,x,60,q",
    ),
    "philly": ("timestamp,duration,num_gpus,gpu_time,cluster", "{date},60,8,480,vc{n}"),
    "sacct": ("JobID|Submit|ElapsedRaw|AllocTRES", "{n}|{date}|60|gres/gpu=8"),
    "jobs": ("job,submit_s,duration_s,gpus", "{n},{date},60,8"),
}  # fmt: skip


@pytest.fixture(params=FORMS)
def dated(request: pytest.FixtureRequest, written: Write) -> Callable[..., Path]:
    """Write a table of each format with these dates."""
    header, row = FORMS[request.param]

    def write(*dates: str) -> Path:
        rows = [row.format(n=place + 1, date=date) for place, date in enumerate(dates)]
        return written(header, *rows, name="log.csv")

    return write


def unix_s(*parts: int) -> float:
    return datetime(*parts, tzinfo=UTC).timestamp()  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("dates", "order", "first", "gap_days"),
    [
        (("12/04/2020 10:00", "13/04/2020 10:00"), "", (2020, 4, 12, 10), 1),
        (("04/12/2020 10:00", "04/13/2020 10:00"), "", (2020, 4, 12, 10), 1),
        (("12.04.2020 10:00:30", "13.04.2020 10:00:30"), "", (2020, 4, 12, 10, 0, 30), 1),
        (("12-04-2020", "13-04-2020"), "", (2020, 4, 12), 1),
        (("03/04/2020 10:00", "05/04/2020 10:00"), "day-first", (2020, 4, 3, 10), 2),
        (("03/04/2020 10:00", "03/06/2020 10:00"), "month-first", (2020, 3, 4, 10), 2),
        (("2020-04-12 10:00:00", "2020-04-13 10:00:00"), "", (2020, 4, 12, 10), 1),
        (("2020/4/1", "2020/4/2"), "", (2020, 4, 1), 1),
        (("04/04/2020 10:00", "05/05/2020 10:00"), "", (2020, 4, 4, 10), 31),
    ],
)
def test_order_of_day_and_month(
    dated: Callable[..., Path],
    dates: tuple[str, ...],
    order: str,
    first: tuple[int, ...],
    gap_days: int,
) -> None:
    loaded = traces.load(dated(*dates), dates=order)
    assert loaded.offset_s == unix_s(*first)
    assert loaded.jobs["submit_s"].tolist() == [0, 86_400 * gap_days]


@pytest.mark.parametrize(
    "dates",
    [
        ("03/04/2020 10:00", "05/06/2020 10:00"),
        ("03.04.2020", "05.06.2020"),
        ("13/04/2020 10:00", "04/13/2020 10:00"),
    ],
)
def test_dates_that_may_be_read_in_two_ways_are_refused(
    dated: Callable[..., Path], dates: tuple[str, ...]
) -> None:
    with pytest.raises(TraceError, match="say which: --dates day-first or --dates month-first"):
        traces.load(dated(*dates))


@pytest.mark.parametrize(
    "word",
    [
        "now", "today", "yesterday", "10:30", "10:30:00", "2023", "2023-13-01 00:00:00",
        "2023-02-30", "2023-04", "Apr 2023", "12/04/20 10:00", "31/02/2023 10:00",
        "12/04/2020 10:00 PM",
        "2023-04-12 25:00:00", "2023-04-12 10:61", "2023-04-12 10:00:00 CEST",
        "2023-04-12 10:00:00+25:00", "1700000000000000", "-", "?",
    ],
)  # fmt: skip
def test_what_is_no_date(dated: Callable[..., Path], word: str) -> None:
    path = dated("2020-04-12 10:00:00", "2020-04-13 10:00:00", word)
    with pytest.raises(TraceError, match=r"line 4, .*must be a date and time such as 2024-03-01"):
        traces.load(path)
    loaded = traces.load(path, on_bad_row="skip")
    assert (len(loaded.jobs), loaded.num_bad) == (2, 1)


@pytest.mark.parametrize("word", ["now", "today", "10:30", "20:23:01"])
def test_a_column_without_a_single_date(dated: Callable[..., Path], word: str) -> None:
    with pytest.raises(TraceError, match=f"'{word}' must be a"):
        traces.load(dated(word, word))


@pytest.mark.parametrize(
    ("date", "hour"),
    [
        ("2024-03-31T01:30:00Z", 1.5), ("2024-03-31 01:30:00 UTC", 1.5),
        ("2024-03-31 01:30:00GMT", 1.5), ("2024-03-31T03:30:00+02:00", 1.5),
        ("2024-03-31T03:30:00+0200", 1.5), ("2024-03-31 03:30:00+02", 1.5),
        ("2024-03-30T20:00:00-05:30", 1.5), ("2024-03-31 01:30", 1.5),
        ("2024-03-31T01:30:00.000", 1.5), ("2024-03-31 01:30:00.000000001", 1.5),
        ("1711848600", 1.5), ("1711848600.0", 1.5), ("31/03/2024 03:30:00+02:00", 1.5),
    ],
)  # fmt: skip
def test_zones_and_fractions(dated: Callable[..., Path], date: str, hour: float) -> None:
    assert traces.load(dated(date)).offset_s == pytest.approx(unix_s(2024, 3, 31) + hour * 3600)
