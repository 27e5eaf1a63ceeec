"""Operators look at devices that are kept out for what they did to groups, and let one in again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session, col, select

from coordinator.services.catalogue import population_named
from coordinator.store.group_tables import FaultRow, Quarantine
from coordinator.store.tables import Device, Group, Round, Task, Tenant
from edge_runtime.protocol.errors import NotFound

MOST_FAULTS = 20
"""Shown of one device, the latest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a device was seen to do to a group.

    Attributes:
        other: The device at the other end; the device itself where there is none.
        evidence: What shows it, in hex digits, by name; none where a device is only suspected.
    """

    task: str
    round: int
    fault: str
    other: str
    evidence: Mapping[str, str]
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptOut:
    """A device in quarantine, and why."""

    device: str
    because: str
    at: datetime
    until: datetime
    faults: tuple[Seen, ...]


def quarantined(
    session: Session, tenant: Tenant, population: str, now: datetime, *, after: str, most: int
) -> list[KeptOut]:
    """The devices of a population that are kept out now, by id, from the first after one.

    Raises:
        NotFound: The tenant has no population of this name.
    """
    population_named(session, tenant, population)
    rows = session.exec(
        select(Quarantine)
        .join(Device, col(Device.id) == col(Quarantine.device_id))
        .where(Device.tenant == tenant.name, Device.population == population)
        .where(Quarantine.until > now, Quarantine.device_id > after)
        .order_by(col(Quarantine.device_id))
        .limit(most)
    ).all()
    return [_kept_out(session, row) for row in rows]


def release(session: Session, device: Device, now: datetime) -> KeptOut:
    """Let a device take part again; what it did stays written down, and counts no more.

    Raises:
        NotFound: It is not in quarantine.
    """
    row = session.get(Quarantine, device.id)
    if row is None:
        raise NotFound(f"the device {device.id!r} is not in quarantine")
    if row.until > now:
        row.until = now
        session.add(row)
    return _kept_out(session, row)


def _kept_out(session: Session, row: Quarantine) -> KeptOut:
    faults = tuple(_seen(session, row.device_id))
    return KeptOut(device=row.device_id, because=row.because, at=row.at, until=row.until, faults=faults)


def _seen(session: Session, device_id: str) -> Sequence[Seen]:
    found = session.exec(
        select(FaultRow, Round.number, Task.name)
        .join(Group, col(Group.id) == col(FaultRow.group_id))
        .join(Round, col(Round.id) == col(Group.round_id))
        .join(Task, col(Task.id) == col(Round.task_id))
        .where(FaultRow.device_id == device_id)
        .order_by(col(FaultRow.at).desc(), col(FaultRow.group_id), col(FaultRow.fault), col(FaultRow.other_device_id))
        .limit(MOST_FAULTS)
    ).all()
    return [
        Seen(
            task=task,
            round=number,
            fault=row.fault,
            other=row.other_device_id,
            evidence=json.loads(row.evidence),
            at=row.at,
        )
        for row, number, task in found
    ]
