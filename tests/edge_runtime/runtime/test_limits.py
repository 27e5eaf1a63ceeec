"""A whole device under plans that bound how often it takes part: it refuses before it trains, and says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edge_runtime import Happened, Runtime
from edge_runtime.conditions.fixed import IDEAL
from edge_runtime.outcomes import SliceEnd
from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import NotFound
from edge_runtime.protocol.header import RoundHeader, SignedRound, sign_header
from edge_runtime.protocol.keys import SigningKey
from edge_runtime.protocol.plan import Privacy
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.session import Request, Response
from edge_runtime.testing.coordinator import COORDINATOR_KEY
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


# --- the header of the round --------------------------------------------------------------------------------------


def answering(home: Bench, changed: Callable[[RoundHeader], SignedRound | None]) -> None:
    """A coordinator that answers otherwise when it is asked for a round's header; None: it knows of none."""

    def transport(request: Request, headers: dict[str, str]) -> Response:
        response = home.coordinator(request, headers)
        if not request.path.endswith("/round"):
            return response
        header = wire.decode(RoundHeader, wire.decode(SignedRound, response.body).header)
        found = changed(header)
        return home.coordinator._problem(NotFound("nothing")) if found is None else Response(200, wire.encode(found))

    home.transport = transport


STRANGER = SigningKey(bytes(range(32)))
LYING: dict[str, Callable[[RoundHeader], SignedRound | None]] = {
    "of a later round": lambda header: sign_header(replace(header, round=header.round + 9), COORDINATOR_KEY),
    "of another plan": lambda header: sign_header(replace(header, plan_sha256="0" * 64), COORDINATOR_KEY),
    "of another checkpoint": lambda header: sign_header(replace(header, checkpoint_sha256="0" * 64), COORDINATOR_KEY),
    "with another norm": lambda header: sign_header(replace(header, clipping_norm=1e3), COORDINATOR_KEY),
    "by another key": lambda header: sign_header(header, STRANGER),
    "not there": lambda _header: None,
}


@pytest.mark.parametrize("lie", LYING)
def test_a_device_counts_no_round_whose_header_does_not_hold(home: Bench, lie: str) -> None:
    answering(home, LYING[lie])
    with home.runtime() as runtime:
        end = next_round(home, runtime, separation=3)
        assert runtime._device.state.taken == ()
    assert (end.happened, end.reason) == (Happened.GAVE_UP, Outcome.PLAN_REFUSED)
    assert home.engine.steps == 0


def test_a_plan_without_limits_asks_for_no_header(home: Bench) -> None:
    assert ends(home, 1) == ["reported"]
    assert not [path for _method, path in home.coordinator.asked if path.endswith("/round")]


def test_a_header_is_asked_for_once_in_a_participation(home: Bench) -> None:
    def stopped(step: int) -> None:
        home.clock.forward(0.6)
        if step == 2:
            home.source.conditions = replace(IDEAL, in_use=True)

    home.engine.at_step = stopped
    with home.runtime() as runtime:
        assert next_round(home, runtime, separation=3).happened is Happened.INTERRUPTED
        home.source.conditions = IDEAL
        assert runtime.run_slice(600).happened is Happened.REPORTED
    assert len([path for _method, path in home.coordinator.asked if path.endswith("/round")]) == 1


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
