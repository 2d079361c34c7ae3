"""What docs/live.md says of parts that die beside muster: etcd, the operator, the certificate."""

from __future__ import annotations

import signal
import urllib.error
from collections.abc import Iterator

import pytest

from scheduler.controlplane.certificates import Authority
from scheduler.controlplane.record import Cluster
from scheduler.extender.certificates import LOOK_S
from tests.cluster.conftest import NODES, Kube, gang, pytorchjob
from tests.cluster.test_failure_pods import bound, fill, reason, remove

pytestmark = [pytest.mark.k8s, pytest.mark.slow]


@pytest.fixture
def dead(cluster: Cluster, kube: Kube, request: pytest.FixtureRequest) -> Iterator[str]:
    """Return a component's name; the component comes back after the test at the latest."""
    name = str(request.param)
    yield name
    if not cluster.healthy(name):
        cluster.restart(name)
        kube.until(f"{name} is back", lambda: cluster.healthy(name))


def kill(cluster: Cluster, kube: Kube, name: str) -> None:
    """End a component as a crash would."""
    cluster.process(name).signal(signal.SIGKILL)
    kube.until(f"{name} is gone", lambda: not cluster.process(name).alive())


@pytest.mark.parametrize("dead", ["etcd"], indirect=True)
def test_etcd_dies_and_comes_back(kube: Kube, space: str, cluster: Cluster, dead: str) -> None:
    """Longer than muster's lease: it must not act meanwhile, and take up where things stand."""
    fillers = fill(kube, space, NODES - 2)
    kube.create(*gang(space, "runs", 2), *gang(space, "waits", 3))
    kube.until("one runs", lambda: len(bound(kube, space, "runs")) == 2)
    reason(kube, space, "waits", "capacity")
    before = bound(kube, space, "runs")
    kill(cluster, kube, dead)
    kube.until("muster ends its lead", lambda: not cluster.healthy("muster"), within_s=90)
    with pytest.raises((urllib.error.URLError, TimeoutError)):
        kube.pods(space)
    cluster.restart(dead)
    kube.until("etcd is back", lambda: cluster.healthy(dead))
    kube.until("muster leads", lambda: cluster.healthy("muster"), within_s=90)
    kube.until("the API answers", lambda: answered(kube, space))
    assert bound(kube, space, "runs") == before
    reason(kube, space, "waits", "capacity")
    remove(kube, space, *fillers[:3])
    kube.until("waits starts whole", lambda: len(bound(kube, space, "waits")) == 3)


def answered(kube: Kube, space: str) -> bool:
    """True if the API server lists pods."""
    try:
        return bool(kube.pods(space))
    except (urllib.error.URLError, TimeoutError):
        return False


@pytest.mark.parametrize("dead", ["training-operator"], indirect=True)
def test_the_operator_dies_and_comes_back(
    kube: Kube, space: str, cluster: Cluster, dead: str
) -> None:
    """What has its pods starts and runs; what has none gets them when the operator is back."""
    fillers = fill(kube, space)
    kube.create(pytorchjob(space, "first", 2, gpus=8))
    reason(kube, space, "first", "capacity")
    kill(cluster, kube, dead)
    remove(kube, space, *fillers)
    kube.until("first starts without it", lambda: len(bound(kube, space, "first")) == 3)
    remove(kube, space, "first-worker-1")
    kube.until("a rank is missing", lambda: len(kube.pods(space)) == 2)
    kube.until("nobody makes it anew, so all go", lambda: not bound(kube, space, "first"))
    cluster.restart(dead)
    kube.until("it is back", lambda: cluster.healthy(dead))
    kube.until("first runs whole again", lambda: len(bound(kube, space, "first")) == 3)


def test_an_unaccepted_certificate_holds_gpu_pods_until_it_is_renewed(
    kube: Kube, space: str, cluster: Cluster, patient: None
) -> None:
    """kube-scheduler refuses it as it would an expired one; what is bound and CPU pods go on.

    It then leaves each pod alone for up to 10 s before it tries again. Where the renewed
    certificate is read between its tries of two pods, one is bound that much earlier than the
    other. In these tests a repair is shorter: muster would end the one, and nobody makes it anew.
    """
    keys = cluster.dir / "certificates"
    pair = [keys / "muster.crt", keys / "muster.key"]
    before = [path.read_bytes() for path in pair]
    other = Authority(cluster.dir / "stranger").issue("muster")
    log = cluster.dir / "kube-scheduler.log"
    said = log.read_text().count("signed by unknown authority")
    muster_log = cluster.dir / "muster.log"
    reads = muster_log.read_text().count("certificates reloaded")
    try:
        for path, new in zip(pair, other, strict=True):
            path.write_bytes(new.read_bytes())
        kube.until(
            "it is shown",
            lambda: muster_log.read_text().count("certificates reloaded") > reads,
            within_s=3 * LOOK_S,
        )
        cluster.restart("kube-scheduler")  # as connections that are open stay
        kube.create(*gang(space, "held", 2))
        kube.until(
            "kube-scheduler refuses it",
            lambda: log.read_text().count("signed by unknown authority") > said,
        )
        assert not kube.bound(space)
    finally:
        for path, content in zip(pair, before, strict=True):
            path.write_bytes(content)
    kube.until("held is bound", lambda: len(kube.bound(space)) == 2)
