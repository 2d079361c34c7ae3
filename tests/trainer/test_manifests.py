"""What is shipped for clusters: manifests, image, their agreement with the trainer."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.trainer.conftest import SHUTDOWN_S
from trainer.config import TrainConfig, load

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "trainer"
KINDS = ("pytorchjob", "trainjob", "indexed-job")
#: a launcher's own way out after its processes are gone; 2 s when idle, 8 s on a busy machine
LEAVE_S = 15.0


def documents(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text("utf-8")) if one]


def pod_specs(tree: Any) -> list[dict[str, Any]]:
    """Return all pod specs in a tree."""
    if isinstance(tree, list):
        return [spec for part in tree for spec in pod_specs(part)]
    if not isinstance(tree, dict):
        return []
    own = [tree] if "containers" in tree else []
    return own + [spec for part in tree.values() for spec in pod_specs(part)]


def specs(kind: str) -> list[dict[str, Any]]:
    return pod_specs(documents(DEPLOY / kind / f"{kind}.yaml"))


def env(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in container["env"]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_pod_has_time_to_save_before_it_is_killed(kind: str) -> None:
    """How long a stop takes is measured in test_launchers, with the time these pods have."""
    found = specs(kind)
    assert len(found) == (2 if kind == "pytorchjob" else 1)
    for spec in found:
        (container,) = spec["containers"]
        has = env(container)
        shutdown_s = float(has.get("SHUTDOWN_TIMEOUT_S") or has["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])
        assert spec["terminationGracePeriodSeconds"] >= shutdown_s + LEAVE_S
        assert shutdown_s == SHUTDOWN_S


def test_a_job_outlives_the_restarts_of_all_its_pods() -> None:
    """A Job counts them together: a limit meant for single pods ends a large gang at once."""
    _, indexed = documents(DEPLOY / "indexed-job" / "indexed-job.yaml")
    runtime, _ = documents(DEPLOY / "trainjob" / "trainjob.yaml")
    (part,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    for spec in (indexed["spec"], part["template"]["spec"]):
        assert spec["template"]["spec"]["restartPolicy"] == "OnFailure"
        assert spec["backoffLimit"] >= 100_000


@pytest.mark.parametrize("kind", KINDS)
def test_pods_take_one_gpu_and_share_the_folder_of_the_run(kind: str) -> None:
    config = load(TrainConfig, DEPLOY / "base" / "train.toml")
    for spec in specs(kind):
        (container,) = spec["containers"]
        assert container["resources"] == {"limits": {"nvidia.com/gpu": 1}}
        assert container["image"] == "muster-trainer:latest"
        mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        assert config.out.startswith(f"{mounts['run-folder']}/")
        assert {one["name"] for one in spec["volumes"]} == set(mounts)
        assert "timeout=300" in env(container).values() or "300" in env(container).values()
    config.share(4, 3)


def test_the_pytorchjob_runs_the_literal_command() -> None:
    (job,) = documents(DEPLOY / "pytorchjob" / "pytorchjob.yaml")
    roles = job["spec"]["pytorchReplicaSpecs"]
    assert (roles["Master"]["replicas"], roles["Worker"]["replicas"]) == (1, 3)
    assert {role["restartPolicy"] for role in roles.values()} == {"OnFailure"}
    assert roles["Master"]["template"] == roles["Worker"]["template"]
    assert "nprocPerNode" not in job["spec"]
    (container,) = roles["Master"]["template"]["spec"]["containers"]
    assert (
        "python -m torch.distributed.run --nproc_per_node 1 --nnodes $WORLD_SIZE --node_rank $RANK "
        "--master_addr $MASTER_ADDR --master_port $MASTER_PORT trainer/train.py"
    ) in container["command"][-1]


def test_the_indexed_job_agrees_with_itself() -> None:
    service, job = documents(DEPLOY / "indexed-job" / "indexed-job.yaml")
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    has = env(container)
    assert spec["completions"] == spec["parallelism"] == int(has["PET_NNODES"])
    name = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert has["PET_MASTER_ADDR"] == name
    assert spec["template"]["spec"]["subdomain"] == service["metadata"]["name"]


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions with continued lines joined."""
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [(word, rest.strip()) for word, _, rest in (x.partition(" ") for x in lines if x)]


def test_the_dockerfile_is_one(repository: Path) -> None:
    known = {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "ENTRYPOINT"}
    found = instructions()
    assert {word for word, _ in found} <= known
    stages: list[str] = []
    for word, rest in found:
        if word == "FROM":
            source, _, name = rest.partition(" AS ")
            assert source in (*stages, "${PYTHON}", "${VARIANT}")
            stages.append(name)
        if word == "COPY" and not rest.startswith("--from"):
            assert (repository / rest.split()[0]).exists()
        if word == "COPY" and rest.startswith("--from"):
            assert rest.split()[0].removeprefix("--from=") in stages
    assert {"cuda", "cpu"} <= set(stages)
    assert ("ARG", "PYTHON=python:3.11-slim") in found
    assert ("USER", "65532:65532") in found


@pytest.mark.parametrize("known", ["", "0" * 64])
def test_the_cpu_image_takes_all_from_the_lock_and_only_torch_from_its_index(
    repository: Path, tmp_path: Path, known: str
) -> None:
    """What pip is called with; pip itself stands aside, as both steps would install."""
    shutil.copytree(repository / "requirements", tmp_path / "requirements")
    pip = tmp_path / "pip"
    pip.write_text('#!/bin/sh\necho "$*" >> calls.txt\n')
    pip.chmod(0o755)
    (at,) = (n for n, (word, rest) in enumerate(instructions()) if rest.endswith(" AS cpu"))
    steps = [rest for word, rest in instructions()[at:] if word == "RUN"]
    for step in steps:
        script = step.replace("/opt/venv/bin/pip", str(pip))
        env = {"PATH": "/usr/bin:/bin", "CPU_INDEX": "https://index", "TORCH_SHA256": known}
        subprocess.run(["sh", "-c", script], cwd=tmp_path, env=env, check=True)
    others = (tmp_path / "others.lock").read_text("utf-8")
    locked = re.findall(r"^([a-z][^=\s]+)==", others, flags=re.MULTILINE)
    assert {"msgspec", "numpy"} <= set(locked) and not {"torch", "triton"} & set(locked)
    assert others.count("--hash=sha256:") >= len(locked)
    (line,) = (tmp_path / "torch.txt").read_text("utf-8").splitlines()
    assert line.startswith("torch==") and line.endswith(f" --hash=sha256:{known}" if known else "")
    first, second = (tmp_path / "calls.txt").read_text("utf-8").splitlines()
    assert "--require-hashes" in first and "index" not in first
    assert "--index-url https://index" in second and "-r torch.txt" in second


def test_the_image_starts_what_it_holds(repository: Path, tmp_path: Path) -> None:
    """The last layer: a folder with trainer/ alone and its entry point, here without variables."""
    (entry,) = (rest for word, rest in instructions() if word == "ENTRYPOINT")
    script = tmp_path / "trainer" / Path(entry.strip('[]"')).name
    shutil.copytree(repository / "trainer", tmp_path / "trainer")
    python = tmp_path / "bin"
    python.mkdir()
    (python / "python").symlink_to(sys.executable)
    done = subprocess.run(
        [str(script)],
        cwd=tmp_path,
        env={"PATH": f"{python}:/usr/bin:/bin", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("trainer.launch: WORLD_SIZE is not set: PyTorchJob v1 sets")
