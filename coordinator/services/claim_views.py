"""Claims as an operator lists them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, or_, tuple_
from sqlmodel import Session, col, select

from coordinator.core.privacy.statement import Opponent
from coordinator.services.catalogue import population_named
from coordinator.store.privacy_tables import ClaimRow
from coordinator.store.tables import Tenant
from edge_runtime.protocol.errors import Malformed


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A figure that was claimed, beside what another accountant says of the same releases."""

    at: datetime
    entries: int
    head: str
    opponent: Opponent
    target_delta: float
    epsilon: float
    accountant: str
    second_epsilon: float | None
    second_accountant: str | None
    release: int | None


def claims_of(session: Session, tenant: Tenant, population: str, before: str, most: int) -> Sequence[ClaimRow]:
    """What was claimed of a population, newest first, from the first behind a claim.

    Args:
        before: The id of that claim; empty for the beginning.

    Raises:
        NotFound: The tenant has no population of this name.
        Malformed: `before` is no claim of it.
    """
    population_named(session, tenant, population)
    query = select(ClaimRow).where(ClaimRow.tenant == tenant.name, ClaimRow.population == population)
    if before:
        last = session.get(ClaimRow, before) if before.isalnum() else None
        if last is None or (last.tenant, last.population) != (tenant.name, population):
            raise Malformed("the cursor is not one that this list gave out")
        query = query.where(_behind(last))
    newest_first = (col(ClaimRow.place).desc(), col(ClaimRow.at).desc(), col(ClaimRow.opponent), col(ClaimRow.id))
    return session.exec(query.order_by(*newest_first).limit(most)).all()


def _behind(last: ClaimRow) -> ColumnElement[bool]:
    """Whether a claim comes after one in the list, newest first."""
    place, at = col(ClaimRow.place), col(ClaimRow.at)
    beside = tuple_(col(ClaimRow.opponent), col(ClaimRow.id)) > tuple_(last.opponent, last.id)
    return or_(place < last.place, and_(place == last.place, or_(at < last.at, and_(at == last.at, beside))))


def claimed_view(row: ClaimRow) -> Claimed:
    return Claimed(
        at=row.at,
        entries=row.place,
        head=row.digest,
        opponent=Opponent(row.opponent),
        target_delta=row.target_delta,
        epsilon=row.epsilon,
        accountant=row.accountant,
        second_epsilon=row.second_epsilon,
        second_accountant=row.second_accountant,
        release=row.release,
    )
