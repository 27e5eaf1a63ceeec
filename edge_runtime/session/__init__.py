"""Visits to the coordinator as generators without I/O: they yield requests and are sent the answers.

The phone, the simulator and the load test drive the very same generators; they differ only in the loop.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import Malformed, Unavailable, refusal_named

Result = TypeVar("Result")
Message = TypeVar("Message")


class Unreachable(Exception):
    """The network, or the other end of it, gave no answer to any try."""


class Sink(Protocol):
    """Where a long answer is put as it comes, so that what came is not fetched again."""

    @property
    def held_bytes(self) -> int:
        """How much it has."""

    def write(self, part: bytes) -> None:
        """Take the next bytes."""

    def restart(self) -> None:
        """Forget everything: the answer comes from its beginning."""

    def content(self) -> bytes | memoryview:
        """All it has."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to send; whoever sends it signs it, afresh for every try."""

    method: str
    path: str
    body: bytes = b""
    answer_limit_bytes: int = wire.MESSAGE_LIMIT_BYTES
    """Whoever sends it reads no longer answer: a coordinator cannot fill a phone."""
    sink: Sink | None = None
    """Of an immutable answer: whoever sends it may ask for what is missing, put it here, and answer with nothing."""
    after_s: float = 0.0
    """Whoever sends it waits so long first."""
    patience_s: float | None = None
    """Whoever sends it goes on trying for so long; None for as often as it tries everything."""


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes
    retry_after_s: float | None = None
    """What the answer's `Retry-After` asks for, in seconds: a proxy's or the coordinator's."""


Session: TypeAlias = Generator[Request, Response, Result]


def ask(path: str, message: object, kind: type[Message], method: str = "POST") -> Session[Message]:
    """Send a control message and read the answer.

    Raises:
        Refusal: The coordinator refused, or the answer is not one.
    """
    return wire.decode(kind, accepted((yield Request(method, path, wire.encode(message)))))


def fetch(path: str, limit_bytes: int, sink: Sink | None = None) -> Session[bytes | memoryview]:
    """Fetch immutable bytes; with a sink, only what it lacks.

    Raises:
        Refusal: The coordinator refused.
    """
    body = accepted((yield Request("GET", path, answer_limit_bytes=limit_bytes, sink=sink)))
    return sink.content() if sink is not None and not body else body


def accepted(response: Response) -> bytes:
    """Return the body of an answer that accepts.

    Raises:
        Refusal: The coordinator refused, by the code it sent.
    """
    if response.status in (200, 206):
        return response.body
    from edge_runtime.protocol.enrolment import Problem  # with the first refusal: `Unreachable` alone is an app's name

    try:
        problem = wire.decode(Problem, response.body)
    except Malformed:
        sentence = f"the answer is HTTP {response.status} and not the coordinator's"
        raise Unavailable(sentence, retry_after_s=response.retry_after_s) from None
    after_s = response.retry_after_s if problem.retry_after_s is None else problem.retry_after_s
    raise refusal_named(problem.code, problem.detail, after_s)
