"""A participation on the device: the table of its steps, and what a clock does to what was noted."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace

import numpy as np
import pytest

from edge_runtime.journal import participation as steps
from edge_runtime.journal import state as now_is
from edge_runtime.journal.participation import STEPS, Event, Phase, Savepoint, Stored, rng_from, rng_state
from edge_runtime.journal.state import Restart, Restarted, State, Visited
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import Assignment
from edge_runtime.protocol.errors import Malformed, ParticipationEnded, StepNotAllowed
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.report import Receipt
from edge_runtime.schedule import KEPT_DAYS, Day

NOW_S = 1_800_000_000.0
DAY_S = 86_400.0
HERE = Assignment(
    participation="a" * 32,
    round=3,
    plan=b"plan",
    plan_signature=bytes(64),
    checkpoint_sha256="0" * 64,
    deadline_s=600.0,
)
FILE = Stored("1" * 64, 10)
SHA256 = hashlib.sha256(b"report").hexdigest()
RECEIPT = Receipt(version=1, participation="a" * 32, report_sha256=SHA256, retry_after_s=1.0)
ASSIGNED = now_is.assigned(State(), HERE, "pop", NOW_S)


def savepoint(epoch: int, step: int, snapshot: str = "s", order_seed: int = 1) -> Savepoint:
    return Savepoint(
        epoch=epoch,
        step=step,
        order_seed=order_seed,
        rng=b"{}",
        snapshot=snapshot,
        parameters=1,
        slot_values=0,
        vectors=Stored(f"{epoch:032x}{step:032x}", 4),
    )


def seal(state: State) -> State:
    return now_is.moved(state, lambda held: steps.sealed(held, FILE, SHA256))


def save(state: State, point: Savepoint) -> State:
    return now_is.moved(state, lambda held: steps.saved(held, point))


def test_every_step_that_the_table_lacks_is_refused() -> None:
    held = ASSIGNED.participation
    assert held is not None
    for phase, event in itertools.product(Phase, Event):
        there = replace(held, phase=phase)
        if (phase, event) in STEPS:
            assert steps.stepped(there, event).phase is STEPS[phase, event]
        else:
            with pytest.raises(StepNotAllowed, match=phase):
                steps.stepped(there, event)


def reachable(phase: Phase) -> set[Phase]:
    found, edge = {phase}, {phase}
    while edge := {STEPS[one, event] for one in edge for event in Event if (one, event) in STEPS} - found:
        found |= edge
    return found


def test_no_path_leads_back_to_training_from_a_sealed_report() -> None:
    for phase in (Phase.SEALED, Phase.SENT, Phase.TRAINED, Phase.MASKED, Phase.GIVING_UP):
        assert not reachable(phase) & {Phase.ASSIGNED, Phase.TRAINING}


def test_no_path_leads_from_a_report_that_may_have_left_to_an_outcome_nor_back() -> None:
    assert Phase.GIVING_UP not in reachable(Phase.SENT)
    assert not reachable(Phase.GIVING_UP) & {Phase.SEALED, Phase.SENT, Phase.REPORTED}


def test_no_path_leads_from_a_masked_report_back_to_what_it_was_made_from() -> None:
    assert Phase.TRAINED not in reachable(Phase.MASKED)
    assert not reachable(Phase.TRAINED) & {Phase.SEALED, Phase.SENT}, "what a group is to sum never leaves plainly"


def test_every_participation_can_end() -> None:
    ends = {Phase.REPORTED, Phase.ENDED}
    assert all(reachable(phase) & ends for phase in Phase)
    assert not any(phase in ends for phase, _event in STEPS)


def test_the_same_assignment_again_changes_nothing() -> None:
    assert now_is.assigned(ASSIGNED, HERE, "pop", NOW_S + 5) is ASSIGNED


@pytest.mark.parametrize("other", [replace(HERE, participation="b" * 32), replace(HERE, plan=b"another")])
def test_another_assignment_waits_for_the_end_of_this_one(other: Assignment) -> None:
    with pytest.raises(StepNotAllowed):
        now_is.assigned(ASSIGNED, other, "pop", NOW_S)


def test_a_participation_that_is_over_is_not_taken_on_again() -> None:
    over = now_is.received(now_is.sending(seal(ASSIGNED)), RECEIPT, NOW_S)
    with pytest.raises(ParticipationEnded):
        now_is.assigned(over, HERE, "pop", NOW_S)


def test_a_receipt_for_another_report_ends_nothing() -> None:
    sent = now_is.sending(seal(ASSIGNED))
    with pytest.raises(StepNotAllowed, match="another report"):
        now_is.received(sent, replace(RECEIPT, report_sha256="2" * 64), NOW_S)


def test_an_assignment_that_comes_again_counts_as_one_participation() -> None:
    again = now_is.assigned(now_is.sending(now_is.sending(seal(ASSIGNED))), HERE, "pop", NOW_S + 60)
    assert again.usage is not None
    assert (again.usage.participations, again.usage.last_participation_at) == (1, NOW_S)


def test_an_outcome_takes_savepoint_and_report_with_it() -> None:
    for state in (save(ASSIGNED, savepoint(0, 1)), seal(ASSIGNED)):
        assert state.stored
        over = now_is.given_up(state, Outcome.IN_USE)
        assert not over.stored
        (end,) = now_is.noted(over, NOW_S).ended
        assert (end.phase, end.outcome, end.report_sha256) == (Phase.ENDED, Outcome.IN_USE, None)


def test_what_the_coordinator_does_not_want_is_over() -> None:
    for state in (now_is.sending(seal(ASSIGNED)), now_is.given_up(ASSIGNED, Outcome.IN_USE)):
        assert now_is.refused(state, NOW_S).participation is None


def test_a_deadline_that_passed_ends_a_participation_and_one_to_come_does_not() -> None:
    assert now_is.expired(ASSIGNED, NOW_S + 599) is ASSIGNED
    assert now_is.expired(ASSIGNED, NOW_S + 600).participation is None
    assert now_is.expired(State(), NOW_S) == State()


def test_nothing_is_moved_where_nothing_is_under_way() -> None:
    with pytest.raises(StepNotAllowed):
        now_is.sending(State())


@pytest.mark.parametrize(
    "wrong", [savepoint(0, 1), savepoint(1, 1, snapshot="t"), savepoint(1, 1, order_seed=2)], ids=["back", "s", "seed"]
)
def test_a_savepoint_goes_forward_in_the_same_run(wrong: Savepoint) -> None:
    held = save(ASSIGNED, savepoint(0, 2))
    with pytest.raises(StepNotAllowed):
        save(held, wrong)
    assert save(held, savepoint(1, 0)).stored == {savepoint(1, 0).vectors}


def test_a_lost_savepoint_begins_training_anew() -> None:
    lost = now_is.moved(save(ASSIGNED, savepoint(0, 2)), steps.without_savepoint)
    assert lost == ASSIGNED
    assert lost.usage is not None


def test_only_the_last_visits_days_and_ends_are_kept() -> None:
    state = State()
    for number in range(200):
        state = now_is.visited(state, Visited(at_s=float(number), reason=f"reason {number}"), 60.0)
        state = now_is.spent(state, Day(date=f"day {number}", transferred_bytes=1))
        state = now_is.assigned(state, replace(HERE, participation=f"{number:032x}"), "pop", NOW_S)
        state = now_is.noted(now_is.given_up(state, Outcome.IN_USE), NOW_S)
    assert [visit.at_s for visit in state.visits] == list(range(150, 200))
    assert len(now_is.used(state, NOW_S).days) == KEPT_DAYS
    assert [one.participation for one in state.ended] == [
        f"{number:032x}" for number in range(200 - now_is.ENDED_KEPT, 200)
    ]
    assert len(wire.encode(state)) < 1 << 15


def test_a_clock_set_back_to_yesterday_finds_what_was_spent_then() -> None:
    state = State()
    for day in ("2026-11-21", "2026-11-22", "2026-11-21"):
        state = now_is.spent(state, Day(date=day, seconds=10.0, transferred_bytes=5, battery_share=0.01))
    assert now_is.used(state, NOW_S).days == (
        Day(date="2026-11-22", seconds=10.0, transferred_bytes=5, battery_share=0.01),
        Day(date="2026-11-21", seconds=20.0, transferred_bytes=10, battery_share=0.02),
    )


def test_what_is_spent_is_also_the_cost_of_the_participation() -> None:
    state = ASSIGNED
    for day in ("2026-11-21", "2026-11-22"):
        state = now_is.spent(state, Day(date=day, seconds=10.0, transferred_bytes=5, battery_share=0.01))
    held = now_is.under_way(state)
    assert (held.seconds, held.transferred_bytes, held.battery_share) == (20.0, 10, 0.02)


def test_a_restart_counts_as_a_participation() -> None:
    restarted = State(restarted=Restarted(why=Restart.DAMAGED, at_s=NOW_S))
    assert now_is.used(now_is.installed(restarted, NOW_S + 5), NOW_S).last_participation_at == NOW_S + 5
    assert now_is.used(now_is.installed(State(), NOW_S), NOW_S).last_participation_at is None
    again = now_is.installed(restarted, NOW_S)
    assert now_is.installed(again, NOW_S + 60) == again


def test_a_visit_is_noted_with_its_wait_and_an_answer_ends_the_asking() -> None:
    asking = now_is.asking(State(), "v" * 32)
    assert now_is.visited(asking, Visited(at_s=NOW_S, reason="network-lost"), 900.0).asking == "v" * 32
    assert now_is.assigned(asking, HERE, "pop", NOW_S).asking is None
    state = now_is.visited(now_is.not_chosen(asking), Visited(at_s=NOW_S, reason="no-task"), 900.0)
    usage = now_is.used(state, NOW_S)
    assert (usage.last_visit_at, usage.wait_s, state.asking) == (NOW_S, 900.0, None)
    assert [one.reason for one in state.visits] == ["no-task"]
    again = now_is.visited(state, Visited(at_s=NOW_S + 900, reason="no-task"), 900.0)
    assert again.visits == (Visited(at_s=NOW_S + 900, reason="no-task", times=2),)
    reported = Visited(at_s=NOW_S, reason="reported", round=3)
    assert len(now_is.visited(now_is.visited(state, reported, 0.0), replace(reported, round=4), 0.0).visits) == 3


def test_a_clock_that_was_ahead_costs_one_deadline_from_now() -> None:
    ahead = now_is.assigned(State(), HERE, "pop", NOW_S + 365 * DAY_S)
    ahead = replace(ahead, restarted=Restarted(why=Restart.DAMAGED, at_s=NOW_S + 9 * DAY_S))
    corrected = now_is.seen_at(ahead, NOW_S)
    assert corrected.participation is not None
    assert corrected.participation.deadline_at_s == NOW_S + 600
    assert corrected.restarted == Restarted(why=Restart.DAMAGED, at_s=NOW_S)
    assert now_is.seen_at(corrected, NOW_S + 1) == corrected


def test_a_switch_stays_as_it_was_thrown() -> None:
    assert now_is.switched(State(), off=True).switched_off
    assert not now_is.switched(now_is.switched(State(), off=True), off=False).switched_off


def test_a_generator_goes_on_from_its_saved_state() -> None:
    rng = np.random.default_rng(5)
    rng.permutation(10)
    again = rng_from(rng_state(rng))
    assert again.permutation(1000).tolist() == rng.permutation(1000).tolist()


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"bit_generator": "MT19937"}', b'{"bit_generator": "PCG64"}'])
def test_what_is_no_state_of_a_generator_is_refused(raw: bytes) -> None:
    with pytest.raises(Malformed):
        rng_from(raw)


def test_only_the_generator_that_can_be_saved_is_saved() -> None:
    with pytest.raises(ValueError, match="PCG64"):
        rng_state(np.random.Generator(np.random.MT19937(1)))
