"""Which checkpoint a device uses for inference, and who says so."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime

from sqlmodel import Session, col, func, select

from coordinator.core.releases import PPM, Offer, offered
from coordinator.core.tasks import ENDED, TaskState
from coordinator.services.catalogue import population_named
from coordinator.store.tables import CheckpointRow, Device, Population, Release, Task, Tenant
from edge_runtime.protocol.errors import Malformed, NotFound
from edge_runtime.protocol.release import Released, ReleaseQuery

_LONGEST_CURSOR = 10
"""Digits: numbers are no larger."""


def release_for(session: Session, device: Device, query: ReleaseQuery) -> Released:
    """Name the newest release that includes the device; before the first one, the newest model of the newest task.

    Raises:
        NotFound: There is none, or the device is enrolled in another population.
    """
    if query.population != device.population:
        raise NotFound("there is no released model for this device")
    population = session.get_one(Population, (device.tenant, device.population))
    rows = _rows(session, device.tenant, device.population)
    if not rows:
        return _newest_of_tasks(session, device)
    found = offered(map(_offer, rows), population.bucket_key, device.id)
    if found is None:
        raise NotFound("no release includes this device")
    checkpoint = session.get_one(CheckpointRow, (device.tenant, found.checkpoint_sha256))
    return _released(checkpoint, final=False)


def _newest_of_tasks(session: Session, device: Device) -> Released:
    task = session.exec(
        select(Task)
        .where(Task.tenant == device.tenant, Task.population == device.population)
        .where(col(Task.state).not_in((TaskState.DRAFT, TaskState.APPROVED)))
        .order_by(col(Task.created_at).desc(), col(Task.id))
    ).first()
    if task is None:
        raise NotFound("there is no released model for this device")
    newest = session.get_one(CheckpointRow, (task.tenant, task.checkpoint_sha256))
    return _released(newest, final=task.state in ENDED)


def _released(checkpoint: CheckpointRow, *, final: bool) -> Released:
    return Released(
        version=1,
        bundle_sha256=checkpoint.bundle_sha256,
        checkpoint_sha256=checkpoint.sha256,
        model_version=checkpoint.model_version,
        final=final,
    )


def releases_of(session: Session, tenant: Tenant, population: str, before: str, most: int) -> Sequence[Release]:
    """The releases of a population, newest first, withdrawn ones too, from the first before a number.

    Raises:
        NotFound: The tenant has no population of this name.
        Malformed: `before` is no number, and not empty.
    """
    population_named(session, tenant, population)
    if before and not (before.isascii() and before.isdecimal() and len(before) <= _LONGEST_CURSOR):
        raise Malformed("the cursor is not one that this list gave out")
    of = (Release.tenant == tenant.name, Release.population == population)
    query = select(Release).where(*of).order_by(col(Release.number).desc()).limit(most)
    return session.exec(query.where(Release.number < int(before)) if before else query).all()


def create_release(
    session: Session, tenant: Tenant, population: str, checkpoint_sha256: str, share_ppm: int, now: datetime
) -> Release:
    """Offer a model version to a share of a population; the same offer as the newest one again changes nothing.

    Raises:
        NotFound: The tenant has no such population or checkpoint.
        Malformed: The share is none.
    """
    population_named(session, tenant, population)
    _check_share(share_ppm)
    if session.get(CheckpointRow, (tenant.name, checkpoint_sha256)) is None:
        raise NotFound("there is no such checkpoint")
    newest = next(iter(_rows(session, tenant.name, population)), None)
    same = newest is not None and (newest.checkpoint_sha256, newest.share_ppm) == (checkpoint_sha256, share_ppm)
    if newest is not None and same and newest.withdrawn_at is None:
        return newest
    last = session.exec(
        select(func.max(Release.number)).where(Release.tenant == tenant.name, Release.population == population)
    ).one()
    release = Release(
        id=secrets.token_hex(16),
        tenant=tenant.name,
        population=population,
        number=(last or 0) + 1,
        checkpoint_sha256=checkpoint_sha256,
        share_ppm=share_ppm,
        created_at=now,
    )
    session.add(release)
    return release


def set_share(session: Session, tenant: Tenant, population: str, number: int, share_ppm: int) -> Release:
    """Offer a release to more devices, or to fewer; who had it at a smaller share has it at a larger one.

    Raises:
        NotFound: The population has no release of this number.
        Malformed: The share is none.
    """
    _check_share(share_ppm)
    release = _numbered(session, tenant, population, number)
    release.share_ppm = share_ppm
    session.add(release)
    return release


def withdraw(session: Session, tenant: Tenant, population: str, number: int, now: datetime) -> Release:
    """Take a release back: its devices return to the one before. Again changes nothing.

    Raises:
        NotFound: The population has no release of this number.
    """
    release = _numbered(session, tenant, population, number)
    release.withdrawn_at = release.withdrawn_at or now
    session.add(release)
    return release


def _numbered(session: Session, tenant: Tenant, population: str, number: int) -> Release:
    population_named(session, tenant, population)
    release = session.exec(
        select(Release).where(Release.tenant == tenant.name, Release.population == population, Release.number == number)
    ).first()
    if release is None:
        raise NotFound(f"the population {population!r} has no release {number}")
    return release


def _check_share(share_ppm: int) -> None:
    if not 0 < share_ppm <= PPM:
        raise Malformed("the share of a release is above 0 and at most 1; to take it back, withdraw it")


def _rows(session: Session, tenant: str, population: str) -> Sequence[Release]:
    return session.exec(
        select(Release)
        .where(Release.tenant == tenant, Release.population == population)
        .order_by(col(Release.number).desc())
    ).all()


def _offer(row: Release) -> Offer:
    return Offer(row.number, row.checkpoint_sha256, row.share_ppm, row.withdrawn_at is not None)
