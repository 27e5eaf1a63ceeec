"""What privacy arithmetic refuses, each with a permanent code, the reason and the nearest valid choice."""

from __future__ import annotations

from edge_runtime.protocol.errors import Refusal


class PrivacyRefusal(Refusal):
    """A choice that would break a claim, or make one that does not hold.

    Args:
        reason: One sentence.
        nearest: The nearest valid choice, one sentence.
    """

    code, title = "privacy-refused", "The privacy settings do not hold"

    def __init__(self, reason: str, nearest: str) -> None:
        super().__init__(f"{reason} {nearest}")
        self.reason = reason
        self.nearest = nearest


class InvalidTargetDelta(PrivacyRefusal):
    code, title = "invalid-target-delta", "The target delta allows a device to be exposed"


class InvalidClippingNorm(PrivacyRefusal):
    code, title = "invalid-clipping-norm", "A claim needs a clipping norm above 0"


class InvalidNoise(PrivacyRefusal):
    code, title = "invalid-noise", "The noise does not carry a claim"


class CohortTooSmall(PrivacyRefusal):
    code, title = "cohort-too-small", "The cohort is below the minimum"


class ModeNotGiven(PrivacyRefusal):
    code, title = "mode-not-given", "The task's summing cannot give this privacy mode"


class NoiseLowered(PrivacyRefusal):
    code, title = "noise-lowered", "Noise is not lowered while a task is active"


class InvalidBudget(PrivacyRefusal):
    code, title = "invalid-budget", "The budget is not one that can be kept"


class InvalidLimits(PrivacyRefusal):
    code, title = "invalid-limits", "The participation limits do not bound what a device gives"


class LedgerClosed(PrivacyRefusal):
    code, title = "ledger-closed", "What a ledger holds is never changed"


class BudgetSpent(PrivacyRefusal):
    code, title = "budget-spent", "The privacy budget is spent"


class NotReserved(PrivacyRefusal):
    code, title = "not-reserved", "Nothing was reserved for this charge"


class NotCovered(PrivacyRefusal):
    code, title = "not-covered", "The accountant does not know this mechanism"


class OpinionsDiffer(PrivacyRefusal):
    code, title = "opinions-differ", "Two accountants disagree about the same releases"


class LedgerDamaged(PrivacyRefusal):
    code, title = "ledger-damaged", "The ledger is not the one that was written"
