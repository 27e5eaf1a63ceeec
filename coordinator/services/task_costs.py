"""What the rounds of a task cost at the budgets of its population, before and while it runs."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sqlmodel import Session

from coordinator.core.privacy.blt import Blt
from coordinator.core.privacy.conversions import epsilon_bound
from coordinator.core.privacy.ledger import Account
from coordinator.core.privacy.participation import composed_rho
from coordinator.core.privacy.plans import Stretch, composed_limits, cost_of, factor_of, mode_of
from coordinator.core.privacy.refusals import LedgerDamaged
from coordinator.core.privacy.statement import PROTECTS, Mode, Opponent
from coordinator.core.task_settings import read_settings
from coordinator.services import ledger
from coordinator.services.privacy_claims import target_delta_of
from coordinator.services.running import read_plan
from coordinator.services.spending import values_of, whose_of
from coordinator.store.tables import Task
from edge_runtime.protocol.plan import Plan

_LONGEST_FITTED: Final = 2000
"""Rounds of correlated noise whose factor is found for a look at a task: that of more takes seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCost:
    """ε of a task's rounds against one opponent, at most: of one group, and as if all of them were charged.

    Attributes:
        protects: Whether the mode hides a device from this opponent.
        target_delta: Of the budget against it, or else of the other.
        epsilon_a_round: Of correlated noise the first; None where there is no bound.
        epsilon_in_all: After all rounds that are wanted; None where their number or a bound is not known.
    """

    opponent: Opponent
    protects: bool
    target_delta: float
    epsilon_a_round: float | None
    epsilon_in_all: float | None


def costs_of(session: Session, task: Task) -> list[TaskCost]:
    """What a task costs against each opponent; nothing without a claim or a budget."""
    return _seen(session, task, _account_of(session, task) if claims(task) else Account(), fit=True)


def costs_of_all(session: Session, tasks: Sequence[Task]) -> list[list[TaskCost]]:
    """The same of tasks of one tenant, each ledger read once; no factor is looked for."""
    accounts: dict[str, Account] = {}
    for task in tasks:
        if claims(task) and task.population not in accounts:
            accounts[task.population] = _account_of(session, task)
    return [_seen(session, task, accounts.get(task.population, Account()), fit=False) for task in tasks]


def claims(task: Task) -> bool:
    """Whether a task claims that it hides its participants."""
    return mode_of(read_plan(task.plan)) is not Mode.NONE


def _account_of(session: Session, task: Task) -> Account:
    """The ledger that a task is charged to; an empty one where it is damaged: spending then finds out."""
    try:
        return ledger.read(session, whose_of(task)).account
    except LedgerDamaged:
        return Account()


def _seen(session: Session, task: Task, account: Account, *, fit: bool) -> list[TaskCost]:
    """What a task costs.

    Args:
        account: The ledger of its population; an empty one where the task claims nothing.
        fit: Find the factor of correlated noise where the task has none yet; it takes a while.
    """
    return list(_costs(session, task, read_plan(task.plan), account, fit)) if account.budgets else []


def _costs(session: Session, task: Task, plan: Plan, account: Account, fit: bool) -> Iterator[TaskCost]:
    one, whole = _rhos(task, plan, values_of(session, task), account, fit)
    for opponent in Opponent:
        protects = opponent in PROTECTS[mode_of(plan)]
        delta = target_delta_of(account, opponent, 0.0)
        yield TaskCost(
            opponent=opponent,
            protects=protects,
            target_delta=delta,
            epsilon_a_round=_epsilon(one, delta) if protects else None,
            epsilon_in_all=_epsilon(whole, delta) if protects else None,
        )


def _rhos(task: Task, plan: Plan, values: int, account: Account, fit: bool) -> tuple[float | None, float | None]:
    """ρ of a round and of all that are wanted, against whomever the mode protects from: one group is the same to both.

    None where the task claims nothing, or it is not known how many rounds there will be.
    """
    rounds = read_settings(task.settings).stop.rounds
    one = cost_of(plan, values).recipients
    if one is None or rounds is None:
        return one, None
    if mode_of(plan) is Mode.CORRELATED:
        factor = _factor(task, plan, account, rounds, fit)
        return one, None if factor is None else cost_of(plan, values, Stretch(factor, rounds, rounds, 0.0)).recipients
    return one, composed_rho(one, rounds, composed_limits(plan))


def _factor(task: Task, plan: Plan, account: Account, rounds: int, fit: bool) -> Blt | None:
    """The factor with which the task began, or would; None where it takes too long to find."""
    begun = account.tasks.get(task.name)
    if begun is not None and begun.factor is not None:
        return begun.factor
    return factor_of(rounds, plan.separation) if fit and rounds <= _LONGEST_FITTED else None


@functools.lru_cache(maxsize=4096)
def _epsilon(rho: float | None, delta: float) -> float | None:
    bound = math.inf if rho is None else epsilon_bound(rho, delta)
    return bound if math.isfinite(bound) else None
