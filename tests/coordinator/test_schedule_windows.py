"""Windows are what the clock on the wall shows, in every time zone, on the days too on which it is moved."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.core.schedule_windows import is_open, next_opening, open_share
from coordinator.core.task_settings import Window

BERLIN = ZoneInfo("Europe/Berlin")
EVERY_DAY = (0, 1, 2, 3, 4, 5, 6)
SPRING = datetime(2026, 3, 29, tzinfo=UTC)
"""A Sunday: at 1:00 UTC the clock of Berlin goes from 2:00 to 3:00."""
AUTUMN = datetime(2026, 10, 25, tzinfo=UTC)
"""A Sunday: at 1:00 UTC the clock of Berlin goes from 3:00 to 2:00."""


def window(begin: str, end: str, days: tuple[int, ...] = EVERY_DAY) -> Window:
    def minute(text: str) -> int:
        hours, minutes = text.split(":")
        return int(hours) * 60 + int(minutes)

    return Window(days=days, from_minute=minute(begin), to_minute=minute(end))


def at(day: datetime, text: str) -> datetime:
    hours, minutes = text.split(":")
    return day + timedelta(hours=int(hours), minutes=int(minutes))


def test_without_windows_rounds_may_always_open() -> None:
    assert is_open((), BERLIN, SPRING)
    assert next_opening((), BERLIN, SPRING) == SPRING
    assert open_share((), BERLIN, SPRING) == 1.0


@pytest.mark.parametrize(
    ("moment", "expected"),
    [("08:59", False), ("09:00", True), ("16:59", True), ("17:00", False)],
)
def test_the_first_minute_is_inside_and_the_last_is_not(moment: str, expected: bool) -> None:
    monday = datetime(2026, 1, 5, tzinfo=UTC)
    assert is_open([window("9:00", "17:00", (0,))], ZoneInfo("UTC"), at(monday, moment)) is expected


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    friday_night = [window("22:00", "6:00", (4,))]
    friday = datetime(2026, 1, 9, tzinfo=UTC)
    zone = ZoneInfo("UTC")
    assert not is_open(friday_night, zone, at(friday, "05:59"))
    assert is_open(friday_night, zone, at(friday, "22:00"))
    assert is_open(friday_night, zone, at(friday, "29:59"))
    assert not is_open(friday_night, zone, at(friday, "30:00"))


def test_a_window_that_begins_in_the_gap_begins_when_the_clock_has_jumped() -> None:
    """From 2:30 to 4:00: the clock shows 1:59, then 3:00."""
    windows = [window("2:30", "4:00")]
    assert not is_open(windows, BERLIN, at(SPRING, "0:59"))
    assert is_open(windows, BERLIN, at(SPRING, "1:00"))
    assert not is_open(windows, BERLIN, at(SPRING, "2:00"))
    assert next_opening(windows, BERLIN, at(SPRING, "0:00")) == at(SPRING, "1:00")


def test_a_window_within_the_gap_is_empty_that_day_and_opens_the_next() -> None:
    windows = [window("2:10", "2:50")]
    assert not any(is_open(windows, BERLIN, SPRING + timedelta(minutes=minute)) for minute in range(1440))
    assert next_opening(windows, BERLIN, SPRING + timedelta(hours=1)) == at(SPRING, "24:10")


def test_a_window_in_the_hour_that_comes_twice_is_open_both_times() -> None:
    windows = [window("2:30", "2:45")]
    inside = [minute for minute in range(180) if is_open(windows, BERLIN, AUTUMN + timedelta(minutes=minute))]
    assert inside == [*range(30, 45), *range(90, 105)]
    assert next_opening(windows, BERLIN, at(AUTUMN, "0:45")) == at(AUTUMN, "1:30")


def test_a_window_around_the_hour_that_comes_twice_is_an_hour_longer() -> None:
    windows = [window("1:00", "4:00", (6,))]
    assert open_share(windows, BERLIN, AUTUMN - timedelta(days=1)) == pytest.approx(4 / 168)
    assert open_share(windows, BERLIN, SPRING - timedelta(days=1)) == pytest.approx(2 / 168)


def test_a_zone_whose_clock_jumps_at_midnight_is_told_right() -> None:
    """In Beirut the clock went from 0:00 to 1:00 on 2026-03-29: that day begins at 1:00."""
    beirut = ZoneInfo("Asia/Beirut")
    before = datetime(2026, 3, 28, 21, 59, tzinfo=UTC)
    windows = [window("0:00", "0:30", (6,)), window("0:00", "2:00", (6,))]
    assert not is_open(windows, beirut, before)
    assert next_opening(windows, beirut, before) == datetime(2026, 3, 28, 22, 0, tzinfo=UTC)


minutes = st.integers(0, 1439)
windows_of = st.lists(
    st.builds(
        lambda days, begin, length: Window(
            days=tuple(sorted(days)), from_minute=begin, to_minute=(begin + length) % 1440
        ),
        st.sets(st.integers(0, 6), min_size=1),
        minutes,
        st.integers(1, 1439),
    ),
    min_size=1,
    max_size=3,
)
zones = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"])
instants = st.integers(0, 366 * 96).map(
    lambda quarter: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=15 * quarter)
)


@settings(max_examples=60, deadline=None)
@given(windows=windows_of, zone=zones, instant=instants)
def test_the_next_opening_is_the_first_open_minute(windows: list[Window], zone: str, instant: datetime) -> None:
    """Against every minute of the next eight days, one after another."""
    place = ZoneInfo(zone)
    found = next_opening(windows, place, instant)
    if found is None:
        assert not any(is_open(windows, place, instant + timedelta(minutes=minute)) for minute in range(8 * 1440))
        return
    assert is_open(windows, place, found)
    looked = instant
    while looked < found:
        assert not is_open(windows, place, looked)
        looked += timedelta(minutes=7)
    assert found == instant or not is_open(windows, place, found - timedelta(seconds=1))


@settings(max_examples=20, deadline=None)
@given(windows=windows_of, zone=zones, instant=instants)
def test_the_open_share_is_that_of_the_minutes(windows: list[Window], zone: str, instant: datetime) -> None:
    place = ZoneInfo(zone)
    week = range(7 * 1440)
    slow = sum(is_open(windows, place, instant + timedelta(minutes=minute)) for minute in week) / len(week)
    assert open_share(windows, place, instant) == pytest.approx(slow, abs=1e-9)
