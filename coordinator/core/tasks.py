"""The life of a task as a table of transitions."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class TaskState(StrEnum):
    ACTIVE = "active"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


class TaskEvent(StrEnum):
    LAST_ROUND_COMMITTED = "last-round-committed"
    CANCELLED = "cancelled"


TASK_STEPS: Mapping[tuple[TaskState, TaskEvent], TaskState] = {
    (TaskState.ACTIVE, TaskEvent.LAST_ROUND_COMMITTED): TaskState.COMPLETED,
    (TaskState.ACTIVE, TaskEvent.CANCELLED): TaskState.CANCELLED,
}
