"""A real control plane, started once for all live tests."""

from __future__ import annotations

import io
import json
import os
import shutil
import ssl
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from scheduler.controlplane import cluster as clusters
from scheduler.controlplane import components
from scheduler.controlplane.record import Cluster
from scheduler.journal.replay import replay
from tests.chaos.proxy import Proxy, Rule
from tests.cluster.watcher import Watcher, send_through

NODES = 12
WITHIN_S = 60.0
REMIND_S = 10.0
STALLED_S = 5.0  #: silence of a watch that makes muster open it anew, behind the proxy

BINDINGS = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings"


class Kube:
    """The cluster's API as tests use it: plain JSON, and waits on conditions."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        config = json.loads(cluster.kubeconfig.read_text())
        self._token = config["users"][0]["user"]["token"]
        self._tls = ssl.create_default_context(cafile=str(cluster.dir / "certificates" / "ca.crt"))
        self._jobs: list[str] = []  #: addresses of the training jobs made here

    def call(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> Any:
        """Make one request; raises `urllib.error.HTTPError` with the server's text."""
        return json.loads(self.call_raw(method, path, body, content_type))

    def call_raw(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> bytes:
        """Make one request whose answer need not be JSON."""
        request = urllib.request.Request(
            self.cluster.api_url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": content_type},
        )
        try:
            with urllib.request.urlopen(request, context=self._tls, timeout=30) as reply:
                return bytes(reply.read())
        except urllib.error.HTTPError as error:
            text = error.read()
            said = f"{error.msg}: {text.decode(errors='replace')[:500]}"
            raise urllib.error.HTTPError(
                error.url, error.code, said, error.hdrs, io.BytesIO(text)
            ) from None

    def create(self, *objects: dict[str, Any]) -> None:
        """Create objects."""
        for item in objects:
            self.call("POST", collection(item), item)
            if item["kind"] == "PyTorchJob":
                self._jobs.append(f"{collection(item)}/{item['metadata']['name']}")

    def patch(self, path: str, body: object) -> Any:
        """Merge-patch an object."""
        return self.call("PATCH", path, body, "application/merge-patch+json")

    def delete(self, path: str) -> None:
        """Delete an object, at once; gone already is fine."""
        try:
            self.call("DELETE", path, {"gracePeriodSeconds": 0, "propagationPolicy": "Background"})
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise

    def pods(self, namespace: str) -> dict[str, dict[str, Any]]:
        """Return pods by name."""
        items = self.call("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
        return {pod["metadata"]["name"]: pod for pod in items}

    def bound(self, namespace: str) -> dict[str, str]:
        """Return the node of each pod that has one and has not ended."""
        return {
            name: pod["spec"]["nodeName"]
            for name, pod in self.pods(namespace).items()
            if pod["spec"].get("nodeName") and pod["status"]["phase"] in ("Pending", "Running")
        }

    def explain(self, namespace: str, gang: str) -> dict[str, Any]:
        """Return muster's story of a gang; empty if it knows none."""
        url = f"{self.cluster.status_url}/explain/{namespace}/{gang}"
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError:
            return {}

    def until(self, what: str, condition: Callable[[], Any], within_s: float = WITHIN_S) -> Any:
        """Return the first true value of a condition; fail with what was awaited."""
        now_s = time.monotonic()
        end_s, remind_s = now_s + within_s, now_s + REMIND_S
        while True:
            found = condition()
            if found:
                return found
            now_s = time.monotonic()
            if now_s > end_s:
                seen = f"last seen: {found!r}{''.join(self._told_of_jobs())}"
                pytest.fail(f"not within {within_s:.0f} s: {what}; {seen}")
            if now_s > remind_s:
                remind_s = now_s + REMIND_S
                self._remind_operator()
            time.sleep(0.05)

    def _remind_operator(self) -> None:
        """Make the training operator look at its jobs again.

        When its own view of a job's PodGroup is behind, it gives up and counts on the write of the
        job's status to call it again. That time has no fractions: two failures in one second are
        one write, and then it forgets the job until something about it changes (1.8.1).
        """
        touched = {"metadata": {"annotations": {"tests.muster.dev/reminded": str(time.time())}}}
        for job in list(self._jobs):
            try:
                self.patch(job, touched)
            except urllib.error.HTTPError as error:
                if error.code != 404:
                    raise
                self._jobs.remove(job)

    def _told_of_jobs(self) -> Iterator[str]:
        """Tell of each training job made here what muster says, and where its pods are."""
        for job in self._jobs:
            namespace, name = job.split("/")[-3], job.split("/")[-1]
            yield f"\n{job}: {self.explain(namespace, name)}"
            for pod_name, one in self.pods(namespace).items():
                spec, gone = one["spec"], one["metadata"].get("deletionTimestamp")
                gates = spec.get("schedulingGates")
                yield f"\n  {pod_name}: node {spec.get('nodeName')}, gates {gates}, gone {gone}"


PLURALS = {
    "Pod": "pods",
    "Namespace": "namespaces",
    "PodGroup": "podgroups",
    "PyTorchJob": "pytorchjobs",
    "Job": "jobs",
    "Node": "nodes",
    "ConfigMap": "configmaps",
    "PriorityClass": "priorityclasses",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "PersistentVolume": "persistentvolumes",
    "PersistentVolumeClaim": "persistentvolumeclaims",
}


def collection(item: dict[str, Any]) -> str:
    """Return the address at which an object is created."""
    version = item["apiVersion"]
    root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    namespace = item["metadata"].get("namespace")
    where = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{where}/{PLURALS[item['kind']]}"


def missing() -> str:
    """Say what this machine lacks for a control plane."""
    return components.lack()


def end(folder: Path, *left_out: str) -> None:
    """End a cluster; what it wrote, but for this, stays in the folder MUSTER_KEEP_LOGS."""
    kept = os.environ.get("MUSTER_KEEP_LOGS")
    try:
        if kept:
            ignored = shutil.ignore_patterns(*left_out)
            shutil.copytree(folder, kept, symlinks=True, dirs_exist_ok=True, ignore=ignored)
    finally:
        clusters.down(folder)


@pytest.fixture(scope="session")
def watcher(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watcher]:
    """Start a cluster with muster and the training operator, and what watches over it."""
    lack = missing()
    if lack:
        pytest.skip(f"the control plane cannot be built: {lack}")
    folder = Path(tmp_path_factory.mktemp("live")) / "cluster"
    settings = {
        "timeouts": {"bind_s": 10.0, "repair_s": 6.0, "barrier_s": 4.0},
        "direct_queues": ["fast"],
        # pods of nobody are told of their nodes, and a test binds them, or nobody does; those of
        # absent no test binds, for a scheduler that was seen to bind is waited for; second is run
        # by a test of its shipped configuration
        "schedulers": ["default-scheduler", "muster", "nobody", "absent", "second"],
    }
    try:
        found = clusters.up(folder, nodes=NODES, muster_settings=settings, audited="muster")
        with Watcher(found) as watcher:
            yield watcher
        assert not watcher.observer.violations, watcher.observer.violations
        is_alone = len(request.session.items) == 1  # and may bind nothing, nor decide
        if not is_alone:
            assert watcher.observer.num_binds > 0, "the observer saw what was bound"
        replayed = replay(found.dir / "journal.jsonl")
        assert not replayed.difference, replayed.difference
        if not is_alone:
            assert replayed.num_decisions > 0, "the session decided something"
    finally:
        end(folder, "etcd")


@pytest.fixture(scope="session")
def cluster(watcher: Watcher) -> Cluster:
    """Return a running cluster with muster and the training operator."""
    return watcher.cluster


@pytest.fixture(scope="module")
def proxy(watcher: Watcher) -> Iterator[Proxy]:
    """Put a proxy between muster and the API server, for one module of tests."""
    kube, path = Kube(watcher.cluster), watcher.cluster.dir / "muster.toml"
    before = path.read_bytes()
    settings = tomllib.loads(before.decode())
    settings["timeouts"]["stalled_watch_s"] = STALLED_S
    path.write_bytes(msgspec.toml.encode(settings))
    send_through(watcher.cluster, watcher.url)
    watcher.cluster.restart("muster")
    kube.until("muster is ready", lambda: watcher.cluster.healthy("muster"))
    yield watcher.proxy
    path.write_bytes(before)
    send_through(watcher.cluster, watcher.cluster.api_url)
    watcher.cluster.restart("muster")
    kube.until("muster is ready", lambda: watcher.cluster.healthy("muster"))


@pytest.fixture
def patient(cluster: Cluster, kube: Kube) -> Iterator[None]:
    """Let plans and repairs take their time, for tests of what must not wait for that."""
    path = cluster.dir / "muster.toml"
    before = path.read_bytes()
    settings = tomllib.loads(before.decode())
    settings["timeouts"] |= {"bind_s": 120.0, "repair_s": 120.0}

    def begin(text: bytes) -> None:
        path.write_bytes(text)
        cluster.restart("muster")
        kube.until("muster is ready", lambda: cluster.healthy("muster"))

    begin(msgspec.toml.encode(settings))
    yield
    begin(before)


@pytest.fixture
def rules(proxy: Proxy) -> Iterator[Callable[..., Rule]]:
    """Return a way to lay down a rule; it ends with the test."""

    def lay(method: str, path: str, **more: Any) -> Rule:
        rule = Rule(method, path, **more)
        proxy.rules.append(rule)
        return rule

    yield lay
    for rule in proxy.rules:
        rule.let_go.set()
    proxy.rules.clear()


def num_set_aside(cluster: Cluster) -> float:
    """Return how often muster failed on a gang, beside those that users wrote wrongly."""
    aside = "muster_gangs_set_aside_total{"
    return counted(cluster, aside) - counted(cluster, aside, 'where="asked"')


def num_refused(cluster: Cluster) -> float:
    """Return how many of muster's requests were answered with 403."""
    return counted(cluster, "muster_api_requests_total{", 'code="403"')


def counted(cluster: Cluster, metric: str, label: str = "") -> float:
    """Return the sum of a metric over all labels, or over those with this one."""
    with urllib.request.urlopen(f"{cluster.status_url}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if line.startswith(metric) and label in line
    )


@pytest.fixture
def kube(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Kube]:
    """Return the API; muster is well before and after."""
    found = Kube(cluster)
    found.until("muster is ready", lambda: cluster.healthy("muster"))
    server = cluster.process("kube-apiserver").pid
    refused_before = num_refused(cluster)
    yield found
    found.until("muster is ready", lambda: cluster.healthy("muster"))
    assert not num_set_aside(cluster), "muster failed on a gang; its log says on which"
    # an API server that has just started refuses everybody for a moment
    if cluster.process("kube-apiserver").pid == server:
        refused = num_refused(cluster)
        assert refused <= refused_before, "muster was refused what its manifests should grant"


@contextmanager
def ungating(kube: Kube) -> Iterator[None]:
    """Take the admission policy out of force: pods come without a gate; put it back afterwards."""
    path = f"{BINDINGS}/muster-gate"
    binding = kube.call("GET", path)
    probe = pod("default", "probe", 0, labels={"muster.dev/group": "probe"})

    def gates() -> bool:
        address = "/api/v1/namespaces/default/pods?dryRun=All"
        return bool(kube.call("POST", address, probe)["spec"].get("schedulingGates"))

    kube.delete(path)
    kube.until("new pods have no gate", lambda: not gates())
    try:
        yield
    finally:
        kube.call("POST", BINDINGS, {**binding, "metadata": {"name": "muster-gate"}})
        kube.until("new pods have the gate", gates)


@pytest.fixture
def ungated(kube: Kube) -> Iterator[None]:
    """Give the pods of a test no gates."""
    with ungating(kube):
        yield


@pytest.fixture
def space(kube: Kube, request: pytest.FixtureRequest) -> Iterator[str]:
    """Return a namespace of the test's own; what runs in it ends with the test."""
    name = "t-" + request.node.name.split("[")[0].removeprefix("test_").replace("_", "-")[:40]
    name = f"{name.strip('-')}-{time.monotonic_ns() % 10**6}"
    kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    for kind in ("apis/kubeflow.org/v1", "apis/batch/v1"):
        plural = "pytorchjobs" if "kubeflow" in kind else "jobs"
        for item in kube.call("GET", f"/{kind}/namespaces/{name}/{plural}")["items"]:
            kube.delete(f"/{kind}/namespaces/{name}/{plural}/{item['metadata']['name']}")

    def empty() -> bool:
        for pod in kube.pods(name):
            kube.delete(f"/api/v1/namespaces/{name}/pods/{pod}")
        return not kube.pods(name)

    kube.until("the pods are gone", empty)


def group(space: str, name: str, min_member: int) -> dict[str, Any]:
    """Return a coscheduling PodGroup."""
    return {
        "apiVersion": "scheduling.x-k8s.io/v1alpha1",
        "kind": "PodGroup",
        "metadata": {"name": name, "namespace": space},
        "spec": {"minMember": min_member},
    }


def pod(
    space: str,
    name: str,
    gpus: int = 8,
    *,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """Return a pod with GPUs."""
    resources = {"limits": {"nvidia.com/gpu": str(gpus)}, "requests": {"cpu": "1"}} if gpus else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": space,
            "labels": labels or {},
            "annotations": annotations or {},
        },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "train:1", "resources": resources}],
            **spec,
        },
    }


def gang(space: str, name: str, size: int, gpus: int = 8, **more: Any) -> list[dict[str, Any]]:
    """Return a PodGroup and its pods, all with the group's label."""
    label = {"scheduling.x-k8s.io/pod-group": name, **more.pop("labels", {})}
    return [
        group(space, name, size),
        *(pod(space, f"{name}-{i}", gpus, labels=label, **more) for i in range(size)),
    ]


def pytorchjob(space: str, name: str, workers: int, gpus: int = 1, **more: Any) -> dict[str, Any]:
    """Return the canonical PyTorchJob: a master and workers, one GPU limit each, nothing else."""

    def part(replicas: int) -> dict[str, Any]:
        container = {"name": "pytorch", "image": "train:1"}
        container["resources"] = {"limits": {"nvidia.com/gpu": gpus}}  # type: ignore[assignment]
        template: dict[str, Any] = {"spec": {"containers": [container]}}
        if "annotations" in more:
            template["metadata"] = {"annotations": more["annotations"]}
        return {"replicas": replicas, "restartPolicy": "OnFailure", "template": template}

    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name, "namespace": space},
        "spec": {"pytorchReplicaSpecs": {"Master": part(1), "Worker": part(workers)}},
    }
