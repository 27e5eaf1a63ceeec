"""Groups that sum securely, over real HTTP: the sum is exact, whoever drops out, and nobody's report is ever seen."""

from __future__ import annotations

import numpy as np
import pytest
from sqlmodel import Session, select

from coordinator.core.secure_groups import TAKEN_IN
from coordinator.services import group_opening, retention, sums
from coordinator.store.blobs import Blobs
from coordinator.store.group_tables import Member, MemberKey, StepRow
from coordinator.store.tables import Group
from edge_runtime.protocol.group import Step
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.secure_sum.lanes import LaneVector
from tests.coordinator.asking import refusal, send_outcome
from tests.coordinator.secure import (
    SIX,
    STEPS,
    SecurePhone,
    end_phase,
    groups_of,
    in_database,
    meet,
    pass_time,
    plain_sum,
    play,
    secure_plan,
    secure_round,
    sums_seen,
)
from tests.coordinator.test_round import weights_of
from tests.programme import FIRST_WEIGHTS, Home

THRESHOLD = 4
"""Of six with nobody corrupt: t = ⌈6/2⌉ + 1; and m, the fewest survivors."""


def test_a_group_sums_exactly_and_its_round_commits_the_mean(home: Home) -> None:
    phones = secure_round(home, SIX)
    meet(home, phones)
    with sums_seen(home) as sums:
        play(home, phones, lambda _step: phones)
    assert sums == [plain_sum(phones)]
    assert all(phone.is_opened() for phone in phones)
    first = home.rounds()[0]
    assert (first["phase"], first["reports"], first["chosen"]) == ("committed", SIX, SIX)
    moved = weights_of(home, first["result_sha256"]) - FIRST_WEIGHTS
    lanes, plan = np.array(plain_sum(phones)[:-4], np.float64), secure_plan(SIX)
    assert np.allclose(moved[2:], lanes / plan.lanes().scale / SIX, atol=1e-6)
    assert not moved[:2].any(), "personal weights stay"


ENDS = {
    Step.JOIN: "too-few-joined",
    Step.SHARES: "too-few-shared",
    Step.MASKED: "too-few-survivors",
    Step.CONFIRMATION: "too-few-confirmed",
    Step.UNMASKING: "too-few-revealed",
}


DROPOUTS = [(at, gone) for at in STEPS for gone in (2, 3)] + [(Step.MASKED, gone) for gone in (1, 4, 5, SIX)]
"""The most that are survived at each step, and one more; of masked reports every count."""


@pytest.mark.parametrize(("at", "gone"), DROPOUTS)
def test_a_group_survives_every_dropout_that_leaves_a_quorum_and_ends_by_name_beyond(
    home: Home, at: Step, gone: int
) -> None:
    phones = secure_round(home, SIX)
    meet(home, phones)
    left = phones[gone:]
    with sums_seen(home) as sums:
        play_until(home, phones, left, at)
    counted = phones if at in (Step.CONFIRMATION, Step.UNMASKING) else left
    group = groups_of(home)[0]
    first = home.rounds()[0]
    if SIX - gone >= THRESHOLD:
        assert (group.phase, sums) == ("summed", [plain_sum(counted)])
        assert (first["phase"], first["reports"]) == ("committed", len(counted))
    else:
        assert (group.phase, group.ended_because, sums) == ("aborted", ENDS[at], [])
        why = "population-too-small" if at is Step.JOIN else "too-few-reports"
        assert (first["phase"], first["abandonment"]) == ("abandoned", why)
        assert home.task()["model_version"] == 0


def play_until(home: Home, phones: list[SecurePhone], left: list[SecurePhone], at: Step) -> None:
    """Everybody is there before a step, and these from it on, as long as the group goes on."""
    for step in STEPS:
        if not groups_of(home) or groups_of(home)[0].phase == "aborted":
            break
        for phone in left if STEPS.index(step) >= STEPS.index(at) else phones:
            phone.take(step)
        home.look()
        if step == at and groups_of(home)[0].phase == TAKEN_IN[at]:
            end_phase(home)
    pass_time(home)


def test_who_gave_up_is_not_waited_for(home: Home) -> None:
    """A phone that says it stops costs its group no time at all."""
    phones = secure_round(home, SIX)
    meet(home, phones)
    for phone in phones:
        phone.take(Step.JOIN)
    home.look()
    assert send_outcome(home, phones[0].phone, phones[0].assignment, Outcome.BATTERY_LOW).status_code == 200
    with sums_seen(home) as sums:
        for step in STEPS[1:]:
            for phone in phones[1:]:
                phone.take(step)
            home.look()
    assert sums == [plain_sum(phones[1:])]
    assert home.rounds()[0]["outcomes"] == {"battery-low": 1}


def test_who_gave_up_before_the_roster_was_fixed_is_not_in_it_and_is_told_so(home: Home) -> None:
    phones = secure_round(home, SIX)
    meet(home, phones)
    for phone in phones:
        phone.take(Step.JOIN)
    assert send_outcome(home, phones[0].phone, phones[0].assignment, Outcome.BATTERY_LOW).status_code == 200
    home.look()
    assert refusal(phones[0].get(Step.JOIN)) == "group-ended"
    with sums_seen(home) as sums:
        for step in STEPS[1:]:
            for phone in phones[1:]:
                phone.take(step)
            home.look()
    assert sums == [plain_sum(phones[1:])]


def test_two_groups_of_a_round_are_added_and_divided_by_their_number(home: Home) -> None:
    phones = secure_round(home, 2 * SIX, secure_plan(SIX))
    meet(home, phones)
    groups = [[phone for phone in phones if phone.group == group] for group in {phone.group for phone in phones}]
    assert [len(group) for group in groups] == [SIX, SIX]
    with sums_seen(home) as sums:
        play(home, phones, lambda _step: phones)
    assert sorted(sums) == sorted(plain_sum(group) for group in groups)
    moved = weights_of(home, home.rounds()[0]["result_sha256"]) - FIRST_WEIGHTS
    both, lanes = np.array(plain_sum(phones)[:-4], np.float64), secure_plan(SIX).lanes()
    assert np.allclose(moved[2:], both / lanes.scale / (2 * SIX), atol=1e-6)


def test_a_group_that_ends_costs_only_itself(home: Home) -> None:
    """One of two groups loses its members; the mean is that of the other."""
    phones = secure_round(home, 2 * SIX, secure_plan(SIX))
    meet(home, phones)
    kept = [phone for phone in phones if phone.group == phones[0].group]
    for phone in phones:
        phone.take(Step.JOIN)
    home.look()
    with sums_seen(home) as sums:
        for step in STEPS[1:]:
            for phone in kept:
                phone.take(step)
            home.look()
        pass_time(home)
    assert sums == [plain_sum(kept)]
    first = home.rounds()[0]
    ends = [(group["phase"], group["abandonment"]) for group in first["groups"][:2]]
    assert first["phase"] == "committed"
    assert sorted(ends, key=str) == [("aborted", "too-few-shared"), ("summed", None)]
    moved = weights_of(home, first["result_sha256"]) - FIRST_WEIGHTS
    assert np.allclose(moved[2:], np.array(plain_sum(kept)[:-4]) / secure_plan(SIX).lanes().scale / SIX, atol=1e-6)


def test_who_was_in_a_group_is_forgotten_with_its_round(home: Home) -> None:
    phones = secure_round(home, SIX)
    meet(home, phones)
    play(home, phones, lambda _step: phones)
    home.look()

    def left(session: Session) -> list[int]:
        return [len(session.exec(select(kind)).all()) for kind in (Member, StepRow, MemberKey)]

    assert in_database(home, left) == [SIX, 5 * SIX, 2 * SIX]
    home.clock.forward(3600)
    home.look()  # the reports' blobs are deleted
    with home.app.state.parts.database.writing() as session:
        while retention.forget_rounds(session, home.clock.at):
            session.flush()
    assert in_database(home, left) == [0, 0, 2 * SIX], "keys stay, so that none is taken twice"


def test_too_few_phones_are_told_so_and_nothing_is_summed_in_plain(home: Home) -> None:
    phones = secure_round(home, SIX)
    for phone in phones[:3]:
        assert phone.appointment().group is None
    for phone in phones[3:]:
        send_outcome(home, phone.phone, phone.assignment, Outcome.BATTERY_LOW)
    home.look()
    first = home.rounds()[0]
    assert (first["phase"], first["abandonment"], groups_of(home)) == ("abandoned", "population-too-small", [])
    assert refusal(phones[0].say_trained()) == "round-closed"


def test_phones_whose_group_ended_before_they_masked_meet_again_with_fresh_keys(home: Home) -> None:
    phones = secure_round(home, SIX, reporting_deadline_s=1000.0)
    meet(home, phones)
    for phone in phones:
        phone.take(Step.JOIN)
    home.look()
    for phone in phones[:3]:
        phone.take(Step.SHARES)
    before = phones[0].group
    home.clock.forward(30)
    home.look()
    assert groups_of(home)[0].ended_because == "too-few-shared"
    assert refusal(phones[0].get(Step.SHARES)) == "group-ended"
    meet(home, phones)
    assert phones[0].group != before
    with sums_seen(home) as sums:
        play(home, phones, lambda _step: phones)
    assert sums == [plain_sum(phones)]


def test_a_report_in_an_aborted_group_is_never_taken_again(home: Home) -> None:
    """A training result is masked once: its phone joins no second group."""
    phones = secure_round(home, SIX, reporting_deadline_s=1000.0)
    meet(home, phones)
    for step in (Step.JOIN, Step.SHARES):
        for phone in phones:
            phone.take(step)
        home.look()
    phones[0].take(Step.MASKED)
    home.clock.forward(60)
    home.look()
    assert groups_of(home)[0].ended_because == "too-few-survivors"
    assert refusal(phones[0].say_trained()) == "step-not-allowed"
    assert phones[1].say_trained().status_code == 200


def test_sums_of_another_model_spoil_the_zero_lanes_and_the_group_ends_by_name(home: Home) -> None:
    """One of six was given another checkpoint: its context is another, and its masks cancel with nobody's."""
    phones = secure_round(home, SIX)
    meet(home, phones)
    for step in (Step.JOIN, Step.SHARES):
        for phone in phones:
            phone.take(step)
        home.look()
    for phone in phones:
        phone.post(Step.MASKED)
    spoilt = phones[0].lanes()
    spoilt[-1] = 1
    phones[0].put_report(phones[0].report(spoilt))
    for phone in phones[1:]:
        phone.put_report()
    home.look()
    for step in (Step.CONFIRMATION, Step.UNMASKING):
        for phone in phones:
            phone.take(step)
        home.look()
    assert (groups_of(home)[0].phase, groups_of(home)[0].ended_because) == ("aborted", "zero-lanes")
    assert home.task()["model_version"] == 0
    assert refusal(phones[1].get(Step.UNMASKING)) == "group-ended"


def test_a_report_that_is_added_twice_spoils_the_sum_and_never_becomes_an_update(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mutant of our own sums: masks cancel only if every report is there exactly once."""
    right = sums.group_total

    def twice(session: Session, blobs: Blobs, tenant: str, group: Group) -> LaneVector:
        total = right(session, blobs, tenant, group)
        return total + total

    monkeypatch.setattr(group_opening, "group_total", twice)
    phones = secure_round(home, SIX)
    meet(home, phones)
    with sums_seen(home) as seen:
        play(home, phones, lambda _step: phones)
    assert (groups_of(home)[0].ended_because, seen) == ("zero-lanes", [])
    assert home.task()["model_version"] == 0
