"""Adding up reports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from coordinator.store.blobs import BlobKind, FolderBlobs
from edge_runtime.protocol.report import REPORT_HEADER, encode_report
from edge_runtime.protocol.secure_sum.lanes import Lanes, sum_lanes
from tests.bench.measure import Row, cost_row

PARAMETERS = 1_000_000
SMALL = 100_000
REPORTS = 100
LANES = Lanes(bits=32, clipping_norm=1.0, max_participants=REPORTS)
PARTICIPATION = "ab" * 16


def rows(folder: Path) -> list[Row]:
    return [_sum(), _growth(folder), _pack()]


def _report(seed: int, parameters: int = PARAMETERS) -> bytes:
    rng = np.random.default_rng(seed)
    delta = rng.normal(size=parameters).astype(np.float32)
    delta /= np.float32(np.linalg.norm(delta) * 1.001)
    return encode_report(PARTICIPATION, LANES, LANES.pack(delta, rng))


def _sum() -> Row:
    reports = [_report(seed) for seed in range(REPORTS)]  # distinct: one array over and over would sit in the cache
    arrays = [np.frombuffer(one, "<u4", offset=REPORT_HEADER.size).copy() for one in reports]
    total = np.zeros(PARAMETERS + 4, np.uint32)

    def limit() -> None:
        total[:] = 0
        for one in arrays:
            np.add(total, one, out=total)

    def ours() -> None:
        sum_lanes(np.frombuffer(one, "<u4", offset=REPORT_HEADER.size) for one in reports)

    return cost_row(
        "coordinator.sum_100",
        ours,
        limit,
        bound=1.4,
        how="add up 100 reports of 1M lanes, unpacking included; limit: numpy uint32 add of 100 distinct arrays",
    )


_GROWTH = """
import resource, sys
from pathlib import Path
import numpy as np
from coordinator.store.blobs import BlobKind, FolderBlobs
from edge_runtime.protocol.report import REPORT_HEADER
from edge_runtime.protocol.secure_sum.lanes import sum_lanes

folder, sha256, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
blobs = FolderBlobs(folder, 0)
sum_lanes(
    np.frombuffer(blobs.get("bench", BlobKind.REPORT, sha256), "<u4", offset=REPORT_HEADER.size) for _ in range(count)
)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def _growth(folder: Path) -> Row:
    """Peak memory of a process that reads and adds so many reports, 400 KB each."""
    body = _report(0, SMALL)
    sha256 = FolderBlobs(folder / "blobs", 0).put("bench", BlobKind.REPORT, body)

    def peak_mb(count: int) -> float:
        command = [sys.executable, "-c", _GROWTH, str(folder / "blobs"), sha256, str(count)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024

    growth_mb = max(0.0, peak_mb(10_000) - peak_mb(10))
    return Row(
        id="coordinator.sum_rss_growth",
        ours=round(growth_mb, 1),
        limit=32.0,
        ratio=round(growth_mb / 32, 3),
        bound=1.0,
        unit="MB",
        how="peak memory of a process that reads, verifies and adds 10,000 reports, above that of 10; limit: 32 MB",
    )


def _pack() -> Row:
    rng = np.random.default_rng(0)
    delta = (rng.normal(size=PARAMETERS) / 2000).astype(np.float32)
    out = np.empty(PARAMETERS, np.uint32)

    def limit() -> None:
        scaled = delta.astype(np.float64) * LANES.scale
        floor = np.floor(scaled)
        np.copyto(out, (floor + (rng.random(PARAMETERS) < scaled - floor)).astype(np.int64), casting="unsafe")

    return cost_row(
        "lanes.pack_1m",
        lambda: LANES.pack(delta, rng),
        limit,
        bound=1.5,
        how="stochastic rounding of 1M parameters to lanes, checked; limit: the same arithmetic alone",
    )
