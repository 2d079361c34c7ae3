"""A private folder for a program that insists on a shared path."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from scheduler.controlplane.processes import marked

#: as root, and as anybody where the system lets users have namespaces
WAYS = (("unshare", "--mount"), ("unshare", "--map-root-user", "--mount"))


def seen_at(shared: Path, own: Path) -> list[str]:
    """Return what goes before a command so that it finds `own` at `shared`; `own` is made.

    Where the system allows no namespace, `own` becomes a link to `shared`: then only one cluster of
    this machine can run the program.

    Raises:
        ValueError: another cluster uses `shared`, and there are no namespaces.
    """
    shared.mkdir(exist_ok=True)
    if not own.is_symlink():
        own.mkdir(exist_ok=True)
    for way in WAYS if shutil.which("unshare") and not own.is_symlink() else ():
        mount = f'mount --bind "{own}" "{shared}"'
        if subprocess.run([*way, "sh", "-c", mount], capture_output=True).returncode == 0:
            return [*way, "sh", "-c", f'{mount} && exec "$@"', "sh"]
    claim(shared, own)
    return []


def claim(shared: Path, own: Path) -> None:
    """Link `own` to `shared`, unless a living cluster did so before.

    Raises:
        ValueError: one did; the text names it.
    """
    owner = shared / "owner"
    other = owner.readlink() if owner.is_symlink() else own.parent
    if other != own.parent and any(Path(log).parent == other for _, log in marked()):
        raise ValueError(
            f"{shared} is in use by the cluster in {other}, and this system does not allow a "
            "mount namespace (unshare --mount) to separate them; end that one first: muster "
            f"cluster down --dir {other}"
        )
    owner.unlink(missing_ok=True)
    owner.symlink_to(own.parent)
    if not own.is_symlink():
        own.rmdir()
        own.symlink_to(shared)
