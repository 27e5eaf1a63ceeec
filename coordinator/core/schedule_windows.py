"""Parts of the week in which rounds may open, by the clock on the wall of one time zone.

A window is what the wall clock shows: where the clock jumps forward over a window's beginning, the window begins with
the jump; minutes that the clock shows twice are in the window both times; a window that lies within a gap is empty.
Instants are aware datetimes; windows are half open: the last minute named is outside.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from coordinator.core.task_settings import Window

_DAY = timedelta(days=1)
_DAYS_AHEAD = 15
"""A window opens within a week; twice that, since one may fall into a gap of the clock."""


def is_open(windows: Sequence[Window], zone: ZoneInfo, instant: datetime) -> bool:
    """Whether rounds may open at an instant; always where there are no windows."""
    if not windows:
        return True
    local = instant.astimezone(zone)
    return any(_shows(window, local) for window in windows)


def _shows(window: Window, local: datetime) -> bool:
    """Whether a wall clock that shows this is inside a window."""
    minute, weekday = local.hour * 60 + local.minute, local.weekday()
    if window.from_minute < window.to_minute:
        return weekday in window.days and window.from_minute <= minute < window.to_minute
    began_yesterday = (weekday - 1) % 7 in window.days and minute < window.to_minute
    return began_yesterday or (weekday in window.days and minute >= window.from_minute)


def next_opening(windows: Sequence[Window], zone: ZoneInfo, instant: datetime) -> datetime | None:
    """The first instant from this one on at which rounds may open, in UTC; None if the windows never open."""
    if is_open(windows, zone, instant):
        return instant.astimezone(UTC)
    moments = (moment for moment in _moments(windows, zone, instant) if moment > instant)
    return next((moment for moment in sorted(moments) if is_open(windows, zone, moment)), None)


def open_share(windows: Sequence[Window], zone: ZoneInfo, instant: datetime) -> float:
    """The share of the week after an instant in which rounds may open, 0 to 1.

    Exact: between two of the moments at which a window begins or ends, or the clock is moved, nothing changes.
    """
    end = instant + 7 * _DAY
    inner = {moment for moment in _moments(windows, zone, instant) if instant < moment < end}
    marks = [instant.astimezone(UTC), *sorted(inner), end.astimezone(UTC)]
    spans = itertools.pairwise(marks)
    opened = sum(((after - before) for before, after in spans if is_open(windows, zone, before)), timedelta())
    return opened / (7 * _DAY)


def _moments(windows: Sequence[Window], zone: ZoneInfo, instant: datetime) -> set[datetime]:
    """Every instant near this one at which a window may begin or end, in UTC."""
    today = instant.astimezone(zone).date()
    minutes = {minute for window in windows for minute in (window.from_minute, window.to_minute)} | {0}
    found: set[datetime] = set()
    for ahead in range(-1, _DAYS_AHEAD):
        midnight = datetime.combine(today + ahead * _DAY, time(), zone)
        for minute in minutes:
            wall = midnight + timedelta(minutes=minute)  # arithmetic on the wall clock
            found |= {wall.replace(fold=fold).astimezone(UTC) for fold in (0, 1)}
        found |= _clock_changes(midnight, zone)
    return found


def _clock_changes(midnight: datetime, zone: ZoneInfo) -> set[datetime]:
    """The instants of a day at which the zone's offset changes, in UTC, to the second."""
    begin, end = midnight.astimezone(UTC), (midnight + _DAY).astimezone(UTC)
    if begin.astimezone(zone).utcoffset() == end.astimezone(zone).utcoffset():
        return set()
    before = begin.astimezone(zone).utcoffset()
    while end - begin > timedelta(seconds=1):
        middle = begin + (end - begin) / 2
        begin, end = (middle, end) if middle.astimezone(zone).utcoffset() == before else (begin, middle)
    return {end.replace(microsecond=0)}
