"""What people see: the plugin, the status page, the answers behind them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import NameOID

from scheduler.core.decisions import PendingReason
from scheduler.core.reasons import TABLE
from scheduler.journal.replay import replay
from tests.browser import Tab, chromium
from tests.cluster.conftest import NODES, Kube, gang, pod, pytorchjob
from tests.cluster.test_deploy import DEPLOY, token

pytestmark = [pytest.mark.k8s, pytest.mark.slow]


def plugin(kube: Kube, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the plugin on muster's own port."""
    return kubectl_muster(*arguments, MUSTER_URL=kube.cluster.status_url)


@pytest.fixture
def busy(kube: Kube, space: str) -> str:
    """Return a namespace in which one gang runs and two wait."""
    kube.create(*gang(space, "runs", NODES - 2))
    kube.until("runs is bound", lambda: len(kube.bound(space)) == NODES - 2)
    kube.until("runs runs", lambda: kube.explain(space, "runs").get("phase") == "running")
    kube.create(*gang(space, "large", 4), *gang(space, "small", 1))
    kube.until("two wait", lambda: kube.explain(space, "small").get("reason") == "behind_head")
    return space


def test_why_names_reason_numbers_place_and_way_out(kube: Kube, busy: str) -> None:
    done = plugin(kube, "why", "large", "-n", busy)
    assert done.returncode == 0, done.stderr
    assert "needs 32 GPUs for 4 pods; 16 are free on nodes it may use" in done.stdout
    assert "place in the queue: 1; priority 0" in done.stdout
    assert "2 more pods of 8 GPUs would have to fit: 2 of 4 fit now" in done.stdout
    assert (
        f"enough room is free when this gang ends: {busy}/runs ({8 * NODES - 16} GPUs, no walltime"
    ) in done.stdout
    found = kube.explain(busy, "large")
    assert found["way_out"]["lacks"][0]["more_pods"] == 2, "the same as data"
    assert all(line in done.stdout for line in found["advice"])
    done = plugin(kube, "why", f"{busy}/small-0")
    assert f"{busy}/large is first in the queue" in done.stdout
    assert f"first in the queue: {busy}/large, capacity: needs 32 GPUs for 4 pods" in done.stdout


def test_a_cordoned_node_is_hinted_at(kube: Kube, busy: str) -> None:
    free = {kube.call("GET", "/api/v1/nodes")["items"][i]["metadata"]["name"] for i in range(NODES)}
    name = sorted(free - set(kube.bound(busy).values()))[0]
    kube.patch(f"/api/v1/nodes/{name}", {"spec": {"unschedulable": True}})
    try:
        kube.until(
            "muster counts 8 GPUs less", lambda: kube.explain(busy, "large")["free_gpus"] == 8
        )
        said = plugin(kube, "why", "large", "-n", busy).stdout
        assert f"1 node with room for 1 of its pods is cordoned: kubectl uncordon {name}" in said
        assert "3 more pods of 8 GPUs would have to fit" in said, "the other hints stay"
        row = plugin(kube, "nodes").stdout.splitlines()[1].split()
        assert row[:7] == ["local", "-", "8", str(NODES), "1", "0", "8"], row
    finally:
        kube.patch(f"/api/v1/nodes/{name}", {"spec": {"unschedulable": None}})


def test_queue_gangs_and_nodes(kube: Kube, busy: str) -> None:
    lines = plugin(kube, "queue").stdout.splitlines()
    assert [line.split()[1] for line in lines[1:3]] == [f"{busy}/large", f"{busy}/small"]
    assert f"{busy}/runs" in plugin(kube, "gangs", "-n", busy).stdout
    assert busy not in plugin(kube, "gangs", "-n", "elsewhere").stdout
    rows = [line.split() for line in plugin(kube, "nodes").stdout.splitlines()]
    assert ["local", "-", "8", str(NODES), "0", "0", "16", "2", "nodes", "with", "8"] in rows
    assert ["local", "-", "8", "2", "16"] in rows, "the largest gang of whole nodes"
    assert ["4", "pods", "of", "8", "GPUs", "all", "1", "2", "16", "100%"] in rows, (
        "a gang of four uses none of it"
    )
    assert ["1", "pod", "of", "8", "GPUs", "all", "1", "2", "16", "0%"] in rows


def metrics(kube: Kube) -> dict[str, float]:
    """Return muster's metrics by name and labels."""
    with urllib.request.urlopen(f"{kube.cluster.status_url}/metrics", timeout=10) as reply:
        lines = [line for line in reply.read().decode().splitlines() if line[:1] != "#"]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_metrics_have_the_values_that_people_see(kube: Kube, busy: str) -> None:
    def seen() -> dict[str, float]:
        found = metrics(kube)
        return found if found.get("muster_queue_length") == 2 else {}

    found = kube.until("the page is new", seen)
    assert found[f'muster_queue_position{{gang="{busy}/large"}}'] == 1
    assert found[f'muster_queue_position{{gang="{busy}/small"}}'] == 2
    assert found['muster_pending_pods{reason="capacity"}'] == 4
    assert found['muster_pending_pods{reason="behind_head"}'] == 1
    assert found['muster_pending_gangs{reason="capacity"}'] == 1
    assert found["muster_leader"] == 1
    assert found["muster_bind_seconds_count"] >= 1


def read(kube: Kube, path: str) -> bytes:
    """Return a page of muster's."""
    with urllib.request.urlopen(kube.cluster.status_url + path, timeout=30) as reply:
        content: bytes = reply.read()
    return content


def test_pages_are_what_the_commands_take(kube: Kube, busy: str, tmp_path: Path) -> None:
    queue = json.loads(read(kube, "/queue"))
    assert [g["gang"] for g in queue if g["phase"] == "waiting"] == [
        f"{busy}/large",
        f"{busy}/small",
    ]
    state = json.loads(read(kube, "/state"))
    assert {"zero_unix_s", "now_s", "policy", "nodes", "gangs", "lines"} == state.keys()
    assert len(state["nodes"]) == NODES
    kinds = [line["is"] for line in state["lines"]]
    assert kinds[0] == "Snapshot" and kinds.count("GangSubmitted") >= 3
    for path in ("/journal", "/journal?files=all"):
        file = tmp_path / "journal.jsonl"
        file.write_bytes(read(kube, path))
        done = replay(file)
        assert not done.difference and done.num_decisions > 0, path


def test_the_curve_and_the_stories_outlive_muster(kube: Kube, busy: str) -> None:
    def told() -> list[str]:
        return [moment["what"] for moment in kube.explain(busy, "runs").get("story", [])]

    kube.until("runs was bound", lambda: told() == ["submitted", "planned", "released", "bound"])
    kube.until("large was told of", lambda: kube.explain(busy, "large")["story"][1:])
    before = kube.explain(busy, "large")["story"]
    first = json.loads(read(kube, "/curve"))[0]
    kube.cluster.restart("muster")
    kube.until("muster is ready", lambda: kube.cluster.healthy("muster"))
    assert json.loads(read(kube, "/curve"))[0] == first, "the oldest point is still there"
    assert kube.explain(busy, "large")["story"][: len(before)] == before
    assert told()[:4] == ["submitted", "planned", "released", "bound"]


def events(kube: Kube, space: str, kind: str, name: str) -> list[dict[str, Any]]:
    """Return muster's Events about an object, the oldest first."""
    found = kube.call("GET", f"/apis/events.k8s.io/v1/namespaces/{space}/events")["items"]
    ours = [e for e in found if e.get("reportingController") == "muster.dev/scheduler"]
    about = [e for e in ours if (e["regarding"]["kind"], e["regarding"]["name"]) == (kind, name)]
    return sorted(about, key=lambda e: str(e["eventTime"]))


def admitted(kube: Kube, space: str, pod: str) -> dict[str, Any]:
    """Return muster's condition on a pod."""
    found = kube.pods(space).get(pod, {"status": {}})["status"].get("conditions", [])
    return next((c for c in found if c["type"] == "muster.dev/Admitted"), {})


def test_describe_of_a_job_says_why_it_waits_and_when_that_changes(kube: Kube, space: str) -> None:
    kube.create(*gang(space, "runs", NODES - 1))
    kube.until("runs is bound", lambda: len(kube.bound(space)) == NODES - 1)
    kube.create(pytorchjob(space, "job", 3, gpus=8))
    (said,) = kube.until(
        "the job has an Event", lambda: events(kube, space, "PyTorchJob", "job")[-1:]
    )
    assert (said["reason"], said["type"]) == ("Capacity", "Normal")
    assert said["note"] == "needs 32 GPUs for 4 pods; 8 are free on nodes it may use"
    uid = kube.call("GET", f"/apis/kubeflow.org/v1/namespaces/{space}/pytorchjobs/job")
    assert said["regarding"]["uid"] == uid["metadata"]["uid"], "kubectl describe finds it"
    seen = admitted(kube, space, "job-master-0")
    assert (seen["status"], seen["reason"]) == ("False", "Capacity")
    for number in range(3):
        kube.delete(f"/api/v1/namespaces/{space}/pods/runs-{number}")
    kube.until("it runs", lambda: sum("job" in name for name in kube.bound(space)) == 4)
    kube.until(
        "the condition is true",
        lambda: admitted(kube, space, "job-master-0").get("status") == "True",
    )
    reasons = [event["reason"] for event in events(kube, space, "PyTorchJob", "job")]
    assert reasons == ["Capacity", "Started"], "no more is said than changed"


def test_a_pod_made_anew_has_the_condition_and_pod_groups_the_events(
    kube: Kube, space: str
) -> None:
    kube.create(*gang(space, "never", NODES + 1))
    (said,) = kube.until(
        "its PodGroup has an Event", lambda: events(kube, space, "PodGroup", "never")
    )
    assert (said["reason"], said["type"]) == ("NeverFits", "Warning")
    kube.until("the first pod has it", lambda: admitted(kube, space, "never-0"))
    kube.delete(f"/api/v1/namespaces/{space}/pods/never-0")
    kube.until("it is gone", lambda: "never-0" not in kube.pods(space))
    kube.create(gang(space, "never", 1)[1])
    kube.until(
        "its successor has the condition", lambda: admitted(kube, space, "never-0").get("reason")
    )


def test_events_of_a_gang_that_is_given_up(kube: Kube, space: str) -> None:
    kube.create(*gang(space, "frail", 3))
    kube.until("it is bound", lambda: len(kube.bound(space)) == 3)
    kube.delete(f"/api/v1/namespaces/{space}/pods/frail-2")
    said = kube.until(
        "its eviction is told of",
        lambda: [e for e in events(kube, space, "PodGroup", "frail") if e["reason"] == "Evicted"],
    )
    assert "2 of 3 pods ran for" in said[0]["note"] and said[0]["type"] == "Warning"


@contextmanager
def served_at(address: str, target: int) -> Iterator[int]:
    """Pass connections to a port of this machine on; yields the port where they come in."""

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    class Passed(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", target)) as there:
                back = threading.Thread(target=copy, args=(there, self.request), daemon=True)
                back.start()
                copy(self.request, there)
                back.join(10)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server((address, 0), Passed) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def own_address() -> str:
    """Return an address of this machine that a Service may lead to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


@pytest.fixture
def service(kube: Kube) -> Iterator[None]:
    """Muster's shipped Service, before a pod whose address leads to the running muster."""
    address = own_address()
    if address.startswith("127."):
        pytest.skip("this machine has only loopback addresses, which no pod may have")
    shipped = yaml.safe_load((DEPLOY / "base" / "service.yaml").read_text())
    deployment = yaml.safe_load((DEPLOY / "base" / "deployment.yaml").read_text())
    root = "/api/v1/namespaces/muster-system"
    node = kube.call("GET", "/api/v1/nodes")["items"][0]["metadata"]["name"]
    stand_in = pod("muster-system", "muster-here", 0, nodeName=node)
    stand_in["metadata"]["labels"] = deployment["spec"]["template"]["metadata"]["labels"]
    slices = "/apis/discovery.k8s.io/v1/namespaces/muster-system/endpointslices"
    with served_at(address, kube.cluster.ports.status) as port:
        named = {"name": "status", "containerPort": port}
        stand_in["spec"]["containers"][0]["ports"] = [named]
        kube.call("POST", f"{root}/services", shipped)
        kube.create(stand_in)
        try:
            kube.until(
                "kwok plays it",
                lambda: kube.pods("muster-system")["muster-here"]["status"]["phase"] == "Running",
            )
            status = {"status": {"podIP": address, "podIPs": [{"ip": address}]}}
            kube.patch(f"{root}/pods/muster-here/status", status)

            def led() -> bool:
                found = kube.call("GET", slices)["items"]
                ends = [e for item in found for e in item.get("endpoints") or []]
                return any(address in end["addresses"] for end in ends)

            kube.until("the Service leads to it", led)
            yield
        finally:
            kube.delete(f"{root}/pods/muster-here")
            kube.delete(f"{root}/services/muster")


def kubectl_muster(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the plugin as a user has it: nothing says where muster is."""
    kept = {k: v for k, v in os.environ.items() if k not in ("MUSTER_URL", "KUBECONFIG")}
    return subprocess.run(
        [sys.executable, "-m", "scheduler.status.plugin", *arguments],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def access_of(kube: Kube, token: str, namespace: str) -> dict[str, Any]:
    """Return a kubeconfig with two contexts; the second, current one is of `namespace`."""
    config: dict[str, Any] = json.loads(kube.cluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    user, cluster = config["users"][0]["name"], config["clusters"][0]["name"]
    here = {"cluster": cluster, "user": user}
    config["contexts"] = [
        {"name": "plain", "context": here},
        {"name": "there", "context": {**here, "namespace": namespace}},
    ]
    config["current-context"] = "there"
    return config


def test_the_plugin_needs_the_viewer_role_and_the_shipped_service_alone(
    kube: Kube, busy: str, service: None, tmp_path: Path
) -> None:
    accounts = "/api/v1/namespaces/muster-system/serviceaccounts"
    bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/muster-system/rolebindings"
    kube.call("POST", accounts, {"metadata": {"name": "reader"}})
    try:
        file = tmp_path / "config"
        file.write_text(json.dumps(access_of(kube, token(kube, "reader"), busy)))
        home = tmp_path / "home" / ".kube"
        home.mkdir(parents=True)
        shutil.copy(file, home / "config")
        refused = kubectl_muster("queue", KUBECONFIG=str(file))
        assert refused.returncode == 2
        assert "RoleBinding to the Role muster-viewer" in refused.stderr
        kube.call(
            "POST",
            bindings,
            {
                "metadata": {"name": "readers"},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "Role",
                    "name": "muster-viewer",
                },
                "subjects": [{"kind": "ServiceAccount", "name": "reader"}],
            },
        )
        kube.until(
            "the role counts",
            lambda: kubectl_muster("queue", KUBECONFIG=str(file)).returncode == 0,
        )
        proxied = "/api/v1/namespaces/muster-system/services/muster:status/proxy/queue"
        with pytest.raises(urllib.error.HTTPError, match="kubectl muster"):
            kube.call("GET", proxied)  # an administrator; the proxy tells muster nothing of that
        for done in (
            kubectl_muster("why", "large", KUBECONFIG=str(file)),
            kubectl_muster("why", "large", KUBECONFIG=f"{tmp_path}/none:{file}"),
            kubectl_muster("why", "large", "--kubeconfig", str(file)),
            kubectl_muster("why", "large", HOME=str(tmp_path / "home")),
            kubectl_muster("why", "large", "-n", busy, "--context", "plain", KUBECONFIG=str(file)),
        ):
            assert "needs 32 GPUs for 4 pods" in done.stdout, done.stderr
        elsewhere = kubectl_muster("why", "large", "--context", "plain", KUBECONFIG=str(file))
        assert "no gang or pod 'default/large'" in elsewhere.stderr
        unknown = kubectl_muster("why", "large", "--context", "nowhere", KUBECONFIG=str(file))
        assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)
    finally:
        kube.delete(f"{bindings}/readers")
        kube.delete(f"{accounts}/reader")


def test_the_page_is_read_with_a_certificate(
    kube: Kube, busy: str, service: None, tmp_path: Path
) -> None:
    """`kubectl muster page` logs in as kubectl does; a page of another name reads nothing of it."""
    keys, names = kube.cluster.dir / "certificates", ("muster.crt", "muster.key")
    access = access_of(kube, "", busy)
    pair = dict(zip(("client-certificate", "client-key"), map(keys.joinpath, names), strict=True))
    access["users"][0]["user"] = {key: str(path) for key, path in pair.items()}
    file = tmp_path / "config"
    file.write_text(json.dumps(access))
    subject = x509.load_pem_x509_certificate((keys / names[0]).read_bytes()).subject
    (name,) = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/muster-system/rolebindings"
    group = "rbac.authorization.k8s.io"
    bound = {
        "metadata": {"name": "by-certificate"},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "muster-viewer"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": str(name.value)}],
    }
    kube.call("POST", bindings, bound)
    kept = {k: v for k, v in os.environ.items() if k not in ("MUSTER_URL", "KUBECONFIG")}
    try:
        kube.until(
            "the role counts",
            lambda: kubectl_muster("queue", KUBECONFIG=str(file)).returncode == 0,
        )
        with subprocess.Popen(
            [sys.executable, "-m", "scheduler.status.plugin", "page"],
            env={**kept, "KUBECONFIG": str(file)},
            stdout=subprocess.PIPE,
            text=True,
        ) as served:
            assert served.stdout is not None
            try:
                url = served.stdout.readline().split()[0]
                with urllib.request.urlopen(url, timeout=20) as reply:
                    assert b"<html" in reply.read().lower()
                with urllib.request.urlopen(f"{url}queue", timeout=20) as reply:
                    assert f"{busy}/large" in {gang["gang"] for gang in json.loads(reply.read())}
                led = urllib.request.Request(f"{url}queue", headers={"Host": "elsewhere.example"})
                with pytest.raises(urllib.error.HTTPError, match="403"):
                    urllib.request.urlopen(led, timeout=20)
            finally:
                served.terminate()
    finally:
        kube.delete(f"{bindings}/by-certificate")


def test_who_reaches_the_port_reads_what_the_api_server_lets_them(kube: Kube, space: str) -> None:
    """From elsewhere than this machine: health and metrics are open, all else is asked about."""
    accounts = f"/api/v1/namespaces/{space}/serviceaccounts"
    kube.call("POST", accounts, {"metadata": {"name": "somebody"}})
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    somebody = kube.call("POST", f"{accounts}/somebody/token", asked)["status"]["token"]
    asked["spec"] = {"audiences": ["muster.dev"]}
    viewer = "/api/v1/namespaces/muster-system/serviceaccounts/muster-viewer/token"
    for_muster = kube.call("POST", viewer, asked)["status"]["token"]
    address = own_address()

    def code(path: str, token: str) -> int:
        shown = {"Host": "muster.muster-system.svc:8080"}
        shown |= {"Authorization": f"Bearer {token}"} if token else {}
        url = f"http://{address}:{port}{path}"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=shown)) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code

    with served_at(address, kube.cluster.ports.status) as port:
        for path in ("/healthz", "/readyz", "/metrics"):
            assert code(path, "") == 200
        for path in (
            "/",
            "/queue",
            "/state",
            "/journal",
            "/explain/a/b",
            "/classes",
            "/curve",
            "/now",
        ):
            assert code(path, "") == 401
        assert code("/queue", "nonsense") == 401
        assert code("/queue", somebody) == 403
        assert code("/queue", for_muster) == code("/state", for_muster) == 200
        assert code("/queue", kube._token) == 200, "an administrator's own token"
    stranger = Kube(kube.cluster)
    stranger._token = for_muster
    with pytest.raises(urllib.error.HTTPError, match="401"):
        stranger.call("GET", "/api/v1/pods")


def test_ungate_finds_the_cluster_as_kubectl_does(kube: Kube, space: str, tmp_path: Path) -> None:
    gate = [{"name": "muster.dev/queued"}]
    leave = {"muster.dev/ignore": ""}

    def ungate(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if k not in ("HOME", "KUBECONFIG")}
        return subprocess.run(
            [sys.executable, "-m", "sim.commands.main", "ungate", "--namespace", space, *arguments],
            env={**kept, "HOME": str(tmp_path / "nowhere"), **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    lost = ungate()
    assert (lost.returncode, lost.stderr.count("\n")) == (2, 1)
    assert "no cluster is given" in lost.stderr
    home = tmp_path / "home"
    (home / ".kube").mkdir(parents=True)
    shutil.copy(kube.cluster.kubeconfig, home / ".kube" / "config")
    ways: list[tuple[list[str], dict[str, str]]] = [
        (["--kubeconfig", str(kube.cluster.kubeconfig)], {}),
        ([], {"KUBECONFIG": str(kube.cluster.kubeconfig)}),
        ([], {"HOME": str(home)}),
    ]
    for number, (arguments, environment) in enumerate(ways):
        kube.create(
            pod(
                space,
                f"left-{number}",
                1,
                annotations=leave,
                schedulingGates=gate,
                schedulerName="muster-direct",
            )
        )
        done = ungate(*arguments, **environment)
        assert "1 pods ungated" in done.stdout, done.stderr
        assert f"{number + 1} pods without a node name a scheduler that goes away" in done.stdout


def test_unknown_names_and_addresses_are_one_line(kube: Kube) -> None:
    done = plugin(kube, "why", "nothing")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no gang or pod" in done.stderr and "/queue lists the gangs" in done.stderr
    done = plugin(kube, "queue", "--url", "http://127.0.0.1:1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1280, False)])
def test_the_page_shows_queue_story_curve_and_nodes(
    kube: Kube, busy: str, width: int, dark: bool
) -> None:
    kube.until("it was told of", lambda: kube.explain(busy, "large")["story"][1:])
    url = kube.cluster.status_url

    async def look() -> tuple[Tab, dict[str, Any]]:
        async with chromium() as tab:
            await tab.open(f"{url}/#{busy}%2Flarge", width, dark=dark)
            found = {"text": await tab.value("document.body.innerText")}
            found["wide"] = await tab.value("document.documentElement.scrollWidth")
            found["colours"] = await tab.value(
                "[getComputedStyle(document.body).backgroundColor,"
                " getComputedStyle(document.body).color]"
            )
            found["squares"] = await tab.value(
                "[...document.querySelectorAll('#map svg')]"
                ".reduce((all, svg) => all + svg.rack.nodes.length, 0)"
            )
            found["areas"] = await tab.value("document.querySelectorAll('#curve path').length")
            found["fills"] = await tab.value(
                "[...document.querySelectorAll('#curve path')].map(p =>"
                " document.querySelector(p.getAttribute('fill').slice(4, -1)).innerHTML)"
            )
            await tab.value(
                "document.getElementById('curve').dispatchEvent(new PointerEvent('pointermove',"
                " {clientX: document.getElementById('curve').getBoundingClientRect().right}))"
            )
            found["tip"] = await tab.value("document.getElementById('tip').innerText")
            await tab.value("document.getElementById('close').click()")
            await tab.until("document.getElementById('story').hidden")
            await tab.value(
                f"[...document.querySelectorAll('#queue a.gang')]"
                f".find(b => b.textContent === '{busy}/runs').click()"
            )
            await tab.until("!document.getElementById('story').hidden")
            found["other"] = await tab.value("document.getElementById('story').innerText")
            return tab, found

    try:
        tab, found = asyncio.run(look())
    except FileNotFoundError as error:
        pytest.skip(str(error))
    text = found["text"]
    assert "5 pods of 2 gangs are pending" in text
    assert f"{busy}/large is waiting: capacity" in text
    assert "needs 32 GPUs for 4 pods; 16 are free on nodes it may use" in text
    assert "2 more pods of 8 GPUs would have to fit: 2 of 4 fit now" in text
    assert "submitted" in text and "large-3" in text
    assert f"2 of {NODES} nodes are free whole" in text
    assert "1 × 8 GPUs 0 %" in text and "4 × 8 GPUs 100 %" in text
    assert found["squares"] == NODES and found["areas"] >= 1
    assert any(TABLE[PendingReason.CAPACITY].colour in fill for fill in found["fills"])
    assert "4 capacity" in found["tip"], "the curve says its numbers"
    for word in ("runs", "submitted", "planned", "released", "bound"):
        assert word in found["other"]
    assert found["wide"] <= width, "nothing hangs over the edge"
    paper, ink = found["colours"]
    assert (paper, ink) == (
        ("rgb(22, 22, 22)", "rgb(238, 238, 238)")
        if dark
        else ("rgb(255, 255, 255)", "rgb(26, 26, 26)")
    )
    assert all(address.startswith((url, "data:,")) for address in tab.requested), tab.requested
    assert not tab.complaints
