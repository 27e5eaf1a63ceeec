"""How a task's progress is put together: outcomes, pace and the time that is left, from what the API says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from coordinator.commands.progress import RECENT, progress_of, span
from coordinator.commands.watching import drawn, headline

START = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)


def task(**changes: Any) -> dict[str, Any]:
    return {
        "name": "digits",
        "state": "active",
        "ended_because": None,
        "model_version": 0,
        "rounds_committed": 0,
        "rounds_wanted": None,
        "settings": {"stop": {"at": None}},
        **changes,
    }


def round_(number: int, minutes: float | None = 1.0, **changes: Any) -> dict[str, Any]:
    """A round that began when the one before ended, and took so many minutes; None if it is open."""
    opened = START + timedelta(minutes=number - 1)
    return {
        "number": number,
        "phase": "reporting" if minutes is None else "committed",
        "chosen": 5,
        "reports": 4,
        "outcomes": {"battery-low": 1},
        "abandonment": None,
        "model_version": number - 1,
        "opened_at": opened.isoformat(),
        "closed_at": None if minutes is None else (opened + timedelta(minutes=minutes)).isoformat(),
        **changes,
    }


def test_pace_and_time_left_are_those_of_the_recent_rounds() -> None:
    rounds = [round_(number) for number in range(1, 11)]
    found = progress_of(task(rounds_committed=10, rounds_wanted=25), rounds, START + timedelta(minutes=10))
    assert found.reports_a_minute == 4
    assert found.left == timedelta(minutes=15)
    assert found.outcomes == {"battery-low": 10}
    assert (
        headline(found) == "digits is active: 10 of 25 rounds, model version 0, 4 reports a minute, about 15 min left"
    )


def test_a_date_that_comes_first_is_what_is_left() -> None:
    stop = {"stop": {"at": (START + timedelta(minutes=12)).isoformat()}}
    found = progress_of(
        task(rounds_committed=1, rounds_wanted=25, settings=stop), [round_(1)], START + timedelta(minutes=1)
    )
    assert found.left == timedelta(minutes=11)


def test_nothing_is_foreseen_before_the_first_round_or_while_paused() -> None:
    now = START + timedelta(minutes=5)
    assert progress_of(task(rounds_wanted=5), [], now).left is None
    assert progress_of(task(rounds_wanted=5), [round_(1, None)], now).left is None
    assert progress_of(task(state="paused", rounds_wanted=5, rounds_committed=1), [round_(1)], now).left is None
    assert progress_of(task(), [], now).reports_a_minute is None


@given(
    st.lists(st.tuples(st.floats(0.1, 60), st.integers(0, 50), st.booleans()), max_size=30),
    st.integers(0, 40),
    st.integers(0, 10_000),
)
def test_whatever_the_rounds_were_there_is_a_picture(
    rounds: list[tuple[float, int, bool]], wanted: int, late_s: int
) -> None:
    found = progress_of(
        task(rounds_wanted=wanted or None, rounds_committed=len(rounds)),
        [
            round_(number, minutes, reports=reports, phase="committed" if committed else "abandoned")
            for number, (minutes, reports, committed) in enumerate(rounds, 1)
        ],
        START + timedelta(seconds=late_s),
    )
    assert len(found.rounds) == min(RECENT, len(rounds))
    assert found.left is None or found.left >= timedelta(0)
    assert found.reports_a_minute is None or found.reports_a_minute > 0
    console = Console(width=100)
    with console.capture() as captured:
        console.print(drawn(found))
    assert "digits is active" in captured.get()


def test_spans_are_rounded_up_to_what_people_say() -> None:
    said = {0: "0 s", 59: "59 s", 60: "1 min", 61: "2 min", 3599: "1 h 0 min", 12_000: "3 h 20 min", 187_200: "2 d 4 h"}
    assert {seconds: span(timedelta(seconds=seconds)) for seconds in said} == said


def test_a_picture_has_a_line_for_the_bar_and_one_for_each_round() -> None:
    console = Console(width=100)
    with console.capture() as captured:
        rounds = [round_(1), round_(2, None)]
        console.print(drawn(progress_of(task(rounds_committed=1, rounds_wanted=2), rounds, START)))
    lines = captured.get().splitlines()
    assert lines[2].split()[:2] == ["round", "phase"]
    assert [line.split()[:2] for line in lines[3:5]] == [["1", "committed"], ["2", "reporting"]]


def test_a_picture_names_what_became_of_participants_and_rounds() -> None:
    abandoned = round_(1, phase="abandoned", abandonment="too-few-reports", outcomes={"went-silent": 3})
    console = Console(width=100)
    with console.capture() as captured:
        console.print(drawn(progress_of(task(), [abandoned, round_(2, None)], START + timedelta(minutes=3))))
    text = captured.get()
    assert "abandoned: too-few-reports" in text
    assert "3 went-silent, 1 battery-low" in text
    assert "Ctrl-C ends the watching" in text
