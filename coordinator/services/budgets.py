"""Budgets of populations, and whether a task may spend from them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session, col, func, select

from coordinator.core.privacy import ledger as decisions
from coordinator.core.privacy.ledger import ALERTS, Account, Budget, spent
from coordinator.core.privacy.plans import check_opponents, check_schedule, mode_of, settings_of
from coordinator.core.privacy.refusals import ModeNotGiven
from coordinator.core.privacy.settings import check_settings, check_target_delta, default_target_delta
from coordinator.core.privacy.statement import PROTECTS, Mode, Opponent
from coordinator.core.task_settings import Mode as Rounds
from coordinator.core.task_settings import read_settings
from coordinator.core.tasks import RUNNING
from coordinator.services import ledger
from coordinator.services.catalogue import population_named
from coordinator.services.ledger import Book, Whose
from coordinator.services.running import read_plan
from coordinator.services.spending import check_first, values_of
from coordinator.store.tables import Device, Task, Tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetState:
    """A budget, and what is gone of it.

    Attributes:
        spent: Charged for good, in the unit of the budget: ε or ρ.
        reserved: Set aside besides for rounds at work.
        share: Of the budget, what is reserved included.
        alerts: The shares of it at which operators were told.
    """

    opponent: Opponent
    target_delta: float
    epsilon: float | None
    rho: float | None
    spent: float
    reserved: float
    share: float
    alerts: tuple[float, ...]
    accountant: str


def devices_of(session: Session, tenant: str, population: str) -> int:
    """Devices of a population: those that are enrolled, and have not left."""
    return session.exec(
        select(func.count()).where(
            Device.tenant == tenant, Device.population == population, col(Device.left_at).is_(None)
        )
    ).one()


def put_budget(
    session: Session,
    tenant: Tenant,
    name: str,
    opponent: Opponent,
    *,
    epsilon: float | None,
    rho: float | None,
    target_delta: float | None,
    smallest_cohort: int,
    now: datetime,
) -> Book:
    """Set what a population may spend against an opponent; the same again changes nothing.

    Args:
        target_delta: None for 1/N^1.1 of the N devices that are enrolled, or of as many as no claim is made below.
        smallest_cohort: That many: the operators' minimum.

    Raises:
        NotFound: The tenant has no population of this name.
        InvalidBudget, InvalidTargetDelta, LedgerClosed: As `set_budget`; the target delta is 1/N or more.
        ModeNotGiven: A task is running that would not protect from the opponent.
        LedgerDamaged: The ledger is not the one that was written.
    """
    population = population_named(session, tenant, name)
    devices = devices_of(session, tenant.name, name)
    delta = default_target_delta(max(devices, smallest_cohort)) if target_delta is None else target_delta
    budget = Budget(opponent=opponent, target_delta=delta, epsilon=epsilon, rho=rho)
    check_target_delta(budget.target_delta, devices)
    for task in _running(session, tenant.name, name):
        if opponent not in PROTECTS[mode_of(read_plan(task.plan))]:
            raise ModeNotGiven(
                f"The task {task.name!r} is running, and does not protect from the {opponent}.", "End it first."
            )
    book = ledger.begin(session, population)
    return ledger.add(session, book, decisions.set_budget(book.account, budget), now)


def budgets_of(account: Account) -> list[BudgetState]:
    """The budgets of a ledger, and what is gone of each."""
    return [_state(account, budget) for budget in sorted(account.budgets, key=lambda one: one.opponent)]


def _state(account: Account, budget: Budget) -> BudgetState:
    gone, charged = spent(account, budget), spent(account.without_reservations(), budget)
    return BudgetState(
        opponent=budget.opponent,
        target_delta=budget.target_delta,
        epsilon=budget.epsilon,
        rho=budget.rho,
        spent=charged.figure,
        reserved=gone.figure - charged.figure,
        share=gone.share,
        alerts=tuple(share for share in ALERTS if gone.share >= share),
        accountant=gone.accountant,
    )


def check_task(session: Session, task: Task, *, cohort: int, smallest_cohort: int) -> None:
    """Return if a task may begin to spend from the budgets of its population, or claims nothing where there is none.

    Args:
        cohort: Devices that the task addresses.
        smallest_cohort: The operators' minimum.

    Raises:
        ModeNotGiven, InvalidTargetDelta, InvalidClippingNorm, InvalidNoise, CohortTooSmall: As `check_settings`.
        BudgetSpent: What is left does not cover its first round.
        LedgerDamaged: The ledger is not the one that was written.
    """
    plan, settings = read_plan(task.plan), read_settings(task.settings)
    book = ledger.read(session, Whose(task.tenant, task.population))
    check_opponents(plan, {budget.opponent for budget in book.account.budgets})
    if mode_of(plan) is Mode.NONE:
        return
    check_schedule(plan, buffered=settings.mode is Rounds.BUFFERED, rounds=settings.stop.rounds)
    for budget in book.account.budgets:
        check_settings(
            settings_of(
                plan,
                target_delta=budget.target_delta,
                population=max(devices_of(session, task.tenant, task.population), 2),
                cohort=cohort,
                smallest_cohort=smallest_cohort,
                values=values_of(session, task),
            )
        )
    check_first(session, task)


def _running(session: Session, tenant: str, population: str) -> list[Task]:
    return list(
        session.exec(
            select(Task).where(Task.tenant == tenant, Task.population == population, col(Task.state).in_(RUNNING))
        ).all()
    )
