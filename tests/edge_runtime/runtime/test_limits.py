"""A whole device under plans that bound how often it takes part: it refuses before it trains, and says why."""

from __future__ import annotations

from typing import Any

import pytest

from edge_runtime import Happened, Runtime
from edge_runtime.outcomes import SliceEnd
from edge_runtime.protocol.plan import Privacy
from edge_runtime.protocol.reasons import Outcome
from tests.edge_runtime.runtime.bench import Bench
from tests.edge_runtime.runtime.halls import Hall

GROUP = "ab" * 16


def next_round(home: Bench, runtime: Runtime, after_s: float = 900.0, **limits: Any) -> SliceEnd:
    home.clock.forward(after_s)
    home.coordinator.assign(**limits)
    return runtime.run_slice(600)


def ends(home: Bench, rounds: int, **limits: Any) -> list[str]:
    """How each of the next rounds of one task ended, one every 900 s; each in a process of its own."""
    found: list[str] = []
    for _round in range(rounds):
        with home.runtime(examples=0 if found else 22) as runtime:
            found.append(next_round(home, runtime, **limits).reason)
    return found


def test_a_device_is_in_rounds_as_far_apart_as_the_plan_says(home: Bench) -> None:
    reported, early = "reported", Outcome.PARTICIPATED_RECENTLY
    assert ends(home, 7, separation=3) == [reported, early, early, reported, early, early, reported]
    assert len(home.coordinator.reports) == 3
    assert {note.reason for note in home.coordinator.outcomes.values()} == {early}
    assert "takes no part: participated-recently" in home.said


def test_a_device_keeps_the_time_that_the_plan_says_whatever_the_rounds(home: Bench) -> None:
    reported, early = "reported", Outcome.PARTICIPATED_RECENTLY
    assert ends(home, 5, separation_s=1800.0) == [reported, early, reported, early, reported]


def test_a_device_is_in_as_many_rounds_as_the_plan_says_at_most(home: Bench) -> None:
    reported, spent = "reported", Outcome.PARTICIPATIONS_SPENT
    assert ends(home, 4, most_participations=2) == [reported, reported, spent, spent]
    assert ends(home, 2) == [reported, reported], "another plan counts alone"


def test_a_device_that_may_not_take_part_trains_nothing(home: Bench) -> None:
    with home.runtime() as runtime:
        assert next_round(home, runtime, most_participations=1).happened is Happened.REPORTED
        steps = home.engine.steps
        end = next_round(home, runtime, most_participations=1)
    assert (end.happened, end.reason) == (Happened.GAVE_UP, Outcome.PARTICIPATIONS_SPENT)
    assert home.engine.steps == steps


def test_the_device_holds_to_correlated_noise_though_the_coordinator_adds_it(home: Bench) -> None:
    """Whoever adds it, the claim rests on rounds that are far enough apart."""
    plan = {"privacy": Privacy.CORRELATED, "noise_multiplier": 6.0, "separation": 2}
    assert ends(home, 3, **plan) == ["reported", Outcome.PARTICIPATED_RECENTLY, "reported"]


@pytest.mark.parametrize("lost", ["all", "one"])
def test_a_journal_that_lost_its_past_takes_part_one_separation_later(home: Bench, lost: str) -> None:
    assert ends(home, 1, separation=3) == ["reported"]
    for path in home.path.glob("journal*"):
        if lost == "all" or path.suffix:
            path.write_bytes(b"damaged")
    early = Outcome.PARTICIPATED_RECENTLY
    assert ends(home, 4, separation=3) == [early, early, early, "reported"]


def test_a_report_that_was_summed_in_a_group_counts(home: Bench) -> None:
    hall = Hall(home)
    limits = {"most_participations": 1}
    hall.assign(**limits)
    hall.appoint(group=GROUP)
    with hall.runtime() as runtime:
        assert runtime.run_slice(600).happened is Happened.REPORTED
        (taken,) = runtime._device.state.taken
        assert (taken.times, taken.round) == (1, 1)
        home.clock.forward(900)
        hall.assign(**limits)
        end = runtime.run_slice(600)
    assert (end.happened, end.reason) == (Happened.GAVE_UP, Outcome.PARTICIPATIONS_SPENT)
