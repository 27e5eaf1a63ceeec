"""Pacing in a process: what was seen of each population, and the windows that follow from it.

A plan of windows is made anew every second from what the database holds, so replicas pace alike. What they counted goes
into the population's row every few seconds; of two replicas that write at once one count may be lost, which is noise.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, select, update
from sqlmodel import Session, col

from coordinator.core import arrivals, schedule_windows
from coordinator.core.arrivals import HOUR_S, Arrivals
from coordinator.core.pacing import Goals, Limits, Load, Plan, Window, pace, unit_of
from coordinator.core.tasks import TaskState
from coordinator.services.running import Home, Programme, Running, programme_of
from coordinator.store.tables import Device, Population

PLAN_S: Final = 1.0
OBSERVE_S: Final = 5.0
COUNT_S: Final = 60.0
"""How long a number of devices is used: counting a million takes a while."""
STRANGE: Final = Window(60.0, 540.0)
"""Of who is turned away unread by a process that has no plan of its population yet."""


@dataclass(slots=True)
class _Door:
    """What the event loop needs of a population: it turns away while another thread works on a batch.

    The loop alone adds to `turned_away`, and the other thread alone replaces the plan.
    """

    plan: Plan
    key: bytes
    turned_away: int = 0


@dataclass(slots=True)
class _Paced:
    """One population, as this process sees it."""

    door: _Door
    made_at: datetime
    devices: int
    counted_at: datetime
    came: int = 0
    """Check-ins that are not yet in the population's row; those that were turned away are not in it."""
    away: int = 0
    """Of those turned away at the door, how many are in the row."""
    unwritten: bytes | None = None


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

    def look(self, session: Session, came: Mapping[Home, int], now: datetime) -> None:
        """Count the check-ins that came, and renew the plans of their homes where they are too old."""
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
        seen = _stored(programme.pacing, now)
        if before is not None and before.unwritten is not None:  # the row may lag behind, or be another replica's
            seen = max(seen, _stored(before.unwritten, now), key=lambda one: one.seen_at_s)
        if before is None or abs(now - before.counted_at) >= timedelta(seconds=COUNT_S):
            devices, counted_at = self._devices(session, home, now), now
        else:
            devices, counted_at = before.devices, before.counted_at
        came, away = (0, 0) if before is None else (before.came, before.away)
        unwritten = seen.to_bytes() if programme.pacing is None else None if before is None else before.unwritten
        if before is not None and abs(now.timestamp() - seen.seen_at_s) >= OBSERVE_S:
            away = before.door.turned_away
            count = came + away - before.away
            seen = arrivals.observe(seen, now.timestamp(), count, devices, before.door.plan.hazard_per_s)
            came, unwritten = 0, seen.to_bytes()
        load = Load(capacity_per_s=self._check_ins_per_s, queue=self._queue())
        plan = pace(seen, goals_of(programme, now), load, devices, now.timestamp(), self._limits)
        door = _Door(plan, programme.bucket_key) if before is None else before.door
        door.plan = plan
        return _Paced(door, now, devices, counted_at, came, away, unwritten)

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


def _window(door: _Door, visit: str) -> Window:
    digest = hmac.digest(door.key, b"edgewise/pacing/v1\0" + visit.encode(), hashlib.sha256)
    return door.plan.window(unit_of(digest))


def _stored(raw: bytes | None, now: datetime) -> Arrivals:
    """What was learnt before; from the beginning where that cannot be read any more."""
    if raw is None:
        return arrivals.none_yet(now.timestamp())
    try:
        return arrivals.from_bytes(raw)
    except arrivals.InvalidArrivals:
        return arrivals.none_yet(now.timestamp())


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
        separation_s=min(one.min_separation_s for one in settings),
    )


def _opening_s(active: Iterable[Running], now: datetime) -> float | None:
    """When the first of the tasks opens rounds again, if none may now."""
    openings = [schedule_windows.next_opening(task.settings.windows, task.settings.zone(), now) for task in active]
    known = [opening for opening in openings if opening is not None]
    first = min(known, default=None)
    return None if first is None or first <= now else first.timestamp()
