"""Everything the journal knows, as one value, and the pure changes to it. Times are seconds since the epoch (UTC)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import ClassVar, Final, TypeAlias

from edge_runtime.journal.participation import Event, Participation, Phase, Stored, begun, gave_up, stepped
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import Assignment
from edge_runtime.protocol.errors import ParticipationEnded, StepNotAllowed
from edge_runtime.protocol.keys import PUBLIC_KEY_BYTES, is_id
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.report import Receipt

VISITS_KEPT: Final = 50
DAYS_KEPT: Final = 8
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
class Tally:
    """Participations of a population whose report may have left the device."""

    population: str
    count: int
    last_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What one local day cost the owner."""

    day: str
    """2026-11-22, in the device's time zone."""
    seconds: float = 0.0
    bytes: int = 0
    battery: float = 0.0
    """Share of a full battery."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visited:
    """How one visit, or the decision not to make one, ended: a reason code."""

    at_s: float
    reason: str
    round: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """When to come back, and why."""

    reason: str
    noted_at_s: float
    not_before_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarted:
    """The journal lost its past: what it knew of participations is gone."""

    why: Restart
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the journal holds. A fresh one knows nobody."""

    VERSION: ClassVar[int] = 1

    version: int = 1
    identity: Identity | None = None
    participation: Participation | None = None
    ended: tuple[Ended, ...] = ()
    """The last `ENDED_KEPT`, oldest first."""
    tallies: tuple[Tally, ...] = ()
    spent: tuple[Spent, ...] = ()
    """The last `DAYS_KEPT` days on which something was spent, by the order of their first entry."""
    visits: tuple[Visited, ...] = ()
    """The last `VISITS_KEPT`, oldest first."""
    window: Window | None = None
    switched_off: bool = False
    """By the owner, the app, or the coordinator's kill switch."""
    restarted: Restarted | None = None

    @property
    def stored(self) -> frozenset[Stored]:
        """The files beside the journal that are needed."""
        return self.participation.stored if self.participation else frozenset()


Change: TypeAlias = Callable[[State], State]
"""A pure change; raises a `Refusal` where the state does not allow it."""


def enrolled(state: State, identity: Identity) -> State:
    """Take on an identity."""
    return replace(state, identity=identity)


def assigned(state: State, assignment: Assignment, population: str, now_s: float) -> State:
    """Take on an assignment; the same one again, as after a lost answer, changes nothing.

    Raises:
        ParticipationEnded: This device is through with that participation.
        StepNotAllowed: Another one is under way, or the same id comes with another plan.
    """
    if any(one.participation == assignment.participation for one in state.ended):
        raise ParticipationEnded("this participation is over on this device")
    held = state.participation
    if held is None:
        return replace(state, participation=begun(assignment, population, now_s))
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
        StepNotAllowed: None is under way, its report may have left, or another outcome is decided.
    """
    return moved(state, lambda held: gave_up(held, outcome))


def sending(state: State, now_s: float) -> State:
    """Decide to send the report. From the first time on, the participation counts as one.

    Raises:
        StepNotAllowed: There is no report to send.
    """
    held = under_way(state)
    after = replace(state, participation=stepped(held, Event.SENDING))
    return after if held.phase is Phase.SENT else _tallied(after, held.population, now_s)


def received(state: State, receipt: Receipt, now_s: float) -> State:
    """End with the coordinator's receipt.

    Raises:
        StepNotAllowed: No report was sent, or the receipt is for another one.
    """
    held = under_way(state)
    if (receipt.participation, receipt.report_sha256) != (held.participation, held.report_sha256):
        raise StepNotAllowed("the receipt is for another report")
    return _over(state, Event.RECEIPT, now_s)


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


def spent(state: State, cost: Spent) -> State:
    """Add to what a day cost. A clock that goes back to a day finds what was spent on it."""
    for position, day in enumerate(state.spent):
        if day.day == cost.day:
            total = replace(
                day,
                seconds=day.seconds + cost.seconds,
                bytes=day.bytes + cost.bytes,
                battery=day.battery + cost.battery,
            )
            return replace(state, spent=(*state.spent[:position], total, *state.spent[position + 1 :]))
    return replace(state, spent=(*state.spent, cost)[-DAYS_KEPT:])


def spent_on(state: State, day: str) -> Spent:
    """What a day cost so far."""
    return next((one for one in state.spent if one.day == day), Spent(day=day))


def visited(state: State, visit: Visited, window: Window | None) -> State:
    """Note how a visit ended and when to come back; None leaves the window as it is."""
    return replace(state, visits=(*state.visits, visit)[-VISITS_KEPT:], window=window or state.window)


def switched(state: State, *, off: bool) -> State:
    """Throw the kill switch, or take it back."""
    return replace(state, switched_off=off)


def participations(state: State, population: str) -> int:
    """How many reports for a population may have left this device since the journal began."""
    return next((one.count for one in state.tallies if one.population == population), 0)


def separation_left_s(state: State, population: str, minimum_separation_s: float, now_s: float) -> float:
    """Seconds until a population may have another participation; 0 for now.

    A restarted journal no longer knows the last one: the restart counts as one, in every population.
    """
    stamps = [one.last_at_s for one in state.tallies if one.population == population]
    stamps += [state.restarted.at_s] if state.restarted else []
    return max([0.0, *(stamp + minimum_separation_s - now_s for stamp in stamps)])


def wait_s(state: State, now_s: float) -> float:
    """Seconds until the retry window opens; 0 for now. Never longer than the coordinator asked for."""
    if state.window is None:
        return 0.0
    asked_s = state.window.not_before_s - state.window.noted_at_s
    return min(max(0.0, state.window.not_before_s - now_s), asked_s)


def seen_at(state: State, now_s: float) -> State:
    """Bring what lies in the future to now: the clock was set back, or was ahead when it was noted.

    So that a wrong clock costs at most one wait, one separation and one deadline, counted anew from now.
    """
    window, held, restarted = state.window, state.participation, state.restarted
    if window is not None and window.noted_at_s > now_s:
        asked_s = window.not_before_s - window.noted_at_s
        window = replace(window, noted_at_s=now_s, not_before_s=now_s + asked_s)
    if held is not None and held.assigned_at_s > now_s:
        due_s = held.deadline_at_s - held.assigned_at_s
        held = replace(held, assigned_at_s=now_s, deadline_at_s=now_s + due_s)
    if restarted is not None and restarted.at_s > now_s:
        restarted = replace(restarted, at_s=now_s)
    tallies = tuple(replace(one, last_at_s=min(one.last_at_s, now_s)) for one in state.tallies)
    return replace(state, window=window, participation=held, restarted=restarted, tallies=tallies)


def under_way(state: State) -> Participation:
    """The participation that is not over.

    Raises:
        StepNotAllowed: There is none.
    """
    if state.participation is None:
        raise StepNotAllowed("no participation is under way")
    return state.participation


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


def _tallied(state: State, population: str, now_s: float) -> State:
    others = tuple(one for one in state.tallies if one.population != population)
    tally = Tally(population=population, count=participations(state, population) + 1, last_at_s=now_s)
    return replace(state, tallies=(*others, tally))
