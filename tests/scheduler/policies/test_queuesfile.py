"""The queues file: its words, its faults with the way out, and that it reads as it was written."""

from __future__ import annotations

from dataclasses import fields

import pytest

from scheduler.core.queues import (
    Cohort,
    Flavor,
    Holding,
    Preference,
    Queue,
    Queues,
    Quota,
    Search,
    Serve,
    ShareRule,
    Sharing,
    Victims,
)
from scheduler.policies import queuesfile

FULL = """
[[flavor]]
name = "h100"
gpu_model = "H100"

[[flavor]]
name = "spare \\"a\\""
pool = "a"
labels = { "zone/x" = "1" }

[[cohort]]
name = "all"
quota.h100.gpus = 8

[[cohort]]
name = "research"
parent = "all"
weight = 0.5

[[queue]]
name = "vision"
cohort = "research"
weight = 2
flavors = ["h100", "spare \\"a\\""]
discipline = "easy"
within = "lower-or-newer-equal-priority"
reclaim = "any"
borrow_within = "lower-priority"
max_priority = -5
when_can_borrow = "try-next"
when_can_preempt = "stop"
preference = "preemption-over-borrowing"
quota.h100.gpus = { nominal = 32, borrow = 16, lend = 0 }
quota.h100.cpus = 1.5
quota.h100.mem_gib = { borrow = 0.5 }
quota.'spare "a"'."rdma/hca" = 3

[aliases]
"team/main" = "vision"

[sharing]
heads = "share"
half_life_s = 3600
k = 0.5
victims = ["less-than-initial-share"]
age_s = 60
age_priority = 7
"""
WORDS = Queues(
    (Flavor("h100", gpu_model="H100"), Flavor('spare "a"', "a", labels={"zone/x": "1"})),
    (
        Cohort("all", quota={"h100": {"gpus": Quota(8)}}),
        Cohort("research", "all", 0.5),
    ),
    (
        Queue(
            "vision",
            "research",
            2.0,
            {
                "h100": {
                    "gpus": Quota(32, 16, 0),
                    "cpu": Quota(1500),
                    "memory": Quota(0, 1 << 29),
                },
                'spare "a"': {"rdma/hca": Quota(3)},
            },
            ("h100", 'spare "a"'),
            Holding.EASY,
            Victims.LOWER_OR_NEWER_EQUAL_PRIORITY,
            Victims.ANY,
            Victims.LOWER_PRIORITY,
            -5,
            Search.TRY_NEXT,
            Search.STOP,
            Preference.PREEMPTION_OVER_BORROWING,
        ),
    ),
    {"team/main": "vision"},
    Sharing(Serve.SHARE, 3600.0, 0.5, (ShareRule.INITIAL,), 60.0, 7),
)


def test_every_word_of_a_file_is_read_and_written() -> None:
    assert queuesfile.read(FULL.encode(), "q.toml") == WORDS
    text = queuesfile.write(WORDS, ["A title", "two\nlines"])
    assert text.startswith("# A title\n# two\n# lines\n\n[[flavor]]")
    assert queuesfile.read(text.encode(), "q.toml") == WORDS


def test_a_file_can_say_all_that_the_core_knows() -> None:
    kinds = {"flavor": Flavor, "cohort": Cohort, "queue": Queue, "sharing": Sharing}
    assert list(queuesfile.KEYS) == list(kinds)
    for kind, one in kinds.items():
        assert set(queuesfile.KEYS[kind]) == {field.name for field in fields(one)}


def test_a_file_without_flavors_has_one_for_all_nodes() -> None:
    text = '[[queue]]\nname = "a"\nquota.gpus = 32\n'
    read = queuesfile.read(text.encode(), "q.toml")
    assert read == Queues(
        (Flavor("default"),), (), (Queue("a", quota={"default": {"gpus": Quota(32)}}),)
    )
    assert queuesfile.write(read) == text


@pytest.mark.parametrize("name", ["gpu.memory", "ephemeral-storage", "fpga", "rdma/hca"])
def test_resources_may_have_any_name_of_their_own(name: str) -> None:
    text = f'[[queue]]\nname = "a"\nquota."{name}" = 3\n'
    assert queuesfile.read(text.encode(), "q").queues[0].quota["default"] == {name: Quota(3)}


QUEUE = '[[queue]]\nname = "a"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = ", "q.toml: Invalid value .*; a queues file is TOML with \\[\\[queue\\]\\] tables"),
        ("\xff", "q.toml: .*codec.*; a queues file is TOML"),
        ("", "there is no queue; add one"),
        ("queue = 3", r"queue is 3; write a \[\[queue\]\] table for each"),
        ('[[queues]]\nname = "a"', "the file: 'queues' is unknown; did you mean 'queue'"),
        ("[[queue]]\nweight = 1", r"\[\[queue\]\] number 1: it has no name; give it one"),
        (QUEUE + "cohor = 'b'", "queue 'a': 'cohor' is unknown; did you mean 'cohort'"),
        (
            QUEUE + "quota.gpus = 1e300",
            "nominal is 1e\\+300; give at most 7.21e",
        ),
        (QUEUE + "quota.mem_gib = 1e30", "nominal is 1e\\+30; give at most 6.71e\\+07"),
        (QUEUE + "quota.cpus = 0.0001", "nominal is 0.0001; give 0, or at least 0.001"),
        (QUEUE + "within = 'Any'", "within is 'Any'; choose one of never, [a-z, -]*priority$"),
        (QUEUE + "borrow_within = 'any'", "borrow_within is 'any'; choose never or lower-priority"),
        (
            QUEUE + "borrow_within = 'Lower'",
            "'Lower'; choose one of never, lower-priority$",
        ),
        ('[[queue]]\nname = "a\\u001bb"', "the name 'a.x1bb' has a character that cannot be pr"),
        (QUEUE + "weight = 'two'", "queue 'a': weight is 'two'; give a number"),
        (QUEUE + "weight = true", "queue 'a': weight is True; give a number"),
        (QUEUE + "weight = nan", "queue 'a': weight is nan; give a number"),
        (QUEUE + "weight = -1", "queue 'a': weight is -1.0; give a number of 0 or more"),
        (QUEUE + "max_priority = 1.5", "queue 'a': max_priority is 1.5; give a whole number"),
        (QUEUE + "reclaim = 'lower'", "reclaim is 'lower'; .*choose one of never, lower-priority"),
        (QUEUE + "discipline = 'Strict'", "discipline is 'Strict'; did you mean 'strict'"),
        (QUEUE + "flavors = 'h100'", "flavors is 'h100'; give a list of names"),
        (QUEUE + "quota = 3", "queue 'a': quota is 3; give a table, such as quota.gpus = 32"),
        (QUEUE + "quota.gpu = 3", "quota for 'gpu', which is no resource; did you mean 'gpus'"),
        (
            QUEUE + "quota.memory = 3",
            "quota for 'memory', which is no resource; did you mean 'mem_gib'",
        ),
        (QUEUE + "quota.gups = 3", "quota for 'gups', which is no resource; did you mean 'gpus'"),
        (QUEUE + "quota.gpus = 1.5", "quota of gpus: nominal is 1.5; give a whole number"),
        (QUEUE + "quota.gpus = { borow = 2 }", "'borow' is unknown; did you mean 'borrow'"),
        (QUEUE + "quota.gpus = { borrow = 2 }", "borrow is 2, but it is in no cohort"),
        (QUEUE + "quota.gpus = -2", "nominal is -2; give a number of 0 or more"),
        (
            "[[flavor]]\nname = 'h'\n" + QUEUE + "quota.gpus = 3",
            "quota.gpus is 3; the file has flavors: give quota.FLAVOR.RESOURCE = AMOUNT",
        ),
        (
            "[[flavor]]\nname = 'h'\n" + QUEUE + "quota.hh.gpus = 3",
            "queue 'a': quota for flavor 'hh', which is unknown; choose one of h",
        ),
        (QUEUE + "[[cohort]]\nname = 'c'\nparent = 'c'", "cohorts c -> c are a cycle; leave out"),
        (QUEUE + "cohort = 'b'", "queue 'a': cohort 'b' is unknown; add a cohort of that name"),
        (QUEUE + "[aliases]\nx = 'b'", "alias 'x' of queue 'b', which is unknown; choose one of a"),
        (QUEUE + "[sharing]\nheads = 'shares'", "sharing: heads is 'shares'; did you mean 'share'"),
        (QUEUE + "[sharing]\nvictims = ['x']", "sharing: victims is 'x'; choose one of less-than"),
        (QUEUE + "[sharing]\nvictims = 'x'", "sharing: victims is 'x'; give a list of rules"),
        (
            QUEUE + "[sharing]\nhalflife_s = 1",
            "'halflife_s' is unknown; did you mean",
        ),
        (
            QUEUE + "[sharing]\nhalf_life_s = 0",
            "half_life_s is 0.0; give a number of",
        ),
        (QUEUE + "[sharing]\nhalf_life_s = 1e-7", "half_life_s is 1e-07; give .* 1e-6 at least"),
        (
            QUEUE + "quota.cpus = 1\n[sharing]\nheads = 'usage'",
            "sharing: heads is 'usage', so past use counts, .* Give quota.gpus to the queues",
        ),
        (QUEUE + "[sharing]\nheads = 'share'\nk = 1", "sharing: k is 1.0, so past use counts"),
        (QUEUE + "[sharing]\nage_s = -1", "age_s is -1.0; give a number of seconds above 0"),
        (QUEUE + "[sharing]\nk = -1", "k is -1.0; give a number of 0 or more"),
        (QUEUE + "[sharing]\nk = 1", "k is 1.0, but heads is 'borrowing'; set heads = 'share'"),
        (QUEUE + "[sharing]\nage_priority = -1", "age_priority is -1; give a whole number of 0"),
        (
            QUEUE + "[sharing]\nvictims = ['less-than-initial-share', 'less-than-initial-share']",
            "sharing: victims has a rule more than once",
        ),
        (QUEUE + "sharing = 1", "queue 'a': 'sharing' is unknown"),
        ("sharing = 1\n" + QUEUE, "sharing is 1; write a table"),
        (QUEUE + "[aliases]\nx = 3", r"the file: aliases is \{'x': 3\}; give a table of texts"),
    ],
)
def test_a_fault_is_named_with_the_file_the_place_and_the_way_out(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^q.toml: .*{message.removeprefix('q.toml: ')}"):
        queuesfile.read(text.encode("latin-1"), "q.toml")


def test_all_faults_are_named_at_once() -> None:
    text = QUEUE + "weigth = 2\nreclaim = 'x'\nquota.gpu = 1"
    with pytest.raises(ValueError, match=r"weigth.*\n.*quota.*\n.*reclaim"):
        queuesfile.read(text.encode(), "q.toml")
