"""The loop that drives a session over HTTP. The only file that sleeps, opens sockets and reads the clock."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import httpx

from edge_runtime.protocol import wire
from edge_runtime.protocol.enrolment import Problem
from edge_runtime.protocol.errors import ClockSkew, Malformed
from edge_runtime.protocol.keys import SigningKey, device_id
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.signing import NONCE_BYTES, sign_request
from edge_runtime.session import Request, Response, Session

Result = TypeVar("Result")

LATEST_SERVER_TIME = 10**11
"""Seconds since the epoch. A later time, or a negative one, cannot be signed and is nobody's clock."""

RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


class Unreachable(Exception):
    """The network, or the other end of it, gave no answer to any try."""


Send = Callable[[Request, dict[str, str]], Response]
"""Sends one signed request and returns the answer. Raises `Unreachable` when there is none."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a request is tried within a visit, and how far apart."""

    tries: int = 3
    pause_s: float = 5.0


@dataclass(slots=True)
class Driver:
    """Signs and sends what sessions yield.

    Args:
        key: The device key; it never leaves the device.
        tenant: Determines the device id together with the key.
        send: Carries one request.
        clock: Seconds since the epoch; only signatures depend on it.
        sleep: Waits between tries.
    """

    key: SigningKey
    tenant: str
    send: Send
    retries: Retries = Retries()
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    device_id: str = field(init=False)
    clock_offset_s: int = field(init=False, default=0)
    """Learned from a coordinator that refused our clock; used for signatures only."""

    def __post_init__(self) -> None:
        self.device_id = device_id(self.tenant, self.key.public)

    def run(self, session: Session[Result]) -> Result:
        """Drive a session to its end and return its result.

        Raises:
            Unreachable: A request got no answer in any of its tries.
            Refusal: The session raised it.
        """
        try:
            request = next(session)
            while True:
                request = session.send(self._exchange(request))
        except StopIteration as end:
            result: Result = end.value
            return result
        finally:
            session.close()

    def _exchange(self, request: Request) -> Response:
        failure: Unreachable | None = None
        corrected = False
        tried = 0
        while tried < self.retries.tries:
            try:
                response = self.send(request, self._signature(request))
            except Unreachable as problem:
                failure = problem
            else:
                if not corrected and self._corrects_clock(response):
                    corrected = True
                    continue
                if response.status not in RETRIED_STATUSES:
                    return response
                failure = Unreachable(f"the coordinator answered HTTP {response.status}")
            tried += 1
            if tried < self.retries.tries:
                self.sleep(self.retries.pause_s)
        raise failure or Unreachable("no try was allowed")

    def _signature(self, request: Request) -> dict[str, str]:
        return sign_request(
            self.key,
            self.device_id,
            request.method,
            request.path,
            request.body,
            created=int(self.clock()) + self.clock_offset_s,
            nonce=os.urandom(NONCE_BYTES),
        )

    def _corrects_clock(self, response: Response) -> bool:
        """Learn the offset from a clock-skew refusal; True if the request is worth signing again."""
        if response.status != 401:
            return False
        try:
            problem = wire.decode(Problem, response.body)
        except Malformed:
            return False
        if problem.code != ClockSkew.code or not 0 <= problem.server_time <= LATEST_SERVER_TIME:
            return False
        self.clock_offset_s = problem.server_time - int(self.clock())
        return True


def time_limit(seconds: float, clock: Callable[[], float] = time.monotonic) -> Callable[[], Outcome | None]:
    """What training asks before every step: `Outcome.TIME_LIMIT` once so many seconds have passed, else None."""
    limit = clock() + seconds
    return lambda: Outcome.TIME_LIMIT if clock() >= limit else None


def over_http(client: httpx.Client) -> Send:
    """Send through an HTTP client whose `base_url` is the coordinator.

    An answer is taken as it comes, never unpacked, and no further than the request's limit.
    """

    def send(request: Request, headers: dict[str, str]) -> Response:
        plainly = {**headers, "accept-encoding": "identity"}
        try:
            with client.stream(request.method, request.path, content=request.body, headers=plainly) as answer:
                body = bytearray()
                for part in answer.iter_raw():
                    body += part
                    if len(body) > request.answer_limit_bytes:
                        raise Unreachable(f"{request.method} {request.path}: the answer is too long")
                return Response(answer.status_code, bytes(body))
        except (httpx.TransportError, httpx.InvalidURL) as problem:
            raise Unreachable(f"{request.method} {request.path}: {problem}") from problem

    return send


def http_client(coordinator: str, *, connect_s: float = 10.0, read_s: float = 60.0) -> httpx.Client:
    """A client for the coordinator at this address, with limits on connecting and on every read, in seconds."""
    return httpx.Client(base_url=coordinator, timeout=httpx.Timeout(read_s, connect=connect_s), trust_env=False)
