"""How a slice ends, and what stands in the way of the next: the closed list, and what the app is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_runtime.journal.participation import Phase
    from edge_runtime.journal.state import Restart, Visited


class Happened(StrEnum):
    """What became of a slice: the only list."""

    BLOCKED = "blocked"
    """Nothing was done; the reason is a `Blocker`."""
    WAITING = "waiting"
    """The coordinator had no use for the device now; the reason is a `Wait`."""
    INTERRUPTED = "interrupted"
    """Work was stopped, or waits for its appointment, and goes on in a later slice; the reason is a `Blocker`, or an
    `Outcome` of the same name."""
    REPORTED = "reported"
    """The coordinator gave its receipt for a report, or opened the sum that it is in; the reason is "reported"."""
    GAVE_UP = "gave-up"
    """A participation ended without a report; the reason is an `Outcome`."""
    UNREACHABLE = "unreachable"
    """The coordinator gave no answer; the reason is "network-lost"."""
    REFUSED = "refused"
    """The coordinator, or this device, refused; the reason is the refusal's code."""
    SWITCHED_OFF = "switched-off"
    """An operator switched the population off; the device only asks, now and then, whether it still is."""
    OPTED_OUT = "opted-out"
    """The owner took the device out; nothing is kept, and nothing is done, but to tell the coordinator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceEnd:
    """How a slice ended.

    Attributes:
        happened: What became of it.
        reason: One code: of a `Blocker`, a `Wait`, an `Outcome` or a refusal, as `happened` says.
        come_back_s: A further slice before so many seconds have passed does nothing new.
        work_left: A participation is under way that a further slice goes on with.
        round: The round that this slice worked for.
    """

    happened: Happened
    reason: str
    come_back_s: float
    work_left: bool = False
    round: int | None = None

    def __bool__(self) -> bool:
        """Whether work is left: what an operating system's scheduler is told."""
        return self.work_left


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Why nothing is trained just now, and what happened before.

    Attributes:
        reason: What stands in the way of the next step: a `Blocker`, "switched-off" or "opted-out"; None for nothing.
        come_back_s: When it may be gone, in seconds.
        unknown: What the source of conditions cannot tell: it counts as the answer that spares the owner.
        phase: How far a participation is, if one is under way.
        history: The last ends of slices, oldest first: their reason, when, in which round, and how often in a row.
        restarted: Why the journal was started anew, if it was.
        examples: How many can be trained on.
        appointment_at_s: When what was trained is to be summed in a group; seconds since the epoch.
        zeroed: Why what waits for a group is zeros, by reason code, if it is.
    """

    reason: str | None
    come_back_s: float
    unknown: tuple[str, ...]
    phase: Phase | None
    history: tuple[Visited, ...]
    restarted: Restart | None
    examples: int
    appointment_at_s: float | None = None
    zeroed: str | None = None
