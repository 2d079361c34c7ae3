"""What is shipped for clusters: a real API server takes it, and both ways to install agree."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler.controller import settings
from scheduler.controlplane import components
from scheduler.controlplane.processes import free_ports
from tests.cluster.conftest import Kube, collection, gang, pod
from tests.deploy.test_manifests import DEPLOY, Manifest, documents, output
from tests.trainer.test_manifests import pod_specs

CHART = DEPLOY / "helm" / "muster"
MANAGED = DEPLOY / "overlays" / "managed"
#: kinds of others, whose definitions the test cluster does not have
FOREIGN = ("cert-manager.io/v1", "monitoring.coreos.com/v1")
KUSTOMIZE = components.Component("kustomize", "deploy", "sigs.k8s.io/kustomize/kustomize/v5")
HELM = components.Component("helm", "deploy", "helm.sh/helm/v3/cmd/helm")
NEEDED = (KUSTOMIZE, HELM)  #: built before the first test
EVERYTHING = "managed.enabled=true,certificates=cert-manager,dashboards=true,monitors=true"
HOSTS = "controlPlane={192.0.2.10/32,192.0.2.11/32,192.0.2.12/32}"


def program(component: components.Component) -> Path:
    """Return a program of the deploy module, built once into the cache."""
    try:
        return components.provide(component)
    except ValueError as error:
        if components.cached(component).exists() or shutil.which("go"):
            raise
        pytest.skip(f"{component.name} cannot be built: {error}")


def kustomized(folder: Path) -> list[Manifest]:
    """Return the objects of a Kustomize folder."""
    return documents(output(program(KUSTOMIZE), "build", folder))


def installed(way: str, folder: Path) -> list[Manifest]:
    """Return the objects of a way to install, with what its user has to say."""
    if "chart" in way:
        return charted(EVERYTHING if way == "whole chart" else HOSTS)
    if way == "base":
        return kustomized(DEPLOY / "base")
    own = folder / "deploy"
    shutil.copytree(DEPLOY, own, symlinks=True)
    overlay = own / "overlays" / way
    if way == "own-control-plane":
        shutil.copy(overlay / "control-plane.example.yaml", overlay / "control-plane.yaml")
    return kustomized(overlay)


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
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
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
def test_the_api_server_takes_every_manifest(kube: Kube, way: str, tmp_path: Path) -> None:
    items = installed(way, tmp_path)
    assert len(items) >= 12
    for item in items:
        if item["apiVersion"] not in FOREIGN:
            apply(kube, item, really=False)


@pytest.mark.k8s
@pytest.mark.slow
@pytest.mark.parametrize("way", ["own-control-plane", "managed"])
def test_helm_and_kustomize_install_the_same(way: str, tmp_path: Path) -> None:
    ours = named(installed(way, tmp_path))
    theirs = named(charted("managed.enabled=true" if way == "managed" else HOSTS))
    ours.pop(("Namespace", "muster-system"))  # Helm makes it by --create-namespace
    assert ours.keys() == theirs.keys()
    for key, item in ours.items():
        mine, other = item.get("spec") or item, theirs[key].get("spec") or theirs[key]
        if key[0] == "NetworkPolicy":
            assert len(mine["ingress"]) == 2, "verbs and status"
            assert all(rule["from"] for rule in mine["ingress"]), "open to some, not to everyone"
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


@pytest.mark.k8s
@pytest.mark.slow
def test_what_would_open_ports_to_everyone_does_not_render() -> None:
    """Only its user knows the addresses of the control plane."""
    overlay = DEPLOY / "overlays" / "own-control-plane"
    chart = [program(HELM), "template", "muster", CHART, "--kube-version", "1.37.2"]
    for command, said in (
        ([program(KUSTOMIZE), "build", overlay], "control-plane.yaml"),
        (chart, "give the addresses of your control plane's hosts"),
    ):
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60)
        assert done.returncode != 0 and said in done.stderr


@pytest.mark.k8s
@pytest.mark.slow
def test_the_chart_follows_its_values(tmp_path: Path) -> None:
    output(program(HELM), "lint", "--strict", CHART, "--set", HOSTS)
    values = "image=here/muster:7,replicas=3,resource=amd.com/gpu,settings.policy.backfill=easy"
    items = named(charted(f"{values},managed.enabled=true", namespace="gangs"))
    text = json.dumps(list(items.values()))
    assert "muster-system" not in text and "nvidia.com/gpu" not in text
    spec = items["Deployment", "muster"]["spec"]
    assert spec["replicas"] == 3
    assert spec["template"]["spec"]["containers"][0]["image"] == "here/muster:7"
    file = tmp_path / "muster.toml"
    file.write_text(items["ConfigMap", "muster-settings"]["data"]["muster.toml"])
    read = settings.load(file)
    assert (read.resource, read.namespace) == ("amd.com/gpu", "gangs")
    assert read.policy.discipline == "easy" and read.serve.port == 8443
    whole = named(charted(EVERYTHING))
    assert json.loads(whole["ConfigMap", "muster-dashboard"]["data"]["muster.json"])["panels"]
    assert whole["PrometheusRule", "muster"]["spec"] == yaml.safe_load(
        (DEPLOY / "alerts" / "rules.yaml").read_text()
    )
    secrets = {i["spec"].get("secretName") for k, i in whole.items() if k[0] == "Certificate"}
    assert {"muster-tls", "muster-scheduler-tls"} <= secrets


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


@pytest.mark.parametrize("kind", ["pytorchjob", "trainjob", "indexed-job"])
@pytest.mark.k8s
@pytest.mark.slow
def test_kustomize_puts_a_trainers_real_image_and_config_in(kind: str, tmp_path: Path) -> None:
    shutil.copytree(DEPLOY / "trainer", tmp_path / "trainer")
    own = tmp_path / "own"
    own.mkdir()
    (own / "kustomization.yaml").write_text(
        f"resources: [../trainer/{kind}]\n"
        "images: [{name: muster-trainer, newName: registry.example/me/trainer, newTag: '7'}]\n",
        "utf-8",
    )
    found = kustomized(own)
    (config,) = (one for one in found if one["kind"] == "ConfigMap")
    for spec in pod_specs(found):
        assert spec["containers"][0]["image"] == "registry.example/me/trainer:7"
        (volume,) = (one for one in spec["volumes"] if one["name"] == "config")
        assert volume["configMap"]["name"] == config["metadata"]["name"]
