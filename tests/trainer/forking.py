"""Ranks without launchers: one process imports torch once and forks every rank of every gang.

Run as a script it reads one JSON line per gang on stdin, `{"ranks": 2, "args": [...], "log": PATH,
"script": "train"}`, forks its ranks and answers with their process ids; `{"wait": [pid, ...]}` is
answered with exit codes. What a launcher does is tested with launchers, elsewhere.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]


class Forkery:
    """The process that forks, seen from a test."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )

    def _ask(self, question: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, ranks: int, args: list[str], log: Path, **options: Any) -> Ranks:
        """Fork the ranks of one attempt."""
        log.parent.mkdir(parents=True, exist_ok=True)
        pids = self._ask({"ranks": ranks, "args": args, "log": str(log), **options})
        return Ranks(self, pids, log)

    def exit_codes(self, pids: list[int]) -> list[int | None]:
        """Return how processes ended, None for those that run; a signal's number is negative."""
        found: list[int | None] = self._ask({"wait": pids})
        return found

    def close(self) -> None:
        """End the process; all of its ranks have ended."""
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()


class Ranks:
    """The ranks of one attempt."""

    def __init__(self, forkery: Forkery, pids: list[int], log: Path) -> None:
        self.pids, self.log = pids, log
        self._forkery = forkery

    def wait(self, timeout_s: float) -> list[int]:
        """Return all exit codes once all have ended."""
        until_s = time.monotonic() + timeout_s
        while None in (codes := self._forkery.exit_codes(self.pids)):
            assert time.monotonic() < until_s, f"ranks {codes} still run:\n{self.text()}"
            time.sleep(0.01)
        return [code for code in codes if code is not None]

    def wait_step(self, out: Path, step: int, timeout_s: float) -> None:
        """Return once rank 0 has done so many steps."""
        until_s = time.monotonic() + timeout_s
        beat = out / "heartbeat" / "rank_00000"
        while True:
            words = beat.read_text("ascii").split() if beat.exists() else []
            if words[:1] == [str(self.pids[0])] and int(words[1]) >= step:
                return
            assert self._forkery.exit_codes(self.pids[:1]) == [None], self.text()
            assert time.monotonic() < until_s, self.text()
            time.sleep(0.002)

    def text(self) -> str:
        """Return what they printed."""
        return self.log.read_text("utf-8")

    def kill(self) -> None:
        """End what still runs."""
        for pid, code in zip(self.pids, self._forkery.exit_codes(self.pids), strict=True):
            if code is None:
                os.kill(pid, signal.SIGKILL)
        self.wait(60.0)


def serve() -> None:
    """Fork and wait as asked, until stdin ends."""
    import torch._dynamo  # DDP does
    import torch.distributed.checkpoint.state_dict
    import torch.distributed.fsdp  # noqa: F401

    from trainer.local import free_port

    codes: dict[int, int] = {}
    for line in sys.stdin:
        question = json.loads(line)
        if "wait" in question:
            for pid in question["wait"]:
                if pid not in codes and (status := os.waitpid(pid, os.WNOHANG))[0]:
                    codes[pid] = os.waitstatus_to_exitcode(status[1])
            answer = [codes.get(pid) for pid in question["wait"]]
        else:
            port = free_port()
            answer = []
            for rank in range(question["ranks"]):
                pid = os.fork()
                if pid == 0:
                    become(rank, port, question)
                answer.append(pid)
        print(json.dumps(answer), flush=True)


def become(rank: int, port: int, question: dict[str, Any]) -> NoReturn:
    """Be one rank, and end with its exit code."""
    log = os.open(question["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    if question.get("max_file_bytes"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (question["max_file_bytes"],) * 2)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(question["ranks"]),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        **question.get("env", {}),
    }
    code = 1
    try:
        from trainer import train

        train.main(question["args"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    serve()
