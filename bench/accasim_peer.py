"""One AccaSim simulation, run by its own interpreter: prints CPU seconds and peak memory as JSON.

    python accasim_peer.py JOBS.swf fifo|easy NODES GPUS_PER_NODE

AccaSim 1.1.3 predates Python 3.10: names that the standard library has moved since are put back
before it is imported. Nothing of it is changed.
"""

from __future__ import annotations

import collections
import collections.abc
import json
import re
import sys
import tempfile
import time
from pathlib import Path

for name in ("Mapping", "MutableMapping", "Sequence", "Iterable", "Callable", "Hashable", "Set"):
    setattr(collections, name, getattr(collections.abc, name))
if not hasattr(time, "clock"):
    time.clock = time.process_time  # type: ignore[attr-defined]


def main() -> None:
    from accasim.base.allocator_class import FirstFit
    from accasim.base.scheduler_class import EASYBackfilling, FirstInFirstOut
    from accasim.base.simulator_class import Simulator

    jobs, policy, nodes, gpus_per_node = sys.argv[1:]
    dispatchers = {"fifo": FirstInFirstOut, "easy": EASYBackfilling}
    with tempfile.TemporaryDirectory() as folder:
        system = Path(folder) / "system.json"
        groups = {"node": {"core": int(gpus_per_node)}}
        system.write_text(json.dumps({"groups": groups, "resources": {"node": int(nodes)}}))
        began_s = time.process_time()
        simulator = Simulator(
            jobs,
            str(system),
            dispatchers[policy](FirstFit()),
            scheduling_output=False,
            pprint_output=False,
            benchmark_output=False,
            statistics_output=False,
            show_statistics=False,
            RESULTS_FOLDER_PATH=folder,
            LOG_LEVEL="INFO",
        )
        simulator.start_simulation()
        cpu_s = time.process_time() - began_s
    status = Path("/proc/self/status").read_text("ascii")
    peak_mib = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]
    print(json.dumps({"cpu_s": cpu_s, "peak_mib": peak_mib, "loaded": simulator.loaded_jobs}))


main()
