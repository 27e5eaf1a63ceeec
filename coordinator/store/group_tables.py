"""The tables of groups that sum securely: who is in one, what each member sent, and who harmed one.

No row here holds a share, a seed or a key that a device did not send to be seen by the coordinator.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Column, Index, LargeBinary
from sqlmodel import Field, SQLModel

from coordinator.store.database import UtcDateTime
from coordinator.store.tables import DIGEST, ID, NAME


class Member(SQLModel, table=True):
    """A device that joined a group."""

    __tablename__ = "members"
    group_id: str = Field(primary_key=True, foreign_key="groups.id", max_length=ID)
    device_id: str = Field(primary_key=True, foreign_key="devices.id", max_length=ID)
    participation_id: str = Field(max_length=ID)
    entry: bytes = Field(sa_column=Column(LargeBinary(240), nullable=False))
    position: int | None = None
    """In the roster; null until that is fixed."""
    delivery: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    """What it gets once it is fixed who shared; forgotten when the group ends."""


class MemberKey(SQLModel, table=True):
    """A key that was made for a group: it is never taken for another."""

    __tablename__ = "member_keys"
    public_key: str = Field(primary_key=True, max_length=DIGEST)
    """X25519, as hex digits."""
    group_id: str = Field(foreign_key="groups.id", max_length=ID, index=True)


class StepRow(SQLModel, table=True):
    """What a member sent at a step. The digest outlives the message, so that a late re-send gets the same answer."""

    __tablename__ = "group_steps"
    group_id: str = Field(primary_key=True, foreign_key="groups.id", max_length=ID)
    device_id: str = Field(primary_key=True, foreign_key="devices.id", max_length=ID)
    step: str = Field(primary_key=True, max_length=16)
    sha256: str = Field(max_length=DIGEST)
    body: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    """Forgotten when the group ends."""
    received_at: datetime = Field(sa_column=Column(UtcDateTime(), nullable=False))


class FaultRow(SQLModel, table=True):
    """What a device was seen to do to a group, with the evidence."""

    __tablename__ = "faults"
    __table_args__ = (Index("ix_faults_device", "device_id", "at"),)
    group_id: str = Field(primary_key=True, foreign_key="groups.id", max_length=ID)
    device_id: str = Field(primary_key=True, foreign_key="devices.id", max_length=ID)
    fault: str = Field(primary_key=True, max_length=32)
    other_device_id: str = Field(primary_key=True, max_length=ID)
    """At the other end; the device itself where there is none."""
    evidence: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    at: datetime = Field(sa_column=Column(UtcDateTime(), nullable=False))


class Quarantine(SQLModel, table=True):
    """A device that is chosen for nothing for a while."""

    __tablename__ = "quarantines"
    device_id: str = Field(primary_key=True, foreign_key="devices.id", max_length=ID)
    tenant: str = Field(max_length=NAME)
    because: str = Field(max_length=32)
    at: datetime = Field(sa_column=Column(UtcDateTime(), nullable=False))
    until: datetime = Field(sa_column=Column(UtcDateTime(), nullable=False))
