"""Whether a load test passed: a pure function of what phones and coordinator say, and of limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from loadtest.behaviour import REFUSED_BY_THE_PHONE
from loadtest.kinds import Kind
from loadtest.swarm_messages import SwarmResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a load test has to keep."""

    failed_share: float
    """Of all requests, at most."""
    check_in_p95_ms: float
    """At most; of the check-ins that were not held open."""
    rounds_committed: int
    """At least."""
    reports_counted: int
    """At least; in committed rounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorView:
    """What the coordinator says at the end, through the operator API.

    Attributes:
        alive: It answered everything that was asked.
        reports_held: Reports of all rounds.
        reports_counted: Those of committed rounds.
        weights_changed: The newest model version has other weights than the first.
    """

    alive: bool
    rounds_committed: int = 0
    rounds_abandoned: int = 0
    reports_held: int = 0
    reports_counted: int = 0
    weights_changed: bool = False


class Bound(StrEnum):
    """On which side of its limit a measure has to be; the limit itself is always good enough."""

    AT_LEAST = "at-least"
    AT_MOST = "at-most"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One measure against one limit; facts are 1 or 0."""

    name: str
    passed: bool
    measured: float
    bound: Bound
    limit: float
    unit: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Verdict:
    passed: bool
    checks: tuple[Check, ...]


def judge(swarm: SwarmResult, coordinator: CoordinatorView, limits: Limits) -> Verdict:
    """Hold a finished run against its limits; it passed if every check did."""
    checks = (
        *_checks_of_requests(swarm, limits),
        *_checks_of_phones(swarm),
        *_checks_of_rounds(coordinator, limits),
        *_checks_of_receipts(swarm, coordinator),
        _at_least("coordinator-alive", int(coordinator.alive), 1, "", "The coordinator answers at the end."),
    )
    return Verdict(all(check.passed for check in checks), checks)


def _checks_of_requests(swarm: SwarmResult, limits: Limits) -> Iterator[Check]:
    sent = sum(row.requests for row in swarm.requests)
    failed = sum(row.failures for row in swarm.requests)
    at_once = next((row for row in swarm.requests if row.kind == Kind.CHECK_IN), None)
    check_ins = sum(row.requests for row in swarm.requests if row.kind in (Kind.CHECK_IN, Kind.HELD_CHECK_IN))
    yield _at_least("check-ins", check_ins, 1, "requests", "The phones checked in at all.")
    worst = swarm.failures[0] if swarm.failures else None
    detail = f"; most often {worst.kind}: {worst.reason} ({worst.count} times)" if worst else ""
    yield _at_most(
        "failed-requests",
        failed / sent if sent else 1.0,
        limits.failed_share,
        "share",
        f"{failed} of {sent} requests were refused or got no answer{detail}.",
    )
    yield _at_most(
        "check-in-p95",
        at_once.p95_ms if at_once else 0.0,
        limits.check_in_p95_ms,
        "ms",
        "95 of 100 check-ins that were not held open were answered within this time.",
    )


def _checks_of_phones(swarm: SwarmResult) -> Iterator[Check]:
    refused = [ending for ending in swarm.endings if ending.reason in REFUSED_BY_THE_PHONE]
    detail = f": {', '.join(ending.reason for ending in refused)}" if refused else ""
    yield _at_most(
        "refused-by-phones",
        sum(ending.visits for ending in refused),
        0,
        "visits",
        f"Phones that did not believe, or could not use, what they were served{detail}.",
    )
    yield _at_most("crashed-phones", swarm.crashes, 0, "exceptions", "Exceptions that no phone should ever meet.")


def _checks_of_rounds(coordinator: CoordinatorView, limits: Limits) -> Iterator[Check]:
    yield _at_least(
        "rounds-committed",
        coordinator.rounds_committed,
        limits.rounds_committed,
        "rounds",
        f"Rounds ended with a better model; {coordinator.rounds_abandoned} were abandoned.",
    )
    yield _at_least(
        "reports-counted",
        coordinator.reports_counted,
        limits.reports_counted,
        "reports",
        "Reports went into committed rounds.",
    )
    yield _at_least(
        "weights-changed", int(coordinator.weights_changed), 1, "", "The newest model version has other weights."
    )


def _checks_of_receipts(swarm: SwarmResult, coordinator: CoordinatorView) -> Iterator[Check]:
    yield _at_least(
        "acknowledged-reports-held",
        coordinator.reports_held,
        swarm.receipts,
        "reports",
        f"The coordinator holds at least the {swarm.receipts} reports that it acknowledged: none was lost.",
    )
    yield _at_most(
        "reports-held-once",
        coordinator.reports_held,
        swarm.reports_made,
        "reports",
        f"The coordinator holds at most the {swarm.reports_made} reports that were made: none is held twice.",
    )


def _at_most(name: str, measured: float, limit: float, unit: str, sentence: str) -> Check:
    return Check(
        name=name,
        passed=measured <= limit,
        measured=measured,
        bound=Bound.AT_MOST,
        limit=limit,
        unit=unit,
        sentence=sentence,
    )


def _at_least(name: str, measured: float, limit: float, unit: str, sentence: str) -> Check:
    return Check(
        name=name,
        passed=measured >= limit,
        measured=measured,
        bound=Bound.AT_LEAST,
        limit=limit,
        unit=unit,
        sentence=sentence,
    )
