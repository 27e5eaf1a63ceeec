"""The points at which the coordinator may die, each with a name, so that tests let it die there.

Every transaction that moves a round passes its point twice: as the last thing inside it, and right after its commit.
A blob's point is passed when it is durable and no row names it yet. Without a hook, passing costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum


class CrashPoint(StrEnum):
    TASK_TENDED = "task-tended"
    """A round was opened, or the task was completed."""
    PARTICIPANTS_CHOSEN = "participants-chosen"
    ROUND_CLOSED = "round-closed"
    CHUNK_ASSIGNED = "chunk-assigned"
    CHUNK_STORED = "chunk-stored"
    """A blob: the sum of a chunk."""
    CHUNK_RECORDED = "chunk-recorded"
    GROUP_ABORTED = "group-aborted"
    ROUND_BUFFERED = "round-buffered"
    STALE_DROPPED = "stale-dropped"
    NOISE_CHARGED = "noise-charged"
    """Rounds whose sums the coordinator hides were charged, and the seeds of their noise drawn."""
    UPDATE_STORED = "update-stored"
    """Blobs: the next checkpoint, and the state of the server optimiser."""
    UPDATE_COMMITTED = "update-committed"
    METRICS_COMMITTED = "metrics-committed"
    ROUND_GIVEN_UP = "round-given-up"
    GROUPS_FORMED = "groups-formed"
    """Devices that trained are asked to join groups that sum securely."""
    GROUP_MOVED = "group-moved"
    """Such a group went on to its next phase, or came to nothing. With UNMASKING goes the charge."""
    SUM_UNMASKED = "sum-unmasked"
    """A blob: the opened sum of a group."""
    SUM_OPENED = "sum-opened"
    STEP_TAKEN = "step-taken"
    """A device's step in a group is durable."""
    GARBAGE_DELETED = "garbage-deleted"
    """Blobs that nobody needs are gone; their rows do not say so yet."""
    GARBAGE_RECORDED = "garbage-recorded"
    REPORT_STORED = "report-stored"
    """A blob: a report that was not acknowledged yet."""
    REPORT_RECORDED = "report-recorded"


Hook = Callable[[CrashPoint], None]

_hooks: list[Hook] = []


def crash_point(point: CrashPoint) -> None:
    """Pass a point; a test may let the process die here."""
    for hook in _hooks:
        hook(point)


@contextmanager
def hooked(hook: Hook) -> Iterator[None]:
    """Call `hook` at every point until the block ends. For tests."""
    _hooks.append(hook)
    try:
        yield
    finally:
        _hooks.remove(hook)
