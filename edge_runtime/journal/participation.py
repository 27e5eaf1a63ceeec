"""One participation on this device, from its assignment to its receipt: a table of steps, and pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edge_runtime.journal import grouping as sums
from edge_runtime.journal.files import Stored as Stored
from edge_runtime.journal.grouping import Grouping, Regrouping
from edge_runtime.protocol.checkin import Assignment
from edge_runtime.protocol.errors import Malformed, StepNotAllowed
from edge_runtime.protocol.reasons import Outcome

Vector = npt.NDArray[np.float32]


class Phase(StrEnum):
    """How far a participation is."""

    ASSIGNED = "assigned"
    TRAINING = "training"
    """There is a savepoint."""
    SEALED = "sealed"
    """The report is on disk. There is no training from here on."""
    SENT = "sent"
    """The report may have left the device. Only the same bytes may leave again."""
    TRAINED = "trained"
    """Under secure summing: what was trained is on disk, and waits for a group. There is no training from here on."""
    MASKED = "masked"
    """The masked report is on disk, and may have left the device. There is nothing left to make another one from."""
    GIVING_UP = "giving-up"
    """An outcome is decided and may have left the device. No report ever will."""
    REPORTED = "reported"
    """The coordinator gave its receipt."""
    ENDED = "ended"
    """Over without a receipt."""


class Event(StrEnum):
    """What moves a participation on."""

    SAVED = "saved"
    SAVEPOINT_LOST = "savepoint-lost"
    """It was damaged on disk: training begins anew, as nothing came of it yet."""
    SEALED = "sealed"
    TRAINED = "trained"
    """What was trained is sealed, to be summed in a group."""
    MASKED = "masked"
    OPENED = "opened"
    """The group's sum was opened."""
    SENDING = "sending"
    RECEIPT = "receipt"
    GAVE_UP = "gave-up"
    NOTED = "noted"
    """The coordinator noted the outcome."""
    REFUSED = "refused"
    """The coordinator wants neither report nor outcome."""
    EXPIRED = "expired"
    """The deadline passed on this device."""


STEPS: Final[Mapping[tuple[Phase, Event], Phase]] = {
    (Phase.ASSIGNED, Event.SAVED): Phase.TRAINING,
    (Phase.ASSIGNED, Event.SEALED): Phase.SEALED,
    (Phase.ASSIGNED, Event.TRAINED): Phase.TRAINED,
    (Phase.ASSIGNED, Event.GAVE_UP): Phase.GIVING_UP,
    (Phase.ASSIGNED, Event.EXPIRED): Phase.ENDED,
    (Phase.TRAINING, Event.SAVED): Phase.TRAINING,
    (Phase.TRAINING, Event.SAVEPOINT_LOST): Phase.ASSIGNED,
    (Phase.TRAINING, Event.SEALED): Phase.SEALED,
    (Phase.TRAINING, Event.TRAINED): Phase.TRAINED,
    (Phase.TRAINING, Event.GAVE_UP): Phase.GIVING_UP,
    (Phase.TRAINING, Event.EXPIRED): Phase.ENDED,
    (Phase.SEALED, Event.SENDING): Phase.SENT,
    (Phase.SEALED, Event.GAVE_UP): Phase.GIVING_UP,
    (Phase.SEALED, Event.EXPIRED): Phase.ENDED,
    (Phase.SENT, Event.SENDING): Phase.SENT,
    (Phase.SENT, Event.RECEIPT): Phase.REPORTED,
    (Phase.SENT, Event.REFUSED): Phase.ENDED,
    (Phase.SENT, Event.EXPIRED): Phase.ENDED,
    (Phase.TRAINED, Event.MASKED): Phase.MASKED,
    (Phase.TRAINED, Event.GAVE_UP): Phase.GIVING_UP,
    (Phase.TRAINED, Event.REFUSED): Phase.ENDED,
    (Phase.TRAINED, Event.EXPIRED): Phase.ENDED,
    (Phase.MASKED, Event.OPENED): Phase.REPORTED,
    (Phase.MASKED, Event.GAVE_UP): Phase.GIVING_UP,
    (Phase.MASKED, Event.REFUSED): Phase.ENDED,
    (Phase.MASKED, Event.EXPIRED): Phase.ENDED,
    (Phase.GIVING_UP, Event.NOTED): Phase.ENDED,
    (Phase.GIVING_UP, Event.REFUSED): Phase.ENDED,
    (Phase.GIVING_UP, Event.EXPIRED): Phase.ENDED,
}
"""Every step there is. What is absent is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Savepoint:
    """Where an interrupted training continues, without its vectors: they are in a file of their own.

    `epoch` and `step` are counted from 0 and name the next step to take: all before it are in the weights.
    """

    epoch: int
    step: int
    order_seed: int
    rng: bytes
    snapshot: str
    parameters: int
    slot_values: int
    vectors: Stored


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Progress:
    """A savepoint with its vectors: what training hands over, and takes up again.

    Attributes:
        epoch, step: The next step to take, counted from 0.
        order_seed: Determines the order of the examples; the same for all savepoints of a participation.
        rng: Opaque state of the generator, by `rng_state`.
        snapshot: Id of the examples' snapshot; the same for all savepoints of a participation.
        weights: Float32, shape ``(parameters,)``.
        slots: The optimiser's, float32, shape ``(slot_values,)``.
    """

    epoch: int
    step: int
    order_seed: int
    rng: bytes = field(repr=False)
    snapshot: str
    weights: Vector = field(repr=False)
    slots: Vector = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Participation:
    """A participation under way: everything a restarted process needs to go on with it."""

    participation: str
    population: str
    round: int
    plan: bytes
    plan_signature: bytes
    checkpoint_sha256: str
    assigned_at_s: float
    deadline_at_s: float
    phase: Phase = Phase.ASSIGNED
    savepoint: Savepoint | None = None
    report: Stored | None = None
    report_sha256: str | None = None
    """Of the report as it travels."""
    outcome: Outcome | None = None
    seconds: float = 0.0
    """Of work so far, over all slices."""
    transferred_bytes: int = 0
    battery_share: float = 0.0
    grouping: Grouping | None = None
    """Under secure summing, once it has trained."""
    counted_as: str | None = None
    """The digest of the plan whose limits allow it, and under which it counts once its report may leave; None where the
    plan has no limits, or was not looked at yet."""
    clipping_norm: float | None = None
    """Of the round's header; None where the plan needs none, or was not looked at yet."""

    @property
    def stored(self) -> frozenset[Stored]:
        """The files it needs."""
        savepoint = self.savepoint.vectors if self.savepoint else None
        held = frozenset(file for file in (savepoint, self.report) if file)
        return held | self.grouping.stored if self.grouping else held


def begun(assignment: Assignment, population: str, now_s: float) -> Participation:
    """A participation as it is assigned."""
    return Participation(
        participation=assignment.participation,
        population=population,
        round=assignment.round,
        plan=assignment.plan,
        plan_signature=assignment.plan_signature,
        checkpoint_sha256=assignment.checkpoint_sha256,
        assigned_at_s=now_s,
        deadline_at_s=now_s + assignment.deadline_s,
    )


def stepped(participation: Participation, event: Event) -> Participation:
    """Move on by one event; nothing but the phase changes.

    Raises:
        StepNotAllowed: The table has no such step.
    """
    phase = STEPS.get((participation.phase, event))
    if phase is None:
        raise StepNotAllowed(f"a participation that is {participation.phase} cannot be {event}")
    return replace(participation, phase=phase)


def saved(participation: Participation, savepoint: Savepoint) -> Participation:
    """Replace the savepoint by a later one of the same run.

    Raises:
        StepNotAllowed: It is of another run or goes back, so that examples would be trained twice; or training is over.
    """
    before = participation.savepoint
    if before is not None:
        if (before.order_seed, before.snapshot) != (savepoint.order_seed, savepoint.snapshot):
            raise StepNotAllowed("the savepoint is of another run over the examples")
        if (savepoint.epoch, savepoint.step) < (before.epoch, before.step):
            raise StepNotAllowed("the savepoint is before the one that is held")
    return replace(stepped(participation, Event.SAVED), savepoint=savepoint)


def without_savepoint(participation: Participation) -> Participation:
    """Begin anew, as the savepoint can no longer be read.

    Raises:
        StepNotAllowed: There is none.
    """
    return replace(stepped(participation, Event.SAVEPOINT_LOST), savepoint=None)


def sealed(participation: Participation, report: Stored, report_sha256: str) -> Participation:
    """End training with a report; the savepoint goes.

    Raises:
        StepNotAllowed: There is a report or an outcome already.
    """
    after = stepped(participation, Event.SEALED)
    return replace(after, savepoint=None, report=report, report_sha256=report_sha256)


def trained(participation: Participation, grouping: Grouping) -> Participation:
    """End training with a change that a group is to sum; the savepoint goes.

    Raises:
        StepNotAllowed: There is a change, a report or an outcome already.
    """
    return replace(stepped(participation, Event.TRAINED), savepoint=None, grouping=grouping)


def masked(participation: Participation, group: str, report: Stored, report_sha256: str) -> Participation:
    """Keep the masked report, and let go of what it was made from.

    Raises:
        StepNotAllowed: There is one already, or it is not its turn.
    """
    after = replace(stepped(participation, Event.MASKED), report=report, report_sha256=report_sha256)
    return regrouped(after, lambda held: sums.masked(held, group))


def regrouped(participation: Participation, change: Regrouping) -> Participation:
    """Change what is kept for groups.

    Raises:
        StepNotAllowed: There is nothing, or the change does not fit.
    """
    if participation.grouping is None:
        raise StepNotAllowed("this participation has nothing for a group")
    return replace(participation, grouping=change(participation.grouping))


def gave_up(participation: Participation, outcome: Outcome) -> Participation:
    """End training with an outcome; savepoint, report, change and the secrets of a group go.

    Raises:
        StepNotAllowed: A plain report may have left the device, or there is an outcome already.
    """
    after = stepped(participation, Event.GAVE_UP)
    grouping = None if after.grouping is None else sums.over(after.grouping)
    return replace(after, savepoint=None, report=None, report_sha256=None, outcome=outcome, grouping=grouping)


def rng_state(rng: np.random.Generator) -> bytes:
    """The state of a PCG64 generator, for a savepoint."""
    state = rng.bit_generator.state
    if state["bit_generator"] != "PCG64":
        raise ValueError(f"a savepoint holds PCG64, not {state['bit_generator']}")
    return json.dumps(state, sort_keys=True).encode()


def rng_from(raw: bytes) -> np.random.Generator:
    """The generator whose state was saved.

    Raises:
        Malformed: It is no such state.
    """
    generator = np.random.PCG64(0)
    try:
        state: Any = json.loads(raw)
        generator.state = state
    except (ValueError, TypeError, KeyError) as problem:
        raise Malformed("the savepoint holds no state of a generator") from problem
    return np.random.Generator(generator)
