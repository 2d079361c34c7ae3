"""Measure how fast muster binds gangs on a real control plane, against stock and native gangs.

All paths bind the same pods on equally many simulated nodes. They take turns in one run on one
machine, with the load generator on the same cores. Prints a table and writes bench/out/live.json.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import live_curves, live_jobs, live_steps
from bench.live_curves import Trace
from bench.rows import write_between
from scheduler import whole
from scheduler.controlplane import cluster as clusters
from scheduler.controlplane import objects
from scheduler.controlplane.record import Cluster, load
from scheduler.kube.api import MERGE, Api, ApiError, Turn

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "bench" / "out" / "live.json"
SPACE = "default"
PODS = f"/api/v1/namespaces/{SPACE}/pods"
TICKS = os.sysconf("SC_CLK_TCK")
QUIET_WITHIN_S = 120
EVENTS_PER_S = 50  #: of nodes, while filter is timed
CPU_SHARE = "muster CPU / API server CPU"
GATING = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings/muster-gate"
PATHS = ("stock", "native", "pinned", "direct")
ROUNDS = 10  #: bursts of Jobs
_BURSTS = itertools.count()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def pod(name: str, gang: str, path: str) -> dict[str, Any]:
    """Return a pod of eight GPUs for one of the paths."""
    has = {"limits": {"nvidia.com/gpu": "8"}, "requests": {"cpu": "1"}}
    spec: dict[str, Any] = {"containers": [{"name": "main", "image": "train:1", "resources": has}]}
    labels = {"app": "bench"}
    match path:
        case "native":
            spec["schedulingGroup"] = {"podGroupName": gang}
        case "pinned" | "extender":
            labels["scheduling.x-k8s.io/pod-group"] = gang
        case "direct":
            labels["scheduling.x-k8s.io/pod-group"] = gang
            spec["schedulerName"] = "muster-direct"
    meta: dict[str, Any] = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def group(name: str, size: int, path: str) -> tuple[str, dict[str, Any]] | None:
    """Return (address, object) of the gang's own object, if the path has one."""
    if path == "stock":
        return None
    if path == "native":
        version, policy = (
            "scheduling.k8s.io/v1beta1",
            {"schedulingPolicy": {"gang": {"minCount": size}}},
        )
    else:
        version, policy = "scheduling.x-k8s.io/v1alpha1", {"minMember": size}
    body = {"apiVersion": version, "kind": "PodGroup", "metadata": {"name": name}, "spec": policy}
    return f"/apis/{version}/namespaces/{SPACE}/podgroups", body


class _Meta(msgspec.Struct, rename="camel"):
    name: str
    resource_version: str


class _Spec(msgspec.Struct, rename="camel"):
    node_name: str = ""
    scheduling_gates: list[Any] = []


class _Pod(msgspec.Struct):
    metadata: _Meta
    spec: _Spec


class _Line(msgspec.Struct):
    type: str
    object: _Pod


async def watch(
    api: Api, version: str, bound_s: dict[str, float], free_s: dict[str, float]
) -> None:
    """Note when each pod was first seen free of gates, and bound."""
    decoder = msgspec.json.Decoder(_Line)
    while True:  # the server ends a watch whose reader is slow
        query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": "3600"}
        async for line in api.lines(PODS, query):
            now_s = time.perf_counter()
            event = decoder.decode(line)
            meta, spec = event.object.metadata, event.object.spec
            version = meta.resource_version
            if not spec.scheduling_gates:
                free_s.setdefault(meta.name, now_s)
            if spec.node_name and event.type != "DELETED":
                bound_s.setdefault(meta.name, now_s)


def cpu_s(cluster: Cluster) -> dict[str, float]:
    """Return CPU seconds used so far by each component; muster without its supervisor."""
    used = {}
    for process in cluster.processes:
        pid = process.pid
        if process.name == "muster":
            pid = child_of(pid)
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used[process.name] = (int(fields[11]) + int(fields[12])) / TICKS
    return used


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


async def burst(
    cluster: Cluster, path: str, gangs: int, size: int, *, held: bool = False
) -> tuple[dict[str, float], Trace]:
    """Create all pods at once, wait until all are bound, remove them; return what happened when.

    `held` stops muster, or without it the scheduler, until the pods exist, as if a gang before them
    had just ended: then the release is all that is timed.
    """
    muster = 0
    if held and cluster.with_muster:
        muster = child_of(cluster.process("muster").pid)
    elif held:
        muster = cluster.process("kube-scheduler").pid
    if held:
        os.kill(muster, signal.SIGSTOP)
    total = gangs * size
    async with await objects.connect(cluster.kubeconfig) as api:
        listed = msgspec.json.decode(await api.call("GET", f"{PODS}?limit=1"))
        bound_s: dict[str, float] = {}
        free_s: dict[str, float] = {}
        watching = asyncio.create_task(
            watch(api, listed["metadata"]["resourceVersion"], bound_s, free_s)
        )
        # a native gang's object may outlive its deletion: no later burst may use its name
        number = next(_BURSTS)
        names = [f"{path}{number}-{g:03d}" for g in range(gangs)]
        made = [found for name in names if (found := group(name, size, path))]
        await asyncio.gather(*(api.persist("POST", where, body) for where, body in made))
        before, busy_s = cpu_s(cluster), live_curves.busy_s()
        exists_s: dict[str, float] = {}

        bodies = {
            f"{name}-{i:03d}": msgspec.json.encode(pod(f"{name}-{i:03d}", name, path))
            for name in names
            for i in range(size)
        }

        in_flight = asyncio.Semaphore(64)  # whatever the server answers: that is the load

        async def create(name: str) -> None:
            try:
                async with in_flight:
                    await api.persist("POST", PODS, bodies[name], turn=Turn.NOW)
            except ApiError as error:
                if error.code != 409:  # an earlier try was done, and its answer came too late
                    raise
            exists_s[name] = time.perf_counter()

        began_s = time.perf_counter()
        await asyncio.gather(*(create(name) for name in bodies))
        created_s = time.perf_counter()
        if held:
            os.kill(muster, signal.SIGCONT)
        while len(bound_s) < total:
            if watching.done():
                watching.result()
            if time.perf_counter() - created_s > 120:
                raise SystemExit(f"{path}: only {len(bound_s)} of {total} pods bound in 120 s")
            await asyncio.sleep(0.02)
        after, busy_s = cpu_s(cluster), live_curves.busy_s() - busy_s
        took_s = time.perf_counter() - began_s
        last_s = max(bound_s.values())
        watching.cancel()
        delete = f"{PODS}?gracePeriodSeconds=0&labelSelector=app%3Dbench"
        await api.call("DELETE", delete, timeout_s=120)
        for where, body in made:
            await api.persist("DELETE", f"{where}/{body['metadata']['name']}")
        while msgspec.json.decode(await api.call("GET", PODS, timeout_s=60))["items"]:
            await asyncio.sleep(0.2)
    used = {name: 1000 * (after[name] - before[name]) / total for name in after}
    zero_s = created_s if held else began_s
    others_s = busy_s - sum(after[name] - before[name] for name in after)
    times = [{n: s - zero_s for n, s in one.items()} for one in (exists_s, free_s, bound_s)]
    figures = {
        "pods_per_s": total / (last_s - began_s),
        "released_per_s": total / (last_s - (created_s if held else began_s)),
        "create_s": created_s - began_s,
        "others_ratio": others_s / took_s / (os.cpu_count() or 1),
        **{f"{name}_ms": value for name, value in used.items()},
    }
    return figures, Trace(*times)


@contextmanager
def running(
    folder: Path, *, with_kwok: bool = False, with_operator: bool = False, **options: Any
) -> Iterator[Cluster]:
    """A cluster for some rows."""
    options |= {"with_kwok": with_kwok, "with_operator": with_operator}
    cluster = clusters.up(folder, say=lambda text: None, **options)
    try:
        await_quiet(cluster)
        yield cluster
    finally:
        clusters.down(folder)


def await_quiet(cluster: Cluster) -> None:
    """Wait until the controllers have written what they write about new nodes, one by one."""
    used = sum(cpu_s(cluster).values())
    for _ in range(QUIET_WITHIN_S):
        time.sleep(1.0)
        before, used = used, sum(cpu_s(cluster).values())
        if used - before < 0.2:
            return
    raise SystemExit(f"the control plane is still busy after {QUIET_WITHIN_S} s")


@contextmanager
def events(cluster: Cluster, per_s: float) -> Iterator[None]:
    """Have node events stream in from another process."""
    stream = subprocess.Popen([sys.executable, __file__, "--stream", cluster.folder, str(per_s)])
    try:
        yield
    finally:
        stream.terminate()
        stream.wait()


async def stream(folder: Path, per_s: float) -> None:
    """Change a label of one node after the other, for ever."""
    cluster = load(folder)
    assert cluster is not None
    async with await objects.connect(cluster.kubeconfig) as api:
        for number in itertools.count():
            name = objects.node(number % cluster.nodes, 8)["metadata"]["name"]
            body = {"metadata": {"labels": {"bench": str(number)}}}
            await api.persist("PATCH", f"/api/v1/nodes/{name}", body, content_type=MERGE)
            await asyncio.sleep(1 / per_s)


def filter_ms(cluster: Cluster, num_names: int, calls: int) -> tuple[float, float]:
    """Return p50 and p99 of filter calls with so many candidates, in milliseconds.

    Over one kept connection, as kube-scheduler's, by a client that costs almost nothing itself.
    """
    names = [objects.node(i, 8)["metadata"]["name"] for i in range(num_names)]
    one = pod("other", "", "stock")
    one["metadata"] |= {"uid": "0", "namespace": SPACE}
    body = json.dumps({"Pod": one, "Nodes": None, "NodeNames": names}).encode()
    head = f"POST /v1/filter HTTP/1.1\r\nHost: muster\r\nContent-Length: {len(body)}\r\n\r\n"
    request = head.encode() + body
    keys = cluster.dir / "certificates"
    tls = ssl.create_default_context(cafile=str(keys / "ca.crt"))
    tls.load_cert_chain(keys / "kube-scheduler.crt", keys / "kube-scheduler.key")
    raw = socket.create_connection(("127.0.0.1", cluster.ports.verbs), timeout=10)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    taken = []
    with tls.wrap_socket(raw, server_hostname="localhost") as connection:
        for _ in range(calls):
            began_s = time.perf_counter()
            connection.sendall(request)
            reply = connection.recv(65536)
            end = reply.index(b"\r\n\r\n") + 4
            length = int(reply[:end].lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            while len(reply) < end + length:
                reply += connection.recv(65536)
            taken.append(1000 * (time.perf_counter() - began_s))
            assert reply.startswith(b"HTTP/1.1 200") and b'"Error":""' in reply, reply[:300]
    taken.sort()
    return statistics.median(taken), taken[int(0.99 * len(taken))]


def filter_rows(cluster: Cluster, held: str) -> list[dict[str, Any]]:
    """Time filter calls while events stream in; `held` says of what gangs hold."""
    load = os.getloadavg()[0]
    rows = [row(f"load average before the filter calls, {held}", load, "")]
    with events(cluster, EVENTS_PER_S):
        for names, p50, p99 in ((cluster.nodes, 1.0, 5.0), (1, 0.3, 2.0)):
            filter_ms(cluster, names, 100)
            median, late = filter_ms(cluster, names, 3000)
            what = f"filter of {names:,} {'names' if names > 1 else 'name'}, {held}"
            rows.append(at_most(f"{what}, p50", median, p50, "ms"))
            rows.append(at_most(f"{what}, p99", late, p99, "ms"))
    return rows


async def fill(cluster: Cluster) -> None:
    """Have gangs of 100 pods run on every GPU: 20,000 pods on 7,500 nodes."""
    full = [(number, gpus) for number in range(cluster.nodes)
            for gpus in ((2, 3, 3) if 3 * number < 2 * cluster.nodes else (4, 4))]  # fmt: skip
    gangs = [full[first : first + 100] for first in range(0, len(full), 100)]
    async with await objects.connect(cluster.kubeconfig) as api:
        makes = []
        for index, members in enumerate(gangs):
            name = f"runs-{index:04d}"
            where, body = group(name, len(members), "pinned") or ("", {})
            makes.append(api.persist("POST", where, body))
            for rank, (number, gpus) in enumerate(members):
                one = pod(f"{name}-{rank:03d}", name, "pinned")
                one["spec"]["nodeName"] = objects.node(number, 8)["metadata"]["name"]
                limits = one["spec"]["containers"][0]["resources"]["limits"]
                limits["nvidia.com/gpu"] = str(gpus)
                makes.append(api.persist("POST", PODS, one, within_s=120.0))
        await asyncio.gather(*makes)
    say(f"{len(full)} pods run, in {len(gangs)} gangs")


def scrape(cluster: Cluster) -> dict[str, float]:
    with urllib.request.urlopen(cluster.status_url + "/metrics", timeout=20) as reply:
        lines = reply.read().decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines)
        if not name.startswith("#")
    }


def row(
    what: str, value: float, unit: str, must: str = "", met: bool | None = None
) -> dict[str, Any]:
    return {"what": what, "value": round(float(value), 4), "unit": unit, "must": must, "met": met}


def at_least(what: str, value: float, least: float) -> dict[str, Any]:
    return row(what, value, "x", f">= {least:g}", bool(value >= least))


def at_most(what: str, value: float, most: float, unit: str) -> dict[str, Any]:
    return row(what, value, unit, f"<= {most:g}", bool(value <= most))


def measure(nodes: int, gangs: int, size: int, waiting: int) -> list[dict[str, Any]]:
    """Return all rows."""
    folder = Path(tempfile.mkdtemp(prefix="muster-bench-"))
    rows = decision_rows(nodes) if nodes >= 2000 else []
    try:
        rows += lane_rows(measure_paths(folder, PATHS, nodes, gangs, size))
        rows += live_curves.rows(OUT.parent, "make bench-live")
        rows += job_rows(folder / "jobs", "Job", min(nodes, live_jobs.NODES), gangs, size, ROUNDS)
        with running(folder / "muster", nodes=nodes, bind_verb=False) as cluster:
            rows += filter_rows(cluster, "no GPU held")
            asyncio.run(fill(cluster))
            rows += filter_rows(cluster, "every GPU held")
            rows += start_rows(cluster)
            rows += asyncio.run(waiting_rows(cluster, waiting))
        with running(folder / "extender", nodes=nodes) as cluster:
            rows += asyncio.run(extender_rows(cluster, gangs, size))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return rows


def measure_paths(
    folder: Path, paths: Collection[str], nodes: int, gangs: int, size: int
) -> pd.DataFrame:
    """Return the figures of bursts on each path; write them down, and when each pod was bound.

    Two clusters run side by side, one without muster, so that paths can take turns.
    """
    stock = {path for path in paths if path in ("stock", "native")}
    with ExitStack() as stack:
        clusters: dict[str, Cluster] = {}
        for with_muster, some in ((False, stock), (True, {*paths} - stock)):
            if some:
                where = folder / ("muster" if with_muster else "stock")
                options = {"bind_verb": False} if with_muster else {}
                cluster = stack.enter_context(
                    running(where, nodes=nodes, with_muster=with_muster, **options)
                )
                clusters |= dict.fromkeys(some, cluster)
        in_order = {path: clusters[path] for path in paths}
        times, figures = asyncio.run(live_curves.bursts(burst, in_order, gangs, size))
    with whole.replacing(OUT.parent / "live-bursts.csv") as part:
        figures.to_csv(part, index=False)
    live_curves.keep(times[times["lane"].isin(live_curves.LANES)], OUT.parent)
    return figures


def lane_rows(figures: pd.DataFrame) -> list[dict[str, Any]]:
    """Compare medians over the bursts of each path; `held` ones tell the rate from release on."""
    held = figures["kind"] == "held"
    usual = figures[~held].groupby("lane").median(numeric_only=True)
    released = figures[held].groupby("lane")["released_per_s"].median()
    rate, share = usual["pods_per_s"], usual["muster_ms"] / usual["kube-apiserver_ms"]
    return [
        row("stock kube-scheduler", rate["stock"], "pods/s"),
        row("native gangs", rate["native"], "pods/s"),
        row("pinned lane", rate["pinned"], "pods/s"),
        row("stock kube-scheduler, all pods created before", released["stock"], "pods/s"),
        row("pinned lane, all pods created before, from release", released["pinned"], "pods/s"),
        row("direct lane", rate["direct"], "pods/s"),
        at_least("pinned / stock, from first create", rate["pinned"] / rate["stock"], 0.85),
        at_least("pinned / native, from first create", rate["pinned"] / rate["native"], 0.95),
        at_least(
            "pinned from release / stock from first create",
            released["pinned"] / rate["stock"],
            1.15,
        ),
        at_least("direct / stock, from first create", rate["direct"] / rate["stock"], 2.0),
        at_most(f"{CPU_SHARE}, pinned", share["pinned"], 0.2, "x"),
        at_most(f"{CPU_SHARE}, direct", share["direct"], 0.2, "x"),
    ]


def job_rows(
    folder: Path, kind: str, nodes: int, jobs: int, size: int, rounds: int
) -> list[dict[str, Any]]:
    """Compare bursts of jobs with those of stock; both control planes run side by side."""
    options = {"nodes": nodes, "with_kwok": True, "with_operator": kind == "PyTorchJob"}
    with (
        running(folder / "stock", with_muster=False, **options) as stock,
        running(folder / "muster", **options) as muster,
    ):
        lanes = {"stock": stock, "muster": muster}
        figures = live_jobs.measure(lanes, kind, jobs, size, rounds, cpu_s, say)
    with whole.replacing(OUT.parent / f"live-{kind.lower()}s.csv") as part:
        figures.to_csv(part, index=False)
    medians = figures.groupby("lane").median(numeric_only=True)
    rate, used = medians["pods_per_s"], medians["kube-apiserver_s"]
    dead = figures[figures["lane"] == "muster"]["dead"].sum()
    what = f"{jobs} {kind}s x {size} pods at once, {nodes:,} nodes"
    return [
        row(f"{what}, stock", rate["stock"], "pods/s"),
        row(f"{what}, muster as shipped", rate["muster"], "pods/s"),
        at_most(f"{kind}s that failed in {rounds} such bursts", dead, 0, "jobs"),
        at_least(f"muster / stock, {kind}s at once", rate["muster"] / rate["stock"], 1.0),
        at_most(f"API server CPU, muster / stock, {kind}s at once", used["muster"] / used["stock"],
                1.6, "x"),
    ]  # fmt: skip


async def extender_rows(cluster: Cluster, gangs: int, size: int) -> list[dict[str, Any]]:
    """Time the lane of pods that come without a gate: kube-scheduler asks for each, twice."""
    await stop_gating(cluster)
    await burst(cluster, "extender", 2, 10)
    bursts = [(await burst(cluster, "extender", gangs, size))[0] for _ in range(3)]
    found = pd.DataFrame(bursts).median()
    share = found["muster_ms"] / found["kube-apiserver_ms"]
    return [
        row("extender lane, no gates", found["pods_per_s"], "pods/s"),
        at_most(f"{CPU_SHARE}, extender", share, 0.2, "x"),
    ]


async def stop_gating(cluster: Cluster) -> None:
    """Take the admission policy's binding away, and wait until pods come without a gate."""
    tried = pod("tried", "tried", "extender")
    async with await objects.connect(cluster.kubeconfig) as api, asyncio.timeout(60):
        await api.persist("DELETE", GATING)
        while True:
            if b'"schedulingGates"' not in await api.persist("POST", f"{PODS}?dryRun=All", tried):
                return
            await asyncio.sleep(0.1)


def start_rows(cluster: Cluster) -> list[dict[str, Any]]:
    """Restart muster and see how long it takes to be ready, and how large it is."""
    began_s = time.perf_counter()
    cluster.restart("muster")
    while not cluster.healthy("muster"):
        time.sleep(0.05)
    took_s = time.perf_counter() - began_s
    size = rss_mb(child_of(cluster.process("muster").pid))
    return [at_most("start to ready", took_s, 20.0, "s"), at_most("muster RSS", size, 800.0, "MB")]


def decision_rows(nodes: int) -> list[dict[str, Any]]:
    """Time a plan for one gang that others wait behind, and a fact, on a full cluster of nodes."""
    what = f"plan of 100 pods, {nodes} nodes, 500 gangs waiting"
    return [
        at_most(what, live_steps.plan_ms(nodes), 10.0, "ms"),
        at_most("one event applied", live_steps.event_us(nodes), 100.0, "us"),
    ]


async def waiting_rows(
    cluster: Cluster, waiting: int, for_s: float = 300.0
) -> list[dict[str, Any]]:
    """Let gangs wait for GPUs that others hold, and count what they cost."""
    async with await objects.connect(cluster.kubeconfig) as api:
        makes = []
        for name in (f"waits-{i:04d}" for i in range(waiting)):
            where, body = group(name, 4, "pinned") or ("", {})
            makes.append(api.persist("POST", where, body))
            makes += [api.persist("POST", PODS, pod(f"{name}-{i}", name, "pinned"))
                      for i in range(4)]  # fmt: skip
        await asyncio.gather(*makes)
        await asyncio.sleep(30)  # reasons are published by then, as far as the budget goes
        before, cpu_before = scrape(cluster), cpu_s(cluster)
        await asyncio.sleep(for_s)
        after, cpu_after = scrape(cluster), cpu_s(cluster)
    calls = sum(
        v - before.get(k, 0) for k, v in after.items() if k.startswith("muster_api_requests_total")
    )
    filters = sum(
        v - before.get(k, 0)
        for k, v in after.items()
        if k.startswith("muster_extender_seconds_count")
    )
    used = cpu_after["muster"] - cpu_before["muster"]
    return [
        at_most(f"API calls by muster, {waiting} gangs waiting", calls * 60 / for_s, 10, "per min"),
        at_most(f"kube-scheduler calls for {waiting} waiting gangs", filters, 0, "calls"),
        row(f"muster CPU, {waiting} gangs waiting", 100 * used / for_s, "% of a core"),
    ]


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| what | measured | target | met |", "|---|---:|---|---|"]
    for one in rows:
        met = {None: "", True: "yes", False: "**no**"}[one["met"]]
        lines.append(
            f"| {one['what']} | {one['value']:,.3g} {one['unit']} | {one['must']} | {met} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="1,000 nodes, 10 gangs of 30")
    parser.add_argument(
        "--curves", nargs="*", choices=live_curves.LANES, help="only bursts, of these lanes or all"
    )
    parser.add_argument(
        "--jobs",
        nargs="?",
        type=int,
        const=ROUNDS,
        help="only bursts of jobs; this many under muster",
    )
    parser.add_argument(
        "--kind", choices=live_jobs.KINDS, default="Job", help="of the jobs of --jobs"
    )
    parser.add_argument(
        "--publish", action="store_true", help="update control planes, picture and table in docs"
    )
    parser.add_argument("--stream", nargs=2, metavar=("FOLDER", "PER_S"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.quick and given.publish:
        parser.error("--publish needs the rates of the full size; leave out --quick")
    if given.stream:
        asyncio.run(stream(Path(given.stream[0]), float(given.stream[1])))
    shape = (1000, 10, 30, 100) if given.quick else (7500, 30, 100, 1000)
    OUT.parent.mkdir(exist_ok=True)
    if given.curves is None and given.jobs is None:
        rows = measure(*shape)
        whole.write_text(OUT, json.dumps(rows, indent=1) + "\n")
    else:
        folder = Path(tempfile.mkdtemp(prefix="muster-bench-"))
        try:
            if given.jobs is not None:
                nodes = min(shape[0], live_jobs.NODES)
                most = map(min, shape[1:3], live_jobs.KINDS[given.kind].most)
                rows = job_rows(folder, given.kind, nodes, *most, given.jobs)
            else:
                lanes = given.curves or list(live_curves.LANES)
                measure_paths(folder, lanes, *shape[:3])
                rows = live_curves.rows(OUT.parent, "python bench/live.py --curves")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        live_curves.replace_rows(OUT, rows)
    if given.publish:
        live_curves.publish(OUT.parent)
        lines = table(json.loads(OUT.read_text("utf-8"))).splitlines()
        write_between(ROOT / "docs" / "benchmarks.md", "live", lines)
    print(f"{shape[0]:,} nodes, {shape[1]} gangs of {shape[2]} pods, {os.cpu_count()} cores, "
          f"load {os.getloadavg()[0]:.1f} at the end\n")  # fmt: skip
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
