"""Leases: who does a piece of work, for how long, and under which fencing number.

A worker claims a key, works, and writes in a transaction that begins with `check_fence`. When it slept longer than its
lease, another has claimed the key under a higher number, and the sleeper's write is refused. Expiry lets another begin;
the number alone decides who may write. So clocks may be wrong: at worst, work is done twice and written once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import BigInteger, Column, or_
from sqlmodel import Field, Session, SQLModel, col, delete, select

from coordinator.store.database import UtcDateTime


class LeaseLost(Exception):
    """Another holder has claimed the key since: stop the work, and write nothing of it."""


class LeaseRow(SQLModel, table=True):
    __tablename__ = "leases"
    kind: str = Field(primary_key=True, max_length=32)
    key: str = Field(primary_key=True, max_length=64)
    holder: str | None = Field(default=None, max_length=64)
    """Null when it was given back."""
    fence: int = Field(sa_column=Column(BigInteger, nullable=False))
    expires_at: datetime = Field(sa_column=Column(UtcDateTime(), nullable=False, index=True))


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write about one key, until another claims it."""

    kind: str
    key: str
    holder: str
    fence: int
    """Larger than that of every earlier lease of the key."""
    expires_at: datetime


def claim(
    session: Session, kind: str, keys: Collection[str], holder: str, now: datetime, lease_s: float, most: int = 1
) -> list[Lease]:
    """Claim at most so many of the keys that nobody holds; another's that has expired counts as nobody's.

    On PostgreSQL, keys that another transaction is just claiming are passed over (`SKIP LOCKED`).

    Args:
        holder: Names the worker; no two have the same name.
        now: The database's time (`database_now`).
        lease_s: For how many seconds, above 0.
    """
    if lease_s <= 0:
        raise ValueError("a lease lasts longer than 0 s")
    wanted = sorted(set(keys))
    of_them = (LeaseRow.kind == kind, col(LeaseRow.key).in_(wanted))
    nobodys = or_(col(LeaseRow.holder).is_(None), col(LeaseRow.expires_at) <= now)
    free = list(
        session.exec(
            select(LeaseRow)
            .where(*of_them, nobodys)
            .order_by(col(LeaseRow.key))
            .limit(most)
            .with_for_update(skip_locked=True)
        ).all()
    )
    known = set(session.exec(select(LeaseRow.key).where(*of_them)).all())
    free += [LeaseRow(kind=kind, key=key, fence=0, expires_at=now) for key in wanted if key not in known]
    claimed = []
    for row in free[:most]:
        row.holder = holder
        # Rows that were swept begin again above every number that they ever had.
        row.fence = max(row.fence + 1, round(now.timestamp() * 1e6))
        row.expires_at = now + timedelta(seconds=lease_s)
        session.add(row)
        claimed.append(Lease(kind, row.key, holder, row.fence, row.expires_at))
    session.flush()
    return claimed


def check_fence(session: Session, lease: Lease) -> None:
    """Return if the lease is still the newest of its key; first in every transaction that writes for it.

    Until that transaction ends nobody else can claim the key.

    Raises:
        LeaseLost: It is not.
    """
    _newest(session, lease)


def renew(session: Session, lease: Lease, now: datetime, lease_s: float) -> Lease:
    """Hold a lease for longer; one that has expired too, as long as nobody has claimed its key.

    Raises:
        LeaseLost: Somebody has.
    """
    row = _newest(session, lease)
    row.expires_at = now + timedelta(seconds=lease_s)
    session.add(row)
    return replace(lease, expires_at=row.expires_at)


def release(session: Session, lease: Lease) -> None:
    """Give a lease back; one that was lost, or was given back, is left alone."""
    try:
        row = _newest(session, lease)
    except LeaseLost:
        return
    row.holder = None
    session.add(row)


def sweep(session: Session, before: datetime, most: int = 1000) -> int:
    """Forget leases that expired before; how many there were, at most so many."""
    keys: Sequence[LeaseRow] = session.exec(
        select(LeaseRow).where(LeaseRow.expires_at < before).limit(most).with_for_update(skip_locked=True)
    ).all()
    for row in keys:
        session.exec(delete(LeaseRow).where(col(LeaseRow.kind) == row.kind, col(LeaseRow.key) == row.key))
    return len(keys)


def _newest(session: Session, lease: Lease) -> LeaseRow:
    row = session.exec(
        select(LeaseRow)
        .where(LeaseRow.kind == lease.kind, LeaseRow.key == lease.key)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one_or_none()
    if row is None or row.fence != lease.fence or row.holder != lease.holder:
        raise LeaseLost(f"the lease {lease.fence} of {lease.kind} {lease.key} was lost")
    return row
