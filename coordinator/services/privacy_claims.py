"""What may be said of a population's privacy: figures with everything beside them, and claims with a second opinion."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlmodel import Session, col, select

from coordinator.core.privacy.conversions import rho_to_epsilon
from coordinator.core.privacy.events import ConcentratedEvent, Event, GaussianEvent
from coordinator.core.privacy.gaussian import exact_epsilon
from coordinator.core.privacy.ledger import Account, TaskAccount
from coordinator.core.privacy.opinions import Opinion
from coordinator.core.privacy.participation import dearest
from coordinator.core.privacy.plans import limits_of
from coordinator.core.privacy.refusals import InvalidTargetDelta, NotCovered
from coordinator.core.privacy.settings import check_target_delta, default_target_delta
from coordinator.core.privacy.statement import PROTECTS, Mode, Opponent, Statement, claimed_epsilon, stated
from coordinator.core.privacy.zcdp import example_rho
from coordinator.core.rounds import Phase
from coordinator.services import ledger
from coordinator.services.budgets import devices_of
from coordinator.services.catalogue import population_named
from coordinator.services.ledger import Book, Whose
from coordinator.services.lineage import claimed_in
from coordinator.services.running import read_plan
from coordinator.store.database import Database
from coordinator.store.privacy_tables import ClaimRow
from coordinator.store.tables import CheckpointRow, Round, Task, Tenant
from edge_runtime.protocol.errors import NotFound

SecondOpinion = Callable[[Sequence[Event], float], tuple[Opinion, Opinion]]
"""The claim for some events and the opinion of somebody else; refuses where both differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure against one opponent; never without the rest.

    Attributes:
        epsilon: An upper bound; None where the mode does not protect from the opponent.
        budget_share: Of the budget against the opponent, what is reserved left out; None without one.
        sentence: All of it in words.
    """

    opponent: Opponent
    epsilon: float | None
    target_delta: float
    unit: str
    adjacency: str
    mechanism: str
    sampling: str
    accountant: str
    assumptions: tuple[str, ...]
    budget_share: float | None
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """What one task hides of single examples; apart from every other figure, and never added to one."""

    task: str
    figure: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a ledger says of a population, or of one of its tasks.

    Attributes:
        since: When the ledger begins; what was released before is not in it.
        entries: How many entries it has.
        head: Digest of the newest: kept elsewhere, it shows whether the ledger was cut off or rewritten.
        modes: Of what was charged.
        figures: One against each opponent, side by side; none while nothing was charged.
    """

    population: str
    task: str | None
    since: datetime | None
    entries: int
    head: str
    modes: tuple[Mode, ...]
    rounds: int
    figures: tuple[Figure, ...]
    examples: tuple[Examples, ...]


def said(session: Session, tenant: Tenant, population: str, task: str | None = None) -> Said:
    """State what was charged so far, of a population or of one of its tasks.

    Raises:
        NotFound: The tenant has no such population, or nothing of such a task was charged.
        LedgerDamaged: The ledger is not the one that was written.
    """
    population_named(session, tenant, population)
    book = ledger.read(session, Whose(tenant.name, population))
    delta, devices = _default_delta(session, book), devices_of(session, *book.whose)
    figures = figures_of(book.account, task, delta)
    examples = _examples(session, tenant, population, task, book.account, delta)
    return Said(
        population=population,
        task=task,
        since=book.since,
        entries=book.head.count,
        head=book.head.digest,
        modes=tuple(sorted({one.mode for one in _charged(book.account, task).values()})),
        rounds=sum(len(one.charged) for one in _charged(book.account, task).values()),
        figures=tuple(_warned(one, devices) for one in figures),
        examples=tuple(replace(one, figure=_warned(one.figure, devices)) for one in examples),
    )


def _warned(figure: Figure, devices: int) -> Figure:
    """The figure, whose sentence says so where its target delta is too large for so many devices."""
    if figure.epsilon is None:
        return figure
    try:
        check_target_delta(figure.target_delta, devices)
    except InvalidTargetDelta:
        warning = f"δ is not below 1/N for the {devices:,} devices that are enrolled now: set a smaller one."
        return replace(figure, sentence=f"{warning} {figure.sentence}")
    return figure


def _charged(account: Account, task: str | None) -> dict[str, TaskAccount]:
    """The tasks that were charged for something, reservations left out.

    Raises:
        NotFound: A task is named, and the ledger does not know it.
    """
    if task is not None and task not in account.tasks:
        raise NotFound(f"the ledger knows no task {task!r}")
    tasks = account.without_reservations().tasks
    return {name: one for name, one in tasks.items() if one.charged and task in (None, name)}


def _default_delta(session: Session, book: Book) -> float:
    """For figures of a population that has no budget to take it from: its devices are counted then."""
    return 0.0 if book.account.budgets else default_target_delta(devices_of(session, *book.whose))


def target_delta_of(account: Account, opponent: Opponent, otherwise: float) -> float:
    """That of the budget against the opponent; without one the smallest that there is, or another."""
    budget = account.budget_against(opponent)
    if budget is not None:
        return budget.target_delta
    return min((one.target_delta for one in account.budgets), default=otherwise)


def events_of(tasks: dict[str, TaskAccount], opponent: Opponent) -> list[Event]:
    """What was released of some tasks; of central noise alone, as the one Gaussian release that it is worth."""
    events = [event for task in tasks.values() for event in task.events(opponent)]
    rho = math.fsum(event.rho for event in events if isinstance(event, ConcentratedEvent))
    if {task.mode for task in tasks.values()} != {Mode.CENTRAL} or rho == 0:
        return events
    sampled: list[Event] = [event for event in events if isinstance(event, GaussianEvent)]
    return [*sampled, GaussianEvent(1 / math.sqrt(2 * rho))]


def figures_of(account: Account, task: str | None, delta: float) -> list[Figure]:
    """One figure against each opponent for what was charged, of one task or of all; none where nothing was.

    Args:
        delta: The target delta where there is no budget to take it from.
    """
    tasks = _charged(account, task)
    if not tasks:
        return []
    found = []
    for opponent in Opponent:
        at = target_delta_of(account, opponent, delta)
        epsilon, accountant = _epsilon(tasks, opponent, at)
        statements = [
            stated(mode, opponent, epsilon, at, accountant=accountant)
            for mode in sorted({one.mode for one in tasks.values()})
        ]
        budget = account.budget_against(opponent)
        share = None
        if budget is not None and math.isfinite(epsilon):
            figure = epsilon if budget.epsilon is not None else _rho(tasks, opponent)
            share = figure / (budget.epsilon or budget.rho or math.inf)
        found.append(_figure(statements, epsilon, share))
    return found


def _epsilon(tasks: dict[str, TaskAccount], opponent: Opponent, delta: float) -> tuple[float, str]:
    if not all(task.protects_from(opponent) and opponent in PROTECTS[task.mode] for task in tasks.values()):
        return math.inf, "none"
    events = events_of(tasks, opponent)
    if len(events) == 1 and isinstance(events[0], GaussianEvent) and events[0].sampling_rate == 1:
        return exact_epsilon(1 / events[0].noise_multiplier, delta), "exact Gaussian curve"
    return claimed_epsilon(events, delta)


def _rho(tasks: dict[str, TaskAccount], opponent: Opponent) -> float:
    events = (event for task in tasks.values() for event in task.events(opponent))
    return math.fsum(event.rho for event in events if isinstance(event, ConcentratedEvent))


def _figure(statements: Sequence[Statement], epsilon: float, share: float | None) -> Figure:
    """One figure of all modes that it is about: what each assumes must hold."""

    def joined(parts: Sequence[str]) -> str:
        return "; ".join(dict.fromkeys(parts))

    first = statements[0]
    return Figure(
        opponent=first.opponent,
        epsilon=epsilon if math.isfinite(epsilon) else None,
        target_delta=first.target_delta,
        unit=joined([one.unit for one in statements]),
        adjacency=joined([one.adjacency for one in statements]),
        mechanism=joined([one.mechanism for one in statements]),
        sampling=joined([one.sampling for one in statements]),
        accountant=first.accountant,
        assumptions=tuple(dict.fromkeys(said for one in statements for said in one.assumptions)),
        budget_share=share,
        sentence=" ".join(dict.fromkeys(one.sentence() for one in statements)),
    )


def _examples(
    session: Session, tenant: Tenant, population: str, task: str | None, account: Account, delta: float
) -> list[Examples]:
    """Of tasks whose devices hide single examples; by their plans and the rounds so far, charged or not."""
    query = select(Task).where(Task.tenant == tenant.name, Task.population == population)
    found = []
    for row in session.exec(query.order_by(col(Task.name))).all():
        plan = read_plan(row.plan)
        if plan.example_clipping_norm is None or task not in (None, row.name) or not row.rounds_committed:
            continue
        one = example_rho(plan.example_noise_multiplier, plan.epochs, 1)
        rho = dearest(_costs(session, row, one), limits_of(plan))
        at = target_delta_of(account, Opponent.RECIPIENTS, delta)
        epsilon = rho_to_epsilon(rho, at)
        statement = stated(Mode.EXAMPLE_LEVEL, Opponent.RECIPIENTS, epsilon, at)
        found.append(Examples(task=row.name, figure=_figure([statement], epsilon, None)))
    return found


def _costs(session: Session, task: Task, one: float) -> list[float]:
    """ρ of each round of a task up to the last one that was committed, by number; 0 for those that came to nothing."""
    query = select(Round.number).where(Round.task_id == task.id, Round.phase == Phase.COMMITTED)
    committed = set(session.exec(query).all())
    return [one * (number in committed) for number in range(1, max(committed) + 1)]


# --- claims -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Judged:
    """What may be claimed of a ledger as it stood.

    Attributes:
        opinions: Against each opponent that its modes protect from: the claim, and what another accountant says.
    """

    book: Book
    opinions: tuple[tuple[Opponent, Opinion, Opinion | None], ...]


def judge(database: Database, tenant: Tenant, population: str, find: Callable[[], SecondOpinion | None]) -> Judged:
    """Claim what a ledger says, and ask somebody else; writes nothing, in no transaction, and may take seconds.

    Args:
        find: Finds who is asked; only where something is claimed.

    Raises:
        NotFound: The tenant has no population of this name.
        LedgerDamaged: The ledger is not the one that was written.
        InvalidTargetDelta: That of a budget is 1/N or more, for the N devices that are enrolled by now.
        OpinionsDiffer: By more than 2 %: nothing may be released.
        NotCovered: A second opinion is required, and nobody is there to ask.
    """
    with database.reading() as session:
        population_named(session, tenant, population)
        book = ledger.read(session, Whose(tenant.name, population))
        delta = _default_delta(session, book)
        devices = devices_of(session, *book.whose)
    tasks = _charged(book.account, None)
    ask = find() if tasks else None
    found: list[tuple[Opponent, Opinion, Opinion | None]] = []
    for opponent in Opponent if tasks else ():
        at = target_delta_of(book.account, opponent, delta)
        epsilon, accountant = _epsilon(tasks, opponent, at)
        if math.isfinite(epsilon):
            check_target_delta(at, devices)
            own = Opinion(accountant, epsilon, at)
            found.append((opponent, *_opinions(events_of(tasks, opponent), own, ask)))
    return Judged(book, tuple(found))


def judge_model(
    database: Database, tenant: Tenant, checkpoint_sha256: str, find: Callable[[], SecondOpinion | None]
) -> list[Judged]:
    """Claim what the ledgers say of those who trained a model; nothing for one that nobody did who has a ledger.

    Raises: As `judge`, and:
        NotFound: There is no such checkpoint.
        NotCovered: A population that has a budget trained it without a charge.
    """
    with database.reading() as session:
        if session.get(CheckpointRow, (tenant.name, checkpoint_sha256)) is None:
            raise NotFound("there is no such checkpoint")
        populations = claimed_in(session, tenant.name, checkpoint_sha256)
    return [judge(database, tenant, population, find) for population in populations]


def _opinions(events: list[Event], own: Opinion, ask: SecondOpinion | None) -> tuple[Opinion, Opinion | None]:
    if ask is None or own.epsilon == 0:
        return own, None
    try:
        return ask(events, own.delta)
    except NotCovered:  # no other accountant knows the mechanism
        return own, None


def record(session: Session, judged: Judged, now: datetime, release: int | None = None) -> list[ClaimRow]:
    """Keep what is claimed, beside its second opinions; of a release, and of a ledger as it stands, once."""
    whose = judged.book.whose
    same = (
        (col(ClaimRow.release).is_(None), ClaimRow.digest == judged.book.head.digest)
        if release is None
        else (ClaimRow.release == release,)
    )
    of_it = (ClaimRow.tenant == whose.tenant, ClaimRow.population == whose.population, *same)
    before = session.exec(select(ClaimRow).where(*of_it).order_by(col(ClaimRow.opponent))).all()
    if before:
        return list(before)
    rows = [
        ClaimRow(
            id=secrets.token_hex(16),
            **whose._asdict(),
            place=judged.book.head.count,
            digest=judged.book.head.digest,
            opponent=opponent,
            target_delta=claim.delta,
            accountant=claim.accountant,
            epsilon=claim.epsilon,
            second_accountant=None if second is None else second.accountant,
            second_epsilon=None if second is None else second.epsilon,
            release=release,
            at=now,
        )
        for opponent, claim, second in judged.opinions
    ]
    session.add_all(rows)
    return rows
