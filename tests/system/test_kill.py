"""The real coordinator, killed in mid-round by SIGKILL: the model it ends with is the one of an undisturbed run."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from edge_runtime.driver import Driver, Retries, Send, http_client, over_http
from edge_runtime.privacy import private_report
from edge_runtime.protocol.keys import SigningKey, digest
from edge_runtime.protocol.plan import sign_plan
from edge_runtime.protocol.reasons import Wait
from edge_runtime.session.enrol import Installation, enrol
from edge_runtime.session.visit import Offer, VisitEnd, Work, visit
from tests.programme import (
    BUNDLE,
    BUNDLE_SHA256,
    CHECKPOINT,
    PLAN,
    POPULATION,
    ROOTS,
    TENANT,
    TENANT_KEY,
    Clock,
    make_home,
    one_hot,
    open_home,
    replace,
)

COMMAND = [sys.executable, "-m", "coordinator.cli", "serve", "--port"]
PHONES = 4
ROUNDS = 2
PAUSE_S = 0.02
PLAN_OF_ALL = replace(PLAN, min_reports=PHONES)


class Served:
    """A coordinator's process on one folder and one port; it can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.token = make_home(folder)
        self._environment = {
            **os.environ,
            "EDGEWISE_DATA_DIR": str(folder),
            "EDGEWISE_WORKER_INTERVAL_S": "0.02",
            "EDGEWISE_CHUNK_REPORTS": "2",
            "EDGEWISE_FREE_DISK_BYTES": "0",
            "EDGEWISE_HOLD_S": "0",
        }
        self._process = self._start(0)

    def _start(self, port: int) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, str(port)],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "listening on http://" in line, process.communicate()[1]
        self.address = line.split()[-1]
        return process

    def kill(self) -> None:
        """SIGKILL, and a new process at the same address at once."""
        port = int(self.address.rsplit(":", 1)[1])
        self._end(signal.SIGKILL)
        self._process = self._start(port)

    def stop(self) -> str:
        """End it in good order; what it wrote to stderr."""
        return self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> str:
        self._process.send_signal(how)
        return self._process.communicate(timeout=20)[1]

    def operator(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.token}"}
        with httpx.Client(base_url=self.address, trust_env=False, timeout=10) as client:
            return client.request(method, f"/v1/operator{path}", headers=headers, **kwargs).raise_for_status()

    def start_task(self) -> None:
        self.operator("PUT", f"/populations/{POPULATION}")
        self.operator("PUT", f"/bundles/{BUNDLE_SHA256}", content=BUNDLE)
        first = self.operator("POST", f"/bundles/{BUNDLE_SHA256}/checkpoints", content=CHECKPOINT).json()["sha256"]
        raw, signature = sign_plan(PLAN_OF_ALL, TENANT_KEY)
        order = {
            "name": "words",
            "plan": base64.b64encode(raw).decode(),
            "plan_signature": base64.b64encode(signature).decode(),
            "checkpoint_sha256": first,
            "settings": {"stop": {"rounds": ROUNDS}, "over_selection": 1.0, "pool_size": PHONES},
            "seed": "00" * 32,
        }
        self.operator("POST", "/tasks", json=order)
        self.operator("POST", "/tasks/words/approve")
        self.operator("POST", "/tasks/words/start")


class Fleet:
    """Phones in one thread, one visit after another, that try again until they are answered."""

    def __init__(self, send: Send, happens: Callable[[str], None]) -> None:
        self._happens = happens
        retries = Retries(tries=400, pause_s=PAUSE_S)
        self._drivers = [
            Driver(SigningKey(digest(b"phone", bytes([number]))), TENANT, send, retries) for number in range(PHONES)
        ]
        self._visits = 0

    def run(self, between: Callable[[], None]) -> None:
        """Visit until the task has ended for everyone."""
        for driver in self._drivers:
            driver.run(enrol(Installation(TENANT, POPULATION, "app", "1.0", "linux"), driver.key.public))
        done: set[int] = set()
        while len(done) < PHONES:
            for number in range(PHONES):
                end = self._visit(number)
                self._happens(end.reason)
                if end.reason is Wait.NO_TASK:
                    done.add(number)
            between()

    def _visit(self, number: int) -> VisitEnd:
        def train(work: Work) -> bytes:
            self._happens("trained")
            delta = one_hot(number, 0.1 * work.round)
            rng = np.random.default_rng([number, work.round])
            return private_report(work.participation, delta, work.plan, rng)

        self._visits += 1
        name = digest(f"{number}/{self._visits}".encode()).hex()[:32]
        offer = Offer(tenant=TENANT, population=POPULATION, visit=name, runtime="none", examples=32)
        return self._drivers[number].run(visit(offer, ROOTS, {}, train))


def undisturbed(folder: Path) -> tuple[str, int, int]:
    """The same task in this process, where nothing dies."""
    folder.mkdir()
    clock = Clock(datetime.now(UTC))
    with open_home(folder, clock, make_home(folder)) as home:
        home.start_task(PLAN_OF_ALL, rounds=ROUNDS, pool_size=PHONES)
        Fleet(home.send, lambda _what: None).run(between=home.look)
        return _ended(home.task(), home.rounds())


def disturbed(folder: Path, deaths: frozenset[int]) -> tuple[tuple[str, int, int], str]:
    """The task over real sockets, with a death at each of these happenings, counted over trained and reported."""
    seen = 0
    folder.mkdir()
    coordinator = Served(folder)

    def happens(what: str) -> None:
        nonlocal seen
        if what in ("trained", "reported"):
            seen += 1
            if seen in deaths:
                coordinator.kill()

    try:
        coordinator.start_task()
        with http_client(coordinator.address) as client:
            Fleet(over_http(client), happens).run(between=lambda: time.sleep(PAUSE_S))  # a real process takes time
        task = coordinator.operator("GET", "/tasks/words").json()
        rounds = coordinator.operator("GET", "/tasks/words/rounds").json()
    finally:
        said = coordinator.stop()
    return _ended(task, rounds), said


def _ended(task: dict[str, Any], rounds: list[dict[str, Any]]) -> tuple[str, int, int]:
    assert task["state"] == "completed"
    return task["weights_sha256"], sum(one["reports"] for one in rounds), len(rounds)


def test_a_coordinator_killed_in_mid_round_ends_with_the_same_weights(tmp_path: Path) -> None:
    # Trained but not reported; and just when the last report of the first round closed it.
    found, said = disturbed(tmp_path / "disturbed", frozenset({1, 2 * PHONES}))
    assert found == undisturbed(tmp_path / "undisturbed")
    assert found[1:] == (PHONES * ROUNDS, ROUNDS)
    assert "Traceback" not in said
    assert (tmp_path / "disturbed" / "coordinator.key").read_text() not in said
