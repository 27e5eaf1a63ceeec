"""Tenants as whoever runs the coordinator sees them: names, keys, and how many tokens there are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Mapped
from sqlmodel import Session, col, func, select

from coordinator.store.tables import OperatorToken, Population, Task, Tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantFacts:
    """One tenant, and how much of it there is."""

    name: str
    public_key: bytes
    created_at: datetime
    tokens: int
    populations: int
    tasks: int


def tenants(session: Session) -> list[TenantFacts]:
    """Every tenant, by name."""

    def counted(tenant: Mapped[str]) -> dict[str, int]:
        return dict(session.exec(select(tenant, func.count()).group_by(tenant)).all())

    tokens, populations, tasks = (counted(col(one.tenant)) for one in (OperatorToken, Population, Task))
    return [
        TenantFacts(
            name=one.name,
            public_key=one.public_key,
            created_at=one.created_at,
            tokens=tokens.get(one.name, 0),
            populations=populations.get(one.name, 0),
            tasks=tasks.get(one.name, 0),
        )
        for one in session.exec(select(Tenant).order_by(col(Tenant.name))).all()
    ]


def has_token(session: Session) -> bool:
    """Whether any operator could be let in."""
    return session.exec(select(OperatorToken)).first() is not None
