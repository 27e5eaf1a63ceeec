"""How often this device takes part under one plan: what the plan claims rests on it, so the device enforces it. Pure.

Rounds are counted under the plan's digest, whatever task the coordinator runs it in: a plan that is run twice is one
plan, and a new plan needs the tenant's key. A participation counts from the moment at which its report may leave.

Rounds and clocks that went back count as too soon. A journal that was started anew (`State.restarted`) no longer knows
what was: for a year the restart stands for a participation under every plan that it has no memory of, in the first
round that it is offered.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from edge_runtime.protocol import wire
from edge_runtime.protocol.keys import is_sha256
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.policy import LONGEST_SPAN_S
from edge_runtime.protocol.reasons import Outcome

MOST_PLANS: Final = 256
"""Limited plans that a device remembers; no further one is taken part in before the oldest is a year old."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What this device gave under one plan.

    Attributes:
        times: How many participations, whose reports may have left.
        round: Of the last one.
        at_s: When it was assigned, by this device's clock.
    """

    plan_sha256: str
    times: int
    round: int
    at_s: float

    def __post_init__(self) -> None:
        wire.require(is_sha256(self.plan_sha256), "plan_sha256 is 64 hex digits")
        wire.require(self.times >= 1 and self.round >= 1, "participations and rounds are counted from 1")


Past = tuple[Taken, ...]
"""By plan, the one that was given to last at the end."""


def of_plan(past: Past, plan_sha256: str) -> Taken | None:
    """What was given under this plan."""
    return next((one for one in past if one.plan_sha256 == plan_sha256), None)


def barred(past: Past, plan: Plan, plan_sha256: str, round_: int, now_s: float) -> Outcome | None:
    """Why this device may not be in this round, or None.

    Guarantee: with `gave` for each participation, no sequence of rounds and clocks that do not go back lets a device
    be in more than `most_participations` rounds, in two that are closer than `separation`, or in two within
    `separation_s`.

    Args:
        plan_sha256: Of the plan's signed bytes.
        round_: Of the round's header.
        now_s: When the device was assigned to it.
    """
    if not plan.limited:
        return None
    taken = of_plan(past, plan_sha256)
    if taken is None:
        return Outcome.PARTICIPATIONS_SPENT if _is_full(past, now_s) else None
    if plan.most_participations is not None and taken.times >= plan.most_participations:
        return Outcome.PARTICIPATIONS_SPENT
    if round_ - taken.round < plan.separation or now_s - taken.at_s < plan.separation_s:
        return Outcome.PARTICIPATED_RECENTLY
    return None


def gave(past: Past, plan_sha256: str, round_: int, at_s: float) -> Past:
    """Note that a report of this round may leave from now on.

    Args:
        at_s: When the device was assigned to it.
    """
    before = of_plan(past, plan_sha256)
    others = tuple(one for one in past if one is not before)
    if before is None:
        return (*_kept(others, at_s), Taken(plan_sha256=plan_sha256, times=1, round=round_, at_s=at_s))
    again = replace(before, times=before.times + 1, round=max(before.round, round_), at_s=max(before.at_s, at_s))
    return (*others, again)


def assumed(past: Past, plan: Plan, plan_sha256: str, round_: int, restarted_at_s: float | None, now_s: float) -> Past:
    """The past with what a restart may have lost: a participation in this round, at the time of the restart.

    Args:
        restarted_at_s: When the journal lost its past; None if it never did.
    """
    if restarted_at_s is None or now_s - restarted_at_s >= LONGEST_SPAN_S or of_plan(past, plan_sha256) is not None:
        return past
    if not plan.limited or _is_full(past, now_s):
        return past
    return gave(past, plan_sha256, round_, restarted_at_s)


def seen_at(past: Past, now_s: float) -> Past:
    """Bring to now what lies in the future: a clock that was set back keeps a device out for one span, from now."""
    if all(one.at_s <= now_s for one in past):
        return past
    return tuple(replace(one, at_s=min(one.at_s, now_s)) for one in past)


def _is_full(past: Past, now_s: float) -> bool:
    return len(_kept(past, now_s)) >= MOST_PLANS


def _kept(past: Past, now_s: float) -> Past:
    """Without those over a year old, where there is no room: no separation is longer, and their plans are done."""
    if len(past) < MOST_PLANS:
        return past
    return tuple(one for one in past if now_s - one.at_s < LONGEST_SPAN_S)
