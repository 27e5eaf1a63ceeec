"""The coordinator as a process on one core, and who asks it on the other: check-ins, reports, whole rounds."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from coordinator.store.tables import Device
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import CHECK_IN_PATH, CheckIn
from edge_runtime.protocol.keys import SigningKey, device_id, digest
from edge_runtime.protocol.signing import sign_request
from tests.bench import reporting
from tests.bench.knocking import (
    OTHER_CORE,
    SERVER_CORE,
    Line,
    Serving,
    connect,
    knock,
    on_core,
    request_bytes,
    serving,
)
from tests.bench.measure import REPEATS, Row, cpu_s
from tests.programme import PLAN, POPULATION, TENANT, Clock, make_home, open_home

DEVICES = 2000
REQUESTS = 6000
_numbers = itertools.count(1)


def rows(folder: Path) -> list[Row]:
    return [*_check_ins(folder), *reporting.rows(folder)]


KEYS = [SigningKey(digest(b"bench", str(number).encode())) for number in range(DEVICES)]
IDS = [device_id(TENANT, key.public) for key in KEYS]


def _home(folder: Path) -> None:
    """A coordinator with a task whose pool never fills, and devices that are enrolled."""
    folder.mkdir()
    now = datetime.now(UTC)
    with open_home(folder, Clock(now), make_home(folder)) as home:
        home.start_task(replace(PLAN), pool_size=1_000_000, selecting_deadline_s=86_400.0)
        with home.app.state.parts.database.writing() as session:
            for name, key in zip(IDS, KEYS, strict=True):
                session.add(
                    Device(
                        id=name,
                        tenant=TENANT,
                        population=POPULATION,
                        public_key=key.public.raw,
                        app="app",
                        app_version="1.2.3",
                        platform="android",
                        evidence="none",
                        enrolled_at=now,
                    )
                )


def _check_in(number: int) -> bytes:
    """One device's check-in, signed now."""
    place, nonce = number % DEVICES, next(_numbers).to_bytes(16, "big")
    message = CheckIn(
        version=3,
        population=POPULATION,
        visit=nonce.hex(),
        runtime="litert 2.1.0",
        examples=32,
        app_version="1.2.3",
        platform="android",
        region="DE",
        hardware_class="mid",
        attributes={},
    )
    body = wire.encode(message)
    headers = sign_request(KEYS[place], IDS[place], "POST", CHECK_IN_PATH, body, created=int(time.time()), nonce=nonce)
    return request_bytes("POST", CHECK_IN_PATH, headers, body)


def _verifying(count: int = 1000) -> float:
    """CPU seconds of one bare verification on the server's core: a key from its bytes, a signature of a base."""
    message = bytes(350)
    signed = [(key.public, key.sign(message)) for key in KEYS[:count]]

    def verify() -> None:
        for key, signature in signed:
            key.verify(signature, message)

    with on_core(SERVER_CORE):
        return cpu_s(verify) / count


def _asked(server: Serving, lines: list[Line]) -> tuple[float, float]:
    """CPU seconds of the server for one check-in, and wall seconds."""
    requests = [_check_in(number) for number in range(REQUESTS)]
    before = server.cpu_s()
    with on_core(OTHER_CORE):
        wall_s, statuses = knock(lines, requests)
    if statuses != {b"200": REQUESTS}:
        raise RuntimeError(f"check-ins were not answered: {statuses}")
    return (server.cpu_s() - before) / REQUESTS, wall_s / REQUESTS


def _check_ins(folder: Path) -> Iterator[Row]:
    for name, options in (("checkin", ()), ("checkin_unsigned", ("unsigned",))):
        home = folder / name
        _home(home)
        with serving(home, *options) as server:
            lines = connect(server.port)
            _asked(server, lines)
            pairs = [(*_asked(server, lines), _verifying()) for _ in range(REPEATS)]
            for line in lines:
                line.socket.close()
        ours_s, wall_s, verify_s = (statistics.median(pair[place] for pair in pairs) for place in range(3))
        limit_s = verify_s if name == "checkin" else 1e-4
        yield Row(
            id=f"coordinator.{name}",
            ours=round(1 / ours_s, 1),
            limit=round(1 / limit_s, 1),
            ratio=round(ours_s / limit_s, 3),
            bound=1.67 if name == "checkin" else 1.0,
            unit="per CPU s",
            how=f"check-ins of version 3 from {DEVICES} devices, {len(lines)} connections, committed on SQLite "
            f"with full sync, HTTP and worker included, {1 / wall_s:.0f} a wall second; limit: "
            + ("Ed25519 verification alone" if name == "checkin" else "10,000 a second; verification left out"),
        )
