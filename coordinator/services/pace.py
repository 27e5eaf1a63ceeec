"""Pacing in a process: what was seen of each population, and the windows that follow from it.

A plan of windows is made anew every second from what the database holds, so replicas pace alike. What they counted goes
into the population's row every few seconds; of two replicas that write at once one count may be lost, which is noise.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, select, update
from sqlmodel import Session, col

from coordinator.core import arrivals, schedule_windows
from coordinator.core.arrivals import HOUR_S, LONGEST_STEP_S, Arrivals
from coordinator.core.pacing import Goals, Limits, Load, Plan, Window, hazard_at, pace, unit_of
from coordinator.core.tasks import TaskState
from coordinator.services.running import Home, Programme, Running, programme_of
from coordinator.store.tables import Device, Population

PLAN_S: Final = 1.0
OBSERVE_S: Final = 5.0
COUNT_S: Final = 60.0
"""How long a number of devices is used: counting a million takes a while."""
SILENCE_S: Final = 30.0
"""Minutes in which nobody came are observed in steps of this length."""
STRANGE: Final = Window(60.0, 540.0)
"""Of who is turned away unread by a process that has no plan of its population yet."""


@dataclass(slots=True)
class _Door:
    """What the event loop needs of a population: it turns away while another thread works on a batch.

    The loop alone adds to `turned_away`, and the other thread alone replaces the plan.
    """

    plan: Plan
    key: bytes = field(repr=False)
    turned_away: int = 0


@dataclass(slots=True)
class _Paced:
    """One population, as this process sees it."""

    door: _Door
    since_s: float
    """This process has been there for it."""
    made_at: datetime
    devices: int
    counted_at: datetime
    came: int = 0
    """Check-ins that are not yet in the population's row; those that were turned away are not in it."""
    away: int = 0
    """Of those turned away at the door, how many are in the row."""
    unwritten: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Lately:
    """What happened since the last observation."""

    since_s: float
    goals: Goals | None
    load: Load
    devices: int
    came: int
    hazard_per_s: float
    """In force when they came."""


class Pace:
    """Plans of windows by population. For one thread, but for `turn_away`.

    Args:
        check_ins_per_s: What all replicas together can take.
        queue: How many check-ins wait here.
    """

    def __init__(self, limits: Limits, check_ins_per_s: float, queue: Callable[[], int]) -> None:
        self._limits = limits
        self._check_ins_per_s = check_ins_per_s
        self._queue = queue
        self._paced: dict[Home, _Paced] = {}
        self._doors: dict[str, _Door] = {}
        self._rates: dict[Home, float] = {}
        self._rated_at: datetime | None = None

    def look(self, session: Session, came: Mapping[Home, int], now: datetime) -> None:
        """Count the check-ins that came, and renew the plans of their homes where they are too old."""
        if self._rated_at is None or abs(now - self._rated_at) >= timedelta(seconds=PLAN_S):
            self._rates, self._rated_at = _rates(session, now), now
        for home, count in came.items():
            paced = self._paced.get(home)
            if paced is None or abs(now - paced.made_at) >= timedelta(seconds=PLAN_S):
                paced = self._paced[home] = self._renewed(session, home, paced, now)
                self._doors[home.population] = paced.door
            paced.came += count

    def window(self, home: Home, visit: str) -> Window:
        """When a device comes back that goes without an assignment: a visit that is sent again hears the same."""
        return _window(self._paced[home].door, visit)

    def turn_away(self, population: str, visit: str) -> Window:
        """When a check-in comes back that there is no room for; it counts as one that came. For the event loop.

        Nothing was read for it, so tenants whose populations have the same name share a door.
        """
        door = self._doors.get(population)
        if door is None:
            return STRANGE
        door.turned_away += 1
        return _window(door, visit)

    def write(self, session: Session) -> None:
        """Keep what was learnt; nothing is forgotten here before `written` says that it is durable."""
        for home, paced in self._paced.items():
            if paced.unwritten is not None:
                session.connection().execute(
                    update(Population)
                    .where(col(Population.tenant) == home.tenant, col(Population.name) == home.population)
                    .values(pacing=paced.unwritten)
                )

    def written(self) -> None:
        for paced in self._paced.values():
            paced.unwritten = None

    def _renewed(self, session: Session, home: Home, before: _Paced | None, now: datetime) -> _Paced:
        programme = programme_of(session, home)
        unwritten = None if before is None else before.unwritten
        # What is not written yet may be newer than the row, or older than what another replica wrote.
        known = [one for one in map(_stored, (programme.pacing, unwritten)) if one is not None]
        seen = max(known, key=lambda one: one.seen_at_s, default=arrivals.none_yet(now.timestamp()))
        if before is None or abs(now - before.counted_at) >= timedelta(seconds=COUNT_S):
            devices, counted_at = self._devices(session, home, now), now
        else:
            devices, counted_at = before.devices, before.counted_at
        goals = goals_of(programme, now)
        load = Load(capacity_per_s=self._capacity_per_s(home), queue=self._queue())
        since_s = now.timestamp() if before is None else before.since_s
        came, away = (0, 0) if before is None else (before.came, before.away)
        if not known:
            unwritten = seen.to_bytes()
        if before is not None and abs(now.timestamp() - seen.seen_at_s) >= OBSERVE_S:
            away = before.door.turned_away
            asked_per_s = before.door.plan.hazard_per_s
            lately = _Lately(since_s, goals, load, devices, came + away - before.away, asked_per_s)
            seen = self._observed(seen, lately, now.timestamp())
            came, unwritten = 0, seen.to_bytes()
        plan = pace(seen, goals, load, devices, now.timestamp(), self._limits)
        door = _Door(plan, programme.bucket_key) if before is None else before.door
        door.plan = plan
        return _Paced(door, since_s, now, devices, counted_at, came, away, unwritten)

    def _capacity_per_s(self, home: Home) -> float:
        """What the other populations leave to one, and at least an even share."""
        others_per_s = sum(rate_per_s for other, rate_per_s in self._rates.items() if other != home)
        return max(self._check_ins_per_s - others_per_s, self._check_ins_per_s / len({home, *self._rates}))

    def _observed(self, seen: Arrivals, lately: _Lately, now_s: float) -> Arrivals:
        """Observe what came, and then the minutes in which nobody did, if this process was there: they tell the most.

        Nobody looked then, so what was asked of the devices is worked out afterwards.
        """
        if now_s - seen.seen_at_s <= LONGEST_STEP_S or seen.seen_at_s < lately.since_s:
            return arrivals.observe(seen, now_s, lately.came, lately.devices, lately.hazard_per_s)
        soon_s = seen.seen_at_s + OBSERVE_S + PLAN_S  # whoever came later would have been observed
        seen = arrivals.observe(seen, soon_s, lately.came, lately.devices, lately.hazard_per_s)
        since_s = max(seen.seen_at_s, now_s - self._limits.longest_s)
        for step in range(int((now_s - since_s) // SILENCE_S)):
            at_s = since_s + step * SILENCE_S
            asked_per_s = hazard_at(seen, lately.goals, lately.load, lately.devices, at_s, self._limits)
            seen = arrivals.observe(seen, at_s + SILENCE_S, 0, lately.devices, asked_per_s)
        return seen

    def _devices(self, session: Session, home: Home, now: datetime) -> int:
        lately = now - timedelta(seconds=self._limits.longest_s)
        return (
            session.connection().scalar(
                select(func.count())
                .select_from(Device)
                .where(col(Device.tenant) == home.tenant, col(Device.population) == home.population)
                .where(col(Device.seen_at) >= lately)
            )
            or 0
        )


def _rates(session: Session, now: datetime) -> dict[Home, float]:
    """Check-ins a second of every population that had any, as all replicas saw them."""
    rows = session.connection().execute(
        select(col(Population.tenant), col(Population.name), col(Population.pacing)).where(
            col(Population.pacing).is_not(None)
        )
    )
    known = ((Home(tenant, name), _stored(raw)) for tenant, name, raw in rows)
    return {home: arrivals.rate_at(seen, now.timestamp()) for home, seen in known if seen is not None}


def _window(door: _Door, visit: str) -> Window:
    digest = hmac.digest(door.key, b"edgewise/pacing/v1\0" + visit.encode(), hashlib.sha256)
    return door.plan.window(unit_of(digest))


def _stored(raw: bytes | None) -> Arrivals | None:
    """What was learnt before; None where that cannot be read any more, so that it is learnt anew."""
    try:
        return None if raw is None else arrivals.from_bytes(raw)
    except arrivals.InvalidArrivals:
        return None


def goals_of(programme: Programme, now: datetime) -> Goals | None:
    """What the active tasks of a population want together, or None while there is none."""
    active = [task for task in programme.tasks if task.state == TaskState.ACTIVE]
    if not active:
        return None
    settings = [task.settings for task in active]
    devices = sum(one.pool_size * one.rounds_at_once for one in settings)
    return Goals(
        devices=devices,
        least=min(devices, *(task.plan.min_reports for task in active)),
        rounds_per_hour=max(HOUR_S / (one.selecting_deadline_s + one.reporting_deadline_s) for one in settings),
        patience_s=min(one.selecting_deadline_s for one in settings),
        opening_s=_opening_s(active, now),
    )


def _opening_s(active: Iterable[Running], now: datetime) -> float | None:
    """When the first of the tasks opens rounds again, if none may now."""
    openings = [schedule_windows.next_opening(task.settings.windows, task.settings.zone(), now) for task in active]
    known = [opening for opening in openings if opening is not None]
    first = min(known, default=None)
    return None if first is None or first <= now else first.timestamp()
