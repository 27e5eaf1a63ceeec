"""Visits to the coordinator as generators without I/O: they yield requests and are sent the answers.

The phone, the simulator and the load test drive the very same generators; they differ only in the loop.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from edge_runtime.protocol import wire
from edge_runtime.protocol.enrolment import Problem
from edge_runtime.protocol.errors import Malformed, Unavailable, refusal_named

Result = TypeVar("Result")
Message = TypeVar("Message")


@dataclass(frozen=True, slots=True)
class Request:
    """What to send; whoever sends it signs it, afresh for every try."""

    method: str
    path: str
    body: bytes = b""
    answer_limit_bytes: int = wire.MESSAGE_LIMIT_BYTES
    """Whoever sends it reads no longer answer: a coordinator cannot fill a phone."""


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes


Session: TypeAlias = Generator[Request, Response, Result]


def ask(path: str, message: object, kind: type[Message], method: str = "POST") -> Session[Message]:
    """Send a control message and read the answer.

    Raises:
        Refusal: The coordinator refused, or the answer is not one.
    """
    return wire.decode(kind, accepted((yield Request(method, path, wire.encode(message)))))


def accepted(response: Response) -> bytes:
    """Return the body of an answer that accepts.

    Raises:
        Refusal: The coordinator refused, by the code it sent.
    """
    if response.status == 200:
        return response.body
    try:
        problem = wire.decode(Problem, response.body)
    except Malformed:
        raise Unavailable(f"the answer is HTTP {response.status} and not the coordinator's") from None
    raise refusal_named(problem.code, problem.detail, problem.retry_after_s)
