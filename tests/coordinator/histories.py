"""Generated histories of one task: what was acknowledged is counted exactly once, whatever happens in between.

Every report is one-hot at its phone's place, so that an element above one share is a double count, and a missing one a
lost report. Requests and answers are dropped, requests are sent again, clocks jump, and the coordinator dies before and
after every write of a blob and every commit, then starts again on the same folder.

    python -m tests.coordinator.histories --count 10000
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import random
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlmodel import Session

from coordinator.store.blobs import FolderBlobs
from coordinator.store.database import Database
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import CHECK_IN_PATH, Assignment, CheckInAnswer
from edge_runtime.protocol.checkpoint import verify_checkpoint
from edge_runtime.protocol.plan import Close
from edge_runtime.protocol.report import report_path
from tests.coordinator.asking import ask, offer, report_of, send_outcome, signature
from tests.postgres import running
from tests.programme import (
    BUNDLE_SHA256,
    COORDINATOR_KEY,
    MANIFEST,
    PLAN,
    Clock,
    Crash,
    Home,
    Phone,
    copy_home,
    forget_home,
    make_home,
    one_hot,
    open_home,
    replace,
)

PHONES = 4
SEAMS_OF_A_STEP = 12
"""More than any request or look passes: a crash that is set further ahead does not happen."""


class Seams:
    """Points at which the coordinator can die: around every blob that is written or deleted, and every commit."""

    def __init__(self) -> None:
        self.passed = 0
        self.last: int | None = None

    def point(self) -> None:
        self.passed += 1
        if self.last is not None and self.passed > self.last:
            self.last = None
            raise Crash

    @contextlib.contextmanager
    def dying_after(self, points: int) -> Iterator[None]:
        self.passed, self.last = 0, points
        try:
            yield
        finally:
            self.last = None

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        attempt, put, delete = Database.attempt, FolderBlobs.put, FolderBlobs.delete

        @contextlib.contextmanager
        def seamed_attempt(database: Database, *, alone: bool) -> Iterator[Session]:
            with attempt(database, alone=alone) as session:
                yield session
                session.flush()
                self.point()
            self.point()

        def seamed(act: Callable[..., Any]) -> Callable[..., Any]:
            def acting(*arguments: Any, **options: Any) -> Any:
                self.point()
                result = act(*arguments, **options)
                self.point()
                return result

            return acting

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Database, "attempt", seamed_attempt)
            patch.setattr(FolderBlobs, "put", seamed(put))
            patch.setattr(FolderBlobs, "delete", seamed(delete))
            patch.setattr(
                "coordinator.store.blobs.os.fsync", lambda _handle: None
            )  # processes die here, power does not
            yield


class History:
    """One coordinator's folder, its phones, and what they were told."""

    def __init__(self, template: Path, token: str, close: Close) -> None:
        memory = Path("/dev/shm")
        self._scratch = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self._folder = copy_home(template, self._scratch / "home")
        self._token = token
        self._open = contextlib.ExitStack()
        self.seams = Seams()
        self._installed = contextlib.ExitStack()
        self._installed.enter_context(self.seams.installed())
        self.clock = Clock()
        self.crashes = 0
        self.visits = 0
        self.assignments: dict[int, Assignment] = {}
        self.sent: list[tuple[Phone, str, bytes, int]] = []
        """Reports that left a phone: who, where to, what, in which round."""
        self.tried: dict[int, set[int]] = defaultdict(set)
        self.acknowledged: dict[int, set[int]] = defaultdict(set)
        self.home = self._start()
        self.home.start_task(replace(PLAN, goal=3, close=close), rounds=3, pool_size=3, over_selection=4 / 3)
        self.phones = [self.home.phone(number) for number in range(PHONES)]

    def _start(self) -> Home:
        return self._open.enter_context(open_home(self._folder, self.clock, self._token))

    def close(self) -> None:
        self._open.close()
        self._installed.close()
        forget_home(self._folder)
        shutil.rmtree(self._scratch)

    # --- what may happen ------------------------------------------------------------------------------------------

    def restart(self) -> None:
        self._open.close()
        self.home = self._start()

    def let_time_pass(self, seconds: float) -> None:
        self.clock.forward(seconds)

    def look(self, points: int = 1 << 30) -> None:
        """The worker moves what it can, or dies after so many points."""
        self._surviving(points, self.home.look)

    def check_in(self, number: int, *, anew: bool, points: int = 1 << 30, heard: bool = True) -> None:
        self.visits += anew
        body = offer(self.phones[number], visit=str(self.visits))
        answer = self._surviving(points, lambda: ask(self.home, self.phones[number], "POST", CHECK_IN_PATH, body))
        if answer is not None and heard:
            assert answer.status_code == 200, answer.text
            assignment = wire.decode(CheckInAnswer, answer.content).assignment
            if assignment is not None:
                self.assignments[number] = assignment

    def report(self, number: int, *, points: int = 1 << 30, heard: bool = True, value: float = 1.0) -> None:
        """Report for the newest assignment, trained anew: other bytes than before unless the value is the same."""
        assignment = self.assignments.get(number)
        if assignment is not None:
            body = report_of(self.phones[number], assignment, one_hot(number, value), seed=number)
            self._send(
                self.phones[number], report_path(assignment.participation), body, assignment.round, points, heard
            )

    def replay(self, which: int, *, resigned: bool, points: int = 1 << 30) -> None:
        """Send an old report again; when it is not signed anew, twice in the very same form."""
        if not self.sent:
            return
        phone, path, body, number = self.sent[which % len(self.sent)]
        if resigned:
            self._send(phone, path, body, number, points, heard=True)
            return
        headers = signature(phone, "PUT", path, body)
        for _again in range(2):
            self._surviving(points, lambda: self.home.request("PUT", path, content=body, headers=headers))

    def give_up(self, number: int, *, points: int = 1 << 30) -> None:
        assignment = self.assignments.get(number)
        if assignment is not None:
            self._surviving(points, lambda: send_outcome(self.home, self.phones[number], assignment))

    def _send(self, phone: Phone, path: str, body: bytes, number: int, points: int, heard: bool) -> None:
        self.sent.append((phone, path, body, number))
        self.tried[number].add(phone.number)
        answer = self._surviving(points, lambda: ask(self.home, phone, "PUT", path, body))
        if answer is not None and heard:
            assert answer.status_code in (200, 409, 410), answer.text
            if answer.status_code == 200:
                self.acknowledged[number].add(phone.number)

    def _surviving(self, points: int, act: Callable[[], Any]) -> Any:
        """Act; when the coordinator dies on the way, nobody hears an answer, and it starts again."""
        try:
            with self.seams.dying_after(points):
                return act()
        except Crash:
            self.crashes += 1
            self.restart()
            return None

    # --- what must hold -------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let every open round end, and hold all of them against what phones were told."""
        for _deadline in range(2):
            self.look()
            self.clock.forward(700)
        self.look()
        self.check()
        if not self.crashes:
            left = [path for kind in ("reports", "partial-sums") for path in self._folder.glob(f"blobs/*/{kind}/*")]
            assert left == []

    def check(self) -> None:
        newest = None
        for view in self.home.rounds():
            assert newest is None or view["checkpoint_sha256"] == newest, "a round began from another model version"
            newest = view["result_sha256"] or view["checkpoint_sha256"]
            if view["phase"] == "committed":
                self._check_committed(view)
        assert self.home.task()["checkpoint_sha256"] == newest

    def _check_committed(self, view: dict[str, Any]) -> None:
        moved = self._weights(view["result_sha256"]) - self._weights(view["checkpoint_sha256"])
        shares = moved[2:] * PLAN.expected_participants
        assert (moved[:2] == 0).all(), "a personal weight moved"
        counted = {place for place, share in enumerate(shares) if abs(share) > 1e-3}
        assert all(abs(shares[place]) < 1 + 1e-3 for place in counted), f"counted twice: {shares}"
        number = view["number"]
        lost = self.acknowledged[number] - counted
        assert not lost, f"acknowledged and lost in round {number}: phones {sorted(lost)}"
        assert counted <= self.tried[number], "counted without having been sent"
        assert len(counted) == view["reports"]

    def _weights(self, sha256: str) -> Any:
        raw = self.home.operator("GET", f"/checkpoints/{sha256}/content").raise_for_status().content
        key = COORDINATOR_KEY.public
        found = verify_checkpoint(raw, sha256, key, bundle_sha256=BUNDLE_SHA256, parameters=MANIFEST.parameters)
        return found.weights.astype(np.float64)


def play(template: Path, token: str, seed: int, steps: int = 40) -> History:
    """One random history, settled and closed.

    Raises:
        AssertionError: A report was lost or counted twice.
    """
    rng = random.Random(seed)
    history = History(template, token, rng.choice(list(Close)))
    try:
        _gather(history)
        for _step in range(steps):
            _act(history, rng)
        history.settle()
    finally:
        history.close()
    return history


def one_round(template: Path, token: str, *, dying: int | None = None) -> History:
    """Three phones report; the worker dies after so many points of adding up, and then adds up.

    Raises:
        AssertionError: A report was lost or counted twice, or the round did not commit.
    """
    history = History(template, token, Close.ALL_RESOLVED)
    try:
        _gather(history)
        for number in range(PHONES - 1):
            history.check_in(number, anew=False)
            history.report(number)
        if dying is not None:
            history.look(dying)
        history.settle()
        assert history.home.rounds()[0]["phase"] == "committed"
    finally:
        history.close()
    return history


def die_at_every_point(template: Path, token: str, every: int = 1) -> int:
    """Let the worker die at one point of adding up after another; how many there are."""
    points = 0
    while one_round(template, token, dying=points).crashes:
        points += every
    return points


def _gather(history: History) -> None:
    """Enough phones check in for a round to choose."""
    for number in range(PHONES - 1):
        history.check_in(number, anew=False)
    history.look()


def _act(history: History, rng: random.Random) -> None:
    number = rng.randrange(PHONES)
    points = rng.randrange(SEAMS_OF_A_STEP) if rng.random() < 0.2 else 1 << 30
    heard = rng.random() < 0.8
    chance = rng.random()
    if chance < 0.3:
        history.check_in(number, anew=rng.random() < 0.1, points=points, heard=heard)
    elif chance < 0.65:
        history.check_in(number, anew=False)
        history.report(number, points=points, heard=heard, value=1.0 if rng.random() < 0.9 else 0.5)
    elif chance < 0.85:
        history.look(points)
    elif chance < 0.93:
        history.replay(rng.randrange(100), resigned=rng.random() < 0.7, points=points)
    elif chance < 0.95:
        history.give_up(number, points=points)
    elif chance < 0.97:
        history.let_time_pass(rng.choice([1, 10, 30, 120]))
    else:
        history.restart()


@contextlib.contextmanager
def template(database: str = "sqlite") -> Iterator[tuple[Path, str]]:
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as server:
        folder = Path(scratch) / "home"
        folder.mkdir()
        url = server.enter_context(running()).new() if database == "postgresql" else ""
        yield folder, make_home(folder, url)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="how many histories")
    parser.add_argument("--seed", type=int, default=0, help="of the first one; each next has the next")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    order = parser.parse_args()
    crashes = committed = 0
    logging.getLogger("edgewise.worker").setLevel(logging.CRITICAL)
    with template(order.database) as (folder, token):
        print(f"the worker died at each of {die_at_every_point(folder, token)} points of one round: 0 violations")
        for seed in range(order.seed, order.seed + order.count):
            try:
                history = play(folder, token, seed)
            except BaseException:
                print(f"history {seed} is wrong: python -m tests.coordinator.histories --count 1 --seed {seed}")
                raise
            crashes += history.crashes
            committed += sum(len(told) for told in history.acknowledged.values())
            if (seed + 1 - order.seed) % 100 == 0:
                print(f"{seed + 1 - order.seed} histories: {crashes} crashes, {committed} receipts, 0 violations")
    return 0


if __name__ == "__main__":
    sys.exit(main())
