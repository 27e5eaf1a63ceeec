"""Bundles and checkpoints: the graphs that tenants bring, and their model versions."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter, Request, Response
from pydantic import Field

from coordinator.api.operator.access import Body, Cursor, Limit, OperatorRoute, RawBody, TenantOf, paged, takes
from coordinator.api.parts import PartsOf, blob_response
from coordinator.services import catalogue
from coordinator.store.blobs import BlobKind
from coordinator.store.tables import CheckpointRow
from edge_runtime.protocol.bundle import BUNDLE_LIMIT_BYTES
from edge_runtime.protocol.errors import NotFound

router = APIRouter(route_class=OperatorRoute, tags=["models"])


class CheckpointView(Body):
    sha256: str
    bundle_sha256: str
    model_version: int = Field(examples=[12])
    weights_sha256: str
    created_at: datetime


@router.put("/bundles/{sha256}", status_code=204)
@takes(BUNDLE_LIMIT_BYTES)
def put_bundle(sha256: str, raw: RawBody, tenant: TenantOf, parts: PartsOf) -> None:
    """Bring a bundle signed by the tenant key; again changes nothing."""
    manifest = catalogue.store_bundle(parts.blobs, tenant, sha256, raw)
    with parts.database.writing() as session:
        catalogue.record_bundle(session, tenant, sha256, manifest, parts.now())


@router.post("/bundles/{sha256}/checkpoints")
@takes(BUNDLE_LIMIT_BYTES)
def post_checkpoint(sha256: str, raw: RawBody, tenant: TenantOf, parts: PartsOf) -> CheckpointView:
    """Bring first weights signed by the tenant key; the answer names the model version signed here."""
    with parts.database.reading() as session:
        manifest = catalogue.manifest_of(session, tenant, sha256)
    checkpoint = catalogue.sign_imported(parts.blobs, tenant, sha256, manifest, raw, parts.key)
    with parts.database.writing() as session:
        return _view(catalogue.record_checkpoint(session, tenant.name, checkpoint, parts.now()))


@router.get("/bundles/{sha256}/checkpoints")
def list_checkpoints(
    sha256: str,
    request: Request,
    response: Response,
    tenant: TenantOf,
    parts: PartsOf,
    limit: Limit = 100,
    cursor: Cursor = "",
) -> list[CheckpointView]:
    """The model versions of a bundle, newest first."""
    with parts.database.reading() as session:
        found = catalogue.checkpoints(session, tenant, sha256, before=cursor, most=limit + 1)
    return [_view(row) for row in paged(request, response, found, limit, catalogue.checkpoint_cursor)]


@router.get("/checkpoints/{sha256}/content", response_class=Response)
def get_checkpoint(sha256: str, request: Request, tenant: TenantOf, parts: PartsOf) -> Response:
    """The bytes of a model version."""
    return blob_response(parts.blobs, tenant.name, BlobKind.CHECKPOINT, sha256, request.headers.get("range"))


@router.get("/checkpoints/{sha256}")
def get_checkpoint_view(sha256: str, tenant: TenantOf, parts: PartsOf) -> CheckpointView:
    """What is known of a model version."""
    with parts.database.reading() as session:
        row = session.get(CheckpointRow, (tenant.name, sha256))
    if row is None:
        raise NotFound("there is no such checkpoint")
    return _view(row)


def _view(row: CheckpointRow) -> CheckpointView:
    return CheckpointView(
        sha256=row.sha256,
        bundle_sha256=row.bundle_sha256,
        model_version=row.model_version,
        weights_sha256=row.weights_sha256,
        created_at=row.created_at,
    )
