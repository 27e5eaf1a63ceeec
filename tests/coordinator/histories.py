"""Generated histories of several tasks: what was acknowledged is counted exactly once, whatever happens in between.

Every report is one-hot at its phone's place, and its size there says of which round it is. So each element of an update
is a sum that only one choice of reports gives: a double count, a lost report and a sum of the wrong weight show.
Requests and answers are dropped, requests are sent again, clocks jump, tasks are paused, and the coordinator dies
before and after every write of a blob and every commit, then starts again on the same folder.

    python -m tests.coordinator.histories --count 10000
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import random
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import CHECK_IN_PATH, Assignment, CheckInAnswer
from edge_runtime.protocol.plan import Close, Plan
from edge_runtime.protocol.report import report_path
from tests.coordinator.asking import ask, offer, report_of, send_outcome, signature
from tests.coordinator.running import rounds_of, task_of, weights_of
from tests.coordinator.seams import Seams
from tests.postgres import running
from tests.programme import (
    PLAN,
    TASK,
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
from tests.warm import LOOP

PHONES = 4
CLOSE = 1e-3
"""Of an element to the sum of its reports: rounding to lanes and to float32 is far below it."""
Round = tuple[str, int]
"""Of a task, by its number."""
SEAMS_OF_A_STEP = 12
"""More than any request or look passes: a crash that is set further ahead does not happen."""


@dataclass(frozen=True)
class Job:
    """A task of a history."""

    name: str
    close: Close = Close.ALL_RESOLVED
    buffered: bool = False
    group_size: int | None = None

    def plan(self) -> Plan:
        """Plans of different tasks differ in their bytes: a phone knows by them for whom it works."""
        limit_s = 60.0 + sum(self.name.encode())
        return replace(PLAN, goal=3, min_reports=1 if self.buffered else 2, close=self.close, time_limit_s=limit_s)

    def settings(self) -> dict[str, Any]:
        if self.buffered:
            more = {"mode": "buffered", "rounds_at_once": 2, "max_staleness": 1}
            return {"rounds": 9, "pool_size": 2, "over_selection": 2.0, **more, "group_size": self.group_size}
        return {"rounds": 3, "pool_size": 3, "over_selection": 4 / 3, "group_size": self.group_size}


ALONE = (Job(TASK),)


def size_of(number: int) -> float:
    """How large a report of a round is at its place: no two rounds of an update, weighted, give the same sums."""
    return 1.0 + 0.137 * (number % 13)


@dataclass(frozen=True)
class Beginning:
    """A coordinator that does not run, to be copied: it has a model, enrolled phones, and maybe a task."""

    folder: Path
    checkpoint_sha256: str
    phones: tuple[Phone, ...]


_BEGINNINGS: dict[tuple[Path, Job | None], Beginning] = {}


def beginning(template: Path, token: str, job: Job | None) -> Beginning:
    """What many histories have in common before anything can happen; made once, until `forget_beginnings`."""
    if (template, job) not in _BEGINNINGS:
        folder = copy_home(template, template.parent / f"beginning-{len(_BEGINNINGS)}")
        with open_home(folder, Clock(), token) as home:
            first = home.publish()
            phones = tuple(home.phone(number) for number in range(PHONES))
            if job is not None:
                start_job(home, job, first)
                home.look()
        _BEGINNINGS[template, job] = Beginning(folder, first, phones)
    return _BEGINNINGS[template, job]


def forget_beginnings() -> None:
    for one in _BEGINNINGS.values():
        forget_home(one.folder)
        shutil.rmtree(one.folder)
    _BEGINNINGS.clear()


def start_job(home: Home, job: Job, checkpoint_sha256: str) -> None:
    home.start_order(home.order(job.plan(), name=job.name, checkpoint_sha256=checkpoint_sha256, **job.settings()))


class History:
    """One coordinator's folder, its phones, and what they were told."""

    def __init__(self, template: Path, token: str, jobs: Sequence[Job] = ALONE) -> None:
        memory = Path("/dev/shm")
        self._scratch = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        began = beginning(template, token, jobs[0] if len(jobs) == 1 else None)
        self._folder = copy_home(began.folder, self._scratch / "home")
        self._token = token
        self._open = contextlib.ExitStack()
        self.seams = Seams()
        self._installed = contextlib.ExitStack()
        self._installed.enter_context(self.seams.installed())
        self.clock = Clock()
        self.crashes = 0
        self.visits = 0
        self.jobs = {job.name: job for job in jobs}
        self.assignments: dict[int, Assignment] = {}
        self.sent: list[tuple[Phone, Assignment, bytes]] = []
        """Reports that left a phone: who, for what, which bytes."""
        self.tried: dict[Round, set[int]] = defaultdict(set)
        self.acknowledged: dict[Round, set[int]] = defaultdict(set)
        self.phones = [replace(phone, clock=self.clock) for phone in began.phones]
        self.home = self._start()
        self._first = began.checkpoint_sha256
        self._job_of = {wire.encode(job.plan()): job.name for job in jobs}
        if len(jobs) > 1:
            for job in jobs:
                start_job(self.home, job, self._first)
            self.home.look()

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

    def report(self, number: int, *, points: int = 1 << 30, heard: bool = True, seed: int = 0) -> None:
        """Report for the newest assignment, rounded anew: other bytes than before unless the seed is the same."""
        assignment = self.assignments.get(number)
        if assignment is not None:
            delta = one_hot(number, size_of(assignment.round))
            body = report_of(self.phones[number], assignment, delta, seed=10 * number + seed)
            self._send(self.phones[number], assignment, body, points, heard)

    def replay(self, which: int, *, resigned: bool, points: int = 1 << 30) -> None:
        """Send an old report again; when it is not signed anew, twice in the very same form."""
        if not self.sent:
            return
        phone, assignment, body = self.sent[which % len(self.sent)]
        if resigned:
            self._send(phone, assignment, body, points, heard=True)
            return
        path = report_path(assignment.participation)
        headers = signature(phone, "PUT", path, body)
        for _again in range(2):
            self._surviving(points, lambda: self.home.request("PUT", path, content=body, headers=headers))

    def give_up(self, number: int, *, points: int = 1 << 30) -> None:
        assignment = self.assignments.get(number)
        if assignment is not None:
            self._surviving(points, lambda: send_outcome(self.home, self.phones[number], assignment))

    def operate(self, which: int, what: str, points: int = 1 << 30) -> None:
        """An operator pauses, resumes or cancels one of the tasks; what is out of place is refused."""
        name = list(self.jobs)[which % len(self.jobs)]
        answer = self._surviving(points, lambda: self.home.operator("POST", f"/tasks/{name}/{what}"))
        assert answer is None or answer.status_code in (200, 409), answer.text

    def _send(self, phone: Phone, assignment: Assignment, body: bytes, points: int, heard: bool) -> None:
        self.sent.append((phone, assignment, body))
        round_ = (self._job_of[assignment.plan], assignment.round)
        self.tried[round_].add(phone.number)
        path = report_path(assignment.participation)
        answer = self._surviving(points, lambda: ask(self.home, phone, "PUT", path, body))
        if answer is not None and heard:
            assert answer.status_code in (200, 409, 410), answer.text
            if answer.status_code == 200:
                self.acknowledged[round_].add(phone.number)

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
        waiting = any(one["phase"] == "buffered" for name in self.jobs for one in rounds_of(self.home, name))
        if not self.crashes and not waiting:
            left = [path for kind in ("reports", "partial-sums") for path in self._folder.glob(f"blobs/*/{kind}/*")]
            assert left == []

    def check(self) -> None:
        for job in self.jobs.values():
            views, task = rounds_of(self.home, job.name), task_of(self.home, job.name)
            assert task["checkpoint_sha256"] == self._check_updates(job, views)
            assert task["rounds_committed"] == sum(one["phase"] == "committed" for one in views)

    def _check_updates(self, job: Job, views: list[dict[str, Any]]) -> str:
        """Follow the model versions of a task, each held against the rounds that are in it; the newest one."""
        by_result: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for view in views:
            assert (view["result_sha256"] is not None) == (view["phase"] == "committed")
            if view["result_sha256"] is not None:
                by_result[view["result_sha256"]].append(view)
        versions = {0: self._first} | {self._version(sha256): sha256 for sha256 in by_result}
        assert sorted(versions) == list(range(len(by_result) + 1)), "a model version is missing, or is there twice"
        for view in views:
            assert versions[view["model_version"]] == view["checkpoint_sha256"], "a round began from a stranger's model"
        for version in range(1, len(versions)):
            self._check_update(job, versions[version - 1], versions[version], version, by_result[versions[version]])
        return versions[len(by_result)]

    def _check_update(self, job: Job, before: str, after: str, version: int, views: list[dict[str, Any]]) -> None:
        """Every element is what exactly one choice of reports gives: all that were acknowledged, and none twice."""
        assert len(views) == 1 or job.buffered
        moved = self._weights(after) - self._weights(before)
        assert (moved[:2] == 0).all(), "a personal weight moved"
        counted = 0
        for phone, share in enumerate(moved[2:] * PLAN.expected_participants):
            told, unheard = [], []
            for view in views:
                staleness = version - 1 - view["model_version"]
                assert job.buffered or staleness == 0, "a round began from another model version"
                assert staleness <= 1, "a sum that is too old was applied"
                size = size_of(view["number"]) * (1 + staleness) ** -0.5
                if phone in self.acknowledged[job.name, view["number"]]:
                    told.append(size)
                elif phone in self.tried[job.name, view["number"]]:
                    unheard.append(size)
            left = share - sum(told)
            where = f"phone {phone} of {job.name} in version {version}"
            assert left > -CLOSE, f"acknowledged and lost: {where}"
            fits = [chosen for chosen in subsets(unheard) if abs(sum(chosen) - left) < CLOSE]
            assert fits, f"counted twice, or without having been sent: {where}"
            counted += len(told) + len(fits[0])
        assert counted == sum(group["reports"] for view in views for group in view["groups"])

    def _version(self, sha256: str) -> int:
        found: int = self.home.operator("GET", f"/checkpoints/{sha256}").raise_for_status().json()["model_version"]
        return found

    def _weights(self, sha256: str) -> Any:
        return weights_of(self.home, sha256).astype(np.float64)


def subsets(terms: Sequence[float]) -> Iterator[tuple[float, ...]]:
    return (chosen for size in range(len(terms) + 1) for chosen in itertools.combinations(terms, size))


def random_jobs(rng: random.Random) -> tuple[Job, ...]:
    """One task or two, each of either mode, in one group a round or in several."""

    def one(name: str) -> Job:
        group_size = rng.choice([None, None, 1, 2])
        return Job(name, rng.choice(list(Close)), buffered=rng.random() < 0.5, group_size=group_size)

    return tuple(one(name) for name in ([TASK] if rng.random() < 0.6 else [TASK, "other"]))


def play(template: Path, token: str, seed: int, steps: int = 40) -> History:
    """One random history, settled and closed.

    Raises:
        AssertionError: A report was lost or counted twice.
    """
    rng = random.Random(seed)
    history = History(template, token, random_jobs(rng))
    try:
        _gather(history)
        for _step in range(steps):
            _act(history, rng)
        history.settle()
    finally:
        history.close()
    return history


def one_round(template: Path, token: str, *, dying: int | None = None, job: Job = ALONE[0]) -> History:
    """Phones report for one round; the worker dies after so many points of adding up, and then adds up.

    A buffered task has two rounds instead, which make up one update.

    Raises:
        AssertionError: A report was lost or counted twice, or the round did not commit.
    """
    history = History(template, token, [job])
    try:
        for first in (0, 2) if job.buffered else (0,):
            together = range(first, first + 2) if job.buffered else range(PHONES - 1)
            for number in together:
                history.check_in(number, anew=False)
            history.look()
            for number in together:
                history.check_in(number, anew=False)
                history.report(number)
        if dying is not None:
            history.look(dying)
        history.settle()
        assert rounds_of(history.home, job.name)[0]["phase"] == "committed"
    finally:
        history.close()
    return history


def die_at_every_point(template: Path, token: str, every: int = 1, job: Job = ALONE[0]) -> int:
    """Let the worker die at one point of adding up after another; how many there are."""
    points = 0
    while one_round(template, token, dying=points, job=job).crashes:
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
    elif chance < 0.63:
        history.check_in(number, anew=False)
        history.report(number, points=points, heard=heard, seed=0 if rng.random() < 0.9 else 1)
    elif chance < 0.83:
        history.look(points)
    elif chance < 0.91:
        history.replay(rng.randrange(100), resigned=rng.random() < 0.7, points=points)
    elif chance < 0.93:
        history.give_up(number, points=points)
    elif chance < 0.95:
        what = rng.choice(["pause", "resume", "resume"]) if rng.random() < 0.95 else "cancel"
        history.operate(rng.randrange(4), what, points)
    elif chance < 0.97:
        history.let_time_pass(rng.choice([1, 10, 30, 120]))
    else:
        history.restart()


@contextlib.contextmanager
def template(database: str = "sqlite") -> Iterator[tuple[Path, str]]:
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as server:
        folder = Path(scratch) / "home"
        folder.mkdir()
        server.enter_context(LOOP)
        url = server.enter_context(running()).new() if database == "postgresql" else ""
        server.callback(forget_beginnings)
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
        for job in (ALONE[0], Job(TASK, group_size=1), Job(TASK, buffered=True)):
            points = die_at_every_point(folder, token, job=job)
            print(f"the worker died at each of {points} points of {job}: 0 violations")
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
