"""The privacy ledger of a population, as decisions: what may be reserved, charged, given back; what is spent.

A decision looks at an account and answers with a fact, or refuses; `applied` folds a fact into the account. Facts are
what `chain` links and the store keeps; replaying them rebuilds the account, budgets included.

A round reserves its cost before it begins. The charge commits in the transaction that lets its sum be opened, and is
never given back; a reservation is, when the round ends without opening anything. Groups of a round compose in parallel:
a round is charged once. A task costs what the device gave that was in its dearest rounds (`participation`); tasks of a
population add up. Evaluation, metrics and analytics are tasks like others.

A charge counts one group: how many will be opened is not known yet. Recipients see nothing before the round's update is
made; then it is known, and what they see has the noise of all groups (`released`). Until then, and for a round whose
update is never made, the charge stands as it is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from coordinator.core.privacy.blt import Blt
from coordinator.core.privacy.conversions import epsilon_to_rho
from coordinator.core.privacy.distributed import recipients_rho
from coordinator.core.privacy.events import ConcentratedEvent, Event, GaussianEvent
from coordinator.core.privacy.participation import ParticipationLimits, dearest
from coordinator.core.privacy.refusals import BudgetSpent, InvalidBudget, LedgerClosed, NotReserved
from coordinator.core.privacy.statement import Mode, Opponent, claimed_epsilon

ALERTS: Final = (0.7, 0.9)
"""Shares of a budget at which operators are told."""
_FULL: Final = 1 + 1e-9
"""A budget that is spent to the last digit is not overspent."""


class Purpose(StrEnum):
    """What a task releases: each is charged."""

    TRAINING = "training"
    EVALUATION = "evaluation"
    METRICS = "metrics"
    ANALYTICS = "analytics"


class FactKind(StrEnum):
    BUDGET = "budget"
    TASK = "task"
    RESERVED = "reserved"
    FREED = "freed"
    CHARGED = "charged"
    RELEASED = "released"
    """The update of a charged round was made: it is known how many groups' noise recipients see."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What opening the sums of one round costs a device that is in it.

    Args:
        coordinator: ρ against the coordinator; None where the mode does not protect from it.
        recipients: ρ against recipients, without sampling; None where the mode does not protect from them.
        sampling_rate: Where Poisson sampling is claimed against recipients: its rate. The noise multiplier is then that
            of `recipients`, 1/√(2ρ).
    """

    coordinator: float | None
    recipients: float | None
    sampling_rate: float | None = None

    def __post_init__(self) -> None:
        for rho in (self.coordinator, self.recipients):
            if rho is not None and not 0 <= rho < math.inf:
                raise InvalidBudget("A cost ρ is 0 or more, and finite.", "Without noise there is no cost to book.")
        if self.sampling_rate is not None and not (self.recipients and 0 < self.sampling_rate <= 1):
            raise InvalidBudget("A sampling rate is above 0 and at most 1, of noise against recipients.", "Leave it.")

    def against(self, opponent: Opponent) -> float | None:
        """ρ, without sampling."""
        return self.coordinator if opponent is Opponent.COORDINATOR else self.recipients


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What may be spent against one opponent over the life of a population: ε at a target delta, or ρ.

    Raises:
        InvalidBudget: Not exactly one of both is given, or it is not above 0.
    """

    opponent: Opponent
    target_delta: float
    epsilon: float | None = None
    rho: float | None = None

    def __post_init__(self) -> None:
        if (self.epsilon is None) == (self.rho is None):
            raise InvalidBudget("A budget is ε at a target delta, or ρ.", "Give exactly one.")
        if not 0 < (self.epsilon or self.rho or 0) < math.inf:
            raise InvalidBudget("A budget is above 0.", "Published practice is ρ ≤ 1, better ρ ≤ 0.5.")
        if not 0 < self.target_delta < 1:
            raise InvalidBudget("A target delta is above 0 and below 1.", "Take 1/N^1.1 for N devices.")

    @property
    def whole_rho(self) -> float:
        """The ρ that the budget allows where nothing is sampled."""
        return self.rho if self.rho is not None else epsilon_to_rho(self.epsilon or 0, self.target_delta)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something that happened to a ledger; never changed, never removed.

    Attributes:
        task: Empty for a budget.
        round: 0 for a budget, and for the fact that a task begins.
        cost: Of a reservation, of the charge that it became, and of what was released.
        limits: Of the fact that a task begins, as its purpose and mode.
        factor: Of correlated noise, of the same fact: the matrix that its costs are of, whatever machine goes on.
    """

    kind: FactKind
    task: str = ""
    round: int = 0
    cost: Cost | None = None
    purpose: Purpose | None = None
    limits: ParticipationLimits | None = None
    mode: Mode | None = None
    factor: Blt | None = None
    budget: Budget | None = None


@dataclass(frozen=True, slots=True)
class TaskAccount:
    """What one task has spent and reserved, by round."""

    limits: ParticipationLimits
    purpose: Purpose
    charged: Mapping[int, Cost] = field(default_factory=dict)
    reserved: Mapping[int, Cost] = field(default_factory=dict)
    mode: Mode = Mode.DISTRIBUTED
    factor: Blt | None = None
    released: frozenset[int] = frozenset()
    """Charged rounds whose number of groups is known."""

    def protects_from(self, opponent: Opponent) -> bool:
        """Whether nothing of it was opened without noise against the opponent."""
        return all(cost.against(opponent) is not None for cost in (*self.reserved.values(), *self.charged.values()))

    def events(self, opponent: Opponent) -> list[Event]:
        """What a device gave at most, with what is reserved."""
        both = {**self.reserved, **self.charged}
        against_recipients = opponent is Opponent.RECIPIENTS
        sampled = [cost for cost in both.values() if against_recipients and cost.sampling_rate]
        plain = {number: cost for number, cost in both.items() if not (against_recipients and cost.sampling_rate)}
        costs = [plain[number].against(opponent) or 0.0 if number in plain else 0.0 for number in _span(plain)]
        found: list[Event] = [ConcentratedEvent(dearest(costs, self.limits))]
        found += [GaussianEvent(1 / math.sqrt(2 * (c.recipients or 0)), c.sampling_rate or 1) for c in sampled]
        return found


def _span(rounds: Mapping[int, Cost]) -> range:
    return range(min(rounds), max(rounds) + 1) if rounds else range(0)


@dataclass(frozen=True, slots=True)
class Account:
    """A population's ledger at one moment."""

    budgets: tuple[Budget, ...] = ()
    tasks: Mapping[str, TaskAccount] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len({budget.opponent for budget in self.budgets}) != len(self.budgets):
            raise InvalidBudget("There are two budgets against one opponent.", "Keep one.")

    def budget_against(self, opponent: Opponent) -> Budget | None:
        return next((budget for budget in self.budgets if budget.opponent is opponent), None)

    def without_reservations(self) -> Account:
        """What is spent for good."""
        return Account(self.budgets, {name: replace(task, reserved={}) for name, task in self.tasks.items()})


@dataclass(frozen=True, slots=True)
class Spent:
    """How much of a budget is gone, what is reserved included.

    Attributes:
        figure: In the unit of the budget, ε or ρ.
        share: Of the budget.
    """

    budget: Budget
    figure: float
    share: float
    accountant: str


def spent(account: Account, budget: Budget) -> Spent:
    """What is spent and reserved against the budget's opponent."""
    events = [event for task in account.tasks.values() for event in task.events(budget.opponent)]
    if budget.rho is not None:
        if any(isinstance(event, GaussianEvent) for event in events):
            raise InvalidBudget("A budget in ρ knows no sampling.", "Give the budget as ε at a target delta.")
        rho = sum(event.rho for event in events if isinstance(event, ConcentratedEvent))
        return Spent(budget, rho, rho / budget.rho, "zcdp")
    epsilon, accountant = _epsilon(tuple(events), budget.target_delta)
    return Spent(budget, epsilon, epsilon / (budget.epsilon or math.inf), accountant)


@functools.lru_cache(maxsize=256)
def _epsilon(events: tuple[Event, ...], delta: float) -> tuple[float, str]:
    return claimed_epsilon(list(events), delta)


def set_budget(account: Account, budget: Budget) -> Fact | None:
    """A budget begins to hold, or takes the place of the one against the same opponent; None where it is that one.

    It may be raised, by whoever answers for it, and the ledger keeps that it was. What is spent stays spent.

    Raises:
        LedgerClosed: Something was opened already that had no noise against the opponent, or the target delta of
            what was charged would rise.
        InvalidBudget: More than that is spent or reserved already, or it cannot be reckoned in what was spent.
    """
    before = account.budget_against(budget.opponent)
    if before == budget:
        return None
    open_ = [name for name, task in account.tasks.items() if not task.protects_from(budget.opponent)]
    if open_:
        raise LedgerClosed(
            f"Task {open_[0]} opened sums without noise against the {budget.opponent}.",
            "Keep a budget against recipients alone, or begin a new population.",
        )
    charged = any(task.charged or task.reserved for task in account.tasks.values())
    if before is not None and charged and budget.target_delta > before.target_delta:
        raise LedgerClosed(
            f"Charges were made at a target delta of {before.target_delta:.3g}.", "Keep it, or take a smaller one."
        )
    now = spent(account, budget)
    if now.share > _FULL:
        unit = "ε" if budget.rho is None else "ρ"
        raise InvalidBudget(
            f"The ledger holds {unit} = {now.figure:.4g} against the {budget.opponent} already.",
            f"Take a budget of {unit} ≥ {math.ceil(now.figure * 1000) / 1000:g}.",
        )
    return Fact(kind=FactKind.BUDGET, budget=budget)


def begin_task(
    account: Account,
    task: str,
    purpose: Purpose,
    limits: ParticipationLimits,
    mode: Mode = Mode.DISTRIBUTED,
    factor: Blt | None = None,
) -> Fact:
    """A task begins to spend.

    Raises:
        LedgerClosed: It is known already: its limits are those that its charges were composed with.
    """
    if task in account.tasks:
        raise LedgerClosed(f"Task {task} is in the ledger, with its limits.", "Begin a new task to change them.")
    return Fact(kind=FactKind.TASK, task=task, purpose=purpose, limits=limits, mode=mode, factor=factor)


def reserve(account: Account, task: str, round_: int, cost: Cost) -> Fact | None:
    """A round sets aside what it will cost; None where that very reservation is made.

    Raises:
        BudgetSpent: With it a budget would be overspent, or the mode does not protect from a budget's opponent.
        LedgerClosed: The round was reserved or charged at another cost, or the task is unknown.
    """
    known = _task(account, task)
    before = known.reserved.get(round_) or known.charged.get(round_)
    if before is not None:
        if before != cost:
            raise LedgerClosed(f"Round {round_} is in the ledger at another cost.", "Begin another round.")
        return None
    fact = Fact(kind=FactKind.RESERVED, task=task, round=round_, cost=cost)
    after = applied(account, fact)
    for budget in account.budgets:
        if cost.against(budget.opponent) is None:
            raise BudgetSpent(
                f"The mode does not protect from the {budget.opponent}, for whom there is a budget.",
                "Choose the distributed mode.",
            )
        if spent(after, budget).share > _FULL:
            raise BudgetSpent(
                f"What is left of the budget against the {budget.opponent} does not cover the round.",
                _left(account, budget, cost),
            )
    return fact


def charge(account: Account, task: str, round_: int) -> Fact | None:
    """A sum of the round may be opened from now on; None where the round is charged already, for another group.

    Raises:
        NotReserved: Nothing was set aside for it.
    """
    known = _task(account, task)
    if round_ in known.charged:
        return None
    if round_ not in known.reserved:
        raise NotReserved(f"Round {round_} of task {task} has no reservation.", "Reserve before the round begins.")
    return Fact(kind=FactKind.CHARGED, task=task, round=round_, cost=known.reserved[round_])


def free(account: Account, task: str, round_: int) -> Fact | None:
    """A round ended without opening a sum; None where nothing is reserved.

    Raises:
        LedgerClosed: It was charged: a charge is never given back.
    """
    known = _task(account, task)
    if round_ in known.charged:
        raise LedgerClosed(f"Round {round_} of task {task} is charged.", "What is spent stays spent.")
    return Fact(kind=FactKind.FREED, task=task, round=round_) if round_ in known.reserved else None


def released(account: Account, task: str, round_: int, groups: int) -> Fact | None:
    """The update of a charged round was made of so many groups, once; None where that changes nothing.

    The charge against the coordinator stays: it saw each group's sum. Against recipients it is that of the sum of the
    groups, whose noise adds up; of one group, nothing changes.

    Raises:
        NotReserved: The round was not charged: its sum may not be used.
    """
    known = _task(account, task)
    if round_ not in known.charged:
        raise NotReserved(f"Round {round_} of task {task} was not charged.", "Charge it before its sum is opened.")
    cost = known.charged[round_]
    if cost.recipients is None or known.mode is not Mode.DISTRIBUTED or groups < 2 or round_ in known.released:
        return None
    after = replace(cost, recipients=recipients_rho(cost.recipients, groups))
    return Fact(kind=FactKind.RELEASED, task=task, round=round_, cost=after)


def applied(account: Account, fact: Fact) -> Account:
    """The account after a fact; the given one is not changed."""
    if fact.kind is FactKind.BUDGET and fact.budget is not None:
        others = tuple(budget for budget in account.budgets if budget.opponent is not fact.budget.opponent)
        return replace(account, budgets=(*others, fact.budget))
    tasks = dict(account.tasks)
    if fact.kind is FactKind.TASK:
        limits, purpose = fact.limits or ParticipationLimits(), fact.purpose or Purpose.TRAINING
        tasks[fact.task] = TaskAccount(limits, purpose, mode=fact.mode or Mode.DISTRIBUTED, factor=fact.factor)
        return replace(account, tasks=tasks)
    known = _task(account, fact.task)
    reserved, charged = dict(known.reserved), dict(known.charged)
    if fact.kind is FactKind.RESERVED and fact.cost is not None:
        reserved[fact.round] = fact.cost
    elif fact.kind in (FactKind.CHARGED, FactKind.RELEASED) and fact.cost is not None:
        reserved.pop(fact.round, None)
        charged[fact.round] = fact.cost
    else:
        reserved.pop(fact.round, None)
    done = known.released | {fact.round} if fact.kind is FactKind.RELEASED else known.released
    tasks[fact.task] = replace(known, reserved=reserved, charged=charged, released=done)
    return replace(account, tasks=tasks)


def alerts(before: Spent, after: Spent) -> tuple[float, ...]:
    """The shares of a budget that were passed, 0.7 and 0.9."""
    return tuple(share for share in ALERTS if before.share < share <= after.share)


def stopped(account: Account) -> bool:
    """Whether a budget is spent to the end."""
    return any(spent(account, budget).share >= 1 - 1e-9 for budget in account.budgets)


def _task(account: Account, task: str) -> TaskAccount:
    if task not in account.tasks:
        raise LedgerClosed(f"Task {task} is not in the ledger.", "Begin it first.")
    return account.tasks[task]


def _left(account: Account, budget: Budget, cost: Cost) -> str:
    """The nearest valid choice: the noise with which one more round would fit."""
    rho = cost.against(budget.opponent) or 0.0
    low, high = 0.0, rho
    begun = applied(account, Fact(kind=FactKind.TASK, task="", limits=ParticipationLimits()))
    for _ in range(40):
        middle = (low + high) / 2
        probe = Cost(middle, middle)
        used = applied(begun, Fact(kind=FactKind.RESERVED, task="", round=1, cost=probe))
        low, high = (middle, high) if spent(used, budget).share <= 1 else (low, middle)
    if low <= rho * 1e-6:
        return "Nothing is left: the task stops."
    return f"One more round fits with {math.ceil(math.sqrt(rho / low) * 100) / 100:g} times the noise."
