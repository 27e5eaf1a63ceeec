"""Groups that sum securely, as devices see them: appointments, steps, and what follows each, held open for a while."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

from fastapi import APIRouter, Request
from sqlmodel import Session
from starlette.responses import Response

from coordinator.api.parts import Parts, PartsOf, as_device, look, message, signed_body
from coordinator.services import group_answers, group_steps
from coordinator.store.crash_points import CrashPoint, crash_point
from coordinator.store.database import database_now
from coordinator.store.tables import Device, Participation
from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import GroupEnded, NotFound, UnknownDevice
from edge_runtime.protocol.group import Appointment, NotYet, Step, Trained, step_path, trained_path
from edge_runtime.protocol.keys import PublicKey

router = APIRouter(tags=["device"])
Answer = TypeVar("Answer")

_STEP_PATH = step_path("{group}", Step.JOIN).removesuffix(Step.JOIN) + "{step}"


@router.post(trained_path("{participation}"))
async def trained(participation: str, request: Request, parts: PartsOf) -> Response:
    """Say that a participant has trained; the answer is when to come, and in the end which group to join.

    Held open for a while when that is soon.
    """
    claim, body = await signed_body(request)
    wire.decode(Trained, body)

    def first(session: Session, device: Device, _now: datetime) -> Appointment:
        return group_steps.trained(session, device, participation, database_now(session))

    def again(session: Session) -> Appointment:
        kept = session.get(Participation, participation)
        if kept is None:
            raise GroupEnded("the participation is over")
        return group_steps.appointment(session, kept, database_now(session))

    def worth_holding(answer: Appointment) -> bool:
        return answer.group is None and answer.in_s <= parts.hold_s

    async def asked() -> Appointment:
        return await as_device(request, parts, claim, first)

    found = await _held(request, parts, asked, again, worth_holding)
    return message(found)


@router.post(_STEP_PATH)
async def take_step(group: str, step: str, request: Request, parts: PartsOf) -> Response:
    """Take a step of a group; the same again changes nothing."""
    claim, body = await signed_body(request)
    named, authority = _named(step), _authority(parts)
    answer = await as_device(
        request,
        parts,
        claim,
        lambda session, device, _now: group_steps.take_step(
            session, device, group, named, body, database_now(session), authority
        ),
    )
    crash_point(CrashPoint.STEP_TAKEN)
    return message(answer)


@router.get(_STEP_PATH)
async def what_follows(group: str, step: str, request: Request, parts: PartsOf) -> Response:
    """Ask for what follows a step: 200 is the next message, 202 that it is not there yet. Held open for a while."""
    claim, _body = await signed_body(request, 0)
    named, authority = _named(step), _authority(parts)
    asking: list[str] = []

    def first(session: Session, device: Device, _now: datetime) -> group_answers.Following | NotYet:
        asking.append(device.id)
        return group_answers.what_follows(session, device, group, named, database_now(session), authority)

    def again(session: Session) -> group_answers.Following | NotYet:
        device = session.get(Device, asking[-1])
        if device is None:
            raise UnknownDevice("enrol first")
        return group_answers.what_follows(session, device, group, named, database_now(session), authority)

    def not_there(answer: group_answers.Following | NotYet) -> bool:
        return isinstance(answer, NotYet)

    found = await _held(request, parts, lambda: as_device(request, parts, claim, first), again, not_there)
    if isinstance(found, bytes):
        return Response(found, media_type="application/json")
    status = 202 if isinstance(found, NotYet) else 200
    return Response(wire.encode(found), status, media_type="application/json")


async def _held(
    request: Request,
    parts: Parts,
    first: Callable[[], Awaitable[Answer]],
    again: Callable[[Session], Answer],
    worth_holding: Callable[[Answer], bool],
) -> Answer:
    """Answer at once, or when the worker changed something, as long as the answer may become a better one."""
    limit = time.monotonic() + parts.hold_s
    rung = parts.bell.listen()
    answer = await first()
    while worth_holding(answer) and (left_s := limit - time.monotonic()) > 0:
        if request.app.state.draining:
            break
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(rung.wait(), left_s)
        if await request.is_disconnected():
            break
        rung = parts.bell.listen()
        answer = await look(parts, again)
    return answer


def _named(step: str) -> Step:
    try:
        return Step(step)
    except ValueError:
        raise NotFound("a group has no such step") from None


def _authority(parts: Parts) -> PublicKey:
    if parts.authority is None:
        raise GroupEnded("this coordinator has no enrolment authority, and forms no groups")
    return parts.authority.public
