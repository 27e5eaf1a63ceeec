"""Which task a device goes to, when several want it: by priority, then by need, with a keyed coin.

A round needs the devices that its pool still lacks. Among rounds of the same, highest priority a device goes to one
with a probability in proportion to its need, so in expectation every pool lacks the same share at any time, all fill
together, and a round that needs a device is never passed over for ever. A round of lower priority gets the devices
that higher ones do not need, or cannot use.

The coin is keyed by the round and falls the same way for the same device, however often it asks: nobody gains by asking
again, and nobody can tell beforehand.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from coordinator.core.task_settings import TaskSettings
from edge_runtime.protocol.checkin import bucketed
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.reasons import Wait

_DOMAIN = b"edgewise/choice/v1\0"

TELLING = (
    Wait.SELECTION_PENDING,
    Wait.NOT_SELECTED,
    Wait.REPORTED,
    Wait.ROUND_IN_PROGRESS,
    Wait.PARTICIPATED_RECENTLY,
    Wait.TOO_FEW_EXAMPLES,
    Wait.TASK_PAUSED,
    Wait.NO_TASK,
)
"""Of several tasks' reasons a device hears the first of these: the one that is nearest to an assignment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A round that selects, and could use the device.

    Attributes:
        seed: Of the round, `core.selection.round_seed`.
        pool_size: Devices that check in before it chooses.
        candidates: Those it has.
    """

    round_id: str
    seed: bytes
    priority: int
    pool_size: int
    candidates: int

    @property
    def need(self) -> int:
        return max(0, self.pool_size - self.candidates)


def unfit(
    settings: TaskSettings,
    plan: Plan,
    *,
    paused: bool,
    in_cohort: bool,
    examples: int,
    participated_at: datetime | None,
    now: datetime,
) -> Wait | None:
    """Name why a task cannot use a device now, or None if it can. Which rule of a cohort failed is not told.

    Args:
        examples: What the device says, bucketed.
        participated_at: When it was last given an assignment, by any task.
    """
    if not in_cohort:
        return Wait.NO_TASK
    if paused:
        return Wait.TASK_PAUSED
    if examples < bucketed(plan.min_examples):
        return Wait.TOO_FEW_EXAMPLES
    if participated_at is not None and now - participated_at < timedelta(seconds=settings.min_separation_s):
        return Wait.PARTICIPATED_RECENTLY
    return None


def choose(contenders: Sequence[Contender], device_id: str) -> Contender | None:
    """Choose the round that a device becomes a candidate of, or None if there is none.

    Guarantee: no round in need is passed over for one of lower priority, or for one without need. Among equals the
    probability over devices is need / sum of needs. When none is in need, the equals are those of the highest priority.

    Source: the exponential race, https://doi.org/10.1016/j.ipl.2005.11.003 with one winner.
    """
    wanting = [one for one in contenders if one.need] or contenders
    if len(wanting) < 2:
        return wanting[0] if wanting else None
    highest = max(one.priority for one in wanting)
    return min(
        (one for one in wanting if one.priority == highest),
        key=lambda one: (_waiting_time(one.seed, device_id) / max(1, one.need), one.round_id),
    )


def telling(reasons: Iterable[Wait]) -> Wait:
    """The reason a device hears when no task takes it."""
    return min(reasons, key=TELLING.index, default=Wait.NO_TASK)


def _waiting_time(seed: bytes, device_id: str) -> float:
    """Exponential of mean 1, keyed: -ln u, with u even over (0, 1]."""
    drawn = hmac.digest(seed, _DOMAIN + device_id.encode(), hashlib.sha256)
    return -math.log(((int.from_bytes(drawn[:7], "big") >> 3) + 1) / 2.0**53)
