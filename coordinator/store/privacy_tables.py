"""The tables of privacy: ledgers, their entries, what is spent of budgets, claims, and noise that is still needed.

Entries are added and never changed; their truth is in their chain (`core.privacy.chain`), not in these constraints.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Column, Float, ForeignKeyConstraint, Integer, LargeBinary, text
from sqlmodel import Field, SQLModel

from coordinator.store.database import UtcDateTime
from coordinator.store.tables import DIGEST, ID, NAME


def _ledger() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        ["tenant", "population"], ["privacy_ledgers.tenant", "privacy_ledgers.population"], ondelete="RESTRICT"
    )


class LedgerRow(SQLModel, table=True):
    """How far the ledger of a population has come. Whoever adds to it holds this row."""

    __tablename__ = "privacy_ledgers"
    __table_args__ = (ForeignKeyConstraint(["tenant", "population"], ["populations.tenant", "populations.name"]),)
    tenant: str = Field(primary_key=True, max_length=NAME)
    population: str = Field(primary_key=True, max_length=NAME)
    count: int
    digest: str = Field(max_length=DIGEST)
    """Of the newest entry; of the population's name while there is none."""


class EntryRow(SQLModel, table=True):
    """One entry, in its canonical bytes."""

    __tablename__ = "privacy_entries"
    __table_args__ = (_ledger(),)
    tenant: str = Field(primary_key=True, max_length=NAME)
    population: str = Field(primary_key=True, max_length=NAME)
    place: int = Field(primary_key=True)
    entry: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class SpentRow(SQLModel, table=True):
    """What is spent of a budget, for whoever watches; decided is by the entries."""

    __tablename__ = "privacy_spent"
    __table_args__ = (_ledger(),)
    tenant: str = Field(primary_key=True, max_length=NAME)
    population: str = Field(primary_key=True, max_length=NAME)
    opponent: str = Field(primary_key=True, max_length=16)
    figure: float = Field(sa_column=Column(Float(53), nullable=False))
    share: float = Field(sa_column=Column(Float(53), nullable=False))
    alert: float = Field(default=0.0, sa_column=Column(Float(53), nullable=False, server_default=text("0")))
    """The largest share that operators were told of."""


class ClaimRow(SQLModel, table=True):
    """A figure that was claimed, with its second opinion."""

    __tablename__ = "privacy_claims"
    __table_args__ = (_ledger(),)
    id: str = Field(primary_key=True, max_length=ID)
    tenant: str = Field(max_length=NAME, index=True)
    population: str = Field(max_length=NAME)
    place: int
    """Of the ledger's newest entry when it was made."""
    digest: str = Field(max_length=DIGEST)
    opponent: str = Field(max_length=16)
    target_delta: float = Field(sa_column=Column(Float(53), nullable=False))
    accountant: str = Field(max_length=NAME)
    epsilon: float = Field(sa_column=Column(Float(53), nullable=False))
    second_accountant: str | None = Field(default=None, max_length=NAME)
    second_epsilon: float | None = Field(default=None, sa_column=Column(Float(53), nullable=True))
    release: int | None = Field(default=None, sa_column=Column(Integer, nullable=True))
    """The number of the release for which it was made."""
    at: datetime = Field(sa_column=Column(UtcDateTime(), nullable=False))


class NoiseRow(SQLModel, table=True):
    """The seed of noise that the coordinator adds to the sum of a round: there from its charge to its release."""

    __tablename__ = "privacy_noise"
    round_id: str = Field(primary_key=True, foreign_key="rounds.id", max_length=ID)
    groups_sha256: str = Field(max_length=DIGEST)
    """Of the groups whose sum it hides; another sum gets other noise."""
    seed: bytes = Field(sa_column=Column(LargeBinary(32), nullable=False))


class StreamRow(SQLModel, table=True):
    """Where the correlated noise of a task stands; nothing of it is left when the task has ended."""

    __tablename__ = "privacy_streams"
    task_id: str = Field(primary_key=True, foreign_key="tasks.id", max_length=ID)
    round: int
    """The last whose noise is in the buffers."""
    buffers_sha256: str | None = Field(default=None, max_length=DIGEST)
    """A blob; null before the first round."""
