"""What users put into objects ends no watch: any depth, any digits, any text."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.kube.devices import DeviceClass, ResourceSlice
from scheduler.kube.objects import NodeObject, Pod, Thing
from scheduler.kube.reading import (
    DEEPEST,
    LEVELS_A_TURN,
    UNREADABLE,
    Reader,
    decode,
    mended,
    mending,
    shallow,
)

KINDS = [Pod, NodeObject, Thing, ResourceSlice, DeviceClass]
META = b'{"name":"x","namespace":"n","uid":"u","resourceVersion":"7"'


def deep(levels: int, opens: bytes = b'{"f:a":', closes: bytes = b"}") -> bytes:
    return opens * levels + b"{}" + closes * levels


def an_object(more_meta: bytes = b"", more: bytes = b"") -> bytes:
    return b'{"metadata":' + META + more_meta + b"}" + more + b"}"


def watched(item: bytes, change: bytes = b"MODIFIED") -> bytes:
    return b'{"type":"' + change + b'","object":' + item + b"}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levels", [900, 1_100, 9_000, 100_000])
def test_fields_of_any_depth_that_nobody_reads_change_nothing(kind: type, levels: int) -> None:
    item = an_object(b',"managedFields":[{"fieldsV1":' + deep(levels) + b"}]")
    told = Reader(kind, "/things").line(watched(item))
    assert told is not None
    assert (told.uid, told.version) == ("u", "7")
    assert told.item == msgspec.json.decode(an_object(), type=kind)
    page = Reader(kind, "/things").page(b'{"metadata":{"continue":"c"},"items":[' + item + b"]}")
    assert (page.items, page.more) == ([told.item], "c")


@pytest.mark.parametrize(
    "spec",
    [
        b'{"a":' + b"9" * 5_000 + b"}", b'{"a":1e99999}', b'{"a":-' + b"9" * 5_000 + b"}",
        b'{"a":"\\ud800"}', b'{"\\uDFFF":1}', b'{"\xff":""}', b'{"a":}',
        b'{"a":' + deep(2_000, b"[", b"]") + b"}",
        b'{"affinity":' + deep(5_000) + b"}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [Pod, Thing])
def test_an_odd_object_hides_no_other(kind: type, spec: bytes) -> None:
    odd = an_object(b"", b',"spec":' + spec)
    reader = Reader(kind, "/things")
    told = reader.line(watched(odd))
    assert told is None or told.uid == "u"
    assert reader.line(watched(an_object(), b"DELETED")) is not None
    if b":}" not in spec:  # the API server sends no list that is none
        page = reader.page(b'{"metadata":{},"items":[' + odd + b"," + an_object() + b"]}")
        assert len(page.items) + len(page.unread) == 2
        assert page.items


def test_halves_of_characters_are_replaced_and_whole_ones_kept() -> None:
    spec = rb',"spec":{"a":"\ud83d\ude00 \\ud800 \ud800x \\\udc00 \u00e4"}'
    told = Reader(Thing, "/things").line(watched(an_object(b"", spec)))
    assert told is not None
    assert told.item is not None
    assert told.item.spec["a"] == "\U0001f600 \\ud800 \ufffdx \\\ufffd \u00e4"


@pytest.mark.parametrize(
    "part", [rb"\"", rb"\ud800", rb"\ud83d\ude00", rb'":{},"f', rb'":{"a":[0]},"f']
)
def test_a_long_object_is_mended_without_a_step_for_each_part_of_it(part: bytes) -> None:
    def num_calls(times: int) -> int:
        content = b'{"f' + part * times + b'":{}}'
        calls: list[str] = []
        sys.setprofile(lambda frame, event, arg: calls.append(event))
        mended(content)
        sys.setprofile(None)
        return len(calls)

    assert num_calls(10_000) == num_calls(10)


@pytest.mark.parametrize("level", [b"[0,", b"[", b'{"a":'])
def test_deep_levels_are_cut_out_bit_by_bit(level: bytes) -> None:
    end = b"}" if level.startswith(b"{") else b"]"
    content = b"[" + (level * 9_000 + b"1" + end * 9_000 + b",") * 10 + b"0]"
    assert len(list(mending(content))) > 10 * 2 * 9_000 // LEVELS_A_TURN
    assert max(map(len, mending(content))) < 10 * (DEEPEST * (len(level) + 1) + 10)


def test_what_is_no_list_is_said_so() -> None:
    with pytest.raises(ValueError, match="/things: not a list"):
        Reader(Thing, "/things").page(b'{"metadata":{},"items":[}]}')


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=30,
)


def cut(value: Any, deepest: int) -> Any:
    """The same rule on Python's objects."""
    if isinstance(value, list | dict) and deepest <= 0:
        return None
    if isinstance(value, list):
        return [cut(each, deepest - 1) for each in value]
    if isinstance(value, dict):
        return {name: cut(each, deepest - 1) for name, each in value.items()}
    return value


@given(value=anything, deepest=st.integers(0, 5))
def test_only_what_lies_deeper_is_cut_out(value: Any, deepest: int) -> None:
    text = json.dumps(value).encode()
    assert json.loads(shallow(text, deepest)) == cut(value, deepest)


@given(content=st.binary(max_size=200) | st.text('[]{}",:\\a1', max_size=60).map(str.encode))
def test_bytes_that_are_no_json_raise_what_callers_catch(content: bytes) -> None:
    shallow(content)
    with contextlib.suppress(UNREADABLE):
        decode(msgspec.json.Decoder(Thing), content)
    assert Reader(Thing, "/things").line(content) is None or b"metadata" in content


def test_what_muster_reads_lies_far_above_what_is_cut() -> None:
    term = b'{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"a":["b"]}]}}'
    spec = b',"spec":{"affinity":{"nodeAffinity":' + term + b"}}"
    item = an_object(b',"managedFields":' + deep(3_000), spec)
    told = Reader(Pod, "/pods").line(watched(item))
    assert told is not None
    assert told.item == msgspec.json.decode(an_object(b"", spec), type=Pod)
    assert DEEPEST > 20
