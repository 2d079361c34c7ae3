"""Container images built locally as OCI archives: no registry, no engine, no download.

The training image holds links and a few small files. Its content, the system's programs and the
Python environment with the checkout, is shown to every container by the node (see
`nodes.runtime_spec`), read-only, so that pod specs are those of a real cluster.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

PAUSE = "localhost/pause:1"
TRAIN = "localhost/muster-train:1"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_FOLDERS = ("dev", "etc", "home", "mnt", "opt", "proc", "root", "run", "sys", "usr", "var")
_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_FILES = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n",
    "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files dns\n",
}
#: all that the training operator's init container asks for: does the name resolve?
_NSLOOKUP = b'#!/bin/sh\nexec getent ahostsv4 "$1"\n'

Entry = tuple[tarfile.TarInfo, bytes]


def _folder(name: str, mode: int = 0o755) -> Entry:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    return entry, b""


def _link(name: str, target: str) -> Entry:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry, b""


def _file(name: str, data: bytes, mode: int = 0o644) -> Entry:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    return entry, data


def _tar(entries: Iterable[Entry]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry, data in entries:
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def _archive(name: str, layer: bytes, config: dict[str, object]) -> bytes:
    """Return an OCI archive of one layer, as `ctr images import` reads it."""
    blobs: dict[str, bytes] = {}

    def put(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        media = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(data)}

    content = put(layer, "layer.v1.tar")
    machine = platform.machine()
    settings = {
        "architecture": _ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [content["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(json.dumps(settings).encode(), "config.v1+json"),
        "layers": [content],
    }
    described = put(json.dumps(manifest).encode(), "manifest.v1+json")
    described["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rsplit(":", 1)[1],
    }
    index = json.dumps({"schemaVersion": 2, "manifests": [described]}).encode()
    entries = [
        _file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
        _file("index.json", index),
    ]
    return _tar(entries + [_file(f"blobs/sha256/{digest}", data) for digest, data in blobs.items()])


def pause(program: Path) -> bytes:
    """Return the image of a sandbox's process 1."""
    layer = _tar([_file("pause", program.read_bytes(), 0o755)])
    return _archive(PAUSE, layer, {"Entrypoint": ["/pause"], "User": "65535:65535"})


def train() -> bytes:
    """Return the image of training pods; its content comes from the node."""
    entries = [_folder(name) for name in _FOLDERS]
    entries += [_folder("tmp", 0o1777), _folder("var/tmp", 0o1777), _link("var/run", "/run")]
    entries += [_folder("opt/muster"), _folder("opt/muster/bin")]
    for name in _LINKS:
        path = Path("/", name)
        if path.is_symlink():
            entries.append(_link(name, str(path.readlink()).lstrip("/")))
    entries += [_file(name, data) for name, data in _FILES.items()]
    libraries = Path("/etc/ld.so.cache")
    if libraries.exists():
        entries.append(_file("etc/ld.so.cache", libraries.read_bytes()))
    entries.append(_file("opt/muster/bin/nslookup", _NSLOOKUP, 0o755))
    search = [f"{sys.prefix}/bin", "/opt/muster/bin", "/usr/local/bin", "/usr/sbin", "/usr/bin"]
    config: dict[str, object] = {
        "Cmd": ["/bin/sh"],
        "WorkingDir": "/root",
        "Env": [
            f"PATH={':'.join([*search, '/sbin', '/bin'])}",
            "HOME=/root",
            "LANG=C.UTF-8",
            "PYTHONUNBUFFERED=1",
            "PYTHONDONTWRITEBYTECODE=1",
        ],
    }
    return _archive(TRAIN, _tar(entries), config)
