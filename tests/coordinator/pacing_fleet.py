"""A population in virtual time: who is there when, who knocks, what a coordinator of limited capacity makes of it.

Written apart from `coordinator.core.pacing`: it knows plans and windows, and none of its formulas. Everything is drawn
from one generator, and a day of a million devices takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coordinator.core.arrivals import Arrivals, none_yet, observe
from coordinator.core.pacing import Goals, Limits, Load, Manner, Plan, Window, pace

DAY_S: Final = 86_400.0
HOUR_S: Final = 3_600.0
MONDAY_S: Final = 1_704_067_200.0
"""2024-01-01 00:00 UTC, when every simulation begins."""
BACK_OFF_S: Final = 900.0
BACK_OFF_SHARE: Final = 0.2
"""What a device does by itself when nobody answers: 15 min, 20 % less or more."""
DOOR_SHARE: Final = 20.0
"""A check-in that is turned away unread costs a twentieth."""
LONGEST_QUEUE_S: Final = 1.0
"""The desk is full when a check-in would wait longer: 1,024 of them, at 1,000 a second."""

Flags: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

Policy: TypeAlias = Callable[[Arrivals, Load, int, float], Plan]
Presence: TypeAlias = Callable[[float], Flags]


def paced(goals: Goals | None, limits: Limits) -> Policy:
    """The policy under test."""
    return lambda arrivals, load, devices, now_s: pace(arrivals, goals, load, devices, now_s, limits)


def fixed(after_s: float, spread_s: float) -> Policy:
    """The naive one: always the same window."""
    windows = (Window(after_s, spread_s),) * 64
    plan = Plan(manner=Manner.EVENLY, hazard_per_s=1 / (after_s + spread_s / 2), windows=windows)
    return lambda _arrivals, _load, _devices, _now_s: plan


def always(count: int) -> Presence:
    everyone = np.ones(count, dtype=np.bool_)
    return lambda _now_s: everyone


def nightly(count: int, rng: np.random.Generator) -> Presence:
    """Devices on their chargers: each at night from about 22:30 for 8 h, and some hours at its own time of day.

    About four times as many are there at night as by day.
    """
    begins = (22.5 + rng.normal(0, 1.5, count)) * HOUR_S
    lasts = np.clip(rng.normal(8, 1, count), 4, 12) * HOUR_S
    by_day = rng.uniform(7, 22, count) * HOUR_S
    stays = rng.uniform(2, 6, count) * HOUR_S

    @cache
    def there(minutes: int) -> Flags:
        at_s = minutes * 60.0
        found: Flags = ((at_s - begins) % DAY_S < lasts) | ((at_s - by_day) % DAY_S < stays)
        return found

    return lambda now_s: there(int((now_s - MONDAY_S) // 300 * 5 % 1440))


@dataclass(slots=True)
class Log:
    """What happened, step by step."""

    step_s: float
    knocked: list[int] = field(default_factory=list)
    worked: list[int] = field(default_factory=list)
    unanswered: list[int] = field(default_factory=list)
    present: list[int] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    visits: list[Ints] = field(default_factory=list)
    """Devices whose check-in was worked through."""
    longest_wait_s: float = 0.0
    """Without a check-in that was worked through, of any device, from its first knock on."""

    def per_s(self, counts: list[int], every_s: float) -> Floats:
        """Rates, each over `every_s`."""
        steps = round(every_s / self.step_s)
        whole = len(counts) // steps * steps
        rates: Floats = np.array(counts[:whole], dtype=np.float64).reshape(-1, steps).sum(axis=1) / every_s
        return rates

    def candidates(self, since_s: float, for_s: float) -> int:
        """Distinct devices whose check-in was worked through in a stretch of time."""
        first, end = (round((at_s - MONDAY_S) / self.step_s) for at_s in (since_s, since_s + for_s))
        return len(np.unique(np.concatenate([np.empty(0, dtype=np.int64), *self.visits[first:end]])))


def simulate(
    policy: Policy,
    present: Presence,
    first_knock_s: Floats,
    *,
    capacity_per_s: float,
    lasts_s: float,
    rng: np.random.Generator,
    step_s: float = 10.0,
) -> Log:
    """Let devices come, be answered and come back.

    A device knocks once it is due and there. The coordinator works through `capacity_per_s`, and lets wait whom it can
    answer within `LONGEST_QUEUE_S`. All others it turns away with a window of the same plan, up to `DOOR_SHARE` times
    its capacity; who comes beyond that gets no answer.

    Args:
        first_knock_s: When each device is first due, from the start; beyond `lasts_s` for never.
    """
    log = Log(step_s)
    count = len(first_knock_s)
    due = first_knock_s + MONDAY_S
    last_seen = np.full(count, -np.inf)
    waits_since = np.full(count, np.nan)
    arrivals, queue, hazard_per_s, devices = none_yet(MONDAY_S), 0.0, 0.0, 0
    for step in range(round(lasts_s / step_s)):
        now_s = MONDAY_S + step * step_s
        if step % round(60 / min(60, step_s)) == 0:
            devices = int((last_seen > now_s - DAY_S).sum())
        there = present(now_s)
        knocking = np.flatnonzero((due <= now_s) & there)
        rng.shuffle(knocking)
        arrivals = observe(arrivals, now_s, len(knocking), devices, hazard_per_s)
        plan = policy(arrivals, Load(capacity_per_s=capacity_per_s, queue=int(queue)), devices, now_s)
        fits = int(capacity_per_s * (LONGEST_QUEUE_S + step_s) - queue)
        worked, outside = knocking[:fits], knocking[fits:]
        door = int(DOOR_SHARE * capacity_per_s * step_s)
        turned_away, lost = outside[:door], outside[door:]
        queue = max(0.0, queue + len(worked) - capacity_per_s * step_s)
        waits_since[knocking] = np.where(np.isnan(waits_since[knocking]), now_s, waits_since[knocking])
        if len(worked):
            log.longest_wait_s = max(log.longest_wait_s, float((now_s - waits_since[worked]).max()))
        waits_since[worked] = now_s
        last_seen[worked] = now_s
        answered = np.concatenate([worked, turned_away])
        due[answered] = now_s + _instants(plan, len(answered), rng)
        due[lost] = now_s + BACK_OFF_S * rng.uniform(1 - BACK_OFF_SHARE, 1 + BACK_OFF_SHARE, len(lost))
        hazard_per_s = plan.hazard_per_s
        log.knocked.append(len(knocking))
        log.worked.append(len(worked))
        log.unanswered.append(len(lost))
        log.present.append(int(there.sum()))
        log.plans.append(plan)
        log.visits.append(worked)
    outstanding = MONDAY_S + lasts_s - waits_since[~np.isnan(waits_since)]
    log.longest_wait_s = max(log.longest_wait_s, float(outstanding.max()))
    return log


def _instants(plan: Plan, count: int, rng: np.random.Generator) -> Floats:
    """When devices come back: the plan's window of a random unit, and an instant of it that the device draws."""
    windows = _array(plan.windows)
    chosen = windows[(rng.random(count) * len(windows)).astype(np.int64)]
    instants: Floats = chosen[:, 0] + rng.random(count) * chosen[:, 1]
    return instants


@lru_cache(maxsize=4)
def _array(windows: tuple[Window, ...]) -> Floats:
    return np.array([(window.after_s, window.spread_s) for window in windows])
