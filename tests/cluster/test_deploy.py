"""What is shipped for clusters: a real API server takes it, and both ways to install agree."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import subprocess
import tomllib
import urllib.error
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from prometheus_client import Counter, Histogram

from scheduler.controller import settings
from scheduler.controller.metrics import Metrics
from scheduler.controlplane import components
from scheduler.controlplane.processes import free_ports
from scheduler.core.decisions import PendingReason
from scheduler.status.plugin import PROXY
from tests.cluster.conftest import Kube, collection, gang, pod

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
CHART = DEPLOY / "helm" / "muster"
MANAGED = DEPLOY / "overlays" / "managed"
#: kinds of others, whose definitions the test cluster does not have
FOREIGN = ("cert-manager.io/v1", "monitoring.coreos.com/v1")
KUSTOMIZE = components.Component("kustomize", "deploy", "sigs.k8s.io/kustomize/kustomize/v5")
HELM = components.Component("helm", "deploy", "helm.sh/helm/v3/cmd/helm")
NEEDED = (KUSTOMIZE, HELM)  #: built before the first test
EVERYTHING = "managed.enabled=true,certificates=cert-manager,dashboards=true,monitors=true"
Manifest = dict[str, Any]


def program(component: components.Component) -> Path:
    """Return a program of the deploy module, built once into the cache."""
    try:
        return components.provide(component)
    except ValueError as error:
        if components.cached(component).exists() or shutil.which("go"):
            raise
        pytest.skip(f"{component.name} cannot be built: {error}")


def output(*command: object) -> str:
    """Return what a program prints; its errors are shown if it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def documents(text: str) -> list[Manifest]:
    """Return the objects of a stream of YAML."""
    return [item for item in yaml.safe_load_all(text) if item]


def kustomized(folder: Path) -> list[Manifest]:
    """Return the objects of a Kustomize folder."""
    return documents(output(program(KUSTOMIZE), "build", folder))


def charted(values: str = "", namespace: str = "muster-system") -> list[Manifest]:
    """Return the objects of the Helm chart."""
    command: list[object] = [program(HELM), "template", "muster", CHART, "--namespace", namespace]
    command += ["--kube-version", "1.37.2", *(["--set", values] if values else [])]
    return documents(output(*command))


def named(items: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    """Return objects by kind and name, without the hash that names a ConfigMap's content."""

    def name(item: Manifest) -> str:
        own = re.sub(r"-[a-z0-9]{10}$", "", item["metadata"]["name"])
        far = item["metadata"].get("namespace") == "kube-system"
        return f"kube-system/{own}" if far else own

    found = {(item["kind"], name(item)): item for item in items}
    assert len(found) == len(items), "no object twice"
    return found


def unwrapped(item: Any) -> Any:
    """Return a value whose texts do not tell how their lines were folded."""
    if isinstance(item, dict):
        return {key: unwrapped(value) for key, value in item.items()}
    if isinstance(item, list):
        return [unwrapped(value) for value in item]
    return " ".join(item.split()) if isinstance(item, str) else item


PLURALS = {
    "NetworkPolicy": "networkpolicies",
    "MutatingAdmissionPolicy": "mutatingadmissionpolicies",
}


def apply(kube: Kube, item: Manifest, *, really: bool = True) -> None:
    """Create or replace an object; fails with what the API server has against it."""
    plural = PLURALS.get(item["kind"], item["kind"].lower() + "s")
    version, namespace = item["apiVersion"], item["metadata"].get("namespace")
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    where = f"/namespaces/{namespace}" if namespace else ""
    path = f"{root}{where}/{plural}/{item['metadata']['name']}"
    how = "fieldManager=test&force=true&fieldValidation=Strict"
    how += "" if really else "&dryRun=All"
    try:
        kube.call("PATCH", f"{path}?{how}", item, "application/apply-patch+yaml")
    except urllib.error.HTTPError as error:
        what = f"{item['kind']} {item['metadata']['name']}"
        pytest.fail(f"{what} is refused: {error.read().decode()[:2000]}")


@pytest.mark.k8s
@pytest.mark.slow
@pytest.mark.parametrize("way", ["base", "own-control-plane", "managed", "chart", "whole chart"])
def test_the_api_server_takes_every_manifest(kube: Kube, way: str) -> None:
    if "chart" in way:
        items = charted(EVERYTHING if way == "whole chart" else "")
    else:
        items = kustomized(DEPLOY / "base" if way == "base" else DEPLOY / "overlays" / way)
    assert len(items) >= 12
    for item in items:
        if item["apiVersion"] not in FOREIGN:
            apply(kube, item, really=False)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["own-control-plane", "managed"])
def test_helm_and_kustomize_install_the_same(way: str) -> None:
    ours = named(kustomized(DEPLOY / "overlays" / way))
    theirs = named(charted("managed.enabled=true" if way == "managed" else ""))
    ours.pop(("Namespace", "muster-system"))  # Helm makes it by --create-namespace
    assert ours.keys() == theirs.keys()
    for key, item in ours.items():
        mine, other = item.get("spec") or item, theirs[key].get("spec") or theirs[key]
        if key[0] == "NetworkPolicy":
            assert len(mine["ingress"]) == 2, "verbs and status"
        if key[0] == "ConfigMap":
            mine, other = item["data"], theirs[key]["data"]
            if "muster.toml" in mine:
                mine = tomllib.loads(mine["muster.toml"])
                other = tomllib.loads(other["muster.toml"])
        elif key[0] == "Deployment":  # the hash in the ConfigMap's name is each one's own
            for spec in (mine, other):
                for volume in spec["template"]["spec"]["volumes"]:
                    if "configMap" in volume:
                        found = volume["configMap"]["name"]
                        volume["configMap"]["name"] = re.sub(r"-[a-z0-9]{10}$", "", found)
        assert unwrapped(mine) == unwrapped(other), key
    for kind in ("ClusterRole", "Role"):
        assert ours[kind, "muster"]["rules"] == theirs[kind, "muster"]["rules"]


@pytest.mark.slow
def test_the_chart_follows_its_values() -> None:
    output(program(HELM), "lint", "--strict", CHART)
    values = "image=here/muster:7,replicas=3,resource=amd.com/gpu,settings.policy.backfill=easy"
    items = named(charted(f"{values},managed.enabled=true", namespace="gangs"))
    text = json.dumps(list(items.values()))
    assert "muster-system" not in text and "nvidia.com/gpu" not in text
    spec = items["Deployment", "muster"]["spec"]
    assert spec["replicas"] == 3
    assert spec["template"]["spec"]["containers"][0]["image"] == "here/muster:7"
    read = msgspec.toml.decode(
        items["ConfigMap", "muster-settings"]["data"]["muster.toml"], type=settings.LiveSettings
    )
    assert (read.resource, read.namespace) == ("amd.com/gpu", "gangs")
    assert read.policy.backfill == "easy" and read.serve.port == 8443
    whole = named(charted(EVERYTHING))
    assert json.loads(whole["ConfigMap", "muster-dashboard"]["data"]["muster.json"])["panels"]
    assert whole["PrometheusRule", "muster"]["spec"] == yaml.safe_load(
        (DEPLOY / "alerts" / "rules.yaml").read_text()
    )
    secrets = {i["spec"].get("secretName") for k, i in whole.items() if k[0] == "Certificate"}
    assert {"muster-tls", "muster-scheduler-tls"} <= secrets


def test_the_plugin_asks_the_service_that_is_shipped_by_a_right_that_is_shipped() -> None:
    asked = re.search(r"/services/([^/]+)/proxy", PROXY)
    assert asked is not None
    service = yaml.safe_load((DEPLOY / "base" / "service.yaml").read_text())
    ports = [f"{service['metadata']['name']}:{port['name']}" for port in service["spec"]["ports"]]
    assert asked[1] in ports
    (viewer,) = [
        item
        for item in documents((DEPLOY / "base" / "rbac.yaml").read_text())
        if item["metadata"]["name"] == "muster-viewer"
    ]
    (rule,) = viewer["rules"]
    assert asked[1] in rule["resourceNames"]
    assert (rule["resources"], rule["verbs"]) == (["services/proxy"], ["get"])
    assert not any("verbs" in name for name in rule["resourceNames"])


def test_the_api_server_may_reach_the_status_port() -> None:
    """By the agents of a managed control plane, or from its own host."""
    policy = yaml.safe_load((DEPLOY / "base" / "network.yaml").read_text())
    (status,) = [rule for rule in policy["spec"]["ingress"] if rule["ports"][0]["port"] == "status"]
    assert "konnectivity-agent" in json.dumps(status["from"])
    patch = yaml.safe_load((DEPLOY / "overlays/own-control-plane/network.yaml").read_text())
    assert {"ports": [{"protocol": "TCP", "port": "status"}]} in patch["spec"]["ingress"]


def test_settings_and_ports_belong_together() -> None:
    shipped = settings.load(DEPLOY / "base" / "muster.toml")
    deployment = yaml.safe_load((DEPLOY / "base" / "deployment.yaml").read_text())
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"verbs": shipped.serve.port, "status": shipped.status.port}
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    serve = shipped.serve
    for path in (shipped.journal, serve.cert, serve.key, serve.client_ca):
        assert str(Path(path).parent) in mounts
    for overlay in ("own-control-plane", "managed"):
        file = DEPLOY / "overlays" / overlay / "kube-scheduler.yaml"
        (extender,) = yaml.safe_load(file.read_text())["extenders"]
        assert extender["urlPrefix"].endswith(f":{serve.port}/v1")
        assert extender["managedResources"][0]["name"] == shipped.resource
        assert float(extender["httpTimeout"].rstrip("s")) == shipped.timeouts.http_s
        assert extender["preemptVerb"] == "preempt" and not extender["ignorable"]


@pytest.mark.k8s
@pytest.mark.slow
def test_gangs_and_gpu_pods_of_a_managed_cluster_go_to_musters_scheduler(
    kube: Kube,
) -> None:
    """The shipped policies, confined to one namespace; the pods are never made."""
    kinds = ("MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding")
    shipped = [item for item in kustomized(MANAGED) if item["kind"] in kinds]
    paths = []
    for item in sorted(shipped, key=lambda item: str(item["kind"])):
        item["metadata"]["name"] += "-tried"
        plural = "mutatingadmissionpolicybindings"
        if item["kind"] == "MutatingAdmissionPolicy":
            plural = "mutatingadmissionpolicies"
            (rule,) = item["spec"]["matchConstraints"]["namespaceSelector"]["matchExpressions"]
            # where the policy that this cluster has already leaves pods alone
            assert "muster-system" in rule["values"]
            rule.update(operator="In", values=["muster-system"])
        else:
            item["spec"]["policyName"] += "-tried"
        root = f"/apis/admissionregistration.k8s.io/v1/{plural}"
        kube.call("POST", root, item)
        paths.append(f"{root}/{item['metadata']['name']}")

    def tried(gpus: int, **more: Any) -> dict[str, Any]:
        item = pod("muster-system", "tried", gpus, **more)
        spec: dict[str, Any] = kube.call("POST", f"{collection(item)}?dryRun=All", item)["spec"]
        return spec

    try:
        kube.until("the policy is loaded", lambda: tried(1)["schedulerName"] == "muster")
        member = {"scheduling.x-k8s.io/pod-group": "some"}
        gate = [{"name": "muster.dev/queued"}]
        for gpus in (1, 0):  # a master without GPU goes where its workers go
            spec = tried(gpus, labels=member)
            assert (spec["schedulerName"], spec["schedulingGates"]) == ("muster", gate)
        assert tried(0)["schedulerName"] == "default-scheduler"
        own = tried(1, schedulerName="muster-direct")
        assert own["schedulerName"] == "muster-direct"
    finally:
        for path in reversed(paths):
            kube.delete(path)


def token(kube: Kube, account: str) -> str:
    """Return a token of a service account of muster's namespace, as its pods would have one."""
    path = f"/api/v1/namespaces/muster-system/serviceaccounts/{account}/token"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    answer = kube.call("POST", path, body)["status"]["token"]
    assert isinstance(answer, str)
    return answer


@pytest.mark.k8s
@pytest.mark.slow
def test_the_second_scheduler_binds_a_gang_with_its_shipped_rights_and_configuration(
    kube: Kube, space: str, tmp_path: Path
) -> None:
    kinds = ("ServiceAccount", "ClusterRoleBinding", "Role", "RoleBinding")
    for item in documents((MANAGED / "rbac.yaml").read_text()):
        assert item["kind"] in kinds
        apply(kube, item)
    access = json.loads(kube.cluster.kubeconfig.read_text())
    access["users"][0]["user"] = {"token": token(kube, "muster-scheduler")}
    (tmp_path / "kubeconfig").write_text(json.dumps(access))
    keys = kube.cluster.dir / "certificates"
    shipped = yaml.safe_load((MANAGED / "kube-scheduler.yaml").read_text())
    shipped["clientConnection"]["kubeconfig"] = str(tmp_path / "kubeconfig")
    shipped["profiles"][0]["schedulerName"] = "second"  # the cluster has a profile muster already
    (extender,) = shipped["extenders"]
    extender["urlPrefix"] = f"https://127.0.0.1:{kube.cluster.ports.verbs}/v1"
    extender["tlsConfig"] = {
        "caFile": str(keys / "ca.crt"),
        "certFile": str(keys / "kube-scheduler.crt"),
        "keyFile": str(keys / "kube-scheduler.key"),
    }
    (tmp_path / "config.json").write_text(json.dumps(shipped))
    command = [
        str(components.cache_dir("kubernetes") / "kube-scheduler"),
        f"--config={tmp_path / 'config.json'}",
        "--bind-address=127.0.0.1",
        f"--secure-port={free_ports(1)[0]}",
    ]
    log = tmp_path / "log"
    with log.open("wb") as lines:
        process = subprocess.Popen(command, stdout=lines, stderr=lines)
    try:
        kube.create(*gang(space, "trained", 2, schedulerName="second"))
        kube.until(
            "the second scheduler binds the gang",
            lambda: process.poll() is not None or len(kube.bound(space)) == 2,
        )
        assert process.poll() is None, log.read_text()[-2000:]
        assert "forbidden" not in log.read_text()
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.k8s
@pytest.mark.slow
@pytest.mark.parametrize("overlay", ["own-control-plane", "managed"])
def test_kube_scheduler_takes_its_shipped_configuration(
    kube: Kube, tmp_path: Path, overlay: str
) -> None:
    shipped = yaml.safe_load((DEPLOY / "overlays" / overlay / "kube-scheduler.yaml").read_text())
    shipped["clientConnection"]["kubeconfig"] = str(kube.cluster.kubeconfig)
    keys = kube.cluster.dir / "certificates"
    files = {"caFile": "ca.crt", "certFile": "kube-scheduler.crt", "keyFile": "kube-scheduler.key"}
    for key, name in files.items():
        shipped["extenders"][0]["tlsConfig"][key] = str(keys / name)
    (tmp_path / "config.json").write_text(json.dumps(shipped))
    written = tmp_path / "written.yaml"
    program = components.cache_dir("kubernetes") / "kube-scheduler"
    output(program, f"--config={tmp_path / 'config.json'}", f"--write-config-to={written}")
    taken = yaml.safe_load(written.read_text())
    assert taken["extenders"][0]["tlsConfig"] == shipped["extenders"][0]["tlsConfig"]
    assert taken["clientConnection"]["qps"] == 5000
    assert "muster" in {profile["schedulerName"] for profile in taken["profiles"]}


def test_certificates_serve_the_names_of_the_service(tmp_path: Path) -> None:
    if not shutil.which("openssl"):
        pytest.skip("no openssl")
    folder = tmp_path / "made"
    script = DEPLOY / "certificates.sh"
    assert "kubectl" in output("sh", script, folder)
    authority = (folder / "ca.crt").read_bytes()
    output("sh", script, folder)
    assert (folder / "ca.crt").read_bytes() == authority, "renewal keeps the authority"
    assert (folder / "ca.key").stat().st_mode & 0o077 == 0
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.crt"))
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(folder / "muster.crt", folder / "muster.key")
    client = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    client.load_cert_chain(folder / "muster-scheduler.crt", folder / "muster-scheduler.key")
    shake(client, server, "muster.muster-system.svc")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake(client, server, "another.muster-system.svc")
    bare = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        shake(bare, server, "muster.muster-system.svc")


def shake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    """Do a TLS handshake in memory; raises what either side finds."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(back, there, server_hostname=name),
        server.wrap_bio(there, back, server_side=True),
    ]
    for _ in range(10):
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                continue
    assert not ends, "both sides are done"


def exposed() -> dict[str, set[str]]:
    """Return the names of all series that muster exposes, with their labels."""
    series: dict[str, set[str]] = {}
    for metric in vars(Metrics()).values():
        name, labels = getattr(metric, "_name", ""), set(getattr(metric, "_labelnames", ()))
        if isinstance(metric, Histogram):
            series |= {f"{name}_{end}": set(labels) for end in ("sum", "count")}
            series[f"{name}_bucket"] = {*labels, "le"}
        elif isinstance(metric, Counter):
            series[f"{name}_total"] = labels
        elif name:
            series[name] = labels
    return series


def queries() -> dict[str, str]:
    """Return all PromQL that is shipped, by panel or alert."""
    panels = json.loads((DEPLOY / "grafana" / "muster.json").read_text())["panels"]
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels
        for target in panel["targets"]
    }
    for group in yaml.safe_load((DEPLOY / "alerts" / "rules.yaml").read_text())["groups"]:
        found |= {rule["alert"]: rule["expr"] for rule in group["rules"]}
    return found


def test_dashboard_and_alerts_ask_for_what_muster_exposes() -> None:
    series = exposed()
    used: set[str] = set()
    for where, query in queries().items():
        names = set(re.findall(r"\bmuster_\w+", query))
        assert names and names <= series.keys(), f"{where}: {names - series.keys()}"
        used |= names
        labels = set().union(*(series[name] for name in names)) | {"instance"}
        grouped = re.findall(r"\b(?:by|on|group_left) \(([^)]*)\)", query)
        selected = re.findall(r"(\w+)=~?\"|(\w+)!=\"", query)
        asked = {part.strip() for text in grouped for part in text.split(",") if part.strip()}
        asked |= {name for pair in selected for name in pair if name}
        assert asked <= labels, f"{where}: {asked - labels}"
        for reason in re.findall(r'reason="(\w+)"', query):
            assert reason in set(PendingReason), where
        bare = re.sub(r'"[^"]*"', "", query)
        for left, right in ("()", "{}", "[]"):
            assert bare.count(left) == bare.count(right), where
    unshown = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in series.keys() - used}
    shown = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in used}
    assert unshown - shown <= {"muster_events"}, "every metric has a panel"


def test_alerts_name_a_section_that_is_there() -> None:
    root = DEPLOY.parent
    for group in yaml.safe_load((DEPLOY / "alerts" / "rules.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            page, section = rule["annotations"]["runbook"].split(", ", 1)
            headings = re.findall(r"^## (.+)$", (root / page).read_text(), re.MULTILINE)
            assert section.strip('"') in headings, rule["alert"]
            assert rule["annotations"]["description"] and rule["labels"]["severity"]


def test_the_image_is_built_from_what_is_locked() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert "--require-hashes -r requirements/core.lock" in text
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for path in line.split():
            assert (DEPLOY.parent / path).exists(), path
