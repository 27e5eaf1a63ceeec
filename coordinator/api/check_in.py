"""POST /v1/device/check-in: the one route that a million phones use all day.

It is answered before the framework looks at it, which costs half of all CPU otherwise. What it refuses, and how, is
what every other device route does; its place in the OpenAPI description is in `coordinator.api.device`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import time
from collections.abc import Callable
from typing import Final

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator.api.bell import Bell
from coordinator.api.desk import Desk, DeskFull
from coordinator.api.parts import body_of, device_headers, target_of
from coordinator.api.problems import problem_response
from coordinator.services.checkins import Knock, worth_holding
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import CHECK_IN_PATH, CheckIn, CheckInAnswer
from edge_runtime.protocol.errors import Refusal
from edge_runtime.protocol.signing import claimed, verify_body

TURNING_AWAY_S: Final = 5.0
"""A peer that ignores the window and asks again at once takes the core from those who wait; it has to wait, too.

Turning one away costs a third of answering one: connections / this is how many a second there are at most."""
_LOOK_S: Final = 1.0
"""How soon those who are turned away notice that the process is to stop."""


class CheckInDoor:
    """Answers check-ins at the desk.

    Args:
        turn_away: What a check-in hears when the desk is full.
        answered: Is told what each check-in heard: `assigned`, or the reason of its retry window.
    """

    def __init__(
        self,
        desk: Desk[Knock, CheckInAnswer],
        turn_away: Callable[[CheckIn], CheckInAnswer],
        bell: Bell,
        hold_s: float,
        answered: Callable[[str], None] = lambda _what: None,
    ) -> None:
        self._desk = desk
        self._turn_away = turn_away
        self._bell = bell
        self._hold_s = hold_s
        self._answered = answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            told = await self._answer(scope, receive)
        except Refusal as refusal:
            await problem_response(Request(scope), refusal)(scope, receive, send)
            return
        self._answered("assigned" if told.retry is None else told.retry.reason)
        answer = _written(told)
        headers = [(b"content-length", b"%d" % len(answer)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _answer(self, scope: Scope, receive: Receive) -> CheckInAnswer:
        limit = time.monotonic() + self._hold_s
        headers = device_headers(scope)
        claim = claimed(headers)
        body = await body_of(headers, receive, wire.MESSAGE_LIMIT_BYTES)
        verify_body(claim, hashlib.sha256(body).digest())
        knock = Knock(claim, target_of(scope), wire.decode(CheckIn, body))
        rung = self._bell.listen()
        try:
            answer = await self._desk.ask(knock)
        except DeskFull:
            await _wait_to_turn_away(scope)
            return self._turn_away(knock.message)
        with contextlib.suppress(DeskFull):  # it keeps the answer that it has
            while worth_holding(answer, self._hold_s) and (left_s := limit - time.monotonic()) > 0:
                if scope["app"].state.draining:
                    break  # whoever waits learns what there is, before the process stops
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(rung.wait(), left_s)
                if await Request(scope, receive).is_disconnected():
                    break  # an assignment given to nobody would be a participant lost
                rung = self._bell.listen()
                answer = await self._desk.ask(Knock(claim, knock.target, knock.message, again=True))
        return answer


class DevicesFirst(FastAPI):
    """An application whose check-ins go in by the door, and everything else by its router."""

    door: ASGIApp
    """The door, counted and logged as every other route is."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != CHECK_IN_PATH or scope["method"] != "POST":
            await super().__call__(scope, receive, send)
            if scope["type"] == "http" and scope["method"] != "GET":
                self.state.worker.hint()  # check-ins say for themselves whether anything moved
            return
        scope["app"], scope["endpoint"] = self, self.door
        try:
            await self.door(scope, receive, send)
        except ClientDisconnect:
            return  # nobody waits for an answer
        except Exception as bug:
            sorry = await self.exception_handlers[Exception](Request(scope), bug)  # type: ignore[misc]
            await sorry(scope, receive, send)


async def _wait_to_turn_away(scope: Scope) -> None:
    left_s = TURNING_AWAY_S
    while left_s > 0 and not scope["app"].state.draining:
        await asyncio.sleep(min(left_s, _LOOK_S))
        left_s -= _LOOK_S


def _written(answer: CheckInAnswer) -> bytes:
    return wire.encode(answer) if answer.assignment else _window_written(answer)


@functools.lru_cache(maxsize=4096)
def _window_written(answer: CheckInAnswer) -> bytes:
    return wire.encode(answer)
