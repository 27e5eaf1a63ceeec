"""When a group that sums securely goes on, waits or ends: decided from counts and times alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from coordinator.core.rounds import GroupEvent, GroupPhase, Verdict
from edge_runtime.protocol.group import Step
from edge_runtime.protocol.plan import Close
from edge_runtime.protocol.reasons import GroupEnd
from edge_runtime.protocol.secure_sum.mailbox import Fault

LONGEST_S: Final[Mapping[GroupPhase, float]] = {
    GroupPhase.FORMING: 120.0,
    GroupPhase.SHARING: 30.0,
    GroupPhase.MASKING: 60.0,
    GroupPhase.CONFIRMING: 30.0,
    GroupPhase.UNMASKING: 30.0,
}
"""A phase ends so long after it began, in seconds, at the latest."""

TAKEN_IN: Final[Mapping[Step, GroupPhase]] = {
    Step.JOIN: GroupPhase.FORMING,
    Step.SHARES: GroupPhase.SHARING,
    Step.MASKED: GroupPhase.MASKING,
    Step.CONFIRMATION: GroupPhase.CONFIRMING,
    Step.UNMASKING: GroupPhase.UNMASKING,
}
"""In which phase each step is taken; what follows it can be asked for from the next phase on."""

FOLLOWS: Final[Mapping[GroupPhase, GroupEvent]] = {
    GroupPhase.FORMING: GroupEvent.ROSTER_FIXED,
    GroupPhase.SHARING: GroupEvent.SHARERS_FIXED,
    GroupPhase.MASKING: GroupEvent.SURVIVORS_FIXED,
    GroupPhase.CONFIRMING: GroupEvent.CONFIRMED,
    GroupPhase.UNMASKING: GroupEvent.SUM_OPENED,
}
"""What ends each phase well."""

TOO_FEW: Final[Mapping[GroupPhase, GroupEnd]] = {
    GroupPhase.FORMING: GroupEnd.TOO_FEW_JOINED,
    GroupPhase.SHARING: GroupEnd.TOO_FEW_SHARED,
    GroupPhase.MASKING: GroupEnd.TOO_FEW_SURVIVORS,
    GroupPhase.CONFIRMING: GroupEnd.TOO_FEW_CONFIRMED,
    GroupPhase.UNMASKING: GroupEnd.TOO_FEW_REVEALED,
}


def grace(phase: GroupPhase) -> timedelta:
    """How long the last ones are waited for once a quorum is there: half of the phase's limit."""
    return timedelta(seconds=LONGEST_S[phase] / 2)


def limit(phase: GroupPhase) -> timedelta:
    return timedelta(seconds=LONGEST_S[phase])


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Of one phase.

    Attributes:
        awaited: Members who may still send the phase's step, with those who did.
        answered: Those who did.
        quorum: So many let the group go on.
    """

    awaited: int
    answered: int
    quorum: int


class Move(StrEnum):
    ON = "on"
    ABORT = "abort"
    HURRY = "hurry"
    """The quorum is there: the deadline comes nearer."""


def due(count: Count, phase: GroupPhase, deadline_at: datetime, now: datetime) -> Move | None:
    """What a group does now; None to wait on.

    It goes on when everybody answered, or a quorum did and the grace or the limit passed. The grace is part of the
    deadline once the quorum is there, so that both move by the coordinator's downtime.
    """
    over = now >= deadline_at or count.answered >= count.awaited
    if count.answered >= count.quorum:
        if over:
            return Move.ON
        return Move.HURRY if deadline_at > now + grace(phase) else None
    return Move.ABORT if over or count.awaited < count.quorum else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureTally:
    """How a secure round stands.

    Attributes:
        chosen: All participants.
        at_work: Groups that have not ended.
        coming: Participants who may still say that they trained.
        trained: Those who did, and are in no group.
        counted: Reports in opened sums.
        begun: Groups whose roster was fixed, whatever became of them.
    """

    chosen: int
    at_work: int
    coming: int
    trained: int
    counted: int
    begun: int


def closing(
    tally: SecureTally, close: Close, goal: int, min_reports: int, fewest: int, *, deadline_passed: bool
) -> Verdict | None:
    """Decide whether a secure round closes now, and whether its opened sums are enough; None to go on waiting.

    Groups at work are waited for: each has a deadline of its own. Too few who trained, when nobody else comes, wait
    for nobody.

    Args:
        goal: Reports wanted of all groups together.
    """
    if tally.at_work:
        return None
    resolved = not tally.coming and tally.trained < fewest
    met = close is Close.GOAL and tally.counted >= goal
    if not (resolved or met or deadline_passed):
        return None
    return Verdict.ADD_UP if tally.counted >= max(1, min_reports) else Verdict.ABANDON


FELL_SILENT: Final = "fell-silent"
"""A member of a group that came to nothing for want of members."""
ZERO_LANES: Final = "zero-lanes"
"""A member of a group whose sum was spoilt by one of them."""

_PROVEN: Final = frozenset(
    {Fault.BAD_BOX, Fault.FALSE_COMPLAINT, Fault.FORGED_SHARE, Fault.INCONSISTENT_SHARES}  # signed, or against promise
)
PROVEN_FOR: Final = timedelta(days=30)
SUSPECTED_FOR: Final = timedelta(days=1)
SUSPECTED_AFTER: Final = 3
"""Groups that a device was in when they came to harm, within `REMEMBERED`: then it is not by chance any more."""
REMEMBERED: Final = timedelta(days=7)


def quarantine_for(fault: str, groups: int) -> timedelta | None:
    """For how long a device takes part in nothing after a fault; None where it goes on.

    Args:
        groups: Groups that it was in, lately, when something of this kind happened; this one too.
    """
    if fault in _PROVEN:
        return PROVEN_FOR
    return SUSPECTED_FOR if groups >= SUSPECTED_AFTER else None
