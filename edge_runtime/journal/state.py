"""Everything the journal knows, as one value, and the pure changes to it. Times are seconds since the epoch (UTC)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import ClassVar, Final, TypeAlias

from edge_runtime import limits, schedule
from edge_runtime.journal import grouping as sums
from edge_runtime.journal.participation import (
    Event,
    Participation,
    Phase,
    Stored,
    begun,
    gave_up,
    regrouped,
    stepped,
)
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import Assignment
from edge_runtime.protocol.errors import ParticipationEnded, StepNotAllowed
from edge_runtime.protocol.keys import PUBLIC_KEY_BYTES, is_id
from edge_runtime.protocol.policy import Policy
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.report import Receipt
from edge_runtime.schedule import Day, Usage

VISITS_KEPT: Final = 50
ENDED_KEPT: Final = 32


class Restart(StrEnum):
    """Why the journal was started anew."""

    DAMAGED = "damaged"
    """It, or its second place, can no longer be read as it was written, or is gone."""
    ROLLED_BACK = "rolled-back"
    """It is older than what its second place has seen: a backup was put back."""
    KEY_LOST = "key-lost"
    """The app's key does not open it, and the app asked to start anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this installation is. The seed never leaves the device."""

    seed: bytes = field(repr=False)
    tenant: str
    device_id: str
    known: bool = False
    """The coordinator enrolled it."""
    certificate: bytes = b""
    """Of the device key, by the enrolment authority that the app pins; empty without one."""

    def __post_init__(self) -> None:
        wire.require(len(self.seed) == PUBLIC_KEY_BYTES, "a device key has 32 bytes")
        wire.require(is_id(self.device_id), "device_id is 32 hex digits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A participation that is over, and that is never trained or reported again."""

    participation: str
    phase: Phase
    outcome: Outcome | None
    report_sha256: str | None
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Visited:
    """How one visit, or the decision not to make one, ended: a reason code."""

    at_s: float
    reason: str
    round: int | None = None
    times: int = 1
    """How often in a row it was so; `at_s` is the last time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The released model that is on disk."""

    bundle_sha256: str
    checkpoint_sha256: str
    model_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Personal:
    """Weights as this device trained them last, in a file of their own. They never leave it."""

    bundle_sha256: str
    parameters: int
    vectors: Stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarted:
    """The journal lost its past: what it knew of participations is gone."""

    why: Restart
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the journal holds. A fresh one knows nobody."""

    VERSION: ClassVar[int] = 4

    version: int = 4
    identity: Identity | None = None
    participation: Participation | None = None
    ended: tuple[Ended, ...] = ()
    """The last `ENDED_KEPT`, oldest first."""
    usage: Usage | None = None
    """What this device has given so far, and when it may come back; None before `installed`."""
    policy: Policy | None = None
    """What the coordinator sent last; None where it sent none: the app's floors hold."""
    asking: str | None = None
    """The visit whose check-in was not answered yet."""
    visits: tuple[Visited, ...] = ()
    """The last `VISITS_KEPT`, oldest first."""
    release: Held | None = None
    release_asked_at_s: float | None = None
    release_wanted: bool = False
    """The app infers."""
    personal: Personal | None = None
    switched_off: bool = False
    """By the coordinator's kill switch."""
    opted_out: bool = False
    """The owner took the device out, and the coordinator does not know it yet."""
    restarted: Restarted | None = None
    taken: limits.Past = ()
    """What was given under plans that bound how often a device takes part."""

    @property
    def stored(self) -> frozenset[Stored]:
        """The files beside the journal that are needed."""
        held = self.participation.stored if self.participation else frozenset()
        return held | {self.personal.vectors} if self.personal else held


Change: TypeAlias = Callable[[State], State]
"""A pure change; raises a `Refusal` where the state does not allow it."""


def enrolled(state: State, identity: Identity) -> State:
    """Take on an identity."""
    return replace(state, identity=identity)


def installed(state: State, now_s: float) -> State:
    """Begin to count what the device gives; again changes nothing.

    A restarted journal no longer knows its last participation: the restart counts as one.
    """
    if state.usage is not None:
        return state
    usage = Usage(installed_at=now_s)
    return replace(state, usage=replace(usage, last_participation_at=now_s) if state.restarted else usage)


def asking(state: State, visit: str) -> State:
    """Check in under this visit, until an answer to it is on disk."""
    return replace(state, asking=visit)


def told(state: State, policy: Policy | None) -> State:
    """Take on what the coordinator says of when to work; that it answers at all takes its switch back."""
    return replace(state, policy=policy, switched_off=False)


def not_chosen(state: State) -> State:
    """The check-in was answered, and not with an assignment: the next one is a new visit."""
    return replace(state, asking=None)


def assigned(state: State, assignment: Assignment, population: str, now_s: float) -> State:
    """Take on an assignment, and count it; the same one again, as after a lost answer, changes nothing.

    Raises:
        ParticipationEnded: This device is through with that participation.
        StepNotAllowed: Another one is under way, or the same id comes with another plan.
    """
    if any(one.participation == assignment.participation for one in state.ended):
        raise ParticipationEnded("this participation is over on this device")
    held = state.participation
    if held is None:
        usage = schedule.participated(used(state, now_s), _moment(now_s))
        return replace(state, participation=begun(assignment, population, now_s), usage=usage, asking=None)
    if (held.participation, held.plan) != (assignment.participation, assignment.plan):
        raise StepNotAllowed("another participation, or another plan for it, is under way")
    return state


def moved(state: State, step: Callable[[Participation], Participation]) -> State:
    """Take a step of `participation` that does not end it.

    Raises:
        StepNotAllowed: No participation is under way, or the table has no such step.
    """
    return replace(state, participation=step(under_way(state)))


def given_up(state: State, outcome: Outcome) -> State:
    """Decide an outcome; no report will ever leave.

    Raises:
        StepNotAllowed: None is under way, its plain report may have left, or another outcome is decided.
    """
    return moved(state, lambda held: gave_up(held, outcome))


def sending(state: State) -> State:
    """Decide to send the report; from here on the participation counts.

    Raises:
        StepNotAllowed: There is no report to send.
    """
    first = under_way(state).phase is not Phase.SENT
    after = moved(state, lambda held: stepped(held, Event.SENDING))
    return counted(after) if first else after


def counted(state: State) -> State:
    """Count the participation under way, whose report may leave from now on, under the limits of its plan."""
    held = under_way(state)
    if held.counted_as is None:
        return state
    return replace(state, taken=limits.gave(state.taken, held.counted_as, held.round, held.assigned_at_s))


def received(state: State, receipt: Receipt, now_s: float) -> State:
    """End with the coordinator's receipt.

    Raises:
        StepNotAllowed: No report was sent, or the receipt is for another one.
    """
    held = under_way(state)
    if (receipt.participation, receipt.report_sha256) != (held.participation, held.report_sha256):
        raise StepNotAllowed("the receipt is for another report")
    return _over(state, Event.RECEIPT, now_s)


def opened(state: State, now_s: float) -> State:
    """End with the sum of a group that was opened; its secrets go.

    Raises:
        StepNotAllowed: There is no masked report.
    """
    return _over(state, Event.OPENED, now_s)


def left_group(state: State, reason: str) -> State:
    """Leave the group for ever, whose secrets go. What was trained stays, unless it was masked.

    Raises:
        StepNotAllowed: There is nothing for a group.
    """
    return moved(state, lambda held: regrouped(held, lambda grouping: sums.departed(grouping, reason)))


def noted(state: State, now_s: float) -> State:
    """End with the coordinator's note of the outcome.

    Raises:
        StepNotAllowed: No outcome was decided.
    """
    return _over(state, Event.NOTED, now_s)


def refused(state: State, now_s: float) -> State:
    """End because the coordinator wants neither report nor outcome.

    Raises:
        StepNotAllowed: Neither may have left.
    """
    return _over(state, Event.REFUSED, now_s)


def expired(state: State, now_s: float) -> State:
    """End if the deadline has passed by this device's clock; otherwise nothing changes."""
    held = state.participation
    return state if held is None or now_s < held.deadline_at_s else _over(state, Event.EXPIRED, now_s)


def spent(state: State, cost: Day) -> State:
    """Add to what a date, and the participation under way, cost."""
    held = state.participation
    if held is not None:
        held = replace(
            held,
            seconds=held.seconds + cost.seconds,
            transferred_bytes=held.transferred_bytes + cost.transferred_bytes,
            battery_share=held.battery_share + cost.battery_share,
        )
    return replace(state, participation=held, usage=schedule.pay(used(state, 0.0), cost))


def used(state: State, now_s: float) -> Usage:
    """What this device has given; nothing yet, if it was not `installed`."""
    return state.usage or Usage(installed_at=now_s)


def noted_visit(state: State, visit: Visited) -> State:
    """Note how a slice ended. The same end as before, outside of rounds, is counted and not listed again."""
    before = state.visits[-1:]
    if [(one.reason, one.round) for one in before] == [(visit.reason, None)]:
        return replace(state, visits=(*state.visits[:-1], replace(visit, times=before[0].times + 1)))
    return replace(state, visits=(*state.visits, visit)[-VISITS_KEPT:])


def visited(state: State, visit: Visited, wait_s: float) -> State:
    """Note how a visit to the coordinator ended, and how long to wait after it."""
    usage = schedule.visited(used(state, visit.at_s), _moment(visit.at_s), wait_s)
    return replace(noted_visit(state, visit), usage=usage)


def switched(state: State, *, off: bool) -> State:
    """Throw the kill switch, or take it back."""
    return replace(state, switched_off=off)


def left(state: State) -> State:
    """Forget all but who to take out at the coordinator."""
    return State(identity=state.identity, opted_out=True)


def dropped(state: State, outcome: Outcome, now_s: float) -> State:
    """End what is under way without a word to the coordinator; nothing may be."""
    if state.participation is None:
        return state
    unsent = state.participation.phase in (Phase.ASSIGNED, Phase.TRAINING, Phase.SEALED, Phase.TRAINED)
    return refused(given_up(state, outcome) if unsent else state, now_s)


def wanting_release(state: State) -> State:
    """The app infers: slices keep its model up to date from now on."""
    return replace(state, release_wanted=True, release_asked_at_s=None)


def released(state: State, release: Held | None, now_s: float) -> State:
    """Note which model is on disk for inference; None keeps what was there."""
    return replace(state, release=release or state.release, release_asked_at_s=now_s)


def seen_at(state: State, now_s: float) -> State:
    """Bring what lies in the future to now: the clock was set back, or was ahead when it was noted.

    So that a wrong clock costs at most one deadline, counted anew from now. Of `usage` the schedule takes care.
    """
    held, restarted, asked_at_s = state.participation, state.restarted, state.release_asked_at_s
    if held is not None and held.assigned_at_s > now_s:
        due_s = held.deadline_at_s - held.assigned_at_s
        held = replace(held, assigned_at_s=now_s, deadline_at_s=now_s + due_s)
        if held.grouping is not None:  # by which clock the appointment was, nobody knows: it is asked for again
            held = regrouped(held, lambda grouping: sums.met(grouping, None))
    if restarted is not None and restarted.at_s > now_s:
        restarted = replace(restarted, at_s=now_s)
    taken = limits.seen_at(state.taken, now_s)
    asked_at_s = None if asked_at_s is None else min(asked_at_s, now_s)
    return replace(state, participation=held, restarted=restarted, release_asked_at_s=asked_at_s, taken=taken)


def under_way(state: State) -> Participation:
    """The participation that is not over.

    Raises:
        StepNotAllowed: There is none.
    """
    if state.participation is None:
        raise StepNotAllowed("no participation is under way")
    return state.participation


def _moment(at_s: float) -> datetime:
    return datetime.fromtimestamp(at_s, UTC)


def _over(state: State, event: Event, now_s: float) -> State:
    held = stepped(under_way(state), event)
    end = Ended(
        participation=held.participation,
        phase=held.phase,
        outcome=held.outcome,
        report_sha256=held.report_sha256,
        at_s=now_s,
    )
    return replace(state, participation=None, ended=(*state.ended, end)[-ENDED_KEPT:])
