"""The certificate of the verbs is renewed without a restart."""

from __future__ import annotations

import re
import time
import urllib.request

import pytest

from scheduler.extender.certificates import LOOK_S
from tests.cluster.conftest import Kube
from tests.cluster.test_failure_extender import ALL_NODES, Verbs


@pytest.mark.k8s
@pytest.mark.slow
def test_a_running_muster_is_given_a_new_certificate(kube: Kube) -> None:
    """With the authority that it has: kube-scheduler goes on calling it."""
    keys = kube.cluster.dir / "certificates"
    pair = [keys / "muster.crt", keys / "muster.key"]
    before = [path.read_bytes() for path in pair]
    verbs = Verbs(kube.cluster)

    def shown() -> bytes:
        connection = verbs.connect()
        connection.connect()
        try:
            return connection.sock.getpeercert(binary_form=True)
        finally:
            connection.close()

    first = shown()
    scheduler = [keys / "kube-scheduler.crt", keys / "kube-scheduler.key"]
    try:
        # one authority signed both, and both are good for servers
        for path, other in zip(pair, scheduler, strict=True):
            path.write_bytes(other.read_bytes())
        kube.until("the new one is shown", lambda: shown() != first, within_s=3 * LOOK_S)
        assert verbs.filter({"metadata": {"uid": "x"}, "spec": {}}, ALL_NODES) == ALL_NODES
    finally:
        for path, content in zip(pair, before, strict=True):
            path.write_bytes(content)
    kube.until("the old one is back", lambda: shown() == first, within_s=3 * LOOK_S)
    with urllib.request.urlopen(f"{kube.cluster.status_url}/metrics", timeout=10) as reply:
        found = re.search(
            r'^muster_certificate_expires_unix_seconds\{file="cert"\} (\S+)$',
            reply.read().decode(),
            re.M,
        )
    assert found is not None and float(found[1]) > time.time() + 300 * 86400
