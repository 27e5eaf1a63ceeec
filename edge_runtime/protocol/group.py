"""From a trained change to a group that sums: appointments, and where the steps of a group are.

A device that has trained says so, and is told when to come: `Trained` is answered by an `Appointment`, again and again
until it names a group. Then each step is sent once and its answer is asked for with GET, held open for up to 20 s: 200
is the next message, 202 is `NotYet`, the refusal `group-ended` says that the group came to nothing. The same step again
changes nothing; another one under its name is refused. The masked report travels as any report does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

from edge_runtime.protocol import wire
from edge_runtime.protocol.enrolment import is_name, require_delay
from edge_runtime.protocol.keys import is_id

LONGEST_HOLD_S: Final = 20.0
"""A question about the next step is held open so long at most."""
LEAST_SLICE_S: Final = 300.0
"""A device joins a group only with so much of its slice left."""
STEP_GRACE_S: Final = 90.0
"""Inside a group a device goes on trying until a step's deadline and so much more: the coordinator may be down."""


class Step(StrEnum):
    """What a device sends in a group, in this order, and what it then asks for."""

    JOIN = "join"
    """Up `Joining`, down `Roster`."""
    SHARES = "shares"
    """Up `Shares`, down `Delivery`."""
    MASKED = "masked"
    """Up `Complaints`, and the masked report as the participation's report; down `Survivors`."""
    CONFIRMATION = "confirmation"
    """Up `Confirmation`, down `Confirmations`."""
    UNMASKING = "unmasking"
    """Up `Unmasking`, down `Opened`."""


def trained_path(participation: str) -> str:
    return f"/v1/device/participations/{participation}/trained"


def step_path(group: str, step: Step) -> str:
    """POST sends a step, GET asks for what follows it."""
    return f"/v1/device/groups/{group}/{step.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The change of this participation is sealed on the device, and waits to be summed."""

    VERSION: ClassVar[int] = 1
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Appointment:
    """When to come, on whatever network the policy allows; summing needs no training conditions.

    Attributes:
        task: Part of what the group agrees on.
        in_s: Seconds from now; 0 with a group means that it forms now.
        window_s: So long after that it is worth coming.
        group: The group that forms, to be joined now; none yet before.
    """

    VERSION: ClassVar[int] = 1
    version: int
    task: str
    in_s: float
    window_s: float
    group: str | None

    def __post_init__(self) -> None:
        wire.require(is_name(self.task), "task is a name")
        require_delay(self.in_s, "in_s")
        require_delay(self.window_s, "window_s")
        wire.require(self.group is None or (is_id(self.group) and self.in_s == 0), "a group is joined now, by its id")


@dataclass(frozen=True, slots=True, kw_only=True)
class NotYet:
    """The step before is here; what follows is not ready.

    Attributes:
        ask_after_s: When to ask again.
        left_s: Until the deadline of the step that is awaited from everybody.
    """

    VERSION: ClassVar[int] = 1
    version: int
    ask_after_s: float
    left_s: float

    def __post_init__(self) -> None:
        require_delay(self.ask_after_s, "ask_after_s")
        require_delay(self.left_s, "left_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTaken:
    """The coordinator holds this step durably."""

    VERSION: ClassVar[int] = 1
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The group's sum was opened; when to check in again."""

    VERSION: ClassVar[int] = 1
    version: int
    retry_after_s: float

    def __post_init__(self) -> None:
        require_delay(self.retry_after_s, "retry_after_s")
