"""A wall clock of muster's own, that can be set while it runs; the monotonic clock stays true."""

from __future__ import annotations

from pathlib import Path

from scheduler.controlplane.record import Cluster

#: Debian's package is called faketime
FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


def own_clock(cluster: Cluster) -> Path | None:
    """Give muster a clock from its next start on; None without libfaketime.

    What is written to the returned file, such as `+3600s`, is at once the difference to true time.
    """
    if not FAKETIME:
        return None
    clock_file = cluster.dir / "clock"
    clock_file.write_text("+0s\n")
    command = cluster.process("muster").command
    at = command.index("scheduler.controlplane.supervisor") + 1
    command[at:at] = [  # for muster itself, not for what starts it again
        "env",
        f"LD_PRELOAD={FAKETIME[-1]}",
        f"FAKETIME_TIMESTAMP_FILE={clock_file}",
        "FAKETIME_NO_CACHE=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
        "DONT_FAKE_MONOTONIC=1",
    ]
    return clock_file
