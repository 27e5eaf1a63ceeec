"""A worker's process with a bug planted: the tests of replicas that spend one budget have to notice each.

python -m tests.system.planted_worker "rooms are looked at once"
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from sqlmodel import Session, select

from coordinator import cli
from coordinator.core.privacy import ledger as decisions
from coordinator.core.privacy.ledger import Account, Cost, Fact, FactKind
from coordinator.services import ledger, spending
from coordinator.services.spending import Room
from coordinator.store.database import database_now
from coordinator.store.privacy_tables import LedgerRow
from coordinator.store.tables import Round, Task


def look_once() -> None:
    """What was free when a round opened is taken to be free when it begins: the ledger is not held in between."""

    def reserve(session: Session, task: Task, round_: Round) -> Room:
        book = ledger.open_to_write(session, spending.whose_of(task))
        now = database_now(session)
        cost = spending._cost(session, task, book.account, round_.number)
        book = spending._begun(session, book, task, now)
        fact = Fact(kind=FactKind.RESERVED, task=task.name, round=round_.number, cost=cost)
        ledger.add(session, book, fact, now)
        return Room.ENOUGH

    plant(spending, "reserve", reserve)


def see_own_rounds_only() -> None:
    """What others have reserved since this process began is not seen."""
    mine: set[tuple[str, int]] = set()
    reserve, add = decisions.reserve, ledger.add

    def as_it_was(account: Account, task: str, round_: int, cost: Cost) -> Fact | None:
        tasks = {
            name: replace(
                one,
                reserved={number: cost for number, cost in one.reserved.items() if (name, number) in mine},
                charged={number: cost for number, cost in one.charged.items() if (name, number) in mine},
            )
            for name, one in account.tasks.items()
        }
        return reserve(replace(account, tasks=tasks), task, round_, cost)

    def noting(session: Session, book: ledger.Book, fact: Fact | None, now: Any) -> ledger.Book:
        if fact is not None and fact.kind is FactKind.RESERVED:
            mine.add((fact.task, fact.round))
        return add(session, book, fact, now)

    plant(decisions, "reserve", as_it_was)
    plant(ledger, "add", noting)


def hold_nothing() -> None:
    """The row of the ledger is read, and not held."""

    def open_to_write(session: Session, whose: ledger.Whose) -> ledger.Book:
        row = session.exec(
            select(LedgerRow)
            .where(LedgerRow.tenant == whose.tenant, LedgerRow.population == whose.population)
            .execution_options(populate_existing=True)
        ).one()
        return ledger._whole(session, whose, row, None)

    plant(ledger, "open_to_write", open_to_write)


def charge_late() -> None:
    """The charge goes with the update, and not before the noise of its sum is drawn."""
    charge, note = spending.charge, spending.note_release

    def late(session: Session, round_: Round) -> None:
        charge(session, round_)
        note(session, round_)

    plant(spending, "charge", lambda _session, _round: None)
    plant(spending, "note_release", late)


def plant(where: Any, name: str, bug: Any) -> None:
    setattr(where, name, bug)


BUGS: Final[Mapping[str, Callable[[], None]]] = {
    "rooms are looked at once": look_once,
    "rounds of others are not seen": see_own_rounds_only,
    "the ledger is not held": hold_nothing,
    "the charge comes with the update": charge_late,
}

if __name__ == "__main__":
    BUGS[sys.argv[1]]()
    cli.app(["worker"])
