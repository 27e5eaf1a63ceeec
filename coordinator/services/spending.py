"""What rounds cost: set aside before they begin, charged before anything is opened, given back where nothing was.

A task whose plan claims nothing, in a population without a budget, costs nothing and has no ledger.
"""

from __future__ import annotations

import logging
from datetime import datetime
from enum import StrEnum
from functools import partial

from sqlmodel import Session, select

from coordinator.core.privacy import ledger as decisions
from coordinator.core.privacy.blt import Blt
from coordinator.core.privacy.ledger import Account, Cost, Fact
from coordinator.core.privacy.plans import Stretch, composed_limits, cost_of, factor_of, mode_of, purpose_of
from coordinator.core.privacy.refusals import BudgetSpent, LedgerDamaged, NotReserved
from coordinator.core.privacy.statement import Mode
from coordinator.core.rounds import GroupPhase
from coordinator.core.task_settings import read_settings
from coordinator.services import ledger
from coordinator.services.ledger import Book, Whose
from coordinator.services.running import read_manifest, read_plan
from coordinator.store.database import after_commit, database_now
from coordinator.store.tables import BundleRow, Group, Round, Task

_log = logging.getLogger("edgewise.privacy")


class Room(StrEnum):
    """Whether a round may begin."""

    ENOUGH = "enough"
    HELD = "held"
    """What is left is set aside for rounds at work; it may come back."""
    SPENT = "spent"
    """What is left does not cover one more round."""
    DAMAGED = "damaged"
    """The ledger is not the one that was written: nothing is charged to it."""


def whose_of(task: Task) -> Whose:
    """Whose ledger a task is charged to."""
    return Whose(task.tenant, task.population)


def costs(session: Session, task: Task) -> bool:
    """Whether a ledger has something to say about a task's rounds."""
    return mode_of(read_plan(task.plan)) is not Mode.NONE or ledger.exists(session, whose_of(task))


def room_for(session: Session, task: Task, number: int) -> Room:
    """Whether a round of a task could begin; nothing is set aside."""
    if not costs(session, task):
        return Room.ENOUGH
    try:
        book = ledger.read(session, whose_of(task))
    except LedgerDamaged as problem:
        return _damaged(problem)
    return _room(book.account, task, _cost(session, task, book.account, number), number)


def check_first(session: Session, task: Task) -> None:
    """Return if the first round of a task fits what is spent, whatever others have set aside.

    A task that has had a round passes: it has its hard stop.

    Raises:
        BudgetSpent: The task would end as it begins; the noise with which one round fits is named.
        LedgerDamaged: The ledger is not the one that was written.
    """
    if not costs(session, task) or session.exec(select(Round.id).where(Round.task_id == task.id).limit(1)).first():
        return
    account = ledger.read(session, whose_of(task)).account.without_reservations()
    decisions.reserve(_with(account, task), task.name, 1, _cost(session, task, account, 1))


def reserve(session: Session, task: Task, round_: Round) -> Room:
    """Set aside what a round will cost, in the transaction that begins it; nothing where there is no room.

    Local noise is charged at once: the coordinator sees a report as soon as it comes.
    """
    if not costs(session, task):
        return Room.ENOUGH
    try:
        book = ledger.open_to_write(session, whose_of(task)) if ledger.exists(session, whose_of(task)) else None
    except LedgerDamaged as problem:
        return _damaged(problem)
    if book is None:
        return Room.SPENT
    now = database_now(session)
    cost = _cost(session, task, book.account, round_.number)
    room = _room(book.account, task, cost, round_.number)
    if room is Room.ENOUGH:
        book = _begun(session, book, task, now)
        book = ledger.add(session, book, decisions.reserve(book.account, task.name, round_.number, cost), now)
        if mode_of(read_plan(task.plan)) is Mode.LOCAL:
            ledger.add(session, book, decisions.charge(book.account, task.name, round_.number), now)
    return room


def free(session: Session, task: Task, round_: Round) -> None:
    """Give back what was set aside for a round that ends without having opened anything; else nothing changes."""
    if not ledger.exists(session, whose_of(task)):
        return
    try:
        book = ledger.open_to_write(session, whose_of(task))
    except LedgerDamaged as problem:
        _damaged(problem)  # the round ends all the same
        return
    known = book.account.tasks.get(task.name)
    if known is not None and round_.number in known.reserved:
        fact = decisions.free(book.account, task.name, round_.number)
        ledger.add(session, book, fact, database_now(session))


def charge_group(session: Session, group: Group) -> None:
    """Charge a round before the sum of one of its groups is opened, in the transaction that lets it be.

    Raises:
        NotReserved: Nothing was set aside for the round.
        LedgerDamaged: The ledger is not the one that was written.
    """
    charge(session, session.get_one(Round, group.round_id))


def charge(session: Session, round_: Round) -> None:
    """Charge a round, once, whatever its groups.

    Raises: As `charge_group`.
    """
    task = session.get_one(Task, round_.task_id)
    if not costs(session, task):
        return
    whose = whose_of(task)
    if not ledger.exists(session, whose):
        raise NotReserved(f"The population {whose} has no budget.", "Set one, and begin another task.")
    book = ledger.open_to_write(session, whose)
    fact = decisions.charge(book.account, task.name, round_.number)
    after = ledger.add(session, book, fact, database_now(session))
    if fact is not None:
        after_commit(session, partial(_log_charge, after, fact))


def _log_charge(book: Book, fact: Fact) -> None:
    """A head that was logged is one that the ledger had, for whoever keeps it elsewhere."""
    _log.info(
        "round %d of task %s is charged to %s: entry %d, %s",
        fact.round, fact.task, book.whose, book.head.count, book.head.digest,
    )  # fmt: skip


def note_release(session: Session, round_: Round) -> None:
    """Note of how many groups a round's update was made, in the transaction that makes it.

    Raises:
        NotReserved: The round was not charged: its sum may not be used.
        LedgerDamaged: The ledger is not the one that was written.
    """
    task = session.get_one(Task, round_.task_id)
    if not costs(session, task):
        return
    book = ledger.open_to_write(session, whose_of(task))
    opened = session.exec(select(Group.id).where(Group.round_id == round_.id, Group.phase == GroupPhase.SUMMED)).all()
    fact = decisions.released(book.account, task.name, round_.number, len(opened))
    ledger.add(session, book, fact, database_now(session))


def values_of(session: Session, task: Task) -> int:
    """How many values a report of a task has."""
    bundle = session.get_one(BundleRow, (task.tenant, task.bundle_sha256))
    return read_plan(task.plan).values(read_manifest(bundle.manifest).shared_parameters)


def _begun(session: Session, book: Book, task: Task, now: datetime) -> Book:
    if task.name in book.account.tasks:
        return book
    return ledger.add(session, book, _beginning(book.account, task), now)


def _beginning(account: Account, task: Task) -> Fact:
    plan = read_plan(task.plan)
    factor = factor_of(_planned(task), plan.separation) if mode_of(plan) is Mode.CORRELATED else None
    return decisions.begin_task(account, task.name, purpose_of(plan), composed_limits(plan), mode_of(plan), factor)


def _planned(task: Task) -> int:
    return read_settings(task.settings).stop.rounds or 1


def factor_in(session: Session, task: Task) -> Blt | None:
    """The factor of a task's correlated noise, as its ledger has it; None where it has none.

    Raises:
        LedgerDamaged: The ledger is not the one that was written.
    """
    known = ledger.read(session, whose_of(task)).account.tasks.get(task.name)
    return None if known is None else known.factor


def _room(account: Account, task: Task, cost: Cost, number: int) -> Room:
    account = _with(account, task)
    try:
        decisions.reserve(account, task.name, number, cost)
    except BudgetSpent:
        try:
            decisions.reserve(account.without_reservations(), task.name, number, cost)
        except BudgetSpent:
            return Room.SPENT
        return Room.HELD
    return Room.ENOUGH


def _with(account: Account, task: Task) -> Account:
    """The account, with the task as one that has begun."""
    return account if task.name in account.tasks else decisions.applied(account, _beginning(account, task))


def _cost(session: Session, task: Task, account: Account, number: int) -> Cost:
    plan, planned, known = read_plan(task.plan), _planned(task), _with(account, task).tasks[task.name]
    if number in known.charged or number in known.reserved:
        return known.charged.get(number) or known.reserved[number]
    if known.factor is None:
        return cost_of(plan, values_of(session, task))
    first = (number - 1) // planned * planned + 1
    charged = sum(cost.recipients or 0.0 for at, cost in known.charged.items() if first <= at < number)
    return cost_of(plan, values_of(session, task), Stretch(known.factor, planned, number - first + 1, charged))


def _damaged(problem: LedgerDamaged) -> Room:
    _log.error("nothing is charged any more: %s", problem.detail)
    return Room.DAMAGED
