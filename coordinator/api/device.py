"""The device protocol, version 1. Every request is signed with the device's key."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from fastapi import APIRouter, Request
from sqlmodel import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from coordinator.api.parts import (
    Parts,
    PartsOf,
    as_device,
    blob_response,
    message,
    signature_of,
    signed_body,
    target_of,
)
from coordinator.services import devices, releases, reports, round_headers
from coordinator.store.blobs import BlobKind
from coordinator.store.crash_points import CrashPoint, crash_point
from coordinator.store.database import database_now
from coordinator.store.tables import Device
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import CHECK_IN_PATH, bundle_path, checkpoint_path
from edge_runtime.protocol.enrolment import DEVICE_PATH, ENROL_PATH, Enrol
from edge_runtime.protocol.errors import BodyTooLarge, NotFound, Refusal, ReportLength, Unavailable
from edge_runtime.protocol.header import header_path
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.release import RELEASE_PATH, ReleaseQuery
from edge_runtime.protocol.report import (
    PART_BYTES,
    OutcomeNote,
    Receipt,
    ReportComplete,
    ReportHeld,
    outcome_path,
    parts_path,
    report_path,
)
from edge_runtime.protocol.signing import SignedBy

_OFFSET_DIGITS = 12
router = APIRouter(tags=["device"])


@router.post(ENROL_PATH)
async def enrol(request: Request, parts: PartsOf) -> Response:
    """Make a device known, once an installation."""
    claim, body = await signed_body(request)
    brought = wire.decode(Enrol, body)

    method, target = request.method, target_of(request.scope)
    return message(
        await run_in_threadpool(
            parts.database.transact,
            lambda s: devices.enrol(s, brought, claim, method, target, database_now(s), parts.authority),
        )
    )


@router.delete(DEVICE_PATH)
async def leave(request: Request, parts: PartsOf) -> Response:
    """Take the device out for ever; again changes nothing."""
    claim, _body = await signed_body(request, 0)
    answer = await as_device(request, parts, claim, devices.leave, leaving=True)
    parts.bell.ring()
    return message(answer)


@router.post(CHECK_IN_PATH)
async def check_in() -> Response:
    """Offer the device: an assignment, or a retry window with its reason.

    While a round is choosing, the request is held open for a while, so that nobody gains by asking often.
    """
    raise RuntimeError("`coordinator.api.check_in` answers before a router is asked; here is the description alone")


@router.post(RELEASE_PATH)
async def release(request: Request, parts: PartsOf) -> Response:
    """Name the checkpoint to use for inference."""
    claim, body = await signed_body(request)
    query = wire.decode(ReleaseQuery, body)
    return message(
        await as_device(request, parts, claim, lambda s, device, _now: releases.release_for(s, device, query))
    )


@router.get(bundle_path("{sha256}"))
async def bundle(sha256: str, request: Request, parts: PartsOf) -> Response:
    """The immutable bytes of a bundle; range requests resume a download."""
    return await _blob(request, parts, BlobKind.BUNDLE, sha256)


@router.get(checkpoint_path("{sha256}"))
async def checkpoint(sha256: str, request: Request, parts: PartsOf) -> Response:
    """The immutable bytes of a checkpoint; range requests resume a download."""
    return await _blob(request, parts, BlobKind.CHECKPOINT, sha256, reports.note_download)


@router.get(header_path("{participation}"))
async def round_header(participation: str, request: Request, parts: PartsOf) -> Response:
    """The signed header of the participation's round: its number in the task, and its clipping norm."""
    claim, _body = await signed_body(request, 0)
    return message(
        await as_device(
            request, parts, claim, lambda s, device, _now: round_headers.header_for(s, device, participation, parts.key)
        )
    )


@router.put(report_path("{participation}"))
async def report(participation: str, request: Request, parts: PartsOf) -> Response:
    """Take a report: durable before its receipt; the same report gets the same receipt."""
    claim = signature_of(request)
    sha256 = claim.body_digest.hex()
    expected, held = await _awaited(request, parts, claim, participation, sha256)
    announced = request.headers.get("content-length", str(expected.body_bytes))
    if announced != str(expected.body_bytes):  # not a byte of the body is read
        raise ReportLength(f"a report of this plan has {expected.body_bytes} bytes, and the request says otherwise")
    try:
        _claim, body = await signed_body(request, expected.body_bytes)
    except BodyTooLarge as problem:
        raise ReportLength(f"a report of this plan has {expected.body_bytes} bytes: {problem.detail}") from None

    return message(await run_in_threadpool(lambda: _counted(parts, claim.keyid, expected, held, sha256, lambda: body)))


@router.get(parts_path("{participation}"))
async def report_held(participation: str, request: Request, parts: PartsOf) -> Response:
    """How much of a report that comes in parts is here."""
    claim, _body = await signed_body(request, 0)
    expected, wanted = await _expected_part(request, parts, claim, participation)
    held = expected.body_bytes
    if wanted:
        held = await run_in_threadpool(parts.blobs.held_part, expected.tenant, participation)
    return message(ReportHeld(version=1, held_bytes=held))


@router.put(parts_path("{participation}") + "/{offset}")
async def report_part(participation: str, offset: str, request: Request, parts: PartsOf) -> Response:
    """Take a part of a report, where the ones before it end; again changes nothing."""
    claim, body = await signed_body(request, PART_BYTES)
    if not offset.isdecimal() or len(offset) > _OFFSET_DIGITS:
        raise NotFound("a part is addressed by its offset")
    expected, wanted = await _expected_part(request, parts, claim, participation)
    held = expected.body_bytes
    if wanted:
        held = await run_in_threadpool(
            parts.blobs.put_part, expected.tenant, participation, int(offset), body, expected.body_bytes
        )
    return message(ReportHeld(version=1, held_bytes=held))


@router.post(report_path("{participation}"))
async def report_complete(participation: str, request: Request, parts: PartsOf) -> Response:
    """Take a report whose parts are all here, as if it had come at once."""
    claim, body = await signed_body(request)
    complete = wire.decode(ReportComplete, body)
    expected, held = await _awaited(request, parts, claim, participation, complete.report_sha256)

    def whole() -> bytes:
        raw = parts.blobs.take_parts(expected.tenant, participation)
        if digest(raw).hex() != complete.report_sha256:
            parts.blobs.drop_parts(expected.tenant, participation)
            raise Unavailable("the parts are not this report; send them again", retry_after_s=60)
        return raw

    def store() -> Receipt:
        receipt = _counted(parts, claim.keyid, expected, held, complete.report_sha256, whole)
        parts.blobs.drop_parts(expected.tenant, participation)
        return receipt

    return message(await run_in_threadpool(store))


async def _awaited(
    request: Request, parts: Parts, claim: SignedBy, participation: str, sha256: str
) -> tuple[reports.Expected, Receipt | Refusal | None]:
    """What the report must look like, and what this one is told as things stand: once its body is read."""

    def look(session: Session, device: Device, _now: datetime) -> tuple[reports.Expected, Receipt | Refusal | None]:
        expected = reports.expected_report(session, device, participation)
        try:
            return expected, reports.check_acceptable(session, device.id, participation, sha256)
        except Refusal as refusal:
            return expected, refusal

    return await as_device(request, parts, claim, look)


async def _expected_part(
    request: Request, parts: Parts, claim: SignedBy, participation: str
) -> tuple[reports.Expected, bool]:
    """What the report must look like, and whether parts of it are still wanted: not, if it is held."""

    def look(session: Session, device: Device, _now: datetime) -> tuple[reports.Expected, bool]:
        expected = reports.expected_report(session, device, participation)
        return expected, reports.wants_parts(session, device, participation)

    return await as_device(request, parts, claim, look)


def _counted(
    parts: Parts,
    device: str,
    expected: reports.Expected,
    held: Receipt | Refusal | None,
    sha256: str,
    content: Callable[[], bytes],
) -> Receipt:
    """Make a report durable, then count it. The content is asked for if it is not held already."""
    if isinstance(held, Refusal):
        raise held
    if held is not None:
        return held
    body = content()
    crc32 = reports.store_report(parts.blobs, expected, body, sha256)
    crash_point(CrashPoint.REPORT_STORED)
    try:
        receipt = parts.database.transact(
            lambda session: reports.record_report(
                session, device, expected.participation, sha256, len(body), database_now(session), crc32
            )
        )
    except Refusal as refusal:
        reports.drop_refused(parts.blobs, expected, sha256, refusal)
        raise
    crash_point(CrashPoint.REPORT_RECORDED)
    return receipt


@router.post(outcome_path("{participation}"))
async def outcome(participation: str, request: Request, parts: PartsOf) -> Response:
    """End a participation without a report, and say why."""
    claim, body = await signed_body(request)
    note = wire.decode(OutcomeNote, body)
    return message(
        await as_device(
            request, parts, claim, lambda s, device, now: reports.note_outcome(s, device, participation, note, now)
        )
    )


async def _blob(
    request: Request,
    parts: Parts,
    kind: BlobKind,
    sha256: str,
    note: Callable[[Session, Device, str, datetime], None] = lambda *_nothing: None,
) -> Response:
    claim, _body = await signed_body(request, 0)

    def look(session: Session, device: Device, now: datetime) -> str:
        note(session, device, sha256, now)
        return device.tenant

    tenant = await as_device(request, parts, claim, look)
    return await run_in_threadpool(blob_response, parts.blobs, tenant, kind, sha256, request.headers.get("range"))
