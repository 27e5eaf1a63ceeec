"""Replicas as they are run: processes of the API and workers on one PostgreSQL and one place for blobs, and phones.

Every phone sends each request to the next replica. What the coordinator acknowledged is held against plain arithmetic
on the bytes that left the phones. The long form lets processes die at random:

    python -m tests.system.replicas --rounds 60
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from edge_runtime.driver import Driver, Retries, Send, http_client, over_http
from edge_runtime.privacy import private_report
from edge_runtime.protocol.checkpoint import verify_checkpoint
from edge_runtime.protocol.keys import SigningKey, digest
from edge_runtime.protocol.reasons import Wait
from edge_runtime.protocol.report import lanes_of_report
from edge_runtime.protocol.secure_sum.lanes import ZERO_LANES
from edge_runtime.session import Request, Response
from edge_runtime.session.enrol import Installation, enrol
from edge_runtime.session.visit import Offer, Work, visit
from tests.postgres import OwnServer, own_server
from tests.programme import (
    BUNDLE_SHA256,
    COORDINATOR_KEY,
    FIRST_WEIGHTS,
    MANIFEST,
    PLAN,
    POPULATION,
    ROOTS,
    TENANT,
    Clock,
    Home,
    make_home,
    one_hot,
    replace,
)

PHONES = 6
PAUSE_S = 0.05
HOLD_S = 20.0
LIMIT_S = 60
PLAN_OF_ALL = replace(PLAN, goal=PHONES, min_reports=PHONES, expected_participants=PHONES)


class Replica:
    """A process of one command, which can be killed, paused, stopped and started again at the same port."""

    def __init__(self, words: Sequence[str], environment: dict[str, str], said: Path) -> None:
        self._words = list(words)
        self._environment = environment
        self._said = said
        self.address = ""
        self._process = self._begin()

    def _begin(self) -> subprocess.Popen[str]:
        with self._said.open("a") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "coordinator.cli", *self._words],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )

    def await_ready(self) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self.said()
        if "listening on http://" in line:
            self.address = line.split()[-1]
            self._words[-1] = self.address.rsplit(":", 1)[1]

    def said(self) -> str:
        """What it wrote to standard error, in all its lives."""
        return self._said.read_text()

    def kill(self) -> None:
        """SIGKILL, and nothing in its place."""
        self._process.kill()
        self._process.communicate()

    def replace(self) -> None:
        """SIGKILL, and a new process in its place."""
        self.kill()
        self.start()

    def pause(self, seconds: float) -> None:
        """Stand still for a while, as a machine does that is moved."""
        self._process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)  # a real process's pause is a real one
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """Ask it to stop; its exit status."""
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate(timeout=LIMIT_S)
        return self._process.returncode

    def start(self) -> None:
        self._process = self._begin()
        self.await_ready()

    def end(self) -> None:
        if self._process.poll() is None:
            self.kill()


class Cluster:
    """Processes of the API, and as many workers."""

    def __init__(self, folder: Path, postgres: OwnServer, count: int, **settings: str) -> None:
        folder.mkdir()
        self.postgres = postgres
        self.url = url = postgres.new()
        self._token = make_home(folder, url)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGEWISE_")}
        environment = {
            **kept,
            "EDGEWISE_DATA_DIR": str(folder),
            "EDGEWISE_DATABASE_URL": url,
            "EDGEWISE_WORKER_INTERVAL_S": "0.02",
            "EDGEWISE_CHUNK_REPORTS": "2",
            "EDGEWISE_FREE_DISK_BYTES": "0",
            "EDGEWISE_HOLD_S": str(HOLD_S),
            "EDGEWISE_LEASE_S": "2",
            "EDGEWISE_ACCESS_LOG": "none",
            **settings,
        }
        serve = ["serve", "--no-worker", "--port", "0"]
        self.apis = [Replica(serve, environment, folder / f"api-{number}.log") for number in range(count)]
        self.workers = [Replica(["worker"], environment, folder / f"worker-{number}.log") for number in range(count)]

    def await_ready(self) -> None:
        for one in (*self.apis, *self.workers):
            one.await_ready()

    def end(self) -> None:
        for one in (*self.apis, *self.workers):
            one.end()

    def request(self, method: str, url: str, **kwargs: Any) -> httpx.Response:
        """Ask one replica after another, until one answers."""
        limit = time.monotonic() + LIMIT_S
        for api in itertools.cycle(self.apis):
            try:
                with http_client(api.address) as client:
                    answer = client.request(method, url, **kwargs)
                if answer.status_code < 500 or time.monotonic() > limit:
                    return answer
            except httpx.TransportError:
                if time.monotonic() > limit:
                    raise
            time.sleep(PAUSE_S)  # for a real process
        raise AssertionError("there are no replicas")

    def home(self) -> Home:
        """What operators do, at any replica."""
        return Home(None, Clock(), self._token, self.request)  # type: ignore[arg-type]

    def start_task(self, name: str, rounds: int) -> None:
        home = self.home()
        order = home.order(
            PLAN_OF_ALL,
            name=name,
            checkpoint_sha256=home.publish(),
            rounds=rounds,
            pool_size=PHONES,
            retry_rejected_s=1.0,
            retry_reported_s=1.0,
            selecting_deadline_s=1000.0,
            reporting_deadline_s=1000.0,
        )
        home.start_order(order)


class Fleet:
    """Phones in a thread each, which visit until the task has ended, and try again until they are answered.

    Args:
        happens: Is called with "trained" and "reported", by any of the threads.
    """

    def __init__(self, addresses: Sequence[str], happens: Callable[[str], None] = lambda _what: None) -> None:
        self._addresses = addresses
        self._happens = happens
        self.sent: dict[tuple[int, int], tuple[str, bytes]] = {}
        """Participation and report, by round and phone."""
        self.acknowledged: set[tuple[int, int]] = set()
        self.trained_at: dict[tuple[int, int], float] = {}
        """By the clock of waits."""

    def run(self, number: int) -> None:
        """One phone, from its enrolment to the end of the task."""
        with ExitStack() as stack:
            clients = [stack.enter_context(http_client(address)) for address in self._addresses]
            driver = Driver(
                SigningKey(digest(b"phone", bytes([number]))),
                TENANT,
                in_turn([over_http(client) for client in clients], number),
                Retries(tries=1200, pause_s=PAUSE_S),
                sleep=lambda _seconds: time.sleep(PAUSE_S),  # real processes come back soon
            )
            driver.run(enrol(Installation(TENANT, POPULATION, "app", "1.0", "linux"), driver.key.public))
            for name in itertools.count():
                offer = Offer(
                    tenant=TENANT,
                    population=POPULATION,
                    visit=digest(f"{number}/{name}".encode()).hex()[:32],
                    runtime="none",
                    examples=32,
                )
                end = driver.run(visit(offer, ROOTS, {}, lambda work: self._train(number, work)))
                if end.reason is Wait.REPORTED and end.round is not None:
                    self.acknowledged.add((end.round, number))
                    self._happens("reported")
                if end.reason is Wait.NO_TASK:
                    return
                time.sleep(PAUSE_S)  # not to spin, while real processes work

    def _train(self, number: int, work: Work) -> bytes:
        self.trained_at.setdefault((work.round, number), time.monotonic())
        rng = np.random.default_rng([number, work.round])
        body = private_report(work.participation, one_hot(number, 0.1 * work.round), work.plan, rng)
        self.sent[work.round, number] = (work.participation, body)
        self._happens("trained")
        return body


def in_turn(sends: Sequence[Send], first: int) -> Send:
    """Each request goes to the next replica, whatever became of the last."""
    turns = itertools.count(first)

    def send(request: Request, headers: dict[str, str]) -> Response:
        return sends[next(turns) % len(sends)](request, headers)

    return send


def expected_weights(fleet: Fleet, rounds: int) -> Any:
    """What plain arithmetic makes of the acknowledged reports, each once: the rule of `sgd` with a rate of 1."""
    lanes = PLAN_OF_ALL.lanes()
    weights = FIRST_WEIGHTS
    for number in range(1, rounds + 1):
        total = np.zeros(MANIFEST.shared_parameters, np.int64)
        for key in sorted(fleet.acknowledged):
            if key[0] == number:
                participation, body = fleet.sent[key]
                packed = lanes_of_report(body, participation, lanes, MANIFEST.shared_parameters)
                total += np.frombuffer(packed, "<i4")[:-ZERO_LANES]
        exact = weights.astype(np.float64)
        exact[2:] += total / lanes.scale * (1.0 / PLAN_OF_ALL.expected_participants)
        weights = exact.astype(np.float32)
    return weights


def check(home: Home, fleet: Fleet, name: str, rounds: int) -> None:
    """Hold what the coordinator has against what the phones were told.

    Raises:
        AssertionError: A report was lost or counted twice.
    """
    found = home.operator("GET", f"/tasks/{name}/rounds").raise_for_status().json()
    views = sorted(found, key=lambda view: int(view["number"]))
    assert [view["phase"] for view in views] == ["committed"] * rounds, views
    assert [view["reports"] for view in views] == [PHONES] * rounds
    assert fleet.acknowledged == {(number, phone) for number in range(1, rounds + 1) for phone in range(PHONES)}
    sha256 = home.operator("GET", f"/tasks/{name}").raise_for_status().json()["checkpoint_sha256"]
    raw = home.operator("GET", f"/checkpoints/{sha256}/content").raise_for_status().content
    ended = verify_checkpoint(
        raw, sha256, COORDINATOR_KEY.public, bundle_sha256=BUNDLE_SHA256, parameters=MANIFEST.parameters
    )
    assert ended.weights.tobytes() == expected_weights(fleet, rounds).tobytes()


@contextmanager
def running(folder: Path, postgres: OwnServer, count: int = 2, **settings: str) -> Iterator[Cluster]:
    cluster = Cluster(folder, postgres, count, **settings)
    try:
        cluster.await_ready()
        yield cluster
    finally:
        cluster.end()


def disturbed(cluster: Cluster, name: str, rounds: int, happenings: dict[int, Callable[[], None]]) -> Fleet:
    """A task of so many rounds; of what the phones do, each happening is disturbed by what stands at its number."""
    seen = itertools.count(1)
    one_at_a_time = threading.Lock()

    def happens(_what: str) -> None:
        with one_at_a_time:
            happenings.get(next(seen), lambda: None)()

    cluster.start_task(name, rounds)
    fleet = Fleet([api.address for api in cluster.apis], happens)
    with ThreadPoolExecutor(PHONES) as threads:
        for phone in [threads.submit(fleet.run, number) for number in range(PHONES)]:
            phone.result()
    check(cluster.home(), fleet, name, rounds)
    return fleet


def restart_of(postgres: OwnServer) -> Callable[[], None]:
    def restart() -> None:
        postgres.stop()
        postgres.start()

    return restart


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="of the task; something dies about six times in each")
    parser.add_argument("--seed", type=int, default=0)
    order = parser.parse_args()
    rng = random.Random(order.seed)
    with (
        tempfile.TemporaryDirectory() as scratch,
        own_server() as postgres,
        running(Path(scratch) / "home", postgres) as cluster,
    ):
        kills = [one.replace for one in (*cluster.apis, *cluster.workers)]
        others = [lambda: cluster.workers[0].pause(3), lambda: cluster.apis[1].pause(1), restart_of(postgres)]
        happenings = {
            number: rng.choice(kills) if rng.random() < 0.8 else rng.choice(others)
            for number in range(1, 2 * PHONES * order.rounds)
            if rng.random() < 0.5
        }
        disturbed(cluster, "long", order.rounds, happenings)
    print(f"{order.rounds} rounds, {len(happenings)} deaths and pauses: every acknowledged report counted once")
    return 0


if __name__ == "__main__":
    sys.exit(main())
