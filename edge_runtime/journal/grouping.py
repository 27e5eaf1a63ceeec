"""What a device keeps under secure summing, from the end of its training to the end of its group. Pure.

Of a group it keeps what it drew, and of each step the answer that it believed: all that it ever sends follows from
these, so that a step that is repeated after a crash has the same bytes, and another answer is known as another one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from edge_runtime.journal.files import Stored
from edge_runtime.protocol import wire
from edge_runtime.protocol.enrolment import is_name
from edge_runtime.protocol.errors import ContradictedGroup, GroupEnded, StepNotAllowed
from edge_runtime.protocol.group import Step
from edge_runtime.protocol.keys import is_id

MOST_GROUPS: Final = 32
"""A training result that came to nothing in so many groups joins no further one."""

_ORDER: Final = (Step.JOIN, Step.SHARES, Step.MASKED, Step.CONFIRMATION)
"""The steps whose answers are kept, in the order in which they come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """An appointment by this device's clock."""

    at_s: float
    until_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Believed:
    """The answer to a step that was checked, and that everything later follows from."""

    step: Step
    answer: Stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """The group that this device is in.

    Attributes:
        secrets: As `participant.Secrets.raw` has them; they go with the membership.
        answers: In the order of the steps.
    """

    group: str
    task: str
    secrets: bytes = field(repr=False)
    answers: tuple[Believed, ...] = ()

    def __post_init__(self) -> None:
        wire.require(is_id(self.group) and is_name(self.task), "a group has an id and a task")

    def answer(self, step: Step) -> Stored | None:
        """The answer to a step that is kept."""
        return next((one.answer for one in self.answers if one.step is step), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftGroup:
    """A group that this device has to do with no more, whatever it is told; and why, by code."""

    group: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """A participation under secure summing after its training.

    Attributes:
        change: What was trained, as a report that is not masked yet; it never leaves as it is. None once a masked
            report exists: there is nothing left to make a second one from.
        values: Parameters of the report, d.
        zeroed: Why it is zeros, by reason code; None where it is what was trained.
        meeting: When to ask for a group; None for at once.
    """

    change: Stored | None
    values: int
    zeroed: str | None = None
    meeting: Meeting | None = None
    membership: Membership | None = None
    left: tuple[LeftGroup, ...] = ()

    @property
    def stored(self) -> frozenset[Stored]:
        """The files it needs."""
        answers = self.membership.answers if self.membership else ()
        change = (self.change,) if self.change else ()
        return frozenset((*change, *(one.answer for one in answers)))


Regrouping: TypeAlias = Callable[[Grouping], Grouping]
"""A pure change; raises a `Refusal` where it does not fit."""


def met(grouping: Grouping, meeting: Meeting | None) -> Grouping:
    """Take note of an appointment."""
    return replace(grouping, meeting=meeting)


def joined(grouping: Grouping, membership: Membership) -> Grouping:
    """Join a group with secrets that no group has seen.

    Raises:
        StepNotAllowed: The device is in a group already, or a masked report exists.
        ContradictedGroup: It was in that group before, and left it.
        GroupEnded: It was in too many.
    """
    if grouping.change is None or grouping.membership is not None:
        raise StepNotAllowed("a training result joins one group at a time, and none once it was masked")
    if any(one.group == membership.group for one in grouping.left):
        raise ContradictedGroup("this device has left that group")
    if len(grouping.left) >= MOST_GROUPS:
        raise GroupEnded(f"this training result was in {MOST_GROUPS} groups that came to nothing")
    return replace(grouping, membership=membership, meeting=None)


def believed(grouping: Grouping, group: str, step: Step, answer: Stored) -> Grouping:
    """Keep the answer to a step.

    Raises:
        StepNotAllowed: The device is not in that group, or it is not that step's turn.
    """
    held = member(grouping, group)
    turn = _ORDER[len(held.answers)] if len(held.answers) < len(_ORDER) else None
    masks = step in (Step.MASKED, Step.CONFIRMATION)
    if step is not turn or masks != (grouping.change is None):
        raise StepNotAllowed(f"it is not the turn of the answer to {step}")
    return replace(grouping, membership=replace(held, answers=(*held.answers, Believed(step=step, answer=answer))))


def masked(grouping: Grouping, group: str) -> Grouping:
    """Let go of what was trained, in the change that keeps the masked report.

    Raises:
        StepNotAllowed: There is a masked report already, or it is not known yet who shared.
    """
    held = member(grouping, group)
    if grouping.change is None or held.answer(Step.SHARES) is None or held.answer(Step.MASKED) is not None:
        raise StepNotAllowed("it is not the turn of the masked report")
    return replace(grouping, change=None)


def departed(grouping: Grouping, reason: str) -> Grouping:
    """Leave the group for ever, and erase its secrets; without one, nothing changes."""
    held = grouping.membership
    if held is None:
        return grouping
    left = LeftGroup(group=held.group, reason=reason)
    return replace(grouping, membership=None, left=(*grouping.left, left))


def over(grouping: Grouping) -> Grouping:
    """What is left at the end: neither change nor secrets."""
    return replace(grouping, change=None, meeting=None, membership=None)


def member(grouping: Grouping, group: str) -> Membership:
    """The membership in this group.

    Raises:
        StepNotAllowed: The device is in another group, or in none.
    """
    if grouping.membership is None or grouping.membership.group != group:
        raise StepNotAllowed("this device is not in that group")
    return grouping.membership
