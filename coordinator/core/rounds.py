"""The life of a round, of its groups and of its participations, as tables of transitions.

What is absent from a table is a bug of ours, never a peer's doing: services ask first and refuse by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from edge_runtime.protocol.plan import Close


class Phase(StrEnum):
    """Of a round."""

    SELECTING = "selecting"
    TRAINING = "training"
    REPORTING = "reporting"
    BUFFERED = "buffered"
    """Of a buffered task: summed, and waiting for the update that takes the sum in."""
    COMMITTED = "committed"
    ABANDONED = "abandoned"


class Event(StrEnum):
    PARTICIPANTS_CHOSEN = "participants-chosen"
    FIRST_REPORT = "first-report"
    SUM_BUFFERED = "sum-buffered"
    SUM_COMMITTED = "sum-committed"
    TOO_FEW_DEVICES = "too-few-devices"
    TOO_FEW_REPORTS = "too-few-reports"
    TOO_STALE = "too-stale"
    TASK_PAUSED = "task-paused"
    TASK_COMPLETED = "task-completed"
    TASK_CANCELLED = "task-cancelled"
    SUM_FAILED = "sum-failed"


class GroupPhase(StrEnum):
    """Of a group: of plain summing the first two, of secure summing the next five, then the last two of both."""

    REPORTING = "reporting"
    ADDING = "adding"
    """Closed: which reports count is fixed."""
    FORMING = "forming"
    """Devices that trained are asked to join."""
    SHARING = "sharing"
    """The roster is fixed."""
    MASKING = "masking"
    """Who shared is fixed; masked reports come."""
    CONFIRMING = "confirming"
    """Whose report is in the sum is fixed."""
    UNMASKING = "unmasking"
    """Enough have confirmed, and the ledger was charged."""
    SUMMED = "summed"
    """Plain: its sum is in a model version, or waits in the buffer. Secure: its sum was opened."""
    ABORTED = "aborted"


class GroupEvent(StrEnum):
    CLOSED = "closed"
    SUM_TAKEN = "sum-taken"
    ROSTER_FIXED = "roster-fixed"
    SHARERS_FIXED = "sharers-fixed"
    SURVIVORS_FIXED = "survivors-fixed"
    CONFIRMED = "confirmed"
    SUM_OPENED = "sum-opened"
    ABORTED = "aborted"


class Standing(StrEnum):
    """Of a participation."""

    CHOSEN = "chosen"
    """The device does not know it yet."""
    ASSIGNED = "assigned"
    TRAINED = "trained"
    """Of secure summing: its change waits on the device to be summed."""
    REPORTED = "reported"
    ENDED = "ended"
    """Without a report; the outcome says why."""


STEPS: Mapping[tuple[Phase, Event], Phase] = {
    (Phase.SELECTING, Event.PARTICIPANTS_CHOSEN): Phase.TRAINING,
    (Phase.SELECTING, Event.TOO_FEW_DEVICES): Phase.ABANDONED,
    (Phase.SELECTING, Event.TASK_PAUSED): Phase.ABANDONED,  # nobody works for it yet
    (Phase.SELECTING, Event.TASK_COMPLETED): Phase.ABANDONED,
    (Phase.SELECTING, Event.TASK_CANCELLED): Phase.ABANDONED,
    (Phase.TRAINING, Event.FIRST_REPORT): Phase.REPORTING,
    (Phase.TRAINING, Event.TOO_FEW_REPORTS): Phase.ABANDONED,
    (Phase.TRAINING, Event.TASK_COMPLETED): Phase.ABANDONED,
    (Phase.TRAINING, Event.TASK_CANCELLED): Phase.ABANDONED,
    (Phase.REPORTING, Event.SUM_COMMITTED): Phase.COMMITTED,
    (Phase.REPORTING, Event.SUM_BUFFERED): Phase.BUFFERED,
    (Phase.REPORTING, Event.TOO_FEW_REPORTS): Phase.ABANDONED,
    (Phase.REPORTING, Event.TASK_COMPLETED): Phase.ABANDONED,
    (Phase.REPORTING, Event.TASK_CANCELLED): Phase.ABANDONED,
    (Phase.REPORTING, Event.SUM_FAILED): Phase.ABANDONED,
    (Phase.BUFFERED, Event.SUM_COMMITTED): Phase.COMMITTED,
    (Phase.BUFFERED, Event.TOO_STALE): Phase.ABANDONED,
    (Phase.BUFFERED, Event.TASK_COMPLETED): Phase.ABANDONED,
    (Phase.BUFFERED, Event.TASK_CANCELLED): Phase.ABANDONED,
    (Phase.BUFFERED, Event.SUM_FAILED): Phase.ABANDONED,
}
"""Of synchronous and buffered tasks: a buffered round waits between its sum and its commit."""

GROUP_STEPS: Mapping[tuple[GroupPhase, GroupEvent], GroupPhase] = {
    (GroupPhase.REPORTING, GroupEvent.CLOSED): GroupPhase.ADDING,
    (GroupPhase.REPORTING, GroupEvent.ABORTED): GroupPhase.ABORTED,
    (GroupPhase.ADDING, GroupEvent.SUM_TAKEN): GroupPhase.SUMMED,
    (GroupPhase.ADDING, GroupEvent.ABORTED): GroupPhase.ABORTED,
    (GroupPhase.FORMING, GroupEvent.ROSTER_FIXED): GroupPhase.SHARING,
    (GroupPhase.FORMING, GroupEvent.ABORTED): GroupPhase.ABORTED,
    (GroupPhase.SHARING, GroupEvent.SHARERS_FIXED): GroupPhase.MASKING,
    (GroupPhase.SHARING, GroupEvent.ABORTED): GroupPhase.ABORTED,
    (GroupPhase.MASKING, GroupEvent.SURVIVORS_FIXED): GroupPhase.CONFIRMING,
    (GroupPhase.MASKING, GroupEvent.ABORTED): GroupPhase.ABORTED,
    (GroupPhase.CONFIRMING, GroupEvent.CONFIRMED): GroupPhase.UNMASKING,
    (GroupPhase.CONFIRMING, GroupEvent.ABORTED): GroupPhase.ABORTED,
    (GroupPhase.UNMASKING, GroupEvent.SUM_OPENED): GroupPhase.SUMMED,
    (GroupPhase.UNMASKING, GroupEvent.ABORTED): GroupPhase.ABORTED,
    (GroupPhase.SUMMED, GroupEvent.ABORTED): GroupPhase.ABORTED,  # its sum never came out of the buffer
}
FIRST_GROUP_PHASES = (GroupPhase.REPORTING, GroupPhase.FORMING)
"""Plain and secure groups begin here."""
SECURE_PHASES = (
    GroupPhase.FORMING,
    GroupPhase.SHARING,
    GroupPhase.MASKING,
    GroupPhase.CONFIRMING,
    GroupPhase.UNMASKING,
)
"""Of a group that sums securely, before it ends, in this order."""

OPEN_PHASES = (Phase.SELECTING, Phase.TRAINING, Phase.REPORTING)
"""Devices may work for the round, or their reports are being added up."""
UNENDED_PHASES = (*OPEN_PHASES, Phase.BUFFERED)
OPEN_STANDINGS = (Standing.CHOSEN, Standing.ASSIGNED, Standing.TRAINED)


class BadTransition(RuntimeError):
    """A bug: the table has no such step."""


State = TypeVar("State", bound=StrEnum)
Happening = TypeVar("Happening", bound=StrEnum)


def step(table: Mapping[tuple[State, Happening], State], state: State, event: Happening) -> State:
    """Follow one transition of a table.

    Raises:
        BadTransition: The table has none for this state and event.
    """
    try:
        return table[state, event]
    except KeyError:
        raise BadTransition(f"{state} has no step for {event}") from None


class Verdict(StrEnum):
    """What becomes of a round that waits for reports."""

    ADD_UP = "add-up"
    ABANDON = "abandon"


@dataclass(frozen=True, slots=True)
class Tally:
    """How the participations of a round stand."""

    chosen: int
    reported: int
    ended: int


def closing(tally: Tally, close: Close, goal: int, min_reports: int, *, deadline_passed: bool) -> Verdict | None:
    """Decide whether a round closes now, and whether its reports are enough; None to go on waiting."""
    resolved = tally.reported + tally.ended >= tally.chosen
    met = close is Close.GOAL and tally.reported >= goal
    if not (resolved or met or deadline_passed):
        return None
    return Verdict.ADD_UP if tally.reported >= min_reports else Verdict.ABANDON


def group_sizes(participants: int, least: int | None) -> list[int]:
    """Split participants into as many groups as have at least `least` members, sizes as equal as can be.

    Fewer than `least` are one group; None asks for one group.
    """
    count = max(1, participants // least) if least is not None else 1
    size, larger = divmod(participants, count)
    return [size + 1] * larger + [size] * (count - larger)
