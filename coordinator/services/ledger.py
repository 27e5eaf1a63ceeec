"""The ledger of a population as it is stored: read and verified, and added to by one writer at a time.

Whoever adds to it holds its row, reads every entry, and verifies the chain: so concurrent rounds see each other's
reservations, and an entry that somebody edited is found before the next charge. What was verified once is held against
its digests alone.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final, NamedTuple

from sqlmodel import Session, col, select

from coordinator.core.privacy.chain import Entry, Head, entry_digest, genesis, linked, verified
from coordinator.core.privacy.ledger import ALERTS, Account, Fact, Spent, applied, spent
from coordinator.core.privacy.refusals import LedgerDamaged
from coordinator.store.database import after_commit
from coordinator.store.privacy_tables import EntryRow, LedgerRow, SpentRow
from coordinator.store.tables import Population

_log = logging.getLogger("edgewise.privacy")

_KEPT: Final = 64
"""Ledgers whose verified state is kept in memory."""


class Whose(NamedTuple):
    """Whose ledger it is."""

    tenant: str
    population: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.population}"


@dataclass(frozen=True, slots=True)
class Book:
    """A ledger that was read and found whole.

    Attributes:
        since: When its first entry was made; None while there is none.
    """

    whose: Whose
    account: Account
    head: Head
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Known:
    """What a verified chain led to."""

    digests: tuple[str, ...]
    account: Account
    since: datetime | None


_known: OrderedDict[str, _Known] = OrderedDict()
"""By the digest of the newest entry, which names all before it."""


def exists(session: Session, whose: Whose) -> bool:
    """Whether the population has a ledger: it has one from its first budget on."""
    return session.get(LedgerRow, whose) is not None


def read(session: Session, whose: Whose, trusted: Head | None = None) -> Book:
    """A ledger, verified; an empty one where there is none.

    Args:
        trusted: A head that was kept elsewhere.

    Raises:
        LedgerDamaged: It is not the one that was written.
    """
    row = session.get(LedgerRow, whose)
    if row is None:
        return Book(whose, Account(), verified(str(whose), (), trusted))
    return _whole(session, whose, row, trusted)


def open_to_write(session: Session, whose: Whose) -> Book:
    """A ledger, verified, to which nobody else adds until the transaction ends. There is one.

    Raises:
        LedgerDamaged: It is not the one that was written.
    """
    row = session.exec(
        select(LedgerRow)
        .where(LedgerRow.tenant == whose.tenant, LedgerRow.population == whose.population)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one()
    return _whole(session, whose, row, None)


def begin(session: Session, population: Population) -> Book:
    """The ledger of a population, made if there is none, to be added to.

    Raises:
        LedgerDamaged: It is not the one that was written.
    """
    whose = Whose(population.tenant, population.name)
    if session.get(LedgerRow, whose) is None:
        session.add(
            LedgerRow(tenant=whose.tenant, population=whose.population, count=0, digest=genesis(str(whose)).digest)
        )
        session.flush()
    return open_to_write(session, whose)


def add(session: Session, book: Book, fact: Fact | None, now: datetime) -> Book:
    """Add a fact to a ledger that is open to write; None adds nothing. The ledger after it."""
    if fact is None:
        return book
    entry, head = linked(str(book.whose), book.head, fact, round(now.timestamp() * 1000))
    session.add(EntryRow(**book.whose._asdict(), place=entry.place, entry=entry.to_bytes()))
    row = session.get_one(LedgerRow, book.whose)
    row.count, row.digest = head.count, head.digest
    session.add(row)
    session.flush()
    after = Book(book.whose, applied(book.account, fact), head, book.since or now)
    _note_spent(session, after)
    return after


def entries(session: Session, whose: Whose, after: int, most: int) -> list[Entry]:
    """Entries from the first behind a place, as they are stored.

    Raises:
        LedgerDamaged: One cannot be read.
    """
    rows = session.exec(
        select(EntryRow.entry)
        .where(EntryRow.tenant == whose.tenant, EntryRow.population == whose.population, EntryRow.place > after)
        .order_by(col(EntryRow.place))
        .limit(most)
    ).all()
    return [Entry.from_bytes(raw) for raw in rows]


def every(session: Session) -> list[Whose]:
    """Whose ledgers there are."""
    found = session.exec(
        select(LedgerRow.tenant, LedgerRow.population).order_by(col(LedgerRow.tenant), col(LedgerRow.population))
    ).all()
    return [Whose(tenant, population) for tenant, population in found]


def damaged(session: Session) -> dict[Whose, LedgerDamaged]:
    """The ledgers that are not the ones that were written, each with what is wrong."""
    found = {}
    for whose in every(session):
        try:
            read(session, whose)
        except LedgerDamaged as problem:
            found[whose] = problem
    return found


def _whole(session: Session, whose: Whose, row: LedgerRow, trusted: Head | None) -> Book:
    raws = session.exec(
        select(EntryRow.entry)
        .where(EntryRow.tenant == whose.tenant, EntryRow.population == whose.population)
        .order_by(col(EntryRow.place))
    ).all()
    digests = tuple(entry_digest(raw) for raw in raws)
    known = _prefix(digests)
    head = Head(row.count, row.digest)
    begins = genesis(str(whose)) if known is None else Head(len(known.digests), known.digests[-1])
    fresh = [Entry.from_bytes(raw) for raw in raws[begins.count :]]
    reached = verified(str(whose), fresh, None, begins)
    if reached != head:
        raise LedgerDamaged(
            f"The ledger of {whose} has {reached.count} entries and should have {head.count}, or ends in another one.",
            "Restore the ledger from a copy.",
        )
    if trusted is not None and _digest_at(whose, digests, trusted.count) != trusted.digest:
        raise LedgerDamaged(
            f"The ledger of {whose} is not the one whose entry {trusted.count} was known.",
            "Restore the ledger from a copy.",
        )
    account, since = (Account(), None) if known is None else (known.account, known.since)
    for entry in fresh:
        account = applied(account, entry.fact)
        since = since or datetime.fromtimestamp(entry.at_ms / 1000, UTC)
    if digests:
        _keep(_Known(digests, account, since))
    return Book(whose, account, head, since)


def _digest_at(whose: Whose, digests: Sequence[str], count: int) -> str | None:
    if count == 0:
        return genesis(str(whose)).digest
    return digests[count - 1] if 0 < count <= len(digests) else None


def _prefix(digests: tuple[str, ...]) -> _Known | None:
    """The longest verified chain that this one goes on from: usually it is a few entries shorter."""
    for count in range(len(digests), max(0, len(digests) - 8), -1):
        known = _known.get(digests[count - 1])
        if known is not None and known.digests == digests[:count]:
            return known
    return None


def _keep(known: _Known) -> None:
    _known[known.digests[-1]] = known
    while len(_known) > _KEPT:
        _known.popitem(last=False)


def _note_spent(session: Session, book: Book) -> None:
    """Keep what is spent where it is quickly read, and tell operators once at each alert, when it is durable."""
    for budget in book.account.budgets:
        now = spent(book.account, budget)
        row = session.get(SpentRow, (*book.whose, budget.opponent.value))
        if row is None:
            row = SpentRow(**book.whose._asdict(), opponent=budget.opponent.value, figure=0.0, share=0.0)
        passed = max((share for share in (*ALERTS, 1.0) if now.share >= share - 1e-9), default=0.0)
        if passed > row.alert:
            after_commit(session, partial(_tell, book, now, passed))
        row.figure, row.share, row.alert = now.figure, now.share, passed
        session.add(row)


def _tell(book: Book, now: Spent, passed: float) -> None:
    unit = "ε" if now.budget.rho is None else "ρ"
    _log.warning(
        "%s: %.0f %% of the privacy budget against the %s is spent or reserved: %s = %.4g; entry %d, %s",
        book.whose, passed * 100, now.budget.opponent, unit, now.figure, book.head.count, book.head.digest,
    )  # fmt: skip


def fingerprint(*parts: str) -> str:
    """64 hex digits of some names, in order."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
