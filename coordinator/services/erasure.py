"""Operators look at devices, and erase one with everything that can still be told apart from others."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlmodel import Session, col, delete, select

from coordinator.core.rounds import GroupPhase, Standing
from coordinator.services import devices
from coordinator.services.catalogue import population_named
from coordinator.store.tables import Device, Group, Nonce, Participation, Report, Tenant
from edge_runtime.protocol.errors import NotFound
from edge_runtime.protocol.reasons import Outcome


def devices_of(session: Session, tenant: Tenant, population: str, after: str, most: int) -> Sequence[Device]:
    """The devices of a population by id, from the first after one.

    Raises:
        NotFound: The tenant has no population of this name.
    """
    population_named(session, tenant, population)
    return session.exec(
        select(Device)
        .where(Device.tenant == tenant.name, Device.population == population, Device.id > after)
        .order_by(col(Device.id))
        .limit(most)
    ).all()


def device_named(session: Session, tenant: Tenant, population: str, device_id: str) -> Device:
    """Raises: NotFound: The population has no such device."""
    population_named(session, tenant, population)
    device = session.get(Device, device_id)
    if device is None or (device.tenant, device.population) != (tenant.name, population):
        raise NotFound(f"the population {population!r} has no device {device_id!r}")
    return device


def erase(session: Session, device: Device, now: datetime) -> list[str]:
    """Take a device out for its owner, and erase what is derived from it; the addresses of report blobs to delete.

    Gone are what it said of itself, its open work, and its reports that are in no sum yet. What was added to a sum
    cannot be told apart there any more. Id and key stay, so that it cannot come back as if nothing had been.
    """
    devices.leave(session, device, now)
    device.region = device.hardware_class = device.attributes = None
    device.app_version_key = ""
    session.add(device)
    session.exec(delete(Nonce).where(col(Nonce.device_id) == device.id))
    found = session.exec(
        select(Report, Participation)
        .join(Participation, col(Participation.id) == col(Report.participation_id))
        .join(Group, col(Group.id) == col(Report.group_id))
        .where(Participation.device_id == device.id, col(Report.chunk).is_(None))
        .where(Group.phase == GroupPhase.REPORTING)
    ).all()
    for report, participation in found:
        participation.standing = Standing.ENDED
        participation.outcome = Outcome.OPTED_OUT
        participation.ended_at = now
        session.add(participation)
        session.delete(report)
    return [report.sha256 for report, _participation in found]
