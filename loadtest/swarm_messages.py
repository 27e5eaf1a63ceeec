"""What the command line tells the swarm's process, and what it hears from it; encoded like control messages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmOrder:
    """A swarm to run. Holds no secret: the swarm knows public keys alone, and each phone makes its own."""

    url: str
    tenant: str
    population: str
    tenant_key: bytes
    coordinator_key: bytes
    phones: int
    spawn_rate: float
    """Phones started in a second."""
    seconds: float
    seed: int
    """Of the made-up deltas, dropouts and durations."""
    dropout_share: float
    """Of the assignments that end with an outcome instead of a report."""
    speed_up: float
    """Waiting and training take this many times less than a phone would take."""
    out: str
    """Folder of locust's own statistics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How a running swarm stands."""

    elapsed_s: float
    phones: int
    requests: int
    failures: int
    receipts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStatistics:
    """One kind of request over the whole run; times in milliseconds."""

    kind: str
    requests: int
    failures: int
    per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Requests of one kind that failed in one way."""

    kind: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Visits that ended in one way: a reason code, the code of a refusal, or `unreachable`."""

    reason: str
    visits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmResult:
    """What the phones saw.

    Attributes:
        crashes: Exceptions that no phone should ever meet.
        reports_made: Distinct reports that phones began to send.
        receipts: Reports that the coordinator acknowledged.
        cpu_s: Processor seconds of the swarm's process.
    """

    seconds: float
    requests: tuple[RequestStatistics, ...]
    failures: tuple[Failure, ...]
    endings: tuple[Ending, ...]
    crashes: int
    reports_made: int
    receipts: int
    cpu_s: float
