"""A claim beside its second opinion: two accountants, written apart, about the same events.

They are compared where both apply and bound the same thing: a tight accountant with a tight one, a Rényi one with a
Rényi one. A second opinion that is lower is as suspicious as one that is higher. Little ε is found at large Rényi
orders, and where those of an accountant end it says too much, by a few thousandths: so little is not compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from coordinator.core.privacy.events import Accountant, Event
from coordinator.core.privacy.refusals import OpinionsDiffer

LARGEST_DIFFERENCE: Final = 0.02
"""Relative to the smaller of both."""
LEAST_COMPARED: Final = 0.01
"""Two ε up to it agree: nothing is then one part in a hundred likelier with a device than without, whoever is right."""


class SecondOpinions(StrEnum):
    """Whether another accountant is asked before something is claimed."""

    INSTALLED = "installed"
    """Where there is one."""
    REQUIRED = "required"
    """Nothing is claimed without."""
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Opinion:
    """What an accountant says of some events.

    Attributes:
        accountant: Who says so.
        epsilon: ε at δ.
    """

    accountant: str
    epsilon: float
    delta: float


def opinion(accountant: Accountant, events: Sequence[Event], delta: float) -> Opinion:
    """Ask an accountant.

    Raises:
        NotCovered: It does not know one of the mechanisms.
    """
    return Opinion(accountant.name, accountant.epsilon(events, delta), delta)


def difference(claim: Opinion, second: Opinion) -> float:
    """How far apart two figures are, relative to the smaller; 0 where neither is above `LEAST_COMPARED`.

    Infinite where one is not finite, where only one is above 0, and where they speak of different δ.
    """
    low, high = sorted((claim.epsilon, second.epsilon))
    if not (math.isfinite(low) and math.isfinite(high) and claim.delta == second.delta):
        return math.inf
    if max(high, -low) <= LEAST_COMPARED:
        return 0.0
    return (high - low) / low if low > 0 else math.inf


def agreed(claim: Opinion, second: Opinion) -> Opinion:
    """The claim, if the second opinion is within 2 % of it, whichever is larger.

    Raises:
        OpinionsDiffer: It is not, or one of both is not finite, or they speak of different δ.
    """
    apart = difference(claim, second)
    if apart > LARGEST_DIFFERENCE:
        raise OpinionsDiffer(
            f"{claim.accountant} says ε = {claim.epsilon:.4g} and {second.accountant} says {second.epsilon:.4g}.",
            "Nothing is released until both agree within 2 %; report it as a bug.",
        )
    return claim
