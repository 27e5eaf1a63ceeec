"""The life of a task as a table of transitions, and why it ended."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class TaskState(StrEnum):
    DRAFT = "draft"
    """May be changed in everything; no device hears of it."""
    APPROVED = "approved"
    ACTIVE = "active"
    PAUSED = "paused"
    """No new round opens and no device is chosen; rounds that train already go on to their end."""
    COMPLETED = "completed"
    CANCELLED = "cancelled"


class TaskEvent(StrEnum):
    APPROVED = "approved"
    CHANGED = "changed"
    STARTED = "started"
    PAUSED = "paused"
    RESUMED = "resumed"
    STOPPED = "stopped"
    """One of its stop conditions holds."""
    CANCELLED = "cancelled"


TASK_STEPS: Mapping[tuple[TaskState, TaskEvent], TaskState] = {
    (TaskState.DRAFT, TaskEvent.CHANGED): TaskState.DRAFT,
    (TaskState.DRAFT, TaskEvent.APPROVED): TaskState.APPROVED,
    (TaskState.DRAFT, TaskEvent.CANCELLED): TaskState.CANCELLED,
    (TaskState.APPROVED, TaskEvent.CHANGED): TaskState.DRAFT,  # what was approved is no longer what would run
    (TaskState.APPROVED, TaskEvent.STARTED): TaskState.ACTIVE,
    (TaskState.APPROVED, TaskEvent.CANCELLED): TaskState.CANCELLED,
    (TaskState.ACTIVE, TaskEvent.CHANGED): TaskState.ACTIVE,
    (TaskState.ACTIVE, TaskEvent.PAUSED): TaskState.PAUSED,
    (TaskState.ACTIVE, TaskEvent.STOPPED): TaskState.COMPLETED,
    (TaskState.ACTIVE, TaskEvent.CANCELLED): TaskState.CANCELLED,
    (TaskState.PAUSED, TaskEvent.CHANGED): TaskState.PAUSED,
    (TaskState.PAUSED, TaskEvent.RESUMED): TaskState.ACTIVE,
    (TaskState.PAUSED, TaskEvent.STOPPED): TaskState.COMPLETED,
    (TaskState.PAUSED, TaskEvent.CANCELLED): TaskState.CANCELLED,
}

ENDED = (TaskState.COMPLETED, TaskState.CANCELLED)
RUNNING = (TaskState.ACTIVE, TaskState.PAUSED)


class Stop(StrEnum):
    """Why a task ended. A code never changes its meaning."""

    ROUNDS_DONE = "rounds-done"
    DATE_PASSED = "date-passed"
    METRIC_REACHED = "metric-reached"
    BYTES_SPENT = "bytes-spent"
    SECONDS_SPENT = "seconds-spent"
    BUDGET_SPENT = "budget-spent"
    """What is left of a privacy budget does not cover one more round."""
    LEDGER_DAMAGED = "ledger-damaged"
    """The privacy ledger is not the one that was written: nothing more may be opened."""
    CANCELLED = "cancelled"
