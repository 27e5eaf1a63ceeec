"""What a task would do if it ran: how often, how long, at what cost. Plain arithmetic on what is known beforehand.

A round looks for devices until its pool is full, at most for its selecting deadline; then devices work, for the plan's
time limit at most, and at most for the reporting deadline. Every number is an estimate for planning, costs are upper
bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from coordinator.core.schedule_windows import next_opening, open_share
from coordinator.core.selection import wanted
from coordinator.core.stopping import is_past
from coordinator.core.task_settings import Mode, Stops, TaskSettings
from edge_runtime.protocol.plan import Plan

_DAY_S = 86400.0


class Caution(StrEnum):
    """What an operator should look at before the task runs. A code never changes its meaning."""

    POOL_BELOW_SELECTION = "pool-below-selection"
    """The pool is smaller than what a round would choose: over-selection never comes about."""
    DEADLINE_BELOW_TIME_LIMIT = "deadline-below-time-limit"
    """Devices may train for longer than the round waits for them."""
    NO_STOP = "no-stop"
    """Nothing ends the task but a cancellation."""
    DATE_PASSED = "date-passed"
    """The date at which the task stops is over."""
    WINDOW_NEVER_OPENS = "window-never-opens"
    TOO_FEW_DEVICES = "too-few-devices"
    """The cohort has fewer devices than a round needs reports."""
    POOL_ABOVE_COHORT = "pool-above-cohort"
    """The cohort has fewer devices than the pool: every round waits for its deadline."""
    POOL_NEVER_FILLS = "pool-never-fills"
    """At the rate of check-ins, fewer than the fewest reports come before the selecting deadline."""
    BUFFER_NEVER_FILLS = "buffer-never-fills"
    """Rounds of a buffered task would be too old before there are enough for an update."""
    GROUP_ABOVE_ROUND = "group-above-round"
    """A group is to be larger than a whole round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Whom a task can reach.

    Attributes:
        devices: That match its cohort.
        check_ins_an_hour: Expected of them.
    """

    devices: int
    check_ins_an_hour: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What one participation moves, in bytes."""

    checkpoint: int
    bundle: int
    """Once for each device."""
    report: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Upper bounds over all devices."""

    bytes_down: int
    bytes_up: int
    phone_seconds: int

    def times(self, rounds: float) -> Costs:
        return Costs(
            bytes_down=math.ceil(self.bytes_down * rounds),
            bytes_up=math.ceil(self.bytes_up * rounds),
            phone_seconds=math.ceil(self.phone_seconds * rounds),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What would happen.

    Attributes:
        chosen: Devices of one round.
        round_s: From its opening to its end; None if it never gets its reports.
        rounds_a_day: On an average day of the week ahead, 0 if rounds never end.
        opens_at: When the first round opens; None if the windows never do.
        a_round: Costs of one; the graph is not in them.
        stops_after_s: Until the first of the stop conditions that can be foreseen; None for never, or unknown.
        rounds: Until then.
        total: Costs until then, and each device's graph once; None where `stops_after_s` is.
    """

    devices: int
    chosen: int
    round_s: float | None
    rounds_a_day: float
    opens_at: datetime | None
    a_round: Costs
    stops_after_s: float | None
    rounds: float | None
    total: Costs | None
    cautions: tuple[Caution, ...]


def forecast(plan: Plan, settings: TaskSettings, reach: Reach, sizes: Sizes, now: datetime) -> Forecast:
    """Say what a task would do from now on."""
    chosen = _chosen(plan, settings, reach)
    round_s = _round_s(plan, settings, reach)
    opens_at = next_opening(settings.windows, settings.zone(), now)
    rounds_a_day = _rounds_a_day(settings, reach, chosen, round_s, now)
    a_round = Costs(
        bytes_down=chosen * sizes.checkpoint,
        bytes_up=chosen * sizes.report,
        phone_seconds=math.ceil(chosen * _work_s(plan, settings)),
    )
    stops_after_s = _stops_after_s(settings.stop, a_round, rounds_a_day, now)
    rounds = None if stops_after_s is None else rounds_a_day * stops_after_s / _DAY_S
    graphs = min(reach.devices, math.ceil(chosen * (rounds or 0))) * sizes.bundle
    total = None if rounds is None else a_round.times(rounds)
    if total is not None:
        total = Costs(bytes_down=total.bytes_down + graphs, bytes_up=total.bytes_up, phone_seconds=total.phone_seconds)
    return Forecast(
        devices=reach.devices,
        chosen=chosen,
        round_s=round_s,
        rounds_a_day=rounds_a_day,
        opens_at=opens_at,
        a_round=a_round,
        stops_after_s=stops_after_s,
        rounds=rounds,
        total=total,
        cautions=tuple(_cautions(plan, settings, reach, now)),
    )


def _most(plan: Plan, settings: TaskSettings) -> int:
    """How many devices a round would choose if enough were there."""
    most = wanted(plan.goal, settings.over_selection, plan.max_participants)
    return min(most, settings.pool_size) if settings.mode is Mode.BUFFERED else most


def _chosen(plan: Plan, settings: TaskSettings, reach: Reach) -> int:
    return min(_most(plan, settings), settings.pool_size, reach.devices)


def _work_s(plan: Plan, settings: TaskSettings) -> float:
    return min(plan.time_limit_s, settings.reporting_deadline_s)


def _round_s(plan: Plan, settings: TaskSettings, reach: Reach) -> float | None:
    """How long a round takes: to fill its pool, and to work."""
    came = min(reach.devices, reach.check_ins_an_hour * settings.selecting_deadline_s / 3600)
    if came < plan.min_reports:
        return None
    if came < settings.pool_size:
        return settings.selecting_deadline_s + _work_s(plan, settings)
    return settings.pool_size / reach.check_ins_an_hour * 3600 + _work_s(plan, settings)


def _rounds_a_day(settings: TaskSettings, reach: Reach, chosen: int, round_s: float | None, now: datetime) -> float:
    if round_s is None or chosen == 0:
        return 0.0
    share = open_share(settings.windows, settings.zone(), now)
    rounds = share * _DAY_S / round_s * settings.rounds_at_once
    if settings.min_separation_s > 0:
        rounds = min(rounds, reach.devices * _DAY_S / settings.min_separation_s / chosen)
    return rounds


def _stops_after_s(stops: Stops, a_round: Costs, rounds_a_day: float, now: datetime) -> float | None:
    found = []
    if (moment := stops.moment()) is not None:
        found.append(max(0.0, (moment - now).total_seconds()))
    if rounds_a_day > 0:
        moved = a_round.bytes_down + a_round.bytes_up
        caps = ((stops.rounds, 1), (stops.bytes, moved), (stops.phone_seconds, a_round.phone_seconds))
        found += [math.ceil(cap / each) / rounds_a_day * _DAY_S for cap, each in caps if cap is not None and each > 0]
    return min(found, default=None)


def _cautions(plan: Plan, settings: TaskSettings, reach: Reach, now: datetime) -> Iterator[Caution]:
    stops = settings.stop
    most = _most(plan, settings)
    if settings.mode is Mode.SYNCHRONOUS and settings.pool_size < most:
        yield Caution.POOL_BELOW_SELECTION
    if settings.reporting_deadline_s < plan.time_limit_s:
        yield Caution.DEADLINE_BELOW_TIME_LIMIT
    if (stops.rounds, stops.at, stops.metric, stops.bytes, stops.phone_seconds) == (None,) * 5:
        yield Caution.NO_STOP
    if is_past(stops, now):
        yield Caution.DATE_PASSED
    if next_opening(settings.windows, settings.zone(), now) is None:
        yield Caution.WINDOW_NEVER_OPENS
    if reach.devices < plan.min_reports:
        yield Caution.TOO_FEW_DEVICES
    elif reach.devices < settings.pool_size:
        yield Caution.POOL_ABOVE_COHORT
    if reach.check_ins_an_hour * settings.selecting_deadline_s / 3600 < plan.min_reports <= reach.devices:
        yield Caution.POOL_NEVER_FILLS
    if settings.mode is Mode.BUFFERED and math.ceil(plan.goal / most) > settings.rounds_at_once * (
        settings.max_staleness + 1
    ):
        yield Caution.BUFFER_NEVER_FILLS
    if settings.group_size is not None and settings.group_size > most:
        yield Caution.GROUP_ABOVE_ROUND
