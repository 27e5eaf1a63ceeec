"""A whole secure round over HTTP: phones in this process, the coordinator in another, every step and every check."""

from __future__ import annotations

import contextlib
import http.client
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar, cast

import httpx
import numpy as np

from edge_runtime.driver import Driver
from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import encode_bundle
from edge_runtime.protocol.checkin import CHECK_IN_PATH, Assignment, CheckIn, CheckInAnswer
from edge_runtime.protocol.checkpoint import encode_checkpoint
from edge_runtime.protocol.group import Opened, Step
from edge_runtime.protocol.keys import SigningKey, digest
from edge_runtime.protocol.signing import NONCE_BYTES
from edge_runtime.session import Request, Response
from tests.bench.knocking import serving
from tests.bench.measure import Row
from tests.coordinator.asking import ask, signature
from tests.coordinator.secure import STEPS, SecurePhone, certified, secure_plan
from tests.programme import POPULATION, TENANT, TENANT_KEY, Clock, Home, Phone, make_home, manifest, open_home, replace

PHONES: Final = 100
PARAMETERS: Final = 100_000
CORES: Final = 2
LIMIT_S: Final = 10.0
_GRAPH = b"not a graph that any interpreter could run"
Message = TypeVar("Message")


class Remote:
    """A coordinator in another process, asked as one of the tests is, over one kept connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._line: http.client.HTTPConnection | None = None

    def request(self, method: str, url: str, *, content: bytes, headers: Mapping[str, str]) -> httpx.Response:
        try:
            return self._once(method, url, content, headers)
        except (http.client.RemoteDisconnected, ConnectionError):  # it was kept for too long
            self._line = None
            return self._once(method, url, content, headers)

    def _once(self, method: str, url: str, content: bytes, headers: Mapping[str, str]) -> httpx.Response:
        if self._line is None:
            self._line = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
            self._line.connect()
            self._line.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._line.request(method, url, content, dict(headers))
        answer = self._line.getresponse()
        return httpx.Response(
            answer.status, content=answer.read(), request=httpx.Request(method, f"http://127.0.0.1{url}")
        )


@dataclass
class WaitingPhone(SecurePhone):
    """Asks again as long as an answer is not there; the coordinator holds each question.

    Attributes:
        core: Is held while the phone computes, and left to others while it waits for an answer.
    """

    core: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, method: str, path: str, body: bytes = b"") -> httpx.Response:
        signed = signature(self.phone, method, path, body, os.urandom(NONCE_BYTES))
        self.core.release()
        try:
            return self.home.request(method, path, content=body, headers=signed)
        finally:
            self.core.acquire()

    def following(self, step: Step, kind: type[Message]) -> Message:
        while (answer := self.get(step)).status_code == 202:
            pass
        answer.raise_for_status()
        return wire.decode(kind, answer.content)

    def whole(self) -> None:
        """From the end of training to the opened sum."""
        with self.core:
            while self.appointment().group is None:
                pass  # the coordinator holds this question, too
            for step in STEPS:
                self.take(step)
            assert self.following(Step.UNMASKING, Opened).version == 1


Seat = tuple[int, Assignment, bytes]
"""A phone's number, what it was chosen for, and its certificate."""


def _play(port: int, seats: Sequence[Seat]) -> float:
    """In a process of its own: phones that compute one after another. Their CPU seconds."""
    before, core = time.process_time(), threading.Lock()
    phones = [
        WaitingPhone(_phone(number), cast("Home", Remote(port)), assignment, certificate, PARAMETERS, core=core)
        for number, assignment, certificate in seats
    ]
    with ThreadPoolExecutor(max(1, len(phones))) as pool:
        list(pool.map(WaitingPhone.whole, phones))
    return time.process_time() - before


def _phone(number: int) -> Phone:
    """The phone of that number, as `Home.phone` made it."""
    key = SigningKey(digest(b"phone", str(number).encode()))
    driver = Driver(key=key, tenant=TENANT, send=_never)
    return Phone(number, driver, Clock(datetime.now(UTC)))


def _never(_request: Request, _headers: dict[str, str]) -> Response:
    raise RuntimeError("a phone of the bench asks by its own connection")


def row(folder: Path) -> Row:
    home = folder / "groups"
    phones, certificates = _home(home)
    spawn = multiprocessing.get_context("spawn")
    with (
        serving(home, "hold") as server,
        ThreadPoolExecutor(PHONES) as pool,
        contextlib.ExitStack() as stack,
    ):
        halves = [stack.enter_context(ProcessPoolExecutor(1, spawn)) for _core in range(CORES)]
        for started in [half.submit(_play, server.port, ()) for half in halves]:
            started.result()
        remotes = [cast("Home", Remote(server.port)) for _phone in phones]
        assignments = list(pool.map(_assigned, remotes, phones))
        seats = list(zip(range(PHONES), assignments, certificates, strict=True))
        before, began = server.cpu_s(), time.perf_counter()
        played = [half.submit(_play, server.port, seats[one::CORES]) for one, half in enumerate(halves)]
        phones_s = sum(one.result() for one in played)
        wall_s, cpu_s = time.perf_counter() - began, server.cpu_s() - before
    return Row(
        id="secsum.round_http",
        ours=round(wall_s, 2),
        limit=LIMIT_S,
        ratio=round(wall_s / LIMIT_S, 3),
        bound=1.0,
        unit="s wall",
        how=f"{PHONES} phones, {PARAMETERS} parameters, from the end of training to the opened sum, every step over "
        f"HTTP, on two cores; the phones took {phones_s:.1f} s of them, the coordinator {cpu_s:.1f} s",
    )


def _home(folder: Path) -> tuple[list[Phone], list[bytes]]:
    folder.mkdir()
    kind = manifest(PARAMETERS + 2)
    bundle = encode_bundle(kind, _GRAPH, TENANT_KEY)
    first = encode_checkpoint(np.zeros(kind.parameters, np.float32), digest(bundle).hex(), 0, TENANT_KEY)
    plan = replace(secure_plan(PHONES), bundle_sha256=digest(bundle).hex())
    with open_home(folder, Clock(datetime.now(UTC)), make_home(folder)) as home:
        home.operator("PUT", f"/populations/{POPULATION}").raise_for_status()
        home.operator("PUT", f"/bundles/{plan.bundle_sha256}", content=bundle).raise_for_status()
        made = home.operator("POST", f"/bundles/{plan.bundle_sha256}/checkpoints", content=first)
        sha256 = made.raise_for_status().json()["sha256"]
        home.start_task(plan, checkpoint_sha256=sha256, rounds=None, pool_size=PHONES, reporting_deadline_s=600.0)
        phones = [home.phone(number) for number in range(PHONES)]
        return phones, [certified(phone) for phone in phones]


def _assigned(remote: Home, phone: Phone) -> Assignment:
    phone.clock.at = datetime.now(UTC)
    message = CheckIn(
        version=1, population=POPULATION, visit=bytes([phone.number] * 16).hex(), runtime="none", examples=32
    )
    for _try in range(50):
        answer = ask(remote, phone, "POST", CHECK_IN_PATH, wire.encode(message)).raise_for_status()
        if (found := wire.decode(CheckInAnswer, answer.content).assignment) is not None:
            return found
    raise RuntimeError("the round did not choose")
