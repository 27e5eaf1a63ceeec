"""A whole secure round over HTTP: phones in this process, the coordinator in another, every step and every check."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import httpx
import numpy as np

from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import encode_bundle
from edge_runtime.protocol.checkin import CHECK_IN_PATH, Assignment, CheckIn, CheckInAnswer
from edge_runtime.protocol.checkpoint import encode_checkpoint
from edge_runtime.protocol.group import Opened, Step, step_path
from edge_runtime.protocol.keys import digest
from tests.bench.knocking import serving
from tests.bench.measure import Row
from tests.coordinator.asking import ask
from tests.coordinator.secure import STEPS, SecurePhone, certified, secure_plan
from tests.programme import POPULATION, TENANT_KEY, Clock, Home, Phone, make_home, manifest, open_home, replace

PHONES: Final = 100
PARAMETERS: Final = 100_000
LIMIT_S: Final = 10.0
_GRAPH = b"not a graph that any interpreter could run"
Message = TypeVar("Message")


class Remote:
    """A coordinator in another process, asked as one of the tests is."""

    def __init__(self, port: int) -> None:
        limits = httpx.Limits(max_connections=PHONES, max_keepalive_connections=PHONES, keepalive_expiry=2)
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=60)

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        return self._client.request(method, url, **options)


@dataclass
class WaitingPhone(SecurePhone):
    """Asks again as long as an answer is not there; the coordinator holds each question."""

    def following(self, step: Step, kind: type[Message]) -> Message:
        while (answer := self.ask("GET", step_path(self.group, step))).status_code == 202:
            pass
        answer.raise_for_status()
        return wire.decode(kind, answer.content)

    def whole(self) -> None:
        """From the end of training to the opened sum."""
        while self.appointment().group is None:
            time.sleep(0.05)
        for step in STEPS:
            self.take(step)
        assert self.following(Step.UNMASKING, Opened).version == 1


def row(folder: Path) -> Row:
    home = folder / "groups"
    phones, certificates = _home(home)
    with serving(home, "hold") as server, ThreadPoolExecutor(PHONES) as pool:
        remote = cast("Home", Remote(server.port))
        assignments = list(pool.map(lambda phone: _assigned(remote, phone), phones))
        waiting = [
            WaitingPhone(phone, remote, assignment, certificate, values=PARAMETERS)
            for phone, assignment, certificate in zip(phones, assignments, certificates, strict=True)
        ]
        before, began = server.cpu_s(), time.perf_counter()
        list(pool.map(WaitingPhone.whole, waiting))
        wall_s, cpu_s = time.perf_counter() - began, server.cpu_s() - before
    return Row(
        id="secsum.round_http",
        ours=round(wall_s, 2),
        limit=LIMIT_S,
        ratio=round(wall_s / LIMIT_S, 3),
        bound=1.0,
        unit="s wall",
        how=f"{PHONES} phones, {PARAMETERS} parameters, from the end of training to the opened sum, every step over "
        f"HTTP; the coordinator has one core and took {cpu_s:.1f} s of it, the phones share the other",
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
