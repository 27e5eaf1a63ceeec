"""May this device work now, and if not, what is the first reason? Pure: conditions, clocks and history come in.

Unknown conditions are taken as the answer that spares the owner: in use, no power, empty battery, metered, too hot,
no storage, saving power. Only an unknown `online` is taken as yes, because a failed connection costs the owner nothing.

Clock steps. Whatever is measured from a moment in the past (installation, visit, participation) blocks while the clock
is within that span of it, before or after: a clock set back never blocks longer than twice the span, a clock set
forward ends the span early. Daily budgets belong to the date that the clock showed: no date gets more than one budget,
however often it comes back, and a new date is never blocked by another one's spending. Within a slice the wall clock
is read once; after that only the monotonic one counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from edge_runtime.conditions import UNKNOWN, Conditions
from edge_runtime.protocol.policy import Policy, Thermal
from edge_runtime.protocol.reasons import Blocker

if TYPE_CHECKING:
    from edge_runtime.protocol.secure_sum.transcript import Floors as GroupFloors

DEFAULT_POLICY: Final = Policy()

KEPT_DAYS: Final = 14
"""Dates whose spending a device remembers: those it spent on last."""

LOOK_AGAIN_S: Final = 900.0
"""When to look at conditions again that nothing announces."""

_QUARTER_HOUR: Final = timedelta(minutes=15)
_LONGEST_DAY: Final = timedelta(hours=26)


class Activity(StrEnum):
    """What a device is about to do, or does."""

    VISIT = "visit"
    """Begin: check in, train, report. Every condition must hold."""
    TRAIN = "train"
    """Train, or resume training, without the network. Neither network nor intervals count."""
    TRANSFER = "transfer"
    """Fetch or send what belongs to a visit that has begun. Intervals do not count."""
    SUM = "sum"
    """Sum what was trained in a group: short, and at a time that many agreed on. Only battery and network count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Floors:
    """What the host app compiled in; the coordinator cannot loosen it.

    Attributes:
        limits: The loosest policy that this app accepts. The default lets a coordinator only tighten the protocol's.
        assumed: What this app knows of its devices where a source cannot tell (`conditions.assume`).
    """

    limits: Policy = DEFAULT_POLICY
    assumed: Conditions = UNKNOWN
    groups: GroupFloors | None = None
    """The loosest terms of secure summing that this app accepts; None for the protocol's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """What was given on one local date, ISO 8601.

    Attributes:
        transferred_bytes: Both ways.
        battery_share: Of a full battery.
    """

    date: str
    seconds: float = 0.0
    transferred_bytes: int = 0
    battery_share: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What this device has given so far; the device keeps it on disk. Moments are seconds since the epoch.

    Attributes:
        installed_at: When the app was first run.
        days: By date, the one spent on last at the end; at most `KEPT_DAYS`.
        last_visit_at: When the last visit ended.
        wait_s: How long the coordinator, or a failure, asked to wait after it.
        last_participation_at: When the last participation began.
        participations: How many there were.
    """

    installed_at: float
    days: tuple[Day, ...] = ()
    last_visit_at: float | None = None
    wait_s: float = 0.0
    last_participation_at: float | None = None
    participations: int = 0


def within(policy: Policy, floors: Floors) -> Policy:
    """Hold a coordinator's policy within the floors: of each field, the stricter of the two.

    Guarantee: what blocks under the policy or under the floors' limits also blocks under the result.
    """
    ours = floors.limits
    counts = [count for count in (policy.max_participations, ours.max_participations) if count is not None]
    return Policy(
        needs_idle=policy.needs_idle or ours.needs_idle,
        needs_charging=policy.needs_charging or ours.needs_charging,
        battery_floor=max(policy.battery_floor, ours.battery_floor),
        needs_unmetered=policy.needs_unmetered or ours.needs_unmetered,
        stop_at=min(policy.stop_at, ours.stop_at, key=lambda heat: heat.rank),
        stops_in_power_saver=policy.stops_in_power_saver or ours.stops_in_power_saver,
        min_free_storage_bytes=max(policy.min_free_storage_bytes, ours.min_free_storage_bytes),
        quiet_hours=tuple(sorted({*policy.quiet_hours, *ours.quiet_hours})),
        daily_seconds=min(policy.daily_seconds, ours.daily_seconds),
        daily_bytes=min(policy.daily_bytes, ours.daily_bytes),
        daily_battery_share=min(policy.daily_battery_share, ours.daily_battery_share),
        slice_s=min(policy.slice_s, ours.slice_s),
        first_run_delay_s=max(policy.first_run_delay_s, ours.first_run_delay_s),
        min_interval_s=max(policy.min_interval_s, ours.min_interval_s),
        max_interval_s=max(policy.max_interval_s, ours.max_interval_s),
        min_separation_s=max(policy.min_separation_s, ours.min_separation_s),
        max_participations=min(counts) if counts else None,
    )


def blocker(
    conditions: Conditions,
    policy: Policy,
    usage: Usage,
    now: datetime,
    zone: tzinfo,
    activity: Activity = Activity.VISIT,
) -> Blocker | None:
    """Name the first reason not to do it now, or None. The order is that of `Blocker`: by cost to the owner.

    Args:
        policy: Already `within` the floors.
        now: Aware.
        zone: Where the device is: quiet hours and daily budgets are local.
    """
    if activity is Activity.SUM:
        return (
            _battery(conditions, policy)
            or _metered(conditions, policy)
            or _offline(conditions)
            or _moved(policy, spent(usage, now, zone))
        )
    online = activity is not Activity.TRAIN
    return (
        _owner(conditions, policy)
        or (_metered(conditions, policy) if online else None)
        or _storage(conditions, policy)
        or (_offline(conditions) if online else None)
        or _day(policy, usage, now, zone)
        or (_history(policy, usage, now) if activity is Activity.VISIT else None)
    )


def _owner(device: Conditions, policy: Policy) -> Blocker | None:
    if policy.needs_idle and device.in_use is not False:
        return Blocker.IN_USE
    if (device.thermal or Thermal.CRITICAL).rank >= policy.stop_at.rank:
        return Blocker.OVERHEATED
    if policy.stops_in_power_saver and device.power_saver is not False:
        return Blocker.POWER_SAVER
    if (low := _battery(device, policy)) is not None:
        return low
    if policy.needs_charging and not device.charging:
        return Blocker.NOT_CHARGING
    return None


def _battery(device: Conditions, policy: Policy) -> Blocker | None:
    low = not device.charging and (device.battery_level or 0.0) < policy.battery_floor
    return Blocker.BATTERY_LOW if low else None


def _metered(device: Conditions, policy: Policy) -> Blocker | None:
    return Blocker.NETWORK_METERED if policy.needs_unmetered and device.metered is not False else None


def _storage(device: Conditions, policy: Policy) -> Blocker | None:
    return Blocker.STORAGE_LOW if (device.free_storage_bytes or 0) < policy.min_free_storage_bytes else None


def _offline(device: Conditions) -> Blocker | None:
    return Blocker.NETWORK_LOST if device.online is False else None


def _day(policy: Policy, usage: Usage, now: datetime, zone: tzinfo) -> Blocker | None:
    if now.astimezone(zone).hour in policy.quiet_hours:
        return Blocker.QUIET_HOURS
    today = spent(usage, now, zone)
    if today.seconds >= policy.daily_seconds:
        return Blocker.DAILY_SECONDS_SPENT
    return _moved(policy, today)


def _moved(policy: Policy, today: Day) -> Blocker | None:
    if today.transferred_bytes >= policy.daily_bytes:
        return Blocker.DAILY_BYTES_SPENT
    if today.battery_share >= policy.daily_battery_share:
        return Blocker.DAILY_BATTERY_SPENT
    return None


def _history(policy: Policy, usage: Usage, now: datetime) -> Blocker | None:
    for reason, (since, span_s) in _spans(policy, usage).items():
        if since is not None and abs(now.timestamp() - since) < span_s:
            return reason
    if policy.max_participations is not None and usage.participations >= policy.max_participations:
        return Blocker.PARTICIPATIONS_SPENT
    return None


def _spans(policy: Policy, usage: Usage) -> dict[Blocker, tuple[float | None, float]]:
    """What passes by itself: since when, and for how long, in seconds."""
    wait_s = min(max(usage.wait_s, policy.min_interval_s), policy.max_interval_s)
    return {
        Blocker.JUST_INSTALLED: (usage.installed_at, policy.first_run_delay_s),
        Blocker.TOO_SOON: (usage.last_visit_at, wait_s),
        Blocker.PARTICIPATED_RECENTLY: (usage.last_participation_at, policy.min_separation_s),
    }


def look_again_s(reason: Blocker, policy: Policy, usage: Usage, now: datetime, zone: tzinfo) -> float:
    """When to ask again after a visit was blocked, in whole seconds, at least 1.

    Guarantee: if the reason passes by itself, it has passed by then. For conditions it is `LOOK_AGAIN_S`.
    """
    since, span_s = _spans(policy, usage).get(reason, (None, 0.0))
    if since is not None:
        return max(1.0, math.ceil(since + span_s - now.timestamp()))
    if reason is Blocker.PARTICIPATIONS_SPENT:
        return max(1.0, math.ceil(policy.max_interval_s))
    if reason is Blocker.QUIET_HOURS:
        return _until(lambda local: local.hour not in policy.quiet_hours, now, zone)
    if reason in (Blocker.DAILY_SECONDS_SPENT, Blocker.DAILY_BYTES_SPENT, Blocker.DAILY_BATTERY_SPENT):
        today = now.astimezone(zone).date()
        return _until(lambda local: local.date() != today, now, zone)
    return LOOK_AGAIN_S


def _until(holds: Callable[[datetime], bool], now: datetime, zone: tzinfo) -> float:
    """Seconds to the first quarter of an hour at which it holds: clocks change, and zones begin, on these."""
    begin, local = now.astimezone(UTC), now.astimezone(zone)
    ahead = _QUARTER_HOUR - timedelta(minutes=local.minute % 15, seconds=local.second, microseconds=local.microsecond)
    while ahead < _LONGEST_DAY and not holds((begin + ahead).astimezone(zone)):
        ahead += _QUARTER_HOUR
    return float(math.ceil(ahead.total_seconds()))


def spent(usage: Usage, now: datetime, zone: tzinfo) -> Day:
    """What was given on the date that the clock shows."""
    today = now.astimezone(zone).date().isoformat()
    return next((day for day in usage.days if day.date == today), Day(date=today))


def left(policy: Policy, usage: Usage, now: datetime, zone: tzinfo) -> Day:
    """What may still be given on that date; none of it is below 0."""
    today = spent(usage, now, zone)
    return Day(
        date=today.date,
        seconds=max(0.0, policy.daily_seconds - today.seconds),
        transferred_bytes=max(0, policy.daily_bytes - today.transferred_bytes),
        battery_share=max(0.0, policy.daily_battery_share - today.battery_share),
    )


def spend(
    usage: Usage,
    began: datetime,
    zone: tzinfo,
    *,
    seconds: float = 0.0,
    transferred_bytes: int = 0,
    battery_share: float = 0.0,
) -> Usage:
    """Book what a slice gave, on the date on which it began: that date's budget was asked.

    Book at every savepoint what was given since the one before, so that a killed app has paid too.
    """
    cost = Day(
        date=spent(usage, began, zone).date,
        seconds=seconds,
        transferred_bytes=transferred_bytes,
        battery_share=battery_share,
    )
    return pay(usage, cost)


def pay(usage: Usage, cost: Day) -> Usage:
    """Add a cost to what was given on its date."""
    before = next((day for day in usage.days if day.date == cost.date), Day(date=cost.date))
    after = Day(
        date=cost.date,
        seconds=before.seconds + cost.seconds,
        transferred_bytes=before.transferred_bytes + cost.transferred_bytes,
        battery_share=before.battery_share + cost.battery_share,
    )
    others = tuple(day for day in usage.days if day.date != cost.date)
    return replace(usage, days=(*others, after)[-KEPT_DAYS:])


def visited(usage: Usage, now: datetime, wait_s: float) -> Usage:
    """Note the end of a visit, and how long the coordinator, or its failure, asks to wait."""
    return replace(usage, last_visit_at=now.timestamp(), wait_s=wait_s)


def participated(usage: Usage, now: datetime) -> Usage:
    """Note the beginning of a participation: before training, so that a killed app has taken part too."""
    return replace(usage, last_participation_at=now.timestamp(), participations=usage.participations + 1)
