"""What is shipped for clusters agrees with what muster is and says."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Counter, Histogram

from scheduler.controller import settings
from scheduler.controller.metrics import Metrics
from scheduler.core.decisions import PendingReason
from scheduler.status.plugin import PROXY, TOKENS
from scheduler.status.visitors import RESOURCE
from scheduler.workloads.gangs import KINDS, TRAINING_JOBS

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
Manifest = dict[str, Any]


def output(*command: object) -> str:
    """Return what a program prints; its errors are shown if it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def documents(text: str) -> list[Manifest]:
    """Return the objects of a stream of YAML."""
    return [item for item in yaml.safe_load_all(text) if item]


def test_the_plugin_asks_the_service_that_is_shipped_by_a_right_that_is_shipped() -> None:
    asked = re.search(r"/services/([^/]+)/proxy", PROXY)
    assert asked is not None
    service = yaml.safe_load((DEPLOY / "base" / "service.yaml").read_text())
    ports = [f"{service['metadata']['name']}:{port['name']}" for port in service["spec"]["ports"]]
    assert asked[1] in ports
    (viewer,) = [
        item
        for item in documents((DEPLOY / "base" / "rbac.yaml").read_text())
        if (item["kind"], item["metadata"]["name"]) == ("Role", "muster-viewer")
    ]
    proxy, tokens, status = viewer["rules"]
    assert asked[1] in proxy["resourceNames"]
    assert (proxy["resources"], proxy["verbs"]) == (["services/proxy"], ["get"])
    assert not any("verbs" in name for name in proxy["resourceNames"])
    assert re.search(r"serviceaccounts/([^/]+)/token", TOKENS)[1] in tokens["resourceNames"]  # type: ignore[index]
    assert (tokens["resources"], tokens["verbs"]) == (["serviceaccounts/token"], ["create"])
    told = {"group": status["apiGroups"], "resource": status["resources"], "verb": status["verbs"]}
    assert told == {key: [value] for key, value in RESOURCE.items()}


def test_the_api_server_may_reach_the_status_port() -> None:
    """By the agents of a managed control plane, or from its own host."""
    policy = yaml.safe_load((DEPLOY / "base" / "network.yaml").read_text())
    (status,) = [rule for rule in policy["spec"]["ingress"] if rule["ports"][0]["port"] == "status"]
    assert "konnectivity-agent" in json.dumps(status["from"])
    file = DEPLOY / "overlays/own-control-plane/control-plane.example.yaml"
    (both,) = yaml.safe_load(file.read_text())["spec"]["ingress"][:1]
    assert {port["port"] for port in both["ports"]} == {"verbs", "status"}


def test_no_port_is_open_to_everyone() -> None:
    """An overlay that would have to open one needs addresses that only its user knows."""
    for file in DEPLOY.rglob("*.yaml"):
        if "templates" in file.parts:
            continue
        for item in documents(file.read_text()):
            for rule in item.get("spec", {}).get("ingress", ()) if isinstance(item, dict) else ():
                assert rule.get("from"), file
                assert "0.0.0.0/0" not in json.dumps(rule), file
    overlay = DEPLOY / "overlays" / "own-control-plane"
    (patch,) = yaml.safe_load((overlay / "kustomization.yaml").read_text())["patches"]
    assert not (overlay / patch["path"]).exists(), "it is its user's to make"
    ignored = (DEPLOY.parent / ".gitignore").read_text().splitlines()
    assert f"deploy/overlays/own-control-plane/{patch['path']}" in ignored


def test_the_lease_has_a_priority_of_its_own() -> None:
    (flow,) = documents((DEPLOY / "base" / "flow.yaml").read_text())
    shipped = settings.load(DEPLOY / "base" / "muster.toml")
    (rule,) = flow["spec"]["rules"]
    (subject,), (leases,) = rule["subjects"], rule["resourceRules"]
    account = {"name": "muster", "namespace": shipped.namespace}
    assert (subject["kind"], subject["serviceAccount"]) == ("ServiceAccount", account)
    assert (leases["resources"], leases["namespaces"]) == (["leases"], [shipped.namespace])
    assert flow["spec"]["matchingPrecedence"] < 9000, "before that of all service accounts"


def test_policies_name_who_and_what_there_is() -> None:
    base = DEPLOY / "base"
    shipped = settings.load(base / "muster.toml")
    rights = documents((base / "rbac.yaml").read_text())
    (account,) = [
        i for i in rights if (i["kind"], i["metadata"]["name"]) == ("ServiceAccount", "muster")
    ]
    fence = (base / "fence.yaml").read_text()
    assert f"'system:serviceaccount:{shipped.namespace}:{account['metadata']['name']}'" in fence
    assert f"'{shipped.plans_in()}'" in fence
    writes = {i["metadata"].get("namespace", "") for i in rights if "configmaps" in json.dumps(i)}
    assert writes == {shipped.namespace, shipped.plans_in()}
    (kept,) = [i for i in rights if i["metadata"].get("namespace") == shipped.namespace
               and "configmaps" in json.dumps(i)]  # fmt: skip
    (rule,) = [r for r in kept["rules"] if r["resources"] == ["configmaps"]]
    assert rule["verbs"] == ["list", "delete"], "of an earlier version, to be moved"
    tenants = (base / "tenants.yaml").read_text()
    asked = yaml.safe_load((DEPLOY / "overlays/own-control-plane/kube-scheduler.yaml").read_text())
    names = {profile["schedulerName"] for profile in asked["profiles"]}
    served = re.search(r"schedulerName in \[([^]]*)\]", tenants)
    assert served is not None
    found = set(re.findall(r"'([^']*)'", served[1]))
    assert found == names | {"", *shipped.direct_schedulers}
    policies = [i for i in documents(tenants) if i["kind"] == "ValidatingAdmissionPolicy"]
    (jobs,) = [i for i in policies if i["metadata"]["name"] == "muster-tenants-jobs"]
    rules = jobs["spec"]["matchConstraints"]["resourceRules"]
    kinds = {KINDS[kind].path.rpartition("/")[2] for kind in ("Job", *TRAINING_JOBS)}
    assert {plural for rule in rules for plural in rule["resources"]} == kinds


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
