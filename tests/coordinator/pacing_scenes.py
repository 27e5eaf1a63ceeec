"""Four populations, each run once for each policy, and what a run must keep; for the tests and the pictures."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np

from coordinator.core.pacing import Goals, Limits, Manner, sure_count
from tests.coordinator.pacing_fleet import (
    DAY_S,
    HOUR_S,
    MONDAY_S,
    Log,
    Policy,
    always,
    fixed,
    nightly,
    paced,
    simulate,
)

SWING: Final = Goals(devices=30, least=24, rounds_per_hour=20, patience_s=120)
SWING_NEEDS_PER_S: Final = sure_count(SWING.devices) / SWING.patience_s
CROWD: Final = Goals(devices=60, least=40, rounds_per_hour=30, patience_s=120)
CROWD_CAPACITY_PER_S: Final = 4.0
CROWD_BEGINS_S: Final = 6 * HOUR_S
CROWD_LASTS_S: Final = 600.0
FIFTY: Final = Goals(devices=26, least=20, rounds_per_hour=1, patience_s=300)
MILLION: Final = Goals(devices=400, least=300, rounds_per_hour=20, patience_s=120)
FIXED_S: Final = {"fixed 15 min": 900.0, "fixed 1 h": 3600.0, "fixed 2 h": 7200.0, "fixed 4 h": 14_400.0}


def policy_named(name: str, goals: Goals) -> Policy:
    """`paced`, or a fixed window of 20 % less to 20 % more, as devices back off by themselves."""
    return fixed(0.8 * FIXED_S[name], 0.4 * FIXED_S[name]) if name in FIXED_S else paced(goals, Limits())


@cache
def swing(policy: str) -> Log:
    """4,000 devices, of which four times as many are there at night: four days."""
    rng = np.random.default_rng(11)
    return simulate(
        policy_named(policy, SWING),
        nightly(4000, rng),
        rng.uniform(0, HOUR_S, 4000),
        capacity_per_s=50,
        lasts_s=4 * DAY_S,
        rng=rng,
        step_s=60,
    )


def broken_by_the_swing(log: Log) -> list[str]:
    """On the fourth day."""
    broken = []
    hours = log.per_s(log.knocked, HOUR_S)[-24:] / SWING_NEEDS_PER_S
    if not (hours.min() >= 0.85 and hours.max() <= 2.0):
        broken.append("arrivals leave the band")
    openings = MONDAY_S + 3 * DAY_S + np.arange(0, DAY_S - 300, SWING.period_s)
    filled = [log.candidates(opening_s, SWING.patience_s) >= SWING.devices for opening_s in openings]
    if np.mean(filled) < 0.99:
        broken.append("rounds stay empty")
    return broken


@cache
def crowd(policy: str) -> Log:
    """10,000 devices, and 24,000 more within ten minutes: fifty times the usual rate, ten times the capacity."""
    rng = np.random.default_rng(12)
    first = np.concatenate([rng.uniform(0, 4 * HOUR_S, 10_000), CROWD_BEGINS_S + rng.uniform(0, CROWD_LASTS_S, 24_000)])
    return simulate(
        policy_named(policy, CROWD),
        always(34_000),
        first,
        capacity_per_s=CROWD_CAPACITY_PER_S,
        lasts_s=1.5 * DAY_S,
        rng=rng,
        step_s=30,
    )


def broken_by_the_crowd(log: Log) -> list[str]:
    broken = []
    ended = round((CROWD_BEGINS_S + CROWD_LASTS_S) / 300)
    rates = log.per_s(log.knocked, 300)
    if rates[ended + 3 :].max() > CROWD_CAPACITY_PER_S:
        broken.append("load stays above the capacity")
    later = rates[ended + 12 :]
    if later.max() > 1.5 * later.mean():
        broken.append("the crowd echoes")
    if log.longest_wait_s > 30 * HOUR_S:
        broken.append("somebody starves")
    openings = MONDAY_S + CROWD_BEGINS_S + np.arange(0, 6 * HOUR_S, CROWD.period_s)
    if min(log.candidates(opening_s, CROWD.patience_s) for opening_s in openings) < CROWD.devices:
        broken.append("rounds stay empty")
    return broken


@cache
def fifty(policy: str, there: str) -> Log:
    """50 devices, always there for a day, or there by night for eight days."""
    rng = np.random.default_rng(13)
    return simulate(
        policy_named(policy, FIFTY),
        nightly(50, rng) if there == "nightly" else always(50),
        rng.uniform(0, HOUR_S, 50),
        capacity_per_s=50,
        lasts_s=8 * DAY_S if there == "nightly" else DAY_S,
        rng=rng,
        step_s=60,
    )


def fills_of_fifty(log: Log, since_s: float) -> list[tuple[float, int]]:
    """Every opening since then, and its candidates; a round is there for each meeting, or else every hour."""
    until_s = MONDAY_S + len(log.plans) * log.step_s - FIFTY.patience_s
    steps = ((MONDAY_S + step * log.step_s, plan) for step, plan in enumerate(log.plans))
    met = {round(now_s + plan.windows[0].after_s) for now_s, plan in steps if plan.manner is Manner.MEETING}
    openings = sorted(met) or list(MONDAY_S + np.arange(0, 8 * DAY_S, FIFTY.period_s))
    inside = [opening_s for opening_s in openings if MONDAY_S + since_s <= opening_s < until_s]
    return [(opening_s, log.candidates(opening_s, FIFTY.patience_s)) for opening_s in inside]


def broken_by_fifty(log: Log, there: str) -> list[str]:
    """From the third hour, or on the last two days: rounds where devices are, few in vain where none are."""
    broken = []
    fills = fills_of_fifty(log, 6 * DAY_S if there == "nightly" else 2 * HOUR_S)
    present = [log.present[round((opening_s - MONDAY_S) / log.step_s)] for opening_s, _count in fills]
    possible = [count for (_opening, count), number in zip(fills, present, strict=True) if number >= FIFTY.devices]
    if len(possible) < 16 or np.mean(np.array(possible) >= FIFTY.least) < 0.99:
        broken.append("rounds stay empty")
    if np.mean([count >= FIFTY.least for _opening, count in fills]) < 0.6:
        broken.append("rounds open in vain")
    if sum(log.knocked) / 50 / (len(log.plans) * log.step_s / DAY_S) > 26:
        broken.append("devices come too often")
    return broken


@cache
def million(policy: str, count: int) -> Log:
    """Devices that all come within the first ten minutes; 500 check-ins a second for a million."""
    rng = np.random.default_rng(14)
    return simulate(
        policy_named(policy, MILLION),
        always(count),
        rng.uniform(0, 600, count),
        capacity_per_s=500 * count / 1e6,
        lasts_s=1.25 * DAY_S,
        rng=rng,
        step_s=120,
    )


def broken_by_a_million(log: Log, count: int) -> list[str]:
    broken = []
    rates = log.per_s(log.knocked, 600)
    if rates[6:].max() > 500 * count / 1e6:
        broken.append("load stays above the capacity")
    later = rates[18:]
    if later.max() > 1.2 * later.min():
        broken.append("arrivals come in waves")
    if log.longest_wait_s > Limits().longest_s + HOUR_S:
        broken.append("somebody starves")
    return broken
