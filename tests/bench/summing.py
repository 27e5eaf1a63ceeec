"""Adding up reports, and taking them in."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from coordinator.services.reports import Expected, store_report
from coordinator.store.blobs import BlobKind, FolderBlobs
from edge_runtime.protocol.keys import SigningKey, digest
from edge_runtime.protocol.report import REPORT_HEADER, encode_report
from edge_runtime.protocol.secure_sum.lanes import Lanes, sum_lanes
from edge_runtime.protocol.signing import claimed, sign_request, verify_body, verify_request
from tests.bench.measure import Row, cost_row

PARAMETERS = 1_000_000
REPORTS = 100
LANES = Lanes(bits=32, clipping_norm=1.0, max_participants=REPORTS)
PARTICIPATION = "ab" * 16


def rows(folder: Path) -> list[Row]:
    return [_sum(), _receive(folder), _pack()]


def _report(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    delta = rng.normal(size=PARAMETERS).astype(np.float32)
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
        "sum.100x1m",
        ours,
        limit,
        bound=1.4,
        how="add up 100 reports of 1M lanes, unpacking included; limit: numpy uint32 add of 100 distinct arrays",
    )


def _receive(folder: Path) -> Row:
    key, body = SigningKey(digest(b"bench")), _report(0)
    expected = Expected(tenant="bench", participation=PARTICIPATION, lanes=LANES, parameters=PARAMETERS)
    blobs = FolderBlobs(folder / "blobs", 0)
    total = np.zeros(PARAMETERS + 4, np.uint32)
    headers = sign_request(key, "00" * 16, "PUT", "/x", body, created=0, nonce=bytes(16))
    address = hashlib.sha256(body).hexdigest()

    def ours() -> None:
        claim = claimed(headers)
        verify_request(claim, key.public, "PUT", "/x", now=0)
        verify_body(claim, hashlib.sha256(body).digest())
        blobs.path("bench", BlobKind.REPORT, address).unlink(missing_ok=True)
        store_report(blobs, expected, body, address)
        np.add(total, np.frombuffer(body, "<u4", offset=REPORT_HEADER.size), out=total)

    def limit() -> None:
        hashlib.sha256(body).digest()
        path = folder / "raw"
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(handle, body)
        os.fsync(handle)
        os.close(handle)
        np.add(total, np.frombuffer(body, "<u4", offset=REPORT_HEADER.size), out=total)

    return cost_row(
        "report.receive_4mb",
        ours,
        limit,
        bound=1.5,
        how="verify signature, digest, header and lanes of 4 MB, store durably, add; "
        "limit: SHA-256 + file write with fsync + uint32 add",
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
