"""Devices as operators see them: what their apps say, when they came, and how to take one out for its owner."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from coordinator.api.operator.access import Body, Cursor, Limit, OperatorRoute, TenantOf, paged
from coordinator.api.parts import PartsOf
from coordinator.services import erasure, quarantines
from coordinator.store.blobs import BlobKind
from coordinator.store.tables import Device

router = APIRouter(prefix="/populations/{population}/devices", route_class=OperatorRoute, tags=["devices"])
kept_out = APIRouter(prefix="/populations/{population}/quarantines", route_class=OperatorRoute, tags=["devices"])


class DeviceView(Body):
    id: str = Field(examples=["5f1d0e1f6f0c4b0c8a3bb86f3c9d2e11"])
    app: str
    app_version: str
    platform: str
    evidence: str
    region: str | None
    hardware_class: str | None
    attributes: dict[str, Any] | None
    enrolled_at: datetime
    seen_at: datetime | None
    participated_at: datetime | None
    participations: int
    left_at: datetime | None


class FaultView(Body):
    task: str
    round: int
    fault: str = Field(examples=["bad-box"])
    other: str = Field(description="The device at the other end; the device itself where there is none.")
    evidence: dict[str, str] = Field(description="What shows it, in hex digits; nothing where it is only suspected.")
    at: datetime


class QuarantineView(Body):
    device: str = Field(examples=["5f1d0e1f6f0c4b0c8a3bb86f3c9d2e11"])
    because: str
    at: datetime
    until: datetime
    faults: tuple[FaultView, ...] = Field(description="The latest first, 20 at most.")


@router.get("")
def list_devices(
    population: str,
    request: Request,
    response: Response,
    tenant: TenantOf,
    parts: PartsOf,
    limit: Limit = 100,
    cursor: Cursor = "",
) -> list[DeviceView]:
    """The devices of a population, by id."""
    with parts.database.reading() as session:
        found = erasure.devices_of(session, tenant, population, after=cursor, most=limit + 1)
    return [_view(one) for one in paged(request, response, found, limit, lambda one: one.id)]


@router.get("/{device}")
def get_device(population: str, device: str, tenant: TenantOf, parts: PartsOf) -> DeviceView:
    """What is known of one device."""
    with parts.database.reading() as session:
        return _view(erasure.device_named(session, tenant, population, device))


@router.delete("/{device}")
def delete_device(population: str, device: str, tenant: TenantOf, parts: PartsOf) -> DeviceView:
    """Take a device out for its owner, with everything that can still be told apart; again changes nothing."""
    with parts.database.writing() as session:
        found = erasure.device_named(session, tenant, population, device)
        blobs = erasure.erase(session, found, parts.now())
    for sha256 in blobs:
        parts.blobs.delete(tenant.name, BlobKind.REPORT, sha256)
    parts.bell.ring()
    return _view(found)


@kept_out.get("")
def list_quarantines(
    population: str,
    request: Request,
    response: Response,
    tenant: TenantOf,
    parts: PartsOf,
    limit: Limit = 100,
    cursor: Cursor = "",
) -> list[QuarantineView]:
    """Devices that are kept out for what they did to groups that sum securely, with the evidence, by id."""
    with parts.database.reading() as session:
        found = quarantines.quarantined(session, tenant, population, parts.now(), after=cursor, most=limit + 1)
    return [_kept_out(one) for one in paged(request, response, found, limit, lambda one: one.device)]


@kept_out.delete("/{device}")
def delete_quarantine(population: str, device: str, tenant: TenantOf, parts: PartsOf) -> QuarantineView:
    """Let a device take part again, from now on; again changes nothing."""
    with parts.database.writing() as session:
        found = erasure.device_named(session, tenant, population, device)
        return _kept_out(quarantines.release(session, found, parts.now()))


def _kept_out(found: quarantines.KeptOut) -> QuarantineView:
    faults = tuple(FaultView(**{name: getattr(one, name) for name in FaultView.model_fields}) for one in found.faults)
    return QuarantineView(device=found.device, because=found.because, at=found.at, until=found.until, faults=faults)


def _view(row: Device) -> DeviceView:
    return DeviceView(**{name: getattr(row, name) for name in DeviceView.model_fields})
