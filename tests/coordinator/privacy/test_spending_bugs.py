"""Deliberate bugs in how rounds are charged: each is caught by a test of a promise."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from sqlmodel import Session

from coordinator.core.privacy import ledger as decisions
from coordinator.core.privacy.ledger import Fact, FactKind
from coordinator.services import ledger, spending
from coordinator.services.spending import Room
from coordinator.store.tables import Round, Task
from tests.coordinator.privacy import test_spending, test_spending_together
from tests.programme import START, Home


def unreserved(_session: Session, _task: Task, _round: Round) -> Room:
    return Room.ENOUGH


def unlocked(session: Session, whose: ledger.Whose) -> ledger.Book:
    """Reads the ledger as it was when nobody else had reserved."""
    book = ledger.read(session, whose)
    facts = {name: dataclasses.replace(task, reserved={}) for name, task in book.account.tasks.items()}
    return dataclasses.replace(book, account=dataclasses.replace(book.account, tasks=facts))


def charged_by_group(account: decisions.Account, task: str, round_: int) -> Fact:
    cost = {**account.tasks[task].reserved, **account.tasks[task].charged}[round_]
    return Fact(kind=FactKind.CHARGED, task=task, round=round_, cost=cost)


def refunding(session: Session, task: Task, round_: Round) -> None:
    """Gives back what was charged, as if it had been reserved only."""
    book = ledger.open_to_write(session, spending.whose_of(task))
    ledger.add(session, book, Fact(kind=FactKind.FREED, task=task.name, round=round_.number), START)


def charged_after_opening(home: Home, patch: pytest.MonkeyPatch) -> None:
    """The charge goes with the update, and not with the unmasking."""
    home.app.state.worker._groups._charge = lambda _session, _group: None
    note = spending.note_release

    def late(session: Session, round_: Round) -> None:
        spending.charge(session, round_)
        note(session, round_)

    patch.setattr(spending, "note_release", late)


def patched(where: Any, name: str, bug: Any) -> Any:
    return lambda _home, patch: patch.setattr(where, name, bug)


BUGS = {
    "nothing is reserved": (
        patched(spending, "reserve", unreserved),
        test_spending_together.test_concurrent_rounds_of_several_tasks_cannot_overspend_one_budget,
    ),
    "reservations of others are not seen": (
        patched(ledger, "open_to_write", unlocked),
        test_spending_together.test_concurrent_rounds_of_several_tasks_cannot_overspend_one_budget,
    ),
    "each group is charged": (
        patched(decisions, "charge", charged_by_group),
        test_spending_together.test_groups_of_one_round_charge_it_once_though_they_open_at_the_same_time,
    ),
    "an abandoned round is refunded": (
        patched(spending, "free", refunding),
        test_spending_together.test_an_abandoned_round_keeps_its_charge,
    ),
    "the charge comes after the opening": (
        charged_after_opening,
        test_spending.test_no_crash_opens_a_sum_without_its_charge,
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_in_charging_is_caught(home: Home, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    plant, promise = BUGS[bug]
    plant(home, monkeypatch)
    with pytest.raises((AssertionError, ExceptionGroup)) as caught:
        promise(home)
    assert is_of_a_test(caught.value), caught.value


def is_of_a_test(problem: BaseException) -> bool:
    """Whether a test complained; within a look of the worker it does so in a group."""
    if isinstance(problem, ExceptionGroup):
        return any(is_of_a_test(one) for one in problem.exceptions)
    return isinstance(problem, AssertionError)
