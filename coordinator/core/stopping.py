"""When a task is completed: the first of its stop conditions that holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from coordinator.core.task_settings import MetricTarget, Stops
from coordinator.core.tasks import Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a task came.

    Attributes:
        rounds: Committed.
        bytes: Moved by devices; looked up only where a condition asks.
        phone_seconds: Spent by devices; the same.
        measured: Of the metric of the target, by the newest committed rounds of its evaluating task, newest first.
    """

    rounds: int
    bytes: int = 0
    phone_seconds: int = 0
    measured: Sequence[float] = ()


def stop_of(stops: Stops, progress: Progress, now: datetime) -> Stop | None:
    """Name the condition that completes a task, or None."""
    if stops.rounds is not None and progress.rounds >= stops.rounds:
        return Stop.ROUNDS_DONE
    if is_past(stops, now):
        return Stop.DATE_PASSED
    if stops.metric is not None and is_reached(stops.metric, progress.measured):
        return Stop.METRIC_REACHED
    if stops.bytes is not None and progress.bytes >= stops.bytes:
        return Stop.BYTES_SPENT
    if stops.phone_seconds is not None and progress.phone_seconds >= stops.phone_seconds:
        return Stop.SECONDS_SPENT
    return None


def is_past(stops: Stops, now: datetime) -> bool:
    """Whether the date of the conditions has come."""
    moment = stops.moment()
    return moment is not None and now >= moment


def is_reached(target: MetricTarget, measured: Sequence[float]) -> bool:
    """Whether so many of the newest values as the target asks for are all on its right side."""
    newest = measured[: target.rounds]
    if len(newest) < target.rounds:
        return False
    if target.at_least is not None:
        return min(newest) >= target.at_least
    return target.at_most is not None and max(newest) <= target.at_most
