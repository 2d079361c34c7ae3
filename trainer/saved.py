"""Telling the cluster until when the run is saved: an annotation on the rank's own pod.

A scheduler that has to stop somebody can then choose whose loss is least. It is told where the
pod's service account may patch pods, in a thread of its own, and nothing depends on it.
"""

from __future__ import annotations

import json
import ssl
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path

SAVED = "muster.dev/saved"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")  #: mounted by Kubernetes
PATIENCE_S = 10.0


class Saved:
    """Writes the time of the last committed checkpoint on one pod."""

    def __init__(self, pod_url: str, token: Path, ca: Path | None = None) -> None:
        self._pod_url, self._token = pod_url, token
        self._tls = ssl.create_default_context(cafile=str(ca)) if ca is not None else None
        self._refused = False  #: it may not; then it is not asked again
        self._latest_unix_s = 0.0
        self._told = threading.Lock()  #: held while a time is written

    @classmethod
    def of_pod(cls, env: Mapping[str, str], account: Path = ACCOUNT) -> Saved | None:
        """Return it for the pod that this process runs in; None outside of a cluster.

        The host name is the pod's name, unless the pod sets one or shares its node's network.
        """
        host, name = env.get("KUBERNETES_SERVICE_HOST"), env.get("HOSTNAME")
        try:
            namespace = (account / "namespace").read_text(encoding="utf-8").strip()
            if not host or not name or not (account / "token").is_file():
                return None
            where = f"[{host}]" if ":" in host else host
            port = env.get("KUBERNETES_SERVICE_PORT", "443")
            url = f"https://{where}:{port}/api/v1/namespaces/{namespace}/pods/{name}"
            return cls(url, account / "token", account / "ca.crt")
        except (OSError, ValueError):  # no account is mounted, or none that can be read
            return None

    def note(self, unix_s: float) -> threading.Thread | None:
        """Have it written that all work done until then is saved; does not wait, nor raise."""
        self._latest_unix_s = max(self._latest_unix_s, unix_s)
        if self._refused:
            return None
        thread = threading.Thread(target=self._write, name="saved", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads: the next checkpoint says it, too
            return None
        return thread

    def _write(self) -> None:
        with self._told:
            at = datetime.fromtimestamp(self._latest_unix_s, UTC)
            text = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            try:
                token = self._token.read_text(encoding="ascii").strip()
                request = urllib.request.Request(
                    self._pod_url,
                    method="PATCH",
                    data=json.dumps({"metadata": {"annotations": {SAVED: text}}}).encode(),
                    headers={
                        "Content-Type": "application/merge-patch+json",
                        "Authorization": f"Bearer {token}",
                    },
                )
                with urllib.request.urlopen(request, timeout=PATIENCE_S, context=self._tls):
                    pass
            except urllib.error.HTTPError as error:
                self._refused = error.code in (401, 403, 404)
                if self._refused:
                    print(
                        f"{SAVED} is not written ({error.code}): the service account may not "
                        "patch this pod; see docs/trainer.md. Training continues without",
                        file=sys.stderr,
                    )
            except (OSError, ValueError, HTTPException):  # the next checkpoint says it, too
                pass
