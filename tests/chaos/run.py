"""`make chaos`: random faults for a given time; exit code 1 if a promise was broken.

    python -m tests.chaos.run --minutes 3 --seed 7

The seed gives the same faults at the same times with the same choices among what is then there.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import sys
import tempfile
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path

from scheduler.controlplane import cluster as clusters
from scheduler.controlplane.record import Cluster
from scheduler.journal.replay import replay
from tests.chaos.clock import own_clock
from tests.chaos.faults import Faults
from tests.chaos.load import BURSTS, GATED, OPERATED, Load
from tests.chaos.observer import PLANS, Observer, held_by, num_filters
from tests.chaos.proxy import Proxy
from tests.chaos.tenant import Tenant
from tests.chaos.wire import Wire

NODES, GPUS = 12, 8
#: all that is asked for runs within this time once the faults are over
DRAIN_S = 240.0
LOOK_S = 2.0  #: of all that is well, one look counts for so long at most


class Chaos:
    """One run."""

    def __init__(self, minutes: float, seed: int, keep: Path | None = None) -> None:
        self._keep = keep
        self._length_s, self._seed = minutes * 60, seed
        self._began_s = time.monotonic()
        self._well_s = 0.0
        self._faulty = 0
        self.num_faults: dict[str, int] = {}

    def say(self, text: str) -> None:
        """Print a line of the log."""
        print(f"{time.monotonic() - self._began_s:7.1f} s  {text}", flush=True)

    async def run(self, folder: Path) -> list[str]:
        """Return what went wrong."""
        settings = {"timeouts": {"bind_s": 10.0, "repair_s": 6.0, "barrier_s": 4.0}}
        try:
            cluster = await asyncio.to_thread(
                lambda: clusters.up(folder, nodes=NODES, gpus=GPUS, muster_settings=settings)
            )
            return await self._on(cluster)
        finally:
            if self._keep is not None:
                shutil.copytree(
                    folder, self._keep, dirs_exist_ok=True, ignore=shutil.ignore_patterns("etcd")
                )
            await asyncio.to_thread(clusters.down, folder)

    async def _on(self, cluster: Cluster) -> list[str]:
        rng = random.Random(self._seed)
        keys = cluster.dir / "certificates"
        wire = Wire(cluster.api_url, cluster.kubeconfig, keys / "ca.crt")
        async with wire, asyncio.TaskGroup() as group:
            crt, key = (str(keys / f"muster.{kind}") for kind in ("crt", "key"))
            proxy = Proxy(wire, crt, key, random.Random(self._seed + 1))
            clock_file = await self._stand_between(cluster, await proxy.start())
            for name in (GATED, OPERATED, BURSTS):
                namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
                await wire.sure("POST", "/api/v1/namespaces", namespace)
            load = Load(wire, random.Random(self._seed + 2), NODES * GPUS)
            observer = Observer(lambda: self._well_s, load.sizes)
            pods = "/api/v1/pods"
            tasks = [
                group.create_task(observer.watch(wire, "/api/v1/nodes", observer.on_node)),
                group.create_task(observer.watch(wire, pods, observer.on_pod)),
                group.create_task(observer.watch(wire, PLANS, observer.on_plan)),
                group.create_task(self._look(cluster, observer)),
            ]
            loading = group.create_task(load.run())
            tenant = Tenant(
                wire, random.Random(self._seed + 3), keys / "ca.crt", cluster.kubeconfig
            )
            await tenant.settle_in()
            harming = group.create_task(tenant.run())
            faults = Faults(cluster, wire, proxy, rng, clock_file)
            await self._harm(faults)
            harming.cancel()
            await tenant.leave()
            self.say(f"faults are over; {len(load.gangs)} gangs are left")
            # it can be left waiting for pods of a job that it never made: no concern of muster's
            await asyncio.to_thread(cluster.restart, "training-operator")
            load.open = False
            end_s = time.monotonic() + DRAIN_S
            jobs = set(faults.jobs)
            while (load.gangs or jobs) and time.monotonic() < end_s:
                jobs -= {path for path in jobs if await self._completed(wire, path)}
                await asyncio.sleep(0.5)
            observer.end()
            wrong = list(observer.violations)
            wrong += [f"{path} did not complete" for path in sorted(jobs)]
            for gang in load.gangs.values():
                story = await asyncio.to_thread(self._story, cluster, gang.namespace, gang.name)
                wrong.append(f"{gang.namespace}/{gang.name} did not finish: {story}")
            loading.cancel()
            for task in tasks:
                task.cancel()
            await proxy.stop()
        self._summary(observer, load, proxy)
        acts = ", ".join(f"{n} x {what}" for what, n in sorted(tenant.done.items()))
        print(f"{len(faults.jobs)} Jobs in bursts; the tenant: {acts}")
        print(f"refused to the tenant: {dict(sorted(tenant.refused.items()))}")
        wrong += await asyncio.to_thread(self._replay, cluster)
        log = Path(cluster.process("muster").log).read_text(errors="replace")
        if not (observer.num_binds and observer.num_gangs_started and observer.num_committed):
            wrong.append("the observer saw no gang start: there was nothing to judge")
        failures = [line for line in log.splitlines() if "Traceback" in line and not mistake(line)]
        if failures:
            wrong.append(f"muster failed {len(failures)} times: {last_error(failures[-1])}")
        return wrong

    async def _completed(self, wire: Wire, path: str) -> bool:
        code, job = await wire.call("GET", path)
        told = (job.get("status") or {}).get("conditions") or () if code == 200 else ()
        return any(c["type"] == "Complete" and c["status"] == "True" for c in told)

    async def _stand_between(self, cluster: Cluster, url: str) -> Path | None:
        """Send muster through the proxy, and give it a clock of its own where that is possible."""
        path = cluster.dir / "muster.kubeconfig"
        config = json.loads(path.read_text())
        config["clusters"][0]["cluster"]["server"] = url
        path.write_text(json.dumps(config))
        clock_file = own_clock(cluster)
        if clock_file is None:
            self.say("no libfaketime (Debian: faketime): the wall clock will not jump")
        await asyncio.to_thread(cluster.restart, "muster")
        await self._all_well(cluster)
        return clock_file

    async def _all_well(self, cluster: Cluster) -> None:
        while not await asyncio.to_thread(self._well, cluster):
            await asyncio.sleep(0.2)

    @staticmethod
    def _well(cluster: Cluster) -> bool:
        return all(cluster.healthy(p.name) for p in list(cluster.processes))

    async def _harm(self, faults: Faults) -> None:
        rng = random.Random(self._seed + 3)
        end_s = time.monotonic() + self._length_s
        kinds = sorted(faults.kinds)
        bag: list[str] = []
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < end_s:
                await asyncio.sleep(rng.uniform(1, 9))
                if not bag:  # every kind comes, in another order each time
                    bag = rng.sample(kinds, len(kinds))
                kind = bag.pop()
                if self._faulty < 2:
                    group.create_task(self._fault(kind, faults))

    async def _fault(self, kind: str, faults: Faults) -> None:
        self._faulty += 1
        self.num_faults[kind] = self.num_faults.get(kind, 0) + 1
        try:
            text = await faults.kinds[kind]()
            self.say(f"{kind}{': ' if text else ''}{text}")
        finally:
            self._faulty -= 1

    async def _look(self, cluster: Cluster, observer: Observer) -> None:
        """Advance the observer's clock while all is well."""
        told = 0
        while True:
            before_s = time.monotonic()
            await asyncio.sleep(0.5)
            quiet = not self._faulty and await asyncio.to_thread(self._well, cluster)
            if quiet and not self._faulty:
                with contextlib.suppress(OSError, HTTPException):  # it was killed meanwhile
                    url = cluster.status_url
                    observer.count_filters(await asyncio.to_thread(num_filters, url))
                    observer.held = await asyncio.to_thread(held, url)
                    # a look that took long saw nothing of what was well meanwhile
                    self._well_s += min(time.monotonic() - before_s, LOOK_S)
            else:
                for process in list(cluster.processes):
                    if not process.alive() and not self._faulty:
                        self.say(f"{process.name} ended by itself and is started again")
                        await asyncio.to_thread(cluster.restart, process.name)
            observer.look()
            for text in observer.violations[told:]:
                self.say(f"BROKEN: {text}")
            told = len(observer.violations)

    @staticmethod
    def _story(cluster: Cluster, namespace: str, gang: str) -> str:
        try:
            url = f"{cluster.status_url}/explain/{namespace}/{gang}"
            with urllib.request.urlopen(url, timeout=5) as reply:
                story = json.loads(reply.read())
            pods = ", ".join(f"{p['name']} {p['state']} {p['node']}" for p in story["pods"])
            return f"{story['phase']} {story['reason']}: {story['text']} ({pods})"
        except OSError as error:
            return str(error)

    @staticmethod
    def _replay(cluster: Cluster) -> list[str]:
        wrong = []
        journals = sorted(cluster.dir.glob("journal*.jsonl*"))
        done = [replay(path) for path in journals]
        wrong += [f"replay: {one.difference}" for one in done if one.difference]
        print(f"replayed {sum(d.num_decisions for d in done)} decisions of {len(done)} journals")
        return wrong

    def _summary(self, observer: Observer, load: Load, proxy: Proxy) -> None:
        print(
            f"seed {self._seed}, {self._length_s / 60:g} minutes, all well for {self._well_s:.0f} s"
        )
        print(
            "faults: " + ", ".join(f"{n} x {kind}" for kind, n in sorted(self.num_faults.items()))
        )
        print(f"requests of muster spoilt: {dict(sorted(proxy.num_spoilt.items()))}")
        print(
            f"{load.num_done} gangs finished, {observer.num_gangs_started} starts and "
            f"{observer.num_binds} binds seen, {observer.num_committed} of them after a commit"
        )
        print(f"filter calls per bind: {observer.filters_per_bind:.2f}")
        longest = ", ".join(f"{what} {s:.0f} s" for what, s in sorted(observer.longest.items()))
        print(f"longest while all was well: {longest}")


def held(status_url: str) -> dict[tuple[str, str], int]:
    """Return the GPUs that muster keeps for each gang.

    Raises:
        OSError: it does not say.
    """
    with urllib.request.urlopen(status_url + "/state", timeout=5) as reply:
        return held_by(json.loads(reply.read()))


def mistake(line: str) -> bool:
    """True if a line of the log tells what the tenant wrote wrongly."""
    try:
        found = json.loads(line)
        raised = str(found["error"]).strip().splitlines()[-1]
    except (json.JSONDecodeError, KeyError, IndexError):
        return False
    return " set aside: " in str(found["message"]) and raised.startswith("ValueError: ")


def last_error(log: str) -> str:
    """Return what the last line with a traceback is about, and what was raised."""
    last = next(line for line in reversed(log.splitlines()) if "Traceback" in line)
    try:
        found = json.loads(last)
        return f"{found['message']}: {found['error'].strip().splitlines()[-1]}"
    except (json.JSONDecodeError, KeyError):
        return last


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--keep", type=Path, help="leave logs and journal in this folder")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(options.minutes, seed, options.keep)
        wrong = asyncio.run(chaos.run(Path(folder) / "cluster"))
    for text in wrong:
        print(f"BROKEN: {text}")
    print("no promise was broken" if not wrong else f"{len(wrong)} promises broken; seed {seed}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
