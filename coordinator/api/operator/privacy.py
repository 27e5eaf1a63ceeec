"""Privacy: budgets of a population, its ledger, what may be said of it, claims, and plans for budgets."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import ConfigDict, Field

from coordinator.api.operator.access import Body, Cursor, Limit, OperatorRoute, TenantOf, paged
from coordinator.api.parts import PartsOf
from coordinator.core.privacy.chain import Entry, Head
from coordinator.core.privacy.ledger import FactKind
from coordinator.core.privacy.participation import ParticipationLimits
from coordinator.core.privacy.planner import Advice, Wish, compared, planned
from coordinator.core.privacy.settings import default_target_delta
from coordinator.core.privacy.statement import Mode, Opponent
from coordinator.services import budgets, catalogue, claim_views, ledger, privacy_claims
from coordinator.services.budgets import BudgetState
from coordinator.services.claim_views import Claimed
from coordinator.services.ledger import Whose
from coordinator.services.privacy_claims import Said
from edge_runtime.protocol.errors import Malformed

router = APIRouter(route_class=OperatorRoute, tags=["privacy"])

_PER_POPULATION = "/populations/{population}/privacy"


class BudgetRequest(Body):
    """What may be spent against an opponent: ε at a target delta, or ρ."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"epsilon": 8.0, "target_delta": 1e-7}]})

    epsilon: float | None = Field(None, description="ε at the target delta; or give ρ.")
    rho: float | None = Field(None, description="ρ of zero-concentrated differential privacy; or give ε.")
    target_delta: float | None = Field(
        None, description="Below 1/N of N enrolled devices; unless given 1/N^1.1, N no less than the smallest cohort."
    )


class EntryView(Body):
    """An entry of a ledger, with its digest."""

    place: int
    previous: str = Field(description="The digest of the entry before.")
    digest: str
    at: datetime
    kind: FactKind
    task: str | None
    round: int | None
    rho_coordinator: float | None = Field(description="Of a reservation, a charge or a release; null for no noise.")
    rho_recipients: float | None
    purpose: str | None
    mode: Mode | None
    opponent: Opponent | None = Field(description="Of a budget.")
    epsilon: float | None = Field(description="Of a budget.")
    rho: float | None = Field(description="Of a budget.")
    target_delta: float | None = Field(description="Of a budget.")

    @classmethod
    def of(cls, entry: Entry) -> EntryView:
        fact = entry.fact
        cost, budget = fact.cost, fact.budget
        return cls(
            place=entry.place,
            previous=entry.previous,
            digest=entry.digest,
            at=datetime.fromtimestamp(entry.at_ms / 1000, UTC),
            kind=fact.kind,
            task=fact.task or None,
            round=fact.round or None,
            rho_coordinator=None if cost is None else cost.coordinator,
            rho_recipients=None if cost is None else cost.recipients,
            purpose=fact.purpose,
            mode=fact.mode,
            opponent=None if budget is None else budget.opponent,
            epsilon=None if budget is None else budget.epsilon,
            rho=None if budget is None else budget.rho,
            target_delta=None if budget is None else budget.target_delta,
        )


class WishRequest(Body):
    """What a product team knows of a task that is to be private."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "population": 2_000_000,
                    "rounds": 1000,
                    "goal": 2400,
                    "parameters": 102_000,
                    "epsilon_coordinator": 8.0,
                    "separation": 100,
                    "most_participations": 2,
                }
            ]
        }
    )

    mode: Mode = Field(Mode.DISTRIBUTED, description="What is to hide a participant.")
    population: int = Field(ge=1, le=10**11, description="Devices.")
    rounds: int = Field(ge=1, le=100_000, description="Rounds of the whole training.")
    goal: int = Field(ge=1, le=10**9, description="Reports wanted in a round.")
    parameters: int = Field(ge=1, le=10**10, description="Values of a report: of the model's shared weights.")
    target_delta: float | None = Field(None, description="1/N^1.1 unless given.")
    epsilon_coordinator: float | None = Field(None, gt=0, description="Budget against the coordinator.")
    epsilon_recipients: float | None = Field(None, gt=0, description="Budget against those who get the model.")
    largest_error: float = Field(1.0, gt=0, description="Norm of the noise in a round's mean, in clipping norms.")
    clipping_norm: float = Field(1.0, description="Largest L2 norm of a delta.")
    group_size: int = Field(100, ge=1, le=10**6, description="Members of one group.")
    survivor_share: float = Field(0.8, gt=0, le=1, description="Fewest survivors over members.")
    corrupt_share: float = Field(0.1, ge=0, lt=1, description="Corrupt members over members.")
    lane_bits: int = Field(24, description="20 to 32.")
    separation: int = Field(1, ge=1, description="A device is in every so manieth round at most.")
    most_participations: int | None = Field(None, ge=1, description="Rounds that one device is in at most.")


class PointView(Body):
    """ε after so many rounds; null where the mode does not protect."""

    round: int
    coordinator: float | None
    recipients: float | None


class FigureView(Body):
    """ε at the end against one opponent, with everything beside it."""

    opponent: Opponent
    epsilon: float | None
    target_delta: float
    unit: str
    adjacency: str
    mechanism: str
    sampling: str
    accountant: str
    assumptions: list[str]
    sentence: str


class CurveView(Body):
    """A mode with the noise that it needs for the same budgets and error."""

    mode: Mode
    reachable: bool
    noise_multiplier: float
    error: float
    by_round: list[PointView]


class AdviceView(Body):
    """What the planner says."""

    mode: Mode
    reachable: bool
    noise_multiplier: float
    error: float = Field(description="Norm of the noise in a round's mean, in clipping norms.")
    goal_needed: int | None = Field(description="Reports a round with which budget and error are kept.")
    target_delta: float
    figures: list[FigureView]
    by_round: list[PointView]
    modes: list[CurveView] = Field(description="Every mode, for a chart.")
    sentences: list[str]
    clipping: str


@router.get(_PER_POPULATION + "/budgets")
def get_budgets(population: str, tenant: TenantOf, parts: PartsOf) -> list[BudgetState]:
    """The budgets of a population, with what is spent and reserved of each."""
    with parts.database.reading() as session:
        catalogue.population_named(session, tenant, population)
        book = ledger.read(session, Whose(tenant.name, population))
    return budgets.budgets_of(book.account)


@router.put(_PER_POPULATION + "/budgets/{opponent}")
def put_budget(
    population: str, opponent: Opponent, wanted: BudgetRequest, tenant: TenantOf, parts: PartsOf
) -> BudgetState:
    """Set what may be spent against an opponent; it may be raised, and the ledger keeps that it was."""
    with parts.database.writing() as session:
        book = budgets.put_budget(
            session,
            tenant,
            population,
            opponent,
            epsilon=wanted.epsilon,
            rho=wanted.rho,
            target_delta=wanted.target_delta,
            smallest_cohort=parts.smallest_cohort,
            now=parts.now(),
        )
    return next(one for one in budgets.budgets_of(book.account) if one.opponent is opponent)


@router.get(_PER_POPULATION + "/ledger")
def get_ledger(
    population: str,
    request: Request,
    response: Response,
    tenant: TenantOf,
    parts: PartsOf,
    limit: Limit = 100,
    cursor: Annotated[str, Query(max_length=18, description="From the `Link` header of the page before.")] = "",
    known: Annotated[
        str | None,
        Query(max_length=96, description="A head kept elsewhere, `entries:digest`: the ledger must go on from it."),
    ] = None,
) -> list[EntryView]:
    """The entries of a ledger, oldest first; verified before they are shown."""
    if cursor and not cursor.isdecimal():
        raise Malformed("the cursor is not one that this list gave out")
    with parts.database.reading() as session:
        catalogue.population_named(session, tenant, population)
        whose = Whose(tenant.name, population)
        ledger.read(session, whose, None if known is None else _head(known))
        found = ledger.entries(session, whose, int(cursor or 0), limit + 1)
    return [EntryView.of(one) for one in paged(request, response, found, limit, lambda one: str(one.place))]


@router.get(_PER_POPULATION + "/statement")
def get_statement(
    population: str,
    tenant: TenantOf,
    parts: PartsOf,
    task: Annotated[str | None, Query(description="One task alone; else all of the population.")] = None,
) -> Said:
    """What may be said: a figure against each opponent, with unit, adjacency, mechanism and assumptions."""
    with parts.database.reading() as session:
        return privacy_claims.said(session, tenant, population, task)


@router.get(_PER_POPULATION + "/claims")
def get_claims(
    population: str,
    request: Request,
    response: Response,
    tenant: TenantOf,
    parts: PartsOf,
    limit: Limit = 100,
    cursor: Cursor = "",
) -> list[Claimed]:
    """What was claimed of a population, beside its second opinions, newest first."""
    with parts.database.reading() as session:
        found = claim_views.claims_of(session, tenant, population, before=cursor, most=limit + 1)
    return [claim_views.claimed_view(row) for row in paged(request, response, found, limit, lambda row: row.id)]


@router.post(_PER_POPULATION + "/claims")
def post_claims(population: str, tenant: TenantOf, parts: PartsOf) -> list[Claimed]:
    """Claim what the ledger says now, with a second opinion where one is to be had; refused when both differ by 2 %."""
    judged = privacy_claims.judge(parts.database, tenant, population, parts.second_opinion)
    with parts.database.writing() as session:
        return [claim_views.claimed_view(row) for row in privacy_claims.record(session, judged, parts.now())]


@router.post("/privacy/plan")
def plan_privacy(wanted: WishRequest) -> AdviceView:
    """Find the noise that a budget needs, what it costs in error, and what to do where both cannot be kept."""
    return advice_for(wanted)


def advice_for(wanted: WishRequest) -> AdviceView:
    """What the planner says of a wish.

    Raises: As `planned`.
    """
    wish = _wish(wanted)
    return _advice(wish, planned(wish))


def _wish(wanted: WishRequest) -> Wish:
    given = {Opponent.COORDINATOR: wanted.epsilon_coordinator, Opponent.RECIPIENTS: wanted.epsilon_recipients}
    return Wish(
        mode=wanted.mode,
        population=wanted.population,
        rounds=wanted.rounds,
        goal=wanted.goal,
        parameters=wanted.parameters,
        target_delta=default_target_delta(wanted.population) if wanted.target_delta is None else wanted.target_delta,
        epsilon={opponent: epsilon for opponent, epsilon in given.items() if epsilon is not None},
        largest_error=wanted.largest_error,
        limits=ParticipationLimits(separation=wanted.separation, most=wanted.most_participations),
        clipping_norm=wanted.clipping_norm,
        group_size=wanted.group_size,
        survivor_share=wanted.survivor_share,
        corrupt_share=wanted.corrupt_share,
        lane_bits=wanted.lane_bits,
    )


def _advice(wish: Wish, advice: Advice) -> AdviceView:
    return AdviceView(
        mode=wish.mode,
        reachable=advice.reachable,
        noise_multiplier=advice.noise_multiplier,
        error=advice.error,
        goal_needed=advice.goal_needed,
        target_delta=wish.target_delta,
        figures=[
            FigureView(
                opponent=one.opponent,
                epsilon=_finite(one.epsilon),
                target_delta=one.target_delta,
                unit=one.unit,
                adjacency=one.adjacency,
                mechanism=one.mechanism,
                sampling=one.sampling,
                accountant=one.accountant,
                assumptions=list(one.assumptions),
                sentence=one.sentence(),
            )
            for one in advice.statements
        ],
        by_round=_points(advice),
        modes=[
            CurveView(
                mode=mode,
                reachable=other.reachable,
                noise_multiplier=other.noise_multiplier,
                error=other.error,
                by_round=_points(other),
            )
            for mode, other in compared(wish, advice).items()
        ],
        sentences=list(advice.sentences),
        clipping=advice.clipping,
    )


def _points(advice: Advice) -> list[PointView]:
    return [
        PointView(round=one.round, coordinator=_finite(one.coordinator), recipients=_finite(one.recipients))
        for one in advice.by_round
    ]


def _finite(figure: float) -> float | None:
    return figure if math.isfinite(figure) else None


def _head(known: str) -> Head:
    count, _colon, digest = known.partition(":")
    if not (count.isdecimal() and len(count) < 10 and len(digest) == 64):
        raise Malformed("a head is `entries:digest`, as a statement gives it")
    return Head(int(count), digest)
