"""How often a device takes part under one plan: at most as the plan says, whatever rounds and clocks it is told."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.core.privacy import participation as of_the_coordinator
from edge_runtime import limits
from edge_runtime.journal import state as now_is
from edge_runtime.journal.admission import admitted, is_admitted
from edge_runtime.journal.state import Restart, Restarted, State
from edge_runtime.limits import MOST_PLANS, Past, Taken, barred, gave
from edge_runtime.protocol.claims import AdaptiveNorm, Privacy
from edge_runtime.protocol.errors import Malformed
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.policy import LONGEST_SPAN_S
from edge_runtime.protocol.reasons import Outcome
from tests.edge_runtime.store.test_participation import HERE, NOW_S, RECEIPT, seal
from tests.vectors.make import PLAN

SHA256: Final = "5" * 64
OTHER: Final = "6" * 64
NORM: Final = 1.0
"""Of every round's header."""
OUTCOMES: Final = {
    of_the_coordinator.Barred.TOO_OFTEN: Outcome.PARTICIPATIONS_SPENT,
    of_the_coordinator.Barred.TOO_SOON_BY_ROUND: Outcome.PARTICIPATED_RECENTLY,
    of_the_coordinator.Barred.TOO_SOON_BY_CLOCK: Outcome.PARTICIPATED_RECENTLY,
}
offers = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 500)), max_size=20)
"""Rounds and times, in any order: the coordinator and the clock are not trusted."""
bounds = st.tuples(st.integers(1, 6), st.integers(0, 60), st.none() | st.integers(1, 4))


def limited(separation: int = 1, separation_s: float = 0.0, most: int | None = None) -> Plan:
    return replace(PLAN, version=5, separation=separation, separation_s=float(separation_s), most_participations=most)


def taken_on(past: Past, plan: Plan, offered: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The rounds and times that the device does not refuse."""
    found = []
    for round_, at_s in offered:
        if barred(past, plan, SHA256, round_, at_s) is None:
            past = gave(past, SHA256, round_, at_s) if plan.limited else past
            found.append((round_, at_s))
    return found


@given(offered=offers, of=bounds)
@settings(max_examples=200, deadline=None)
def test_no_sequence_of_rounds_and_clocks_gets_more_of_a_device_than_its_plan_says(
    offered: list[tuple[int, int]], of: tuple[int, int, int | None]
) -> None:
    plan = limited(*of)
    taken = taken_on((), plan, offered)
    if not plan.limited:
        assert taken == offered
        return
    assert plan.most_participations is None or len(taken) <= plan.most_participations
    for (round_, at_s), (later, later_s) in itertools.pairwise(taken):
        assert later - round_ >= plan.separation
        assert later_s - at_s >= plan.separation_s


@given(offered=offers, of=bounds)
@settings(max_examples=200, deadline=None)
def test_device_and_coordinator_hold_a_device_against_the_same_limits(
    offered: list[tuple[int, int]], of: tuple[int, int, int | None]
) -> None:
    plan = limited(*of)
    theirs = of_the_coordinator.ParticipationLimits(separation=of[0], least_gap_s=of[1], most=of[2])
    past: Past = ()
    seen: list[of_the_coordinator.Participation] = []
    for round_, at_s in sorted(offered):
        reason = barred(past, plan, SHA256, round_, at_s)
        says = of_the_coordinator.barred(seen, round_, at_s, theirs)
        if not plan.limited:
            assert reason is None
            continue
        assert reason == (None if says is None else OUTCOMES[says])
        if reason is None:
            past = gave(past, SHA256, round_, at_s)
            seen.append(of_the_coordinator.Participation(round_, at_s))


def test_a_device_that_forgot_its_rounds_would_be_in_too_many() -> None:
    """The mutant that the first test must fail: what was given is not noted."""
    plan = limited(separation=3)
    rounds = [round_ for round_ in range(1, 7) if barred((), plan, SHA256, round_, 0) is None]
    assert rounds == [1, 2, 3, 4, 5, 6]
    assert [round_ for round_, _at_s in taken_on((), plan, [(one, 0) for one in range(1, 7)])] == [1, 4]


def test_each_plan_counts_alone() -> None:
    past = gave((), SHA256, 5, 0.0)
    assert barred(past, limited(most=1), SHA256, 9, 0.0) is Outcome.PARTICIPATIONS_SPENT
    assert barred(past, limited(most=1), OTHER, 9, 0.0) is None


def test_a_device_that_remembers_as_many_plans_as_it_can_takes_on_no_further_one_for_a_year() -> None:
    past: Past = ()
    for number in range(MOST_PLANS):
        past = gave(past, f"{number:064x}", 1, float(number))
    assert barred(past, limited(most=1), OTHER, 1, 1000.0) is Outcome.PARTICIPATIONS_SPENT
    later = LONGEST_SPAN_S + 10.0
    assert barred(past, limited(most=1), OTHER, 1, later) is None
    assert len(gave(past, OTHER, 1, later)) == MOST_PLANS - 10
    assert barred(past, limited(most=1), f"{20:064x}", 1, later) is Outcome.PARTICIPATIONS_SPENT


# --- in the journal -----------------------------------------------------------------------------------------------

ASSIGNED: Final = now_is.assigned(State(), HERE, "pop", NOW_S)


def once_more(state: State, plan: Plan, round_: int, at_s: float) -> Outcome | None:
    here = replace(HERE, participation=f"{round_:032x}", round=round_)
    return admitted(now_is.assigned(state, here, "pop", at_s), plan, SHA256, NORM)[1]


def sent(plan: Plan) -> State:
    """A device whose report of round 3 has left."""
    state, reason = admitted(ASSIGNED, plan, SHA256, NORM)
    assert reason is None
    return now_is.received(now_is.sending(now_is.sending(seal(state))), RECEIPT, NOW_S + 60)


def test_a_report_that_may_have_left_counts_once_and_from_its_assignment() -> None:
    assert sent(limited(separation=2)).taken == (Taken(plan_sha256=SHA256, times=1, round=3, at_s=NOW_S),)


def test_what_ended_before_a_report_could_leave_does_not_count() -> None:
    state, _reason = admitted(ASSIGNED, limited(most=1), SHA256, NORM)
    for before in (state, seal(state)):
        over = now_is.noted(now_is.given_up(before, Outcome.IN_USE), NOW_S)
        assert over.taken == ()
        assert once_more(over, limited(most=1), 4, NOW_S) is None


def test_a_participation_is_not_held_against_itself() -> None:
    state, _reason = admitted(ASSIGNED, limited(most=1), SHA256, NORM)
    assert admitted(now_is.sending(seal(state)), limited(most=1), SHA256, NORM)[1] is None


def test_a_participation_of_before_journals_kept_norms_asks_for_one_where_it_adapts() -> None:
    state, _reason = admitted(ASSIGNED, limited(most=1), SHA256, NORM)
    older = replace(now_is.under_way(state), clipping_norm=None)
    adaptive = AdaptiveNorm(quantile=0.5, smallest=0.1, largest=10.0, rate=0.2, count_noise=5.0)
    adapts = replace(limited(most=1), privacy=Privacy.CENTRAL, noise_multiplier=1.0, adaptive=adaptive)
    assert is_admitted(older, limited(most=1))
    assert not is_admitted(older, adapts)
    assert is_admitted(replace(older, clipping_norm=NORM), adapts)


@pytest.mark.parametrize(
    ("plan", "round_", "after_s", "reason"),
    [
        (limited(separation=4), 6, 1e6, Outcome.PARTICIPATED_RECENTLY),
        (limited(separation=4), 7, 1.0, None),
        (limited(separation=4), 2, 1e6, Outcome.PARTICIPATED_RECENTLY),
        (limited(separation_s=3600), 99, 3599.0, Outcome.PARTICIPATED_RECENTLY),
        (limited(separation_s=3600), 4, 3600.0, None),
        (limited(most=1), 99, 1e6, Outcome.PARTICIPATIONS_SPENT),
        (limited(most=2), 4, 1.0, None),
        (limited(), 3, 0.0, None),
    ],
)
def test_the_next_participation_is_as_the_plan_says(
    plan: Plan, round_: int, after_s: float, reason: Outcome | None
) -> None:
    assert once_more(sent(plan), plan, round_, NOW_S + after_s) is reason


def test_a_clock_that_was_set_back_keeps_a_device_out_for_one_span_and_no_longer() -> None:
    plan, back_s = limited(separation_s=3600), NOW_S - 1e6
    state = now_is.seen_at(sent(plan), back_s)
    assert once_more(state, plan, 9, back_s + 3599) is Outcome.PARTICIPATED_RECENTLY
    assert once_more(state, plan, 9, back_s + 3600) is None


def restarted(why: Restart = Restart.ROLLED_BACK) -> State:
    return State(restarted=Restarted(why=why, at_s=NOW_S))


@pytest.mark.parametrize("why", Restart)
def test_a_restart_counts_as_a_participation_in_the_first_round_that_is_offered(why: Restart) -> None:
    plan = limited(separation=4)
    here = now_is.assigned(restarted(why), HERE, "pop", NOW_S + 10)
    state, reason = admitted(here, plan, SHA256, NORM)
    assert reason is Outcome.PARTICIPATED_RECENTLY
    assert state.taken == (Taken(plan_sha256=SHA256, times=1, round=3, at_s=NOW_S),)
    over = now_is.noted(now_is.given_up(state, reason), NOW_S + 20)
    assert once_more(over, plan, 6, NOW_S + 30) is Outcome.PARTICIPATED_RECENTLY
    assert once_more(over, plan, 7, NOW_S + 30) is None


def test_a_restart_is_forgotten_after_a_year_and_without_limits_it_says_nothing() -> None:
    later = NOW_S + LONGEST_SPAN_S
    assert once_more(restarted(), limited(most=1), 3, later - 1) is Outcome.PARTICIPATIONS_SPENT
    assert once_more(restarted(), limited(most=1), 3, later) is None
    assert once_more(restarted(), limited(), 3, NOW_S) is None
    assert limits.assumed((), limited(), SHA256, 3, NOW_S, NOW_S) == ()


def test_what_was_given_is_counted_from_one() -> None:
    wrong: list[dict[str, Any]] = [{"times": 0}, {"round": 0}, {"plan_sha256": "A" * 64}]
    for changes in wrong:
        with pytest.raises(Malformed, match=r"from 1|hex digits"):
            replace(Taken(plan_sha256=SHA256, times=1, round=1, at_s=0.0), **changes)
