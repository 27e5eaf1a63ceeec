"""Releases: which model version devices use for inference."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter, Path, Request, Response
from pydantic import Field

from coordinator.api.operator.access import Body, Cursor, Limit, OperatorRoute, TenantOf, paged
from coordinator.api.parts import PartsOf
from coordinator.core.releases import PPM
from coordinator.services import privacy_claims, releases
from coordinator.store.tables import Release

router = APIRouter(prefix="/populations/{population}/releases", route_class=OperatorRoute, tags=["releases"])

Number = Path(ge=1, le=1 << 31)
Share = Field(gt=0, le=1, examples=[0.05], description="Of the population's devices, by a keyed hash of their ids.")


class ShareRequest(Body):
    share: float = Share


class ReleaseRequest(ShareRequest):
    checkpoint_sha256: str = Field(examples=["80eedb5c…"])


class ReleaseView(Body):
    number: int
    checkpoint_sha256: str
    share: float
    created_at: datetime
    withdrawn_at: datetime | None


@router.get("")
def list_releases(
    request: Request,
    response: Response,
    population: str,
    tenant: TenantOf,
    parts: PartsOf,
    limit: Limit = 100,
    cursor: Cursor = "",
) -> list[ReleaseView]:
    """The releases of a population, newest first."""
    with parts.database.reading() as session:
        found = releases.releases_of(session, tenant, population, before=cursor, most=limit + 1)
    return [_view(row) for row in paged(request, response, found, limit, lambda row: str(row.number))]


@router.post("")
def post_release(population: str, wanted: ReleaseRequest, tenant: TenantOf, parts: PartsOf) -> ReleaseView:
    """Offer a model version to a share of the devices; what is claimed of those who trained it is kept beside it.

    The claim is by the ledger to which its training was charged, which may be another population's; a model that nobody
    trained has none. Refused where a population with a budget trained it without a claim, two accountants differ,
    a target delta is too large for the devices of by now, or the ledger is damaged.
    """
    claims = privacy_claims.judge_model(parts.database, tenant, wanted.checkpoint_sha256, parts.second_opinion)
    with parts.database.writing() as session:
        release = releases.create_release(
            session, tenant, population, wanted.checkpoint_sha256, _ppm(wanted.share), parts.now()
        )
        for judged in claims:
            here = judged.book.whose.population == population
            privacy_claims.record(session, judged, parts.now(), release.number if here else None)
        return _view(release)


@router.put("/{number}/share")
def put_share(
    population: str, wanted: ShareRequest, tenant: TenantOf, parts: PartsOf, number: int = Number
) -> ReleaseView:
    """Widen a canary, or narrow it; a wider one keeps whom it had."""
    with parts.database.writing() as session:
        return _view(releases.set_share(session, tenant, population, number, _ppm(wanted.share)))


@router.post("/{number}/withdraw")
def withdraw(population: str, tenant: TenantOf, parts: PartsOf, number: int = Number) -> ReleaseView:
    """Roll back: its devices return to the release before."""
    with parts.database.writing() as session:
        return _view(releases.withdraw(session, tenant, population, number, parts.now()))


def _ppm(share: float) -> int:
    return max(1, round(share * PPM))


def _view(row: Release) -> ReleaseView:
    return ReleaseView(
        number=row.number,
        checkpoint_sha256=row.checkpoint_sha256,
        share=row.share_ppm / PPM,
        created_at=row.created_at,
        withdrawn_at=row.withdrawn_at,
    )
