"""The tables. Limits are database constraints; whether a change is right is decided elsewhere."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from coordinator.store.database import UtcDateTime

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
"""For what queries look into; what only code reads is kept as the bytes of its message."""

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
    model_family: str | None = Field(default=None, max_length=NAME)
    """What its models have in common, in the tenant's words."""
    example_schema: dict[str, Any] | None = Field(default=None, sa_column=Column(Json, nullable=True))
    attributes: dict[str, Any] | None = Field(default=None, sa_column=Column(Json, nullable=True))
    """What its devices may say of themselves: a type and allowed values by name. Nothing else is kept."""
    bucket_key: bytes = Field(sa_column=Column(LargeBinary(32), nullable=False))
    """Of the stable percentage buckets; made with the population, and never changed."""
    pacing: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    """What pacing has learnt of arrivals."""
    version: int = Field(default=1, sa_column=Column(Integer, nullable=False, server_default=text("1")))
    """Goes up with every change by an operator."""


class Device(SQLModel, table=True):
    __tablename__ = "devices"
    __table_args__ = (
        ForeignKeyConstraint(["tenant", "population"], ["populations.tenant", "populations.name"]),
        Index("ix_devices_seen", "tenant", "population", "seen_at"),
    )
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
    app_version_key: str = Field(default="", max_length=128)
    """The app's version so that text order is version order; empty where it is not one."""
    region: str | None = Field(default=None, max_length=NAME)
    hardware_class: str | None = Field(default=None, max_length=NAME)
    attributes: dict[str, Any] | None = Field(default=None, sa_column=Column(Json, nullable=True))
    """Those that its population declares."""
    seen_at: datetime | None = Field(default=None, sa_column=_at(nullable=True))
    """When it last checked in, to the hour or so."""
    participated_at: datetime | None = Field(default=None, sa_column=_at(nullable=True))
    """When it was last given an assignment."""
    participations: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))


class Cohort(SQLModel, table=True):
    """A named part of a population; the rule decides, whoever is enrolled."""

    __tablename__ = "cohorts"
    __table_args__ = (ForeignKeyConstraint(["tenant", "population"], ["populations.tenant", "populations.name"]),)
    tenant: str = Field(primary_key=True, max_length=NAME)
    population: str = Field(primary_key=True, max_length=NAME)
    name: str = Field(primary_key=True, max_length=NAME)
    rule: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    version: int = Field(default=1)
    created_at: datetime = Field(sa_column=_at())
    changed_at: datetime = Field(sa_column=_at())


class Nonce(SQLModel, table=True):
    """A signed request that was already received.

    By the time that it was signed at: what comes together stands together, so that a batch writes a few pages of the
    database, and not one for each of its requests.
    """

    __tablename__ = "nonces"
    __table_args__ = ({"sqlite_with_rowid": False},)
    signed_at: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    """Seconds since the epoch, as the signature has it."""
    device_id: str = Field(primary_key=True, max_length=ID)
    nonce: str = Field(primary_key=True, max_length=ID)


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
    settings: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    """How its rounds are run: `core.tasks.TaskSettings` as canonical JSON."""
    seed: bytes = Field(sa_column=Column(LargeBinary(32), nullable=False))
    rounds_committed: int
    optimiser_state_sha256: str | None = Field(default=None, max_length=DIGEST)
    """What the server optimiser remembers; a blob, replaced with the model version."""
    clipping_norm: float | None = Field(default=None, sa_column=Column(Float(53), nullable=True))
    """Of rounds that begin now, where it adapts; null for the plan's."""
    version: int = Field(default=1, sa_column=Column(Integer, nullable=False, server_default=text("1")))
    """Goes up with every change by an operator."""
    created_at: datetime = Field(sa_column=_at())
    approved_at: datetime | None = Field(default=None, sa_column=_at(nullable=True))
    started_at: datetime | None = Field(default=None, sa_column=_at(nullable=True))
    ended_at: datetime | None = Field(default=None, sa_column=_at(nullable=True))
    ended_because: str | None = Field(default=None, max_length=32)
    """A `Stop` code."""


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
    model_version: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    """Of that checkpoint: what staleness is counted from."""
    clipping_norm: float | None = Field(default=None, sa_column=Column(Float(53), nullable=True))
    """That its header names, where it adapts; null for the plan's."""
    result_sha256: str | None = Field(default=None, max_length=DIGEST)
    """The model version it committed."""
    metrics: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    """What a round of evaluation found."""
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
    step_deadline_at: datetime | None = Field(default=None, sa_column=_at(nullable=True))
    """Of secure summing: when the phase ends at the latest."""
    ended_because: str | None = Field(default=None, max_length=32)
    """Of secure summing: a `GroupEnd` code, if it came to nothing."""


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
    group_id: str | None = Field(default=None, foreign_key="groups.id", max_length=ID, index=True)
    """Of secure summing: null until a group asks it to join, and again when the group went on without it."""
    device_id: str = Field(foreign_key="devices.id", max_length=ID)
    standing: str = Field(max_length=16)
    visit: str | None = Field(default=None, max_length=ID)
    outcome: str | None = Field(default=None, max_length=32)
    assigned_at: datetime | None = Field(default=None, sa_column=_at(nullable=True))
    downloaded_at: datetime | None = Field(default=None, sa_column=_at(nullable=True))
    """When it first asked for the round's checkpoint."""
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
    crc32: int | None = Field(default=None, sa_column=Column(BigInteger))
    """Of the blob; what tells whether the disk gave back what was written. None for one that came before 0008."""
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


class Release(SQLModel, table=True):
    """A model version offered for inference. The newest that includes a device is the one it uses."""

    __tablename__ = "releases"
    __table_args__ = (
        ForeignKeyConstraint(["tenant", "population"], ["populations.tenant", "populations.name"]),
        ForeignKeyConstraint(["tenant", "checkpoint_sha256"], ["checkpoints.tenant", "checkpoints.sha256"]),
        UniqueConstraint("tenant", "population", "number"),
    )
    id: str = Field(primary_key=True, max_length=ID)
    tenant: str = Field(max_length=NAME)
    population: str = Field(max_length=NAME)
    number: int
    checkpoint_sha256: str = Field(max_length=DIGEST)
    share_ppm: int
    """Of the population, in parts per million, by a keyed hash of the device id."""
    withdrawn_at: datetime | None = Field(default=None, sa_column=_at(nullable=True))
    created_at: datetime = Field(sa_column=_at())


class Idempotency(SQLModel, table=True):
    """The answer to an operator's request that named itself, so that asking again gives it again."""

    __tablename__ = "idempotency"
    tenant: str = Field(primary_key=True, foreign_key="tenants.name", max_length=NAME)
    key: str = Field(primary_key=True, max_length=128)
    request_sha256: str = Field(max_length=DIGEST)
    status: int
    etag: str | None = Field(default=None, max_length=32)
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    created_at: datetime = Field(sa_column=Column(UtcDateTime(), nullable=False, index=True))


class Heartbeat(SQLModel, table=True):
    """When the coordinator was last seen alive, so that deadlines move by the time it was not."""

    __tablename__ = "heartbeats"
    id: int = Field(primary_key=True)
    at: datetime = Field(sa_column=_at())
