"""What the next step needs, and when to come back after one that failed: pure decisions."""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import Final

from edge_runtime.journal.participation import Participation, Phase
from edge_runtime.protocol.errors import (
    ConflictingReport,
    LanesOutOfRange,
    Malformed,
    MalformedReport,
    ParticipationEnded,
    Refusal,
    ReportLength,
    Retry,
    RoundClosed,
    UnknownParticipation,
)
from edge_runtime.protocol.policy import Policy
from edge_runtime.protocol.reasons import Blocker, Outcome, Wait
from edge_runtime.schedule import Activity, Usage, look_again_s

PASSING_FAILURE_S: Final = 900.0
"""How long to wait after a failure that passes; a fifth more or less."""
LASTING_FAILURE_S: Final = 4 * 3600.0
"""How long to wait after one that does not pass by itself."""
SPREAD_SHARE: Final = 0.2

FINAL_FOR_A_REPORT: Final[tuple[type[Refusal], ...]] = (
    ConflictingReport,
    LanesOutOfRange,
    MalformedReport,
    ParticipationEnded,
    ReportLength,
    RoundClosed,
    UnknownParticipation,
)
"""Refusals that only a coordinator gives: it will never take this report, or this outcome."""


def activity_of(held: Participation | None, *, fetched: bool) -> Activity:
    """What the next step needs.

    Args:
        fetched: Whether bundle and checkpoint of the participation are on disk.
    """
    if held is None:
        return Activity.VISIT
    if held.phase in (Phase.TRAINED, Phase.MASKED):
        return Activity.SUM
    trains = held.phase in (Phase.ASSIGNED, Phase.TRAINING)
    return Activity.TRAIN if trains and fetched else Activity.TRANSFER


def backs_off_s(usage: Usage, policy: Policy, now: datetime) -> float:
    """Seconds until a participation under way may use the network again after a failure; 0 for now."""
    if usage.last_visit_at is None:
        return 0.0
    wait_s = min(usage.wait_s, policy.max_interval_s)
    passed_s = now.timestamp() - usage.last_visit_at
    return wait_s - passed_s if abs(passed_s) < wait_s else 0.0


def come_back_s(reason: Blocker, policy: Policy, usage: Usage, now: datetime, zone: tzinfo) -> float:
    """When a further slice may go on that was stopped or blocked for this reason."""
    if reason in (Blocker.SLICE_ENDED, Blocker.SYSTEM_STOPPED):
        return policy.min_interval_s
    return look_again_s(reason, policy, usage, now, zone)


def is_hopeless(held: Participation, come_back_after_s: float, now_s: float) -> bool:
    """Whether a participation that has no report yet cannot go on before its deadline."""
    unfinished = held.phase in (Phase.ASSIGNED, Phase.TRAINING, Phase.SEALED, Phase.TRAINED)
    return unfinished and now_s + come_back_after_s >= held.deadline_at_s


def failure_wait_s(refusal: Refusal | None, chance: float) -> float:
    """How long to wait after a failure; None is no answer at all.

    Args:
        chance: 0 to 1, so that devices do not come back in step.
    """
    if refusal is not None and refusal.retry_after_s is not None:
        return max(0.0, refusal.retry_after_s) * (1 + SPREAD_SHARE * chance)
    lasts = refusal is not None and refusal.retry is Retry.NEVER and not isinstance(refusal, Malformed)
    return (LASTING_FAILURE_S if lasts else PASSING_FAILURE_S) * (1 + SPREAD_SHARE * (2 * chance - 1))


def appointment_in_s(held: Participation | None, now_s: float) -> float:
    """Seconds until what was trained may be summed; 0 for now."""
    if held is None or held.grouping is None or held.grouping.meeting is None:
        return 0.0
    return max(0.0, held.grouping.meeting.at_s - now_s)


def zeroed_as(held: Participation | None) -> str | None:
    """Why what waits for a group is zeros, if it is."""
    return held.grouping.zeroed if held is not None and held.grouping is not None else None


def reason_of(outcome: Outcome) -> Blocker | None:
    """The blocker of the same name, if there is one."""
    return Blocker(outcome.value) if outcome.value in {one.value for one in Blocker} else None


REPORTED: Final = Wait.REPORTED.value
UNREACHABLE: Final = Blocker.NETWORK_LOST.value
