"""The real processes of a coordinator: how they end when they are asked to, and that a worker may be one of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_runtime.driver import Driver, Retries, http_client, over_http
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import CHECK_IN_PATH, CheckIn, CheckInAnswer
from edge_runtime.protocol.keys import SigningKey, digest
from edge_runtime.protocol.reasons import Wait
from edge_runtime.session import Request, Session
from edge_runtime.session.enrol import Installation, enrol
from tests.programme import BUNDLE, BUNDLE_SHA256, CHECKPOINT, POPULATION, TENANT, Home, make_home

LIMIT_S = 30


class Process:
    """One `edgewise-coordinator` command that runs until it is asked to stop."""

    def __init__(self, folder: Path, *words: str, **settings: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("EDGEWISE_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "coordinator.cli", *words],
            env={**environment, "EDGEWISE_DATA_DIR": str(folder), "EDGEWISE_ACCESS_LOG": "none", **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.line = self._process.stdout.readline().strip()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def address(self) -> str:
        assert "listening on http://" in self.line, self._process.communicate()[1]
        return self.line.split()[-1]

    def ask_to_stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def ended(self) -> tuple[int, str]:
        """Its exit status, and what it said on standard error."""
        said = self._process.communicate(timeout=LIMIT_S)[1]
        return self._process.returncode, said

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    """Ends what a test leaves behind."""
    with ExitStack() as stack:
        yield stack


def started(processes: ExitStack, folder: Path, *words: str, **settings: str) -> Process:
    process = Process(folder, *words, **settings)
    processes.callback(process.end)
    return process


def operator(address: str, folder: Path) -> httpx.Client:
    token = (folder / "operator.token").read_text()
    headers = {"authorization": f"Bearer {token}"}
    return httpx.Client(base_url=address, headers=headers, trust_env=False, timeout=LIMIT_S)


def home_in(folder: Path) -> Path:
    folder.mkdir()
    (folder / "operator.token").write_text(make_home(folder))
    return folder


def begin_task(client: httpx.Client, **settings: Any) -> None:
    def request(method: str, url: str, **kwargs: Any) -> httpx.Response:
        return client.request(method, url, **kwargs)

    home = Home(None, None, client.headers["authorization"].removeprefix("Bearer "), request)  # type: ignore[arg-type]
    client.put(f"/v1/operator/populations/{POPULATION}").raise_for_status()
    client.put(f"/v1/operator/bundles/{BUNDLE_SHA256}", content=BUNDLE).raise_for_status()
    first = client.post(f"/v1/operator/bundles/{BUNDLE_SHA256}/checkpoints", content=CHECKPOINT).raise_for_status()
    home.start_order(home.order(checkpoint_sha256=first.json()["sha256"], **settings))


def check_in(address: str) -> CheckInAnswer:
    """One phone enrols and checks in, and waits for its answer."""
    with http_client(address) as client:
        driver = Driver(SigningKey(digest(b"phone")), TENANT, over_http(client), Retries(tries=1))
        driver.run(enrol(Installation(TENANT, POPULATION, "app", "1.0", "linux"), driver.key.public))
        message = CheckIn(version=1, population=POPULATION, visit="ab" * 16, runtime="none", examples=32)

        def session() -> Session[CheckInAnswer]:
            response = yield Request("POST", CHECK_IN_PATH, wire.encode(message))
            return wire.decode(CheckInAnswer, response.body)

        return driver.run(session())


def test_a_process_that_is_asked_to_stop_says_so_answers_whoever_waits_and_ends_well(
    tmp_path: Path, processes: ExitStack
) -> None:
    folder = home_in(tmp_path / "home")
    settings = {"EDGEWISE_HOLD_S": "45", "EDGEWISE_DRAIN_S": "1", "EDGEWISE_WORKER_INTERVAL_S": "0.02"}
    process = started(processes, folder, "serve", "--port", "0", **settings)
    with operator(process.address, folder) as client, ThreadPoolExecutor(1) as phone:
        begin_task(client, selecting_deadline_s=1000.0)
        waits_for(lambda: client.get("/v1/operator/tasks/words/rounds").json())
        answer = phone.submit(check_in, process.address)
        waits_for(lambda: client.get("/v1/operator/tasks/words/funnel").json()["offered"])
        assert not answer.done(), "its check-in is held: the pool is not full"
        process.ask_to_stop()
        waits_for(lambda: client.get("/readyz").json()["status"] == "draining")
        told = answer.result(LIMIT_S)
    assert told.retry is not None
    assert told.retry.reason is Wait.SELECTION_PENDING
    assert process.ended() == (0, ""), "to be asked to stop is no error"


def waits_for(holds: Callable[[], object]) -> None:
    """Ask again and again; each question takes its time, and the test's own limit ends it."""
    while not holds():
        pass


def test_rounds_are_moved_by_a_worker_of_its_own(tmp_path: Path, processes: ExitStack) -> None:
    folder = home_in(tmp_path / "home")
    served = started(processes, folder, "serve", "--port", "0", "--no-worker")
    with operator(served.address, folder) as client:
        begin_task(client)
        assert client.get("/v1/operator/tasks/words/rounds").json() == []
        worker = started(processes, folder, "worker")
        assert "the worker is at work" in worker.line
        waits_for(lambda: client.get("/v1/operator/tasks/words/rounds").json())
        worker.ask_to_stop()
        assert worker.ended()[0] == 0
        served.ask_to_stop()
    assert served.ended() == (0, "")


def test_a_second_signal_stops_at_once(tmp_path: Path, processes: ExitStack) -> None:
    folder = home_in(tmp_path / "home")
    process = started(processes, folder, "serve", "--port", "0", EDGEWISE_DRAIN_S="300")
    with httpx.Client(base_url=process.address, trust_env=False, timeout=LIMIT_S) as client:
        assert client.get("/readyz").json()["status"] == "ready"
        process.ask_to_stop()
        waits_for(lambda: client.get("/readyz").json()["status"] == "draining")
    process.ask_to_stop()
    assert process.ended()[0] == 0
