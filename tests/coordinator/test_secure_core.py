"""When groups form, go on and end: every case of the pure decisions, and their bounds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.core.appointments import ALWAYS_BELOW_S, WINDOW_S, Crowd, Timing, forms, sizes
from coordinator.core.rounds import GROUP_STEPS, SECURE_PHASES, GroupPhase, Verdict
from coordinator.core.secure_groups import (
    FELL_SILENT,
    FOLLOWS,
    LONGEST_S,
    PROVEN_FOR,
    SUSPECTED_AFTER,
    SUSPECTED_FOR,
    TAKEN_IN,
    TOO_FEW,
    ZERO_LANES,
    Count,
    Move,
    SecureTally,
    closing,
    due,
    grace,
    quarantine_for,
)
from edge_runtime.protocol.plan import Close
from edge_runtime.protocol.secure_sum.mailbox import Fault

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
PHASES = st.sampled_from(SECURE_PHASES)


def test_every_secure_phase_has_a_limit_a_step_an_end_and_a_reason() -> None:
    for named in (LONGEST_S, FOLLOWS, TOO_FEW):
        assert set(named) == set(SECURE_PHASES)
    assert tuple(TAKEN_IN.values()) == SECURE_PHASES
    following = [GROUP_STEPS[phase, FOLLOWS[phase]] for phase in SECURE_PHASES]
    assert following == [*SECURE_PHASES[1:], GroupPhase.SUMMED]


@pytest.mark.parametrize(
    ("awaited", "answered", "left_s", "move"),
    [
        (6, 6, 30, Move.ON),
        (5, 5, 30, Move.ON),
        (6, 5, 30, Move.HURRY),
        (6, 5, 5, None),
        (6, 5, 0, Move.ON),
        (6, 3, 30, None),
        (6, 3, 0, Move.ABORT),
        (3, 3, 30, Move.ABORT),
        (3, 1, 30, Move.ABORT),
        (0, 0, 30, Move.ABORT),
    ],
)
def test_a_group_of_which_four_are_a_quorum(awaited: int, answered: int, left_s: float, move: Move | None) -> None:
    deadline = NOW + timedelta(seconds=left_s)
    assert due(Count(awaited=awaited, answered=answered, quorum=4), GroupPhase.SHARING, deadline, NOW) == move


@given(PHASES, st.integers(0, 9), st.integers(0, 9), st.integers(1, 9), st.floats(-99, 999))
def test_a_group_never_goes_on_without_a_quorum_nor_waits_beyond_its_deadline(
    phase: GroupPhase, awaited: int, answered: int, quorum: int, left_s: float
) -> None:
    deadline = NOW + timedelta(seconds=left_s)
    move = due(Count(awaited=awaited, answered=answered, quorum=quorum), phase, deadline, NOW)
    assert (move is not Move.ON and move is not Move.HURRY) or answered >= quorum
    assert move in (Move.ON, Move.ABORT) or left_s > 0
    assert move is not Move.HURRY or deadline > NOW + grace(phase), "hurrying twice changes nothing"


def tally(**changes: int) -> SecureTally:
    fields = {"chosen": 6, "at_work": 0, "coming": 0, "trained": 0, "counted": 6, "begun": 1} | changes
    return SecureTally(**fields)


@pytest.mark.parametrize(
    ("changes", "close", "passed", "verdict"),
    [
        ({}, Close.ALL_RESOLVED, False, Verdict.ADD_UP),
        ({"at_work": 1}, Close.ALL_RESOLVED, True, None),
        ({"coming": 1}, Close.ALL_RESOLVED, False, None),
        ({"coming": 1}, Close.GOAL, False, Verdict.ADD_UP),
        ({"coming": 1}, Close.ALL_RESOLVED, True, Verdict.ADD_UP),
        ({"trained": 4}, Close.ALL_RESOLVED, False, None),
        ({"trained": 3}, Close.ALL_RESOLVED, False, Verdict.ADD_UP),
        ({"counted": 0}, Close.ALL_RESOLVED, False, Verdict.ABANDON),
        ({"counted": 0, "trained": 4}, Close.GOAL, False, None),
        ({"counted": 1}, Close.ALL_RESOLVED, True, Verdict.ABANDON),
    ],
)
def test_a_secure_round_closes(changes: dict[str, int], close: Close, passed: bool, verdict: Verdict | None) -> None:
    assert closing(tally(**changes), close, 6, 2, 4, deadline_passed=passed) == verdict


def test_what_is_proven_is_quarantined_at_once_and_what_is_suspected_the_third_time() -> None:
    for fault in (Fault.BAD_BOX, Fault.FALSE_COMPLAINT, Fault.FORGED_SHARE, Fault.INCONSISTENT_SHARES):
        assert quarantine_for(fault, 1) == PROVEN_FOR
    for suspicion in (Fault.DISPUTED_BOX, FELL_SILENT, ZERO_LANES):
        assert quarantine_for(suspicion, SUSPECTED_AFTER - 1) is None
        assert quarantine_for(suspicion, SUSPECTED_AFTER) == SUSPECTED_FOR


# --- appointments -----------------------------------------------------------------------------------------------------


@given(st.floats(1, 30 * 86_400), st.floats(0, 1))
def test_whoever_keeps_an_appointment_comes_while_a_group_forms(span_s: float, share: float) -> None:
    """An appointment is ahead, near in a short round, and at a time when groups form; the last is before the end."""
    timing = Timing(span_s=span_s, elapsed_s=span_s * share)
    in_s = timing.next_in_s()
    assert 1 <= in_s <= timing.period_s + 1
    then = Timing(span_s=span_s, elapsed_s=timing.elapsed_s + in_s + 1e-3)
    assert then.meeting
    if timing.period_s <= ALWAYS_BELOW_S:
        assert in_s < WINDOW_S, "a group that forms meanwhile is still forming then"


def crowd(waiting: int, coming: int = 0) -> Crowd:
    return Crowd(waiting=waiting, coming=coming)


EARLY, LAST = Timing(span_s=600, elapsed_s=60), Timing(span_s=600, elapsed_s=500)
LONG = Timing(span_s=86_400, elapsed_s=1800 + WINDOW_S + 1)


@pytest.mark.parametrize(
    ("seen", "timing", "close", "forming"),
    [
        (crowd(6), EARLY, Close.ALL_RESOLVED, True),
        (crowd(5), EARLY, Close.ALL_RESOLVED, True),
        (crowd(3), LAST, Close.ALL_RESOLVED, False),
        (crowd(6, 1), EARLY, Close.ALL_RESOLVED, False),
        (crowd(6, 1), EARLY, Close.GOAL, True),
        (crowd(5, 1), EARLY, Close.GOAL, False),
        (crowd(4, 9), LAST, Close.ALL_RESOLVED, True),
        (crowd(6), LONG, Close.ALL_RESOLVED, False),
    ],
)
def test_a_group_forms_of_four_or_more(seen: Crowd, timing: Timing, close: Close, forming: bool) -> None:
    assert forms(seen, timing, fewest=4, goal=6, close=close) is forming


@given(st.data())
def test_groups_have_no_fewer_than_the_fewest_and_no_more_than_the_most(data: st.DataObject) -> None:
    most = data.draw(st.integers(3, 50))
    fewest = data.draw(st.integers(most // 2 + 1, most))
    waiting = data.draw(st.integers(fewest, 300))
    wanted = data.draw(st.none() | st.integers(1, 60))
    found = sizes(waiting, fewest, most, wanted)
    assert found
    assert all(fewest <= size <= most for size in found)
    assert max(found) - min(found) <= 1
    assert waiting - sum(found) < fewest, "nobody waits who could make up a group"
