"""What privacy arithmetic refuses, each with a permanent code, the reason and the nearest valid choice.

The codes are of the one list of refusals, `edge_runtime.protocol.errors`.
"""

from __future__ import annotations

from edge_runtime.protocol.errors import (
    BudgetSpent,
    CohortTooSmall,
    InvalidBudget,
    InvalidClippingNorm,
    InvalidLimits,
    InvalidNoise,
    InvalidTargetDelta,
    LedgerClosed,
    LedgerDamaged,
    ModeNotGiven,
    NoiseLowered,
    NotCovered,
    NotReserved,
    OpinionsDiffer,
    PrivacyRefusal,
)

__all__ = [
    "BudgetSpent",
    "CohortTooSmall",
    "InvalidBudget",
    "InvalidClippingNorm",
    "InvalidLimits",
    "InvalidNoise",
    "InvalidTargetDelta",
    "LedgerClosed",
    "LedgerDamaged",
    "ModeNotGiven",
    "NoiseLowered",
    "NotCovered",
    "NotReserved",
    "OpinionsDiffer",
    "PrivacyRefusal",
]
