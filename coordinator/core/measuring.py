"""What a round of evaluation found, as it is kept with the round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Means over the examples of everyone who reported.

    Attributes:
        reports: Added up.
        examples: Weighed in, about: each device's share of the plan's most examples is rounded to a lane.
        means: By metric.
    """

    VERSION: ClassVar[int] = 1
    version: int
    reports: int
    examples: float
    means: dict[str, float]
