"""A child process with one interpreter and nothing else: how long a step takes, and how much memory it needs."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Final

import numpy as np

from model_export.check.case import GRAPH, read_first_inputs
from model_export.check.stock import open_stock

_FEWEST, _MOST, _ENOUGH_S = 7, 200, 3.0
_WARM_UP: Final = 2


def measure(runtime: str, folder: Path) -> dict[str, float]:
    """Milliseconds of CPU time for opening, and for a step (median and quartiles); peak memory in bytes."""
    inputs = read_first_inputs(folder)
    graph = (folder / GRAPH).read_bytes()
    begin = time.process_time()
    call = open_stock(graph, runtime)
    call("begin_round", {})
    open_ms = 1000 * (time.process_time() - begin)
    inputs = {**inputs, "lr": np.array(1e-6, np.float32)}  # hundreds of steps on one batch must stay finite
    for _ in range(_WARM_UP):
        call("train", inputs)
    times: list[float] = []
    while len(times) < _FEWEST or (len(times) < _MOST and sum(times) < 1000 * _ENOUGH_S):
        begin = time.process_time()
        call("train", inputs)
        times.append(1000 * (time.process_time() - begin))
    low, median, high = np.percentile(times, [25, 50, 75])
    return {
        "open_ms": open_ms,
        "step_ms": float(median),
        "low_ms": float(low),
        "high_ms": float(high),
        "steps": float(len(times)),
        "peak_memory_bytes": float(peak_memory_bytes()),
    }


def peak_memory_bytes() -> int:
    """Largest resident memory of this process since it began; not that of the one that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))  # noqa: T201
