"""A verdict is a pure function, and every check of it can fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from edge_runtime.protocol.reasons import Outcome, Wait
from loadtest.kinds import Kind
from loadtest.swarm_messages import Ending, Failure, RequestStatistics, SwarmResult
from loadtest.verdict import Bound, CoordinatorView, Limits, judge

LIMITS = Limits(failed_share=0.01, check_in_p95_ms=500.0, rounds_committed=2, reports_counted=10)


def row(kind: Kind, requests: int = 100, failures: int = 0, p95_ms: float = 40.0) -> RequestStatistics:
    return RequestStatistics(
        kind=kind, requests=requests, failures=failures, per_second=5.0, p50_ms=20.0, p95_ms=p95_ms, p99_ms=90.0
    )


GOOD = SwarmResult(
    seconds=20.0,
    requests=tuple(row(kind) for kind in Kind),
    failures=(),
    endings=(Ending(reason=Wait.REPORTED, visits=20), Ending(reason=Outcome.IN_USE, visits=2)),
    crashes=0,
    reports_made=21,
    receipts=20,
    cpu_s=3.0,
)
ALIVE = CoordinatorView(
    alive=True, rounds_committed=2, rounds_abandoned=0, reports_held=20, reports_counted=10, weights_changed=True
)


def test_a_run_within_its_limits_passes_every_check() -> None:
    verdict = judge(GOOD, ALIVE, LIMITS)
    assert verdict.passed
    assert all(check.passed and check.sentence.endswith(".") for check in verdict.checks)
    assert len({check.name for check in verdict.checks}) == len(verdict.checks) == 11


def check_ins(**changes: float) -> SwarmResult:
    """The good run with other check-ins."""
    changed = tuple(replace(old, **changes) if old.kind == Kind.CHECK_IN else old for old in GOOD.requests)  # type: ignore[arg-type]
    return replace(GOOD, requests=changed)


FAILING: dict[str, Callable[[], tuple[SwarmResult, CoordinatorView]]] = {
    "check-ins": lambda: (replace(GOOD, requests=(row(Kind.ENROL),)), ALIVE),
    "failed-requests": lambda: (check_ins(failures=8), ALIVE),
    "check-in-p95": lambda: (check_ins(p95_ms=501.0), ALIVE),
    "refused-by-phones": lambda: (
        replace(GOOD, endings=(Ending(reason=Outcome.CHECKPOINT_REFUSED, visits=1),)),
        ALIVE,
    ),
    "crashed-phones": lambda: (replace(GOOD, crashes=1), ALIVE),
    "rounds-committed": lambda: (GOOD, replace(ALIVE, rounds_committed=1)),
    "reports-counted": lambda: (GOOD, replace(ALIVE, reports_counted=9)),
    "weights-changed": lambda: (GOOD, replace(ALIVE, weights_changed=False)),
    "acknowledged-reports-held": lambda: (GOOD, replace(ALIVE, reports_held=19)),
    "reports-held-once": lambda: (GOOD, replace(ALIVE, reports_held=22)),
    "coordinator-alive": lambda: (GOOD, replace(ALIVE, alive=False)),
}


@pytest.mark.parametrize("name", FAILING)
def test_one_broken_promise_fails_its_own_check_and_no_other(name: str) -> None:
    verdict = judge(*FAILING[name](), LIMITS)
    assert [check.name for check in verdict.checks if not check.passed] == [name]
    assert not verdict.passed


def test_every_check_can_fail() -> None:
    assert {check.name for check in judge(GOOD, ALIVE, LIMITS).checks} == set(FAILING)


def test_a_measure_at_its_limit_passes_and_the_limit_is_told() -> None:
    at_limit = {check.name: check for check in judge(check_ins(failures=7, p95_ms=500.0), ALIVE, LIMITS).checks}
    assert at_limit["failed-requests"].passed
    assert at_limit["failed-requests"].measured == at_limit["failed-requests"].limit == 0.01
    assert (at_limit["check-in-p95"].bound, at_limit["check-in-p95"].unit) == (Bound.AT_MOST, "ms")


def test_a_swarm_that_sent_nothing_fails() -> None:
    nothing = replace(GOOD, requests=(), endings=(), reports_made=0, receipts=0)
    failed = {check.name for check in judge(nothing, CoordinatorView(alive=True), LIMITS).checks if not check.passed}
    assert {"check-ins", "failed-requests", "rounds-committed", "reports-counted", "weights-changed"} == failed


def test_the_most_frequent_failure_is_named() -> None:
    swarm = replace(check_ins(failures=50), failures=(Failure(kind="check-in", reason="clock-skew", count=50),))
    (check,) = (check for check in judge(swarm, ALIVE, LIMITS).checks if check.name == "failed-requests")
    assert check.sentence == (
        "50 of 700 requests were refused or got no answer; most often check-in: clock-skew (50 times)."
    )


def test_how_long_a_check_in_was_held_open_is_nobodys_fault() -> None:
    held = tuple(replace(old, p95_ms=20_000.0) if old.kind == Kind.HELD_CHECK_IN else old for old in GOOD.requests)
    assert judge(replace(GOOD, requests=held), ALIVE, LIMITS).passed
