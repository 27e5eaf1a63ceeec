"""Check-ins that are held open while a round chooses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlmodel import select

from coordinator.core.pacing import Limits
from coordinator.services.checkins import CheckIns, Knock, worth_holding
from coordinator.services.pace import Pace
from coordinator.store.tables import Candidate
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import CHECK_IN_PATH, CheckIn, CheckInAnswer, RetryWindow
from edge_runtime.protocol.reasons import Wait
from edge_runtime.protocol.signing import claimed
from tests.coordinator.asking import check_in, offer, send_report, signature
from tests.programme import Clock, Home, Phone, open_home


@pytest.fixture
def holding(folder: Path, made: tuple[Path, str], clock: Clock) -> Iterator[Home]:
    """A coordinator that would hold a check-in far longer than a test runs."""
    with open_home(folder, clock, made[1], hold_s=60) as opened:
        yield opened


def wait_for_candidates(home: Home, count: int) -> None:
    """Look at the database until so many phones are candidates; they are being held then."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with home.app.state.parts.database.reading() as session:
            if len(session.exec(select(Candidate)).all()) == count:
                return
    pytest.fail("the phones never became candidates")


def test_held_phones_are_assigned_when_the_round_chooses_without_asking_again(holding: Home) -> None:
    holding.start_task()
    phones = [holding.phone(number) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        held = [pool.submit(check_in, holding, phone) for phone in phones]
        wait_for_candidates(holding, 4)
        assert not any(one.done() for one in held)
        holding.look()
        answers = [one.result(20) for one in held]
    assignments = [answer.assignment for answer in answers]
    assert all(assignments)
    for phone, assignment in zip(phones, assignments, strict=True):
        assert assignment is not None
        assert send_report(holding, phone, assignment).status_code == 200


def look_again(home: Home, phone: Phone, visit: str) -> CheckInAnswer:
    """What a check-in that is held under this visit finds when the bell rings."""
    message = wire.decode(CheckIn, offer(phone, visit))
    claim = claimed(signature(phone, "POST", CHECK_IN_PATH))
    pace = Pace(Limits(), 1000, lambda: 0)
    check_ins = CheckIns(home.app.state.parts.database, home.clock, pace)
    (told,) = check_ins.answer([Knock(claim, CHECK_IN_PATH, message, again=True)])
    assert isinstance(told, CheckInAnswer)
    return told


def test_a_stale_check_in_does_not_end_the_visit_that_came_after_it(home: Home) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(4)]
    for phone in phones:
        check_in(home, phone, "lost on the way")
    home.look()
    assignment = check_in(home, phones[0], "the next").assignment
    assert assignment is not None
    stale = look_again(home, phones[0], "lost on the way")
    assert stale.retry is not None
    assert stale.retry.reason is Wait.ROUND_IN_PROGRESS
    assert send_report(home, phones[0], assignment).status_code == 200


def test_a_held_check_in_finds_its_own_assignment(home: Home) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(4)]
    for phone in phones:
        check_in(home, phone, "held")
    assert look_again(home, phones[0], "held").assignment is None
    home.look()
    assert look_again(home, phones[0], "held").assignment is not None


@pytest.mark.parametrize("reason", list(Wait))
def test_only_those_are_held_for_whom_something_may_change(reason: Wait) -> None:
    def worth(after_s: float) -> bool:
        window = RetryWindow(reason=reason, after_s=after_s, spread_s=0)
        return worth_holding(CheckInAnswer(version=1, assignment=None, retry=window), 20.0)

    may_change = {Wait.SELECTION_PENDING, Wait.NOT_SELECTED, Wait.ROUND_IN_PROGRESS, Wait.REPORTED}
    assert worth(900) is (reason is Wait.SELECTION_PENDING)
    assert worth(10) is (reason in may_change)
