"""Devices in virtual time whose check-ins are answered by the real service, out of a real database.

Written apart from `coordinator.services.pace`: devices know what they were told, and the fleet knows who came.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from sqlmodel import col, select

from coordinator.core.pacing import Limits
from coordinator.services import checkins
from coordinator.services.checkins import CheckIns, Knock
from coordinator.services.pace import Pace
from coordinator.store.database import Database
from coordinator.store.tables import Device, Population
from edge_runtime.protocol.checkin import CHECK_IN_PATH, CheckIn, CheckInAnswer, RetryWindow
from edge_runtime.protocol.errors import Refusal
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.signing import SignedBy
from tests.programme import PLAN, POPULATION, START, TENANT, Clock, Home, open_home, replace

DAY_S: Final = 86_400.0
HOUR_S: Final = 3_600.0

Present = Callable[[int, float], bool]
"""Whether a device, by its number, is there at a time of day, in seconds since midnight."""


def always(_number: int, _of_day_s: float) -> bool:
    return True


def by_night(_number: int, of_day_s: float) -> bool:
    """From 22:00 to 6:00."""
    return (of_day_s - 22 * HOUR_S) % DAY_S < 8 * HOUR_S


def swinging(number: int, of_day_s: float) -> bool:
    """One in four always, all others for twelve hours from some time between 17:00 and 23:00."""
    begins_s = (17 + number * 0.61803 % 1 * 6) * HOUR_S
    return number % 4 == 0 or (of_day_s - begins_s) % DAY_S < 12 * HOUR_S


@dataclass
class Service:
    """What answers check-ins, in a process of its own for all that it remembers."""

    database: Database
    clock: Clock
    check_ins_per_s: float = 1000.0
    queue: int = 0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.pace = Pace(self.limits, self.check_ins_per_s, lambda: self.queue)
        self.check_ins = CheckIns(self.database, self.clock, self.pace)

    def answer(self, knocks: Sequence[Knock]) -> list[CheckInAnswer | Refusal]:
        return self.check_ins.answer(knocks)


@contextmanager
def coordinator(folder: Path, token: str, clock: Clock) -> Iterator[Home]:
    """A coordinator whose rounds nobody moves; of its check-ins no signature is looked at."""
    with pytest.MonkeyPatch.context() as patch, open_home(folder, clock, token) as home:
        patch.setattr(checkins, "unproven", lambda *_request: None)
        yield home


def start_task(home: Home, name: str = "words", state: str = "active", least: int = 2, **settings: Any) -> None:
    """A task that leaves retry windows to pacing."""
    first = home.publish()
    plan = replace(PLAN, min_reports=least, goal=least, max_participants=max(4, settings["pool_size"]))
    order = home.order(plan, name=name, checkpoint_sha256=first, retry_rejected_s=None, **settings)
    if state == "draft":
        home.operator("POST", "/tasks", json=order).raise_for_status()
        return
    home.start_order(order)
    if state == "paused":
        home.operator("POST", f"/tasks/{name}/pause").raise_for_status()


def enrol(database: Database, count: int, population: str = POPULATION, first: int = 0) -> list[str]:
    """Devices of a population, by id. Its windows are drawn by a fixed key, so that outcomes never change."""
    ids = [f"{number:032x}" for number in range(first, first + count)]
    with database.writing() as session:
        session.get_one(Population, (TENANT, population)).bucket_key = digest(population.encode())
        session.add_all(
            Device(
                id=id_,
                tenant=TENANT,
                population=population,
                public_key=bytes(32),
                app="app",
                app_version="1.0",
                platform="android",
                evidence="none",
                enrolled_at=START,
            )
            for id_ in ids
        )
    return ids


def pacing_of(database: Database, population: str = POPULATION) -> bytes | None:
    """What is stored of a population's check-ins."""
    with database.reading() as session:
        return session.exec(
            select(Population.pacing).where(Population.tenant == TENANT, col(Population.name) == population)
        ).one()


_nonces = itertools.count()


def knock(device: str, visit: int, *, again: bool = False, population: str = POPULATION) -> Knock:
    claim = SignedBy(keyid=device, created=0, nonce=f"{next(_nonces):032x}", body_digest=b"", signature=b"")
    message = CheckIn(version=1, population=population, visit=f"{visit:032x}", runtime="none", examples=64)
    return Knock(claim, CHECK_IN_PATH, message, again)


def window_of(answer: CheckInAnswer | Refusal) -> RetryWindow:
    assert isinstance(answer, CheckInAnswer), answer
    assert answer.retry is not None
    return answer.retry


@dataclass
class Fleet:
    """Devices that come when they are due and there, and come back as they are told.

    Args:
        due_s: When each is first due, after the clock's time now.
        desk: How many of those that come in one step are answered; the others are turned away.
    """

    service: Service
    ids: Sequence[str]
    due_s: Sequence[float]
    present: Present = always
    population: str = POPULATION
    seed: int = 1
    desk: Callable[[float], int] = lambda _step_s: 1 << 30

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        began = self.service.clock.timestamp()
        self.due = began + np.array(self.due_s)
        self.came: list[tuple[float, int]] = []
        """Who came when, turned away or not."""
        self.windows: list[tuple[float, RetryWindow]] = []
        """What they were told, and when."""
        self._visits = itertools.count(self.seed << 64)

    def run(self, lasts_s: float, step_s: float) -> None:
        for _step in range(round(lasts_s / step_s)):
            self.service.clock.forward(step_s)
            self.step(step_s)

    def step(self, step_s: float) -> None:
        now_s = self.service.clock.timestamp()
        due = np.flatnonzero(self.due <= now_s).tolist()
        coming = [number for number in due if self.present(number, now_s % DAY_S)]
        self.rng.shuffle(coming)
        fits = self.desk(step_s)
        knocks = [knock(self.ids[n], next(self._visits), population=self.population) for n in coming]
        told = list(self.service.answer(knocks[:fits])) if knocks[:fits] else []
        told += [self.service.check_ins.turn_away(one.message) for one in knocks[fits:]]
        for number, answer in zip(coming, told, strict=True):
            window = window_of(answer)
            self.came.append((now_s, number))
            self.windows.append((now_s, window))
            self.due[number] = now_s + window.after_s + self.rng.random() * window.spread_s

    def counts(self, since_s: float, every_s: float, lasts_s: float) -> list[int]:
        """How many came in each stretch of time."""
        found = [0] * round(lasts_s / every_s)
        for at_s, _number in self.came:
            place = int((at_s - since_s) // every_s)
            if 0 <= place < len(found):
                found[place] += 1
        return found

    def candidates(self, since_s: float, for_s: float) -> int:
        """Distinct devices that came in a stretch of time."""
        return len({number for at_s, number in self.came if since_s <= at_s < since_s + for_s})
