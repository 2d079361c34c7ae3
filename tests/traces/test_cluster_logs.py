"""Logs of a live cluster as jobs files: lists of pods, audit logs, muster's journal."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import traces
from traces import TraceError

ZERO = 1_772_352_000  #: 2026-03-01 08:00:00 UTC


def stamp(second: float) -> str:
    whole = ZERO + int(second)
    from datetime import UTC, datetime

    return datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def pod(
    name: str,
    created: float,
    starts: float | None = None,
    ends: float | None = None,
    *,
    phase: str = "",
    gang: str = "",
    index: int = 0,
    role: str = "worker",
    gpus: int = 8,
    uid: str = "u1",
    **meta: Any,
) -> dict[str, Any]:
    """Return a pod as the API server shows it; times are seconds."""
    labels = {}
    owners = []
    if gang:
        labels = {
            "training.kubeflow.org/job-name": gang,
            "training.kubeflow.org/replica-type": role,
            "training.kubeflow.org/replica-index": str(index),
        }
        owners = [{"kind": "PyTorchJob", "name": gang, "uid": uid, "controller": True}]
    requests = {"cpu": "4", "memory": "32Gi"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    state: dict[str, Any] = {}
    if starts is not None and ends is None:
        state = {"running": {"startedAt": stamp(starts)}}
    elif starts is not None and ends is not None:
        times = {"startedAt": stamp(starts), "finishedAt": stamp(ends)}
        state = {"terminated": {"exitCode": 0, **times}}
    ran = "Succeeded" if ends is not None else "Running" if starts is not None else "Pending"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": f"{name}-uid",
            "creationTimestamp": stamp(created),
            "labels": labels,
            "ownerReferences": owners,
            **meta,
        },
        "spec": {"containers": [{"name": "main", "resources": {"requests": requests}}]},
        "status": {
            "phase": phase or ran,
            **({"containerStatuses": [{"name": "main", "state": state}]} if state else {}),
        },
    }


def listed(path: Path, items: Iterable[dict[str, Any]], kind: str = "List") -> Path:
    path.write_text(json.dumps({"apiVersion": "v1", "kind": kind, "items": list(items)}))
    return path


GANG = [
    pod("a-master-0", 0, 60, 700, gang="a", role="master"),
    pod("a-worker-0", 1, 70, 690, gang="a"),
    pod("a-worker-1", 2, 65, 700, gang="a", index=1),
]


@pytest.mark.parametrize("kind", ["List", "PodList"])
def test_pods_of_a_gang_are_one_job(tmp_path: Path, kind: str) -> None:
    loaded = traces.load(listed(tmp_path / "pods.json", GANG, kind))
    (row,) = loaded.jobs.to_dict("records")
    assert (loaded.kind, loaded.why) == ("pods", "it holds Pods")
    assert (row["job"], row["num_pods"], row["gpus_per_pod"]) == ("team/a", 3, 8)
    assert row["duration_s"] == 630, "from when the last began until the last ended"
    assert (row["outcome"], row["queue"], row["cpu_per_pod"]) == ("completed", "team", 4)
    assert row["mem_gib_per_pod"] == 32
    assert loaded.offset_s == ZERO


def test_a_gang_whose_class_never_preempts_evicts_nobody(tmp_path: Path) -> None:
    pods = [pod(f"{name}-{at}", 0, 1, 9, gang=name, index=at) for name in "ab" for at in (0, 1)]
    for one in pods[2:]:
        one["spec"]["preemptionPolicy"] = "Never"
    jobs = traces.load(listed(tmp_path / "pods.json", pods)).jobs.set_index("job")
    assert jobs["evicts"].to_dict() == {"team/a": True, "team/b": False}


def test_a_local_queue_is_one_of_its_namespace(tmp_path: Path) -> None:
    """LocalQueues of one name may lead to different ClusterQueues; imports name them like that."""
    named = {"labels": {"kueue.x-k8s.io/queue-name": "main"}}
    items = [
        pod("b", 0, 1, 9, **named),
        pod("c", 0, 1, 9, namespace="text", **named),
        pod("d", 0, 1, 9, annotations={"muster.dev/queue": "own"}),
    ]
    queues = traces.load(listed(tmp_path / "pods.json", items)).jobs.set_index("job")["queue"]
    assert sorted(queues) == ["own", "team/main", "text/main"]


def test_pods_come_as_an_array_too_and_one_after_the_other(tmp_path: Path) -> None:
    array, lines = tmp_path / "array.json", tmp_path / "lines.json"
    array.write_text(json.dumps(GANG))
    lines.write_text("\n".join(json.dumps(one) for one in GANG))
    whole = traces.load(listed(tmp_path / "pods.json", GANG)).jobs
    for path in (array, lines):
        assert traces.load(path).jobs.equals(whole)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_shell_may_save_them_in_another_encoding(tmp_path: Path, encoding: str) -> None:
    """PowerShell writes what a program prints as UTF-16."""
    paths = (
        listed(tmp_path / "pods.json", GANG),
        logged(tmp_path / "audit.log", audited(GANG, (60, 700))),
    )
    for path in paths:
        jobs = traces.load(path).jobs
        path.write_text(path.read_text(), encoding=encoding)
        assert traces.load(path).jobs.equals(jobs), path.name


def test_what_a_list_of_pods_leaves_out_is_counted(tmp_path: Path) -> None:
    items = [
        *GANG,
        pod("waits", 5),
        pod("half-0", 6, 80, gang="half", uid="u2"),
        pod("half-1", 6, gang="half", index=1, uid="u2"),
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "team"}},
    ]
    loaded = traces.load(listed(tmp_path / "pods.json", items))
    assert loaded.jobs["job"].tolist() == ["team/a"]
    assert loaded.left_out == {
        "its pods were never seen running all at once": 2, "not a pod": 1,
    }  # fmt: skip
    assert loaded.num_bad == 0
    assert any("audit log" in note for note in loaded.notes)


def test_pods_of_no_gang_are_jobs_of_their_own_and_those_that_run_are_lower_bounds(
    tmp_path: Path,
) -> None:
    items = [pod("notebook", 0, 10, gpus=1), pod("other", 5, 8, 30, phase="Failed", gpus=0)]
    loaded = traces.load(listed(tmp_path / "pods.json", items))
    rows = loaded.jobs.set_index("job")
    assert rows.loc["team/notebook", "outcome"] == "unfinished"
    assert rows.loc["team/notebook", "duration_s"] == 20, "until the last moment in the file"
    assert rows.loc["team/other", "outcome"] == "failed"
    assert any("still running" in note for note in loaded.notes)


def test_a_pod_of_several_containers_runs_from_the_last_start_to_the_last_end(
    tmp_path: Path,
) -> None:
    solo = pod("solo", 0, 10, 100)
    late = pod("late", 0, 25, 130)["status"]["containerStatuses"]
    solo["status"]["containerStatuses"] += late
    (row,) = traces.load(listed(tmp_path / "pods.json", [solo])).jobs.to_dict("records")
    assert row["duration_s"] == 105


def test_a_job_that_was_submitted_again_is_another_and_a_replaced_rank_is_none(
    tmp_path: Path,
) -> None:
    items = [
        pod("a-0", 0, 10, 100, gang="a", uid="u1"),
        pod("a-0", 200, 210, 300, gang="a", uid="u2"),
        pod("b-0", 400, 410, 500, phase="Failed", gang="b", uid="u3"),
        pod("b-0x", 510, 520, 700, gang="b", uid="u3"),
    ]
    rows = traces.load(listed(tmp_path / "pods.json", items)).jobs
    assert rows["job"].tolist() == ["team/a", "team/a (run 2)", "team/b"]
    assert rows["num_pods"].tolist() == [1, 1, 1]
    assert rows["duration_s"].tolist() == [90, 90, 270], "both lives of the rank"


def test_pods_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    broken = pod("odd", 0, 1, 2)
    broken["spec"]["containers"][0]["resources"]["requests"]["nvidia.com/gpu"] = "many"
    path = listed(tmp_path / "pods.json", [*GANG, broken])
    with pytest.raises(TraceError, match="1 bad value in 1 of 4 rows: item 4 is not a pod"):
        traces.load(path)
    loaded = traces.load(path, on_bad_row="skip")
    assert (len(loaded.jobs), loaded.num_bad) == (1, 1)
    with pytest.raises(TraceError, match="none of its 1 items is a pod that ran"):
        traces.load(listed(path, [pod("waits", 0)]))
    path.write_text('{"kind": "PodList", "items": [')
    with pytest.raises(TraceError, match="kubectl get pods -A -o json"):
        traces.load(path, kind="pods")


def event(
    verb: str,
    second: float,
    name: str,
    subresource: str = "",
    answer: object = None,
    request: object = None,
    **more: Any,
) -> dict[str, Any]:
    """Return an event of an audit log."""
    return {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "RequestResponse",
        "stage": "ResponseComplete",
        "verb": verb,
        "objectRef": {
            "resource": "pods", "namespace": "team", "name": name, "subresource": subresource,
        },
        "responseStatus": {"code": 200},
        "requestObject": request,
        "responseObject": answer,
        "stageTimestamp": stamp(second),
        **more,
    }  # fmt: skip


def logged(path: Path, events: Iterable[object]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in events))
    return path


def audited(pods: Iterable[dict[str, Any]], times: tuple[float, float]) -> list[dict[str, Any]]:
    """Return the creation, binding and deletion of pods; `times` are of the last two."""
    found = []
    for one in pods:
        name = one["metadata"]["name"]
        made = {**one, "status": {"phase": "Pending"}}
        created = one["metadata"]["creationTimestamp"]
        found.append(event("create", 0, name, answer=made) | {"stageTimestamp": created})
        found.append(event("create", times[0], name, "binding"))
        found.append(event("delete", times[1], name))
    return found


def test_an_audit_log_of_pods_made_bound_and_deleted_is_enough(tmp_path: Path) -> None:
    loaded = traces.load(logged(tmp_path / "audit.log", audited(GANG, (60, 700))))
    (row,) = loaded.jobs.to_dict("records")
    assert (loaded.kind, row["job"], row["num_pods"]) == ("audit", "team/a", 3)
    assert (row["duration_s"], row["outcome"]) == (640, "cancelled")
    assert loaded.offset_s == ZERO


def test_status_updates_of_an_audit_log_say_more(tmp_path: Path) -> None:
    events = audited(GANG[:1], (60, 700))
    running, ended = ({"kind": "Pod", "status": {"phase": p}} for p in ("Running", "Succeeded"))
    events[2:2] = [
        event("patch", 75, "a-master-0", "status", answer=running),
        event("patch", 500, "a-master-0", "status", request=ended),
        event("patch", 600, "a-master-0", "status", answer=ended, responseStatus={"code": 409}),
    ]
    (row,) = traces.load(logged(tmp_path / "audit.log", events)).jobs.to_dict("records")
    assert (row["duration_s"], row["outcome"]) == (425, "completed")


def test_an_audit_log_without_pods_content_says_how_to_get_it(tmp_path: Path) -> None:
    bare = [one | {"responseObject": None} for one in audited(GANG, (60, 700))]
    with pytest.raises(TraceError, match="9 events name pods; log pods with level Request: "):
        traces.load(logged(tmp_path / "audit.log", bare))


def test_lines_of_an_audit_log_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = logged(tmp_path / "audit.log", audited(GANG, (60, 700)))
    path.write_text(path.read_text() + "{cut off\n")
    with path.open("a") as file:
        file.write("not JSON\n")
    with pytest.raises(TraceError, match="line 11 is not an audit event"):
        traces.load(path)
    assert traces.load(path, on_bad_row="skip").num_bad == 1


def test_a_list_of_audit_events_is_read_as_well(tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    events = audited(GANG, (60, 700))
    whole = {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": events}
    path.write_text(json.dumps(whole))
    lines = traces.load(logged(tmp_path / "audit.log", events)).jobs
    assert traces.load(path).jobs.equals(lines)


JOURNALS = Path(__file__).resolve().parents[1] / "scheduler/journal"


def test_a_journal_holds_every_gang_that_ran(shared_journal: Path) -> None:
    from scheduler.core.events import Admitted
    from scheduler.journal.history import told
    from scheduler.journal.lines import lines

    loaded = traces.load(shared_journal)
    entries = told((str(number), line) for number, line in lines(shared_journal))
    admitted = {entry.item.gang for entry in entries if isinstance(entry.item, Admitted)}
    names = {name.partition(" (run ")[0] for name in loaded.jobs["job"]}
    assert loaded.kind == "journal"
    assert names <= admitted
    left_out = loaded.left_out.get("its pods were never seen running all at once", 0)
    assert len(admitted - names) <= left_out, "admitted in the last instant"
    assert (loaded.jobs["duration_s"] > 0).all()


@pytest.fixture(params=["format1", "format2", "several_gangs"])
def shared_journal(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    import gzip

    packed = JOURNALS / f"{request.param}.jsonl.gz"
    path = tmp_path / "journal.jsonl"
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    return path


def test_bad_lines_of_a_journal_are_named(shared_journal: Path) -> None:
    whole = shared_journal.read_text().splitlines(keepends=True)
    shared_journal.write_text("".join([whole[0], "nonsense\n", *whole[1:]]))
    with pytest.raises(TraceError, match="line 2 is not a journal line"):
        traces.load(shared_journal)
    assert traces.load(shared_journal, on_bad_row="skip").num_bad == 1


@pytest.mark.parametrize(
    ("amount", "says"),
    [
        ("abc", "item 1 is not a pod .*nvidia.com/gpu is 'abc'"),
        ("", "nvidia.com/gpu is ''"),
        ("-1", "it asks for -1 GPUs; give 0 to"),
        ("3000000000", "it asks for 3,000,000,000 GPUs"),
        ("1e30", "nvidia.com/gpu is '1e30': .*too large"),
    ],
)
def test_odd_quantities_are_named(tmp_path: Path, amount: str, says: str) -> None:
    path = tmp_path / "pods.json"
    odd = pod("odd", 0, 10, 100, phase="Succeeded")
    odd["spec"]["containers"][0]["resources"]["requests"]["nvidia.com/gpu"] = amount
    sound = pod("sound", 0, 10, 100, phase="Succeeded")
    path.write_text(json.dumps({"kind": "List", "items": [odd, sound]}))
    with pytest.raises(TraceError, match=f"in 1 of 2 rows: {says}|{says}"):
        traces.load(path)
    assert len(traces.load(path, on_bad_row="skip").jobs) == 1


def test_parts_of_gpus_are_counted_and_named(tmp_path: Path) -> None:
    path = tmp_path / "pods.json"
    half = pod("half", 0, 10, 100, phase="Succeeded")
    half["spec"]["containers"][0]["resources"]["requests"]["nvidia.com/gpu"] = "0.5"
    path.write_text(json.dumps({"kind": "List", "items": [half]}))
    loaded = traces.load(path)
    assert loaded.jobs["gpus_per_pod"].tolist() == [1]
    assert any("a part of a GPU: 1, such as" in note for note in loaded.notes)
