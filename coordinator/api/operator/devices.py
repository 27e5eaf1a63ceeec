"""Devices as operators see them: what their apps say, when they came, and how to take one out for its owner."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from coordinator.api.operator.access import Body, Cursor, Limit, OperatorRoute, TenantOf, paged
from coordinator.api.parts import PartsOf
from coordinator.services import erasure
from coordinator.store.blobs import BlobKind
from coordinator.store.tables import Device

router = APIRouter(prefix="/populations/{population}/devices", route_class=OperatorRoute, tags=["devices"])


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


def _view(row: Device) -> DeviceView:
    return DeviceView(**{name: getattr(row, name) for name in DeviceView.model_fields})
