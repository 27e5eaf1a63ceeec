"""Who harmed a group, with the evidence, and who is kept out for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

from sqlmodel import Session, func, select

from coordinator.core.rounds import Standing
from coordinator.core.secure_groups import REMEMBERED, quarantine_for
from coordinator.store.group_tables import FaultRow, Quarantine
from coordinator.store.tables import Group, Participation, Round
from edge_runtime.protocol.reasons import Outcome


def record_fault(
    session: Session,
    group: Group,
    device_id: str,
    fault: str,
    now: datetime,
    *,
    other: str = "",
    evidence: Mapping[str, str] | None = None,
) -> None:
    """Keep what a device did to a group, and quarantine it if that is enough; again changes nothing.

    Args:
        other: The device at the other end.
        evidence: What shows it, in hex digits.
    """
    other = other or device_id
    if session.get(FaultRow, (group.id, device_id, fault, other)) is not None:
        return
    shown = json.dumps(dict(evidence or {}), sort_keys=True).encode()
    session.add(
        FaultRow(group_id=group.id, device_id=device_id, fault=fault, other_device_id=other, evidence=shown, at=now)
    )
    session.flush()
    before = session.get(Quarantine, device_id)
    since = now - REMEMBERED
    if before is not None:  # what led to a quarantine that is over counts no more
        since = max(since, before.until)
    groups = session.exec(
        select(func.count(func.distinct(FaultRow.group_id))).where(
            FaultRow.device_id == device_id, FaultRow.fault == fault, FaultRow.at > since
        )
    ).one()
    kept_out = quarantine_for(fault, groups)
    if kept_out is not None:
        _quarantine(session, group, device_id, fault, now, now + kept_out)


def _quarantine(session: Session, group: Group, device_id: str, fault: str, now: datetime, until: datetime) -> None:
    tenant = session.get_one(Round, group.round_id).tenant
    row = session.get(Quarantine, device_id)
    if row is None:
        session.add(Quarantine(device_id=device_id, tenant=tenant, because=fault, at=now, until=until))
    elif row.until < until:
        row.because, row.at, row.until = fault, now, until
        session.add(row)
    session.flush()


def is_quarantined(session: Session, device_id: str, now: datetime) -> bool:
    row = session.get(Quarantine, device_id)
    return row is not None and row.until > now


def release(session: Session, participation: Participation, now: datetime) -> None:
    """A group goes on without a participant, or came to nothing: it may join another, unless it is quarantined."""
    if participation.standing != Standing.TRAINED:
        return
    participation.group_id = None
    if is_quarantined(session, participation.device_id, now):
        participation.standing = Standing.ENDED
        participation.outcome = Outcome.QUARANTINED
        participation.ended_at = now
    session.add(participation)
