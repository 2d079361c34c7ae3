"""How soon `filter` is answered while a tenant writes whatever it can.

The service of `tests/scheduler/live/test_hostile.py` in a process of its own, in front of that
test's small API server, and scripts drawn as that test draws them, the same ones in each run. A
third process asks `filter` about a pod of no gang all the while, over HTTP, every 20 ms.
`--examples` draws more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.rows import show
from tests.scheduler.live import test_hostile as hostile

EVERY_S = 0.02


def ask(url: str) -> None:
    """Ask until nobody reads any more; print how long each answer took, in milliseconds."""
    has = {"limits": {hostile.GPU: "1"}}
    spec = {"containers": [{"name": "main", "resources": has}]}
    pod = {"metadata": {"name": "alone", "namespace": "honest", "uid": "alone"}, "spec": spec}
    names = [f"node-{number:05d}" for number in range(hostile.NODES)]
    body = json.dumps({"Pod": pod, "NodeNames": names}).encode()
    headers = {"Content-Type": "application/json"}
    while True:
        began_s = time.perf_counter()
        with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as reply:
            reply.read()
        print(1e3 * (time.perf_counter() - began_s), flush=True)
        time.sleep(EVERY_S)


class Apart(hostile.Life):
    """A service in a process of its own: the tenant and the API server take none of its time."""

    def _live(self) -> None:
        ports = [str(port) for port in self.ports]
        command = [sys.executable, __file__, "--live", self.api.url, *ports]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.process.wait()
        self.ended.set_result(None)

    def pages_answer(self) -> None:
        """Leave the pages to the test: no look into the service is possible here."""

    def is_empty(self) -> bool:
        """True if muster waits for nobody, and has written no plan that stays."""
        return not json.loads(self.get("/queue")[1]) and not self.api.all(hostile.PLANS)

    def ends(self) -> dict[str, float]:
        """End the service; return what it says of its turns."""
        said, _ = self.process.communicate("")
        return json.loads(said)


def live(url: str, ports: list[int]) -> None:
    """Run the service until nobody writes to this process any more; print its turns."""
    with hostile.timed_turns(), tempfile.TemporaryDirectory() as folder:
        life = hostile.Life(Path(folder), ports)
        life.api.url = url
        life.starts()
        began_s, life.loop.turns_s = time.perf_counter(), []
        sys.stdin.read()
        turns_s, lasted_s = life.loop.turns_s, time.perf_counter() - began_s
        life.stops()
    print(json.dumps({"waits_s": waits_s(turns_s, lasted_s), "longest_s": max(turns_s)}))


def measured(examples: int) -> dict[str, float]:
    """Return the figures, by words with their unit."""
    with tempfile.TemporaryDirectory() as folder, Apart(Path(folder)) as life:

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(script=st.lists(hostile.acts(), min_size=1, max_size=10))
        def all_scripts(script: list[tuple[object, ...]]) -> None:
            hostile.handful(life, script)

        url = f"http://127.0.0.1:{life.ports[0]}/v1/filter"
        command = [sys.executable, __file__, "--ask", url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as asking:
            all_scripts()
            asking.terminate()
            taken = sorted(map(float, asking.communicate()[0].split()))
        turns = life.ends()
    return {
        f"filter calls answered while a tenant wrote {examples} batches": len(taken),
        "filter, p50, ms": statistics.median(taken),
        "filter, p99, ms": taken[len(taken) * 99 // 100],
        "p99 of a call's wait for the current turn, CPU ms": 1e3 * turns["waits_s"],
        "longest turn of the event loop, CPU ms": 1e3 * turns["longest_s"],
    }


def waits_s(turns_s: list[float], lasted_s: float, share: float = 0.01) -> float:
    """Return for how long this share of calls, at any time, waits at least for a turn to end.

    Counted in CPU, so that it is the same however busy the machine is with others.
    """
    low_s, high_s = 0.0, max(turns_s)
    for _ in range(40):
        middle_s = (low_s + high_s) / 2
        late_s = sum(turn_s - middle_s for turn_s in turns_s if turn_s > middle_s)
        low_s, high_s = (middle_s, high_s) if late_s > share * lasted_s else (low_s, middle_s)
    return high_s


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--write-docs", action="store_true", help="update docs/benchmarks.md")
    parser.add_argument("--ask", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--live", nargs=3, metavar=("URL", "PORT", "PORT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ask:
        ask(given.ask)
    if given.live:
        live(given.live[0], [int(port) for port in given.live[1:]])
        return 0
    figures = measured(given.examples)
    show(figures, "hostile" if given.write_docs else "")
    return 0


if __name__ == "__main__":
    sys.exit(main())
