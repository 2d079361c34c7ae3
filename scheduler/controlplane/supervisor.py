"""Runs a program and restarts it when it ends, as a Deployment would."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from types import FrameType

FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 10.0


def main(command: list[str]) -> int:
    """Run `command` until SIGTERM comes."""
    child: subprocess.Popen[bytes] | None = None
    ending = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ending.set()
        if child is not None:
            child.terminate()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    pause_s = FIRST_PAUSE_S
    while not ending.is_set():
        began_s = time.monotonic()
        child = subprocess.Popen(command)
        if ending.is_set():  # the signal came before there was a child to hand it on to
            child.terminate()
        code = child.wait()
        if ending.is_set():
            return 0
        print(f"supervisor: exited with {code}; restarting", file=sys.stderr, flush=True)
        pause_s = (
            FIRST_PAUSE_S if time.monotonic() - began_s > 30 else min(2 * pause_s, LAST_PAUSE_S)
        )
        ending.wait(pause_s)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
