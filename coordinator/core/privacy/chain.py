"""Ledger entries that cannot be edited unseen: each names the digest of the one before.

The digest of an entry is SHA-256 over a domain and its canonical bytes (`wire.encode`: sorted keys, no spaces, shortest
floats), which hold its place, its population and the previous digest. A head, the number of entries and the last
digest, is kept or signed elsewhere: without one, entries cut off at the end leave no trace.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from coordinator.core.privacy.ledger import Account, Budget, Fact, applied
from coordinator.core.privacy.refusals import LedgerDamaged
from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import Refusal

_DOMAIN: Final = b"edgewise/privacy-ledger/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One fact in its place.

    Attributes:
        place: Counted from 1.
        previous: Digest of the entry before, 64 hex digits; of the population's name for the first.
        at_ms: Unix time in milliseconds, when it was committed.
    """

    population: str
    place: int
    previous: str
    at_ms: int
    fact: Fact

    def to_bytes(self) -> bytes:
        """Canonical bytes."""
        return wire.encode(self)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Entry:
        """Read an entry.

        Raises:
            LedgerDamaged: The bytes are not exactly one entry, in its one encoding.
        """
        try:
            entry = wire.decode(cls, raw)
        except (Refusal, ValueError) as problem:
            raise LedgerDamaged("An entry cannot be read.", "Restore the ledger from a copy.") from problem
        if entry.to_bytes() != raw:
            raise LedgerDamaged("An entry is not in its one encoding.", "Restore the ledger from a copy.")
        return entry

    @property
    def digest(self) -> str:
        """64 hex digits."""
        return entry_digest(self.to_bytes())


def entry_digest(raw: bytes) -> str:
    """The digest of an entry in its canonical bytes, 64 hex digits."""
    return hashlib.sha256(_DOMAIN + raw).hexdigest()


@dataclass(frozen=True, slots=True)
class Head:
    """How far a ledger has come."""

    count: int
    digest: str


def genesis(population: str) -> Head:
    """The head of an empty ledger."""
    return Head(0, hashlib.sha256(_DOMAIN + population.encode()).hexdigest())


def linked(population: str, head: Head, fact: Fact, at_ms: int) -> tuple[Entry, Head]:
    """The next entry, and the head after it."""
    entry = Entry(population=population, place=head.count + 1, previous=head.digest, at_ms=at_ms, fact=fact)
    return entry, Head(entry.place, entry.digest)


def verified(
    population: str, entries: Sequence[Entry], trusted: Head | None = None, begins: Head | None = None
) -> Head:
    """The head of a whole ledger.

    Args:
        begins: Where the entries go on from, verified before; None for the beginning.
        trusted: A head that was kept elsewhere. Entries behind it are fine, fewer are not.

    Raises:
        LedgerDamaged: An entry was edited, removed, added or moved, or the ledger ends before the trusted head.
    """
    head = begins or genesis(population)
    seen = {head.count: head.digest}
    for entry in entries:
        if entry.population != population or entry.place != head.count + 1 or entry.previous != head.digest:
            raise LedgerDamaged(
                f"Entry {head.count + 1} does not follow the one before.", "Restore the ledger from a copy."
            )
        head = Head(entry.place, entry.digest)
        seen[head.count] = head.digest
    if trusted is not None and seen.get(trusted.count) != trusted.digest:
        raise LedgerDamaged(
            f"The ledger is not the one whose entry {trusted.count} was known.", "Restore the ledger from a copy."
        )
    return head


def rebuilt(entries: Iterable[Entry], budgets: tuple[Budget, ...] = ()) -> Account:
    """The account that the entries lead to, from given budgets on; verify them first."""
    account = Account(budgets)
    for entry in entries:
        account = applied(account, entry.fact)
    return account
