"""The tables. Limits are database constraints; whether a change is right is decided elsewhere."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    UniqueConstraint,
    false,
)
from sqlmodel import Field, SQLModel

from coordinator.store.database import UtcDateTime

ID = 32
DIGEST = 64
NAME = 64


def _at(*, nullable: bool = False) -> Column[datetime]:
    return Column(UtcDateTime(), nullable=nullable)


class Tenant(SQLModel, table=True):
    __tablename__ = "tenants"
    name: str = Field(primary_key=True, max_length=NAME)
    public_key: bytes = Field(sa_column=Column(LargeBinary(32), nullable=False))
    created_at: datetime = Field(sa_column=_at())


class OperatorToken(SQLModel, table=True):
    """A token's SHA-256; the token itself is nowhere."""

    __tablename__ = "operator_tokens"
    token_sha256: str = Field(primary_key=True, max_length=DIGEST)
    tenant: str = Field(foreign_key="tenants.name", max_length=NAME)
    created_at: datetime = Field(sa_column=_at())


class Population(SQLModel, table=True):
    __tablename__ = "populations"
    tenant: str = Field(primary_key=True, foreign_key="tenants.name", max_length=NAME)
    name: str = Field(primary_key=True, max_length=NAME)
    created_at: datetime = Field(sa_column=_at())
    policy: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    """When its devices may work, as the wire has it; null for what their apps say."""
    switched_off: bool = Field(
        default=False, sa_column=Column(Boolean(create_constraint=False), nullable=False, server_default=false())
    )
    """Its devices are to do nothing."""


class Device(SQLModel, table=True):
    __tablename__ = "devices"
    __table_args__ = (ForeignKeyConstraint(["tenant", "population"], ["populations.tenant", "populations.name"]),)
    id: str = Field(primary_key=True, max_length=ID)
    tenant: str = Field(max_length=NAME)
    population: str = Field(max_length=NAME)
    public_key: bytes = Field(sa_column=Column(LargeBinary(32), nullable=False))
    app: str = Field(max_length=128)
    app_version: str = Field(max_length=128)
    platform: str = Field(max_length=128)
    evidence: str = Field(max_length=32)
    enrolled_at: datetime = Field(sa_column=_at())
    left_at: datetime | None = Field(default=None, sa_column=_at(nullable=True))
    """Its owner took it out: it is never chosen again. Key and id stay, so that nobody comes back under them."""


class Nonce(SQLModel, table=True):
    """A signed request that was already received."""

    __tablename__ = "nonces"
    device_id: str = Field(primary_key=True, max_length=ID)
    nonce: str = Field(primary_key=True, max_length=ID)
    received_at: datetime = Field(sa_column=Column(UtcDateTime(), nullable=False, index=True))


class BundleRow(SQLModel, table=True):
    __tablename__ = "bundles"
    tenant: str = Field(primary_key=True, foreign_key="tenants.name", max_length=NAME)
    sha256: str = Field(primary_key=True, max_length=DIGEST)
    manifest: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    imported_at: datetime = Field(sa_column=_at())


class CheckpointRow(SQLModel, table=True):
    """A model version, signed by the coordinator."""

    __tablename__ = "checkpoints"
    __table_args__ = (ForeignKeyConstraint(["tenant", "bundle_sha256"], ["bundles.tenant", "bundles.sha256"]),)
    tenant: str = Field(primary_key=True, max_length=NAME)
    sha256: str = Field(primary_key=True, max_length=DIGEST)
    bundle_sha256: str = Field(max_length=DIGEST)
    model_version: int
    weights_sha256: str = Field(max_length=DIGEST)
    created_at: datetime = Field(sa_column=_at())


class Task(SQLModel, table=True):
    __tablename__ = "tasks"
    __table_args__ = (
        UniqueConstraint("tenant", "name"),
        ForeignKeyConstraint(["tenant", "population"], ["populations.tenant", "populations.name"]),
        ForeignKeyConstraint(["tenant", "bundle_sha256"], ["bundles.tenant", "bundles.sha256"]),
    )
    id: str = Field(primary_key=True, max_length=ID)
    tenant: str = Field(max_length=NAME)
    population: str = Field(max_length=NAME, index=True)
    name: str = Field(max_length=NAME)
    state: str = Field(max_length=16, index=True)
    plan: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    plan_signature: bytes = Field(sa_column=Column(LargeBinary(64), nullable=False))
    bundle_sha256: str = Field(max_length=DIGEST)
    first_checkpoint_sha256: str = Field(max_length=DIGEST)
    checkpoint_sha256: str = Field(max_length=DIGEST)
    """The newest model version."""
    seed: bytes = Field(sa_column=Column(LargeBinary(32), nullable=False))
    rounds_wanted: int
    rounds_committed: int
    over_selection: float
    pool_size: int
    selecting_deadline_s: float
    reporting_deadline_s: float
    server_learning_rate: float
    retry_rejected_s: float
    retry_reported_s: float
    created_at: datetime = Field(sa_column=_at())


class Round(SQLModel, table=True):
    __tablename__ = "rounds"
    __table_args__ = (UniqueConstraint("task_id", "number"),)
    id: str = Field(primary_key=True, max_length=ID)
    tenant: str = Field(max_length=NAME)
    task_id: str = Field(foreign_key="tasks.id", max_length=ID)
    number: int
    phase: str = Field(max_length=16, index=True)
    checkpoint_sha256: str = Field(max_length=DIGEST)
    """What the participants start from."""
    result_sha256: str | None = Field(default=None, max_length=DIGEST)
    """The model version it committed."""
    abandonment: str | None = Field(default=None, max_length=32)
    opened_at: datetime = Field(sa_column=_at())
    deadline_at: datetime = Field(sa_column=_at())
    closed_at: datetime | None = Field(default=None, sa_column=_at(nullable=True))


class Group(SQLModel, table=True):
    __tablename__ = "groups"
    __table_args__ = (UniqueConstraint("round_id", "number"),)
    id: str = Field(primary_key=True, max_length=ID)
    round_id: str = Field(foreign_key="rounds.id", max_length=ID)
    number: int
    phase: str = Field(max_length=16)


class Candidate(SQLModel, table=True):
    """A device that checked in while a round was selecting."""

    __tablename__ = "candidates"
    round_id: str = Field(primary_key=True, foreign_key="rounds.id", max_length=ID)
    device_id: str = Field(primary_key=True, foreign_key="devices.id", max_length=ID)
    checked_in_at: datetime = Field(sa_column=_at())


class Participation(SQLModel, table=True):
    __tablename__ = "participations"
    __table_args__ = (
        UniqueConstraint("round_id", "device_id"),
        Index("ix_participations_open", "device_id", "standing"),
    )
    id: str = Field(primary_key=True, max_length=ID)
    round_id: str = Field(foreign_key="rounds.id", max_length=ID)
    group_id: str = Field(foreign_key="groups.id", max_length=ID, index=True)
    device_id: str = Field(foreign_key="devices.id", max_length=ID)
    standing: str = Field(max_length=16)
    visit: str | None = Field(default=None, max_length=ID)
    outcome: str | None = Field(default=None, max_length=32)
    assigned_at: datetime | None = Field(default=None, sa_column=_at(nullable=True))
    ended_at: datetime | None = Field(default=None, sa_column=_at(nullable=True))
    cost_seconds: int | None = None
    """What the outcome said that it cost, coarsely; null where it did not."""
    cost_bytes: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    cost_battery_percent: int | None = None


class Report(SQLModel, table=True):
    """A report that was acknowledged. The row outlives the blob, so that a late re-send gets the same receipt."""

    __tablename__ = "reports"
    participation_id: str = Field(primary_key=True, foreign_key="participations.id", max_length=ID)
    group_id: str = Field(foreign_key="groups.id", max_length=ID, index=True)
    sha256: str = Field(max_length=DIGEST)
    body_bytes: int
    chunk: int | None = None
    blob_deleted: bool = False
    received_at: datetime = Field(sa_column=_at())


class PartialSum(SQLModel, table=True):
    """The sum of one chunk of a group's reports."""

    __tablename__ = "partial_sums"
    group_id: str = Field(primary_key=True, foreign_key="groups.id", max_length=ID)
    chunk: int = Field(primary_key=True)
    sha256: str = Field(max_length=DIGEST)
    blob_deleted: bool = False


class Heartbeat(SQLModel, table=True):
    """When the coordinator was last seen alive, so that deadlines move by the time it was not."""

    __tablename__ = "heartbeats"
    id: int = Field(primary_key=True)
    at: datetime = Field(sa_column=_at())
