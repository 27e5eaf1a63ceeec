"""Whole rounds of six phones with a model of 4 MB: what a counted report costs, and how many a second there are."""

from __future__ import annotations

import hashlib
import itertools
import os
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import encode_bundle
from edge_runtime.protocol.checkin import CHECK_IN_PATH, Assignment, CheckIn, CheckInAnswer, checkpoint_path
from edge_runtime.protocol.checkpoint import encode_checkpoint
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.report import encode_report, report_path
from edge_runtime.protocol.signing import sign_request
from tests.bench.knocking import OTHER_CORE, SERVER_CORE, Line, Serving, connect, on_core, request_bytes, serving
from tests.bench.measure import REPEATS, Row
from tests.programme import PLAN, POPULATION, TENANT_KEY, Clock, Phone, make_home, manifest, open_home

PHONES = 6
PARAMETERS = 1_000_000
BOUND_CPU_S = 0.025
BOUND_PER_S = 20.0
_GRAPH = b"not a graph that any interpreter could run"
_numbers = itertools.count(1)


def rows(folder: Path) -> Iterator[Row]:
    home = folder / "reporting"
    phones = _home(home)
    packed = _lanes()
    with serving(home, "hold") as server, ThreadPoolExecutor(PHONES) as pool, on_core(OTHER_CORE):
        lines = connect(server.port, PHONES)

        def everybody(act: Callable[[int], object]) -> list[object]:
            return list(pool.map(act, range(PHONES)))

        rounds = [_round(server, phones, lines, packed, everybody) for _ in range(REPEATS + 1)][1:]
        for line in lines:
            line.socket.close()
    receiving_s, whole_s, wall_s = (statistics.median(one[place] for one in rounds) / PHONES for place in range(3))
    limit_s = statistics.median(_limit(folder, packed) for _ in range(REPEATS))
    yield Row(
        id="coordinator.receive_add",
        ours=round(receiving_s * 1e3, 2),
        limit=round(limit_s * 1e3, 2),
        ratio=round(receiving_s / limit_s, 3),
        bound=1.5,
        unit="ms CPU",
        how="a report of 4 MB over HTTP until its receipt: signature, digest, header, lanes, stored durably, counted, "
        "and what is added meanwhile; limit: socket read + SHA-256 + file write with fsync + uint32 add",
    )
    yield Row(
        id="coordinator.roundtrip",
        ours=round(whole_s * 1e3, 2),
        limit=BOUND_CPU_S * 1e3,
        ratio=round(max(whole_s / BOUND_CPU_S, wall_s * BOUND_PER_S), 3),
        bound=1.0,
        unit="ms CPU",
        how=f"rounds of {PHONES} phones, check-in, 4 MB down, 4 MB up, counted and committed: {1 / wall_s:.1f} a "
        f"wall second; limit: {BOUND_CPU_S * 1e3:.0f} ms and {BOUND_PER_S:.0f} a second, the worse of the two",
    )


def _home(folder: Path) -> list[Phone]:
    folder.mkdir()
    kind = manifest(PARAMETERS + 2)
    bundle = encode_bundle(kind, _GRAPH, TENANT_KEY)
    first = encode_checkpoint(np.zeros(kind.parameters, np.float32), digest(bundle).hex(), 0, TENANT_KEY)
    plan = replace(
        PLAN, bundle_sha256=digest(bundle).hex(), goal=PHONES, min_reports=PHONES, expected_participants=PHONES
    )
    with open_home(folder, Clock(datetime.now(UTC)), make_home(folder)) as home:
        home.operator("PUT", f"/populations/{POPULATION}").raise_for_status()
        home.operator("PUT", f"/bundles/{plan.bundle_sha256}", content=bundle).raise_for_status()
        made = home.operator("POST", f"/bundles/{plan.bundle_sha256}/checkpoints", content=first)
        sha256 = made.raise_for_status().json()["sha256"]
        home.start_task(plan, checkpoint_sha256=sha256, rounds=None, pool_size=PHONES, over_selection=1.0)
        return [home.phone(number) for number in range(PHONES)]


def _lanes() -> bytes:
    rng = np.random.default_rng(0)
    delta = rng.normal(size=PARAMETERS).astype(np.float32)
    delta /= np.float32(np.linalg.norm(delta))
    return PLAN.lanes().pack(delta, rng)


def _round(
    server: Serving,
    phones: list[Phone],
    lines: list[Line],
    packed: bytes,
    everybody: Callable[[Callable[[int], object]], list[object]],
) -> tuple[float, float, float]:
    """One round: server CPU seconds from the first report on, of all of it, and wall seconds."""
    began, before = time.perf_counter(), server.cpu_s()
    found = everybody(lambda place: _assigned(lines[place], phones[place]))
    assignments = [one for one in found if isinstance(one, Assignment)]

    def fetch(place: int) -> None:
        _ask(lines[place], phones[place], "GET", checkpoint_path(assignments[place].checkpoint_sha256))

    def report(place: int) -> None:
        name = assignments[place].participation
        _ask(lines[place], phones[place], "PUT", report_path(name), encode_report(name, PLAN.lanes(), packed))

    everybody(fetch)
    between = server.cpu_s()
    everybody(report)
    after = server.cpu_s()
    return after - between, after - before, time.perf_counter() - began


def _assigned(line: Line, phone: Phone) -> Assignment:
    """Check in until the round has chosen; a check-in is held meanwhile."""
    visit = next(_numbers).to_bytes(16, "big").hex()
    message = CheckIn(version=1, population=POPULATION, visit=visit, runtime="none", examples=32)
    for _try in range(50):
        answer = wire.decode(CheckInAnswer, _ask(line, phone, "POST", CHECK_IN_PATH, wire.encode(message)))
        if answer.assignment is not None:
            return answer.assignment
    raise RuntimeError(f"the round never chose: {answer}")


def _ask(line: Line, phone: Phone, method: str, path: str, body: bytes = b"") -> bytes:
    nonce = next(_numbers).to_bytes(16, "big")
    driver = phone.driver
    headers = sign_request(driver.key, driver.device_id, method, path, body, created=int(time.time()), nonce=nonce)
    line.socket.sendall(request_bytes(method, path, headers, body))
    heard = bytearray()
    while True:
        came = line.socket.recv(1 << 20)
        if not came:
            raise ConnectionResetError("the coordinator closed a line that waits for an answer")
        heard += came
        head, mark, _rest = bytes(heard[:4096]).partition(b"\r\n\r\n")
        place = head.lower().find(b"content-length: ")
        if mark and len(heard) - len(head) - 4 >= int(head[place + 16 :].split(b"\r\n", 1)[0]):
            break
    if head[9:12] != b"200":
        raise RuntimeError(f"{method} {path}: {bytes(heard)!r}")
    return bytes(heard[len(head) + 4 :])


def _limit(folder: Path, packed: bytes) -> float:
    """CPU seconds to read the same bytes from a socket, hash, write and add them."""
    total, path = np.zeros(len(packed) // 4, np.uint32), folder / "raw"
    here, there = socket.socketpair()
    path.unlink(missing_ok=True)

    def send() -> None:
        with on_core(OTHER_CORE):
            there.sendall(packed)

    def work() -> None:
        body = bytearray(len(packed))
        view, read = memoryview(body), 0
        while read < len(body):
            read += here.recv_into(view[read:])
        hashlib.sha256(body).digest()
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(handle, body)
        os.fsync(handle)
        os.close(handle)
        np.add(total, np.frombuffer(body, "<u4"), out=total)

    with here, there, on_core(SERVER_CORE):
        sender = threading.Thread(target=send)
        sender.start()
        before = time.thread_time()
        work()
        spent_s = time.thread_time() - before
        sender.join()
    return spent_s
