"""Refusals and their permanent codes: the only list, shared by both ends.

A refusal is expected and typed; it is raised where something is refused and sent to the peer as an RFC 9457 problem.
A code never changes its meaning and is never reused. Anything that is not a `Refusal` is a bug or the surroundings.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Retry(StrEnum):
    """Whether the same request may be sent again."""

    NEVER = "never"
    LATER = "later"
    NOW = "now"


class Refusal(Exception):
    """Something was refused, for a reason with a permanent code.

    Args:
        detail: One sentence for a person, without participant data, keys or tokens.
        retry_after_s: When to try again, in seconds, where the refusal knows it.
    """

    code: ClassVar[str] = ""
    title: ClassVar[str] = ""
    retry: ClassVar[Retry] = Retry.NEVER

    def __init__(self, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s


class Malformed(Refusal):
    code, title = "malformed", "The message could not be decoded"


class UnsupportedVersion(Refusal):
    code, title = "unsupported-version", "The message version is not spoken here"


class InvalidPlan(Refusal):
    code, title = "invalid-plan", "The plan asks for something impossible"


class MalformedBundle(Refusal):
    code, title = "malformed-bundle", "The bundle is truncated or not a bundle"


class MalformedCheckpoint(Refusal):
    code, title = "malformed-checkpoint", "The checkpoint is truncated or not a checkpoint"


class MalformedReport(Refusal):
    code, title = "malformed-report", "The report is not a report"


class ReportLength(Refusal):
    code, title = "report-length", "The report has the wrong length"


class LanesOutOfRange(Refusal):
    code, title = "lanes-out-of-range", "The report has lanes outside the plan's range"


class DigestMismatch(Refusal):
    code, title = "digest-mismatch", "The bytes do not match their digest"


class UntrustedDocument(Refusal):
    code, title = "untrusted-document", "The signature is not by a trusted key"


class WrongCheckpoint(Refusal):
    code, title = "wrong-checkpoint", "The checkpoint does not belong to this bundle"


class InvalidExamples(Refusal):
    code, title = "invalid-examples", "The examples do not fit the bundle's schema"


class InvalidWeights(Refusal):
    code, title = "invalid-weights", "The weights do not fit the bundle"


class NonFiniteTraining(Refusal):
    code, title = "non-finite-training", "Training produced a value that is not finite"


class InterpreterMissing(Refusal):
    code, title = "interpreter-missing", "No TFLite interpreter is installed"


class InterpreterFailed(Refusal):
    code, title = "interpreter-failed", "The TFLite interpreter could not load or run the graph"


class BadSignature(Refusal):
    code, title = "bad-signature", "The request signature is missing or wrong"


class UnknownDevice(Refusal):
    code, title = "unknown-device", "The device is not enrolled"


class DeviceLeft(Refusal):
    code, title = "device-left", "The device was taken out by its owner"


class SwitchedOff(Refusal):
    code, title, retry = "switched-off", "Devices of this population are switched off", Retry.LATER


class ClockSkew(Refusal):
    code, title, retry = "clock-skew", "The request was signed by a clock that is too far off", Retry.NOW


class ReplayedRequest(Refusal):
    code, title = "replayed-request", "This very request was already received"


class OperatorUnauthorised(Refusal):
    code, title = "operator-unauthorised", "An operator call needs a valid token"


class NotFound(Refusal):
    code, title = "not-found", "Nothing of that name is here"


class UnknownParticipation(Refusal):
    code, title = "unknown-participation", "This device takes no part under that id"


class RoundClosed(Refusal):
    code, title = "round-closed", "The round met its goal, or passed its deadline"


class ParticipationEnded(Refusal):
    code, title = "participation-ended", "The participation was already given up"


class ConflictingReport(Refusal):
    code, title = "conflicting-report", "Another report was already received under this id"


class Conflict(Refusal):
    code, title = "conflict", "The object already exists with other content, or is in the wrong state"


class PreconditionFailed(Refusal):
    code, title = "precondition-failed", "The object is not in the version that the change was meant for"


class BodyTooLarge(Refusal):
    code, title = "body-too-large", "The body is larger than this endpoint takes"


class StorageFull(Refusal):
    code, title, retry = "storage-full", "The coordinator has no room", Retry.LATER


class Unavailable(Refusal):
    code, title, retry = "unavailable", "The coordinator cannot answer just now", Retry.LATER


class DeviceStorageFull(Refusal):
    code, title, retry = "device-storage-full", "The device has no room", Retry.LATER


class StateInUse(Refusal):
    code, title, retry = "state-in-use", "Another process uses the state folder", Retry.LATER


class StateDamaged(Refusal):
    code, title = "state-damaged", "What is stored on the device can no longer be read as it was written"


class WrongStorageKey(Refusal):
    code, title = "wrong-storage-key", "The key does not open what is stored on the device"


class UnknownCollection(Refusal):
    code, title = "unknown-collection", "The app declared no collection of that name"


class SchemaChanged(Refusal):
    code, title = "schema-changed", "The collection holds examples of another schema"


class StepNotAllowed(Refusal):
    code, title = "step-not-allowed", "The participation is past that step"


class InvalidGroup(Refusal):
    code, title = "invalid-group", "The group is not one whose sums hide a report"


class InvalidRoster(Refusal):
    code, title = "invalid-roster", "The roster is not one that can be trusted"


class ContradictedGroup(Refusal):
    code, title = "contradicted-group", "The message contradicts what the group agreed on"


class NoAuthority(Refusal):
    code, title = "no-authority", "The coordinator has no enrolment authority, so no group could sum securely"


class GroupEnded(Refusal):
    code, title = "group-ended", "The group came to nothing, or is over"


class ContradictedRound(Refusal):
    code, title = "contradicted-round", "The round's header contradicts the plan or the assignment"


class BoxNotOpened(Refusal):
    code, title = "box-not-opened", "A sealed box of shares does not open, or holds other shares than were promised"


class WrongShare(Refusal):
    code, title = "wrong-share", "A share, or the secret it rebuilds, is not the promised one"


class TooFewSurvivors(Refusal):
    code, title = "too-few-survivors", "Too few members of the group are left to open its sum"


class PrivacyRefusal(Refusal):
    """A choice that would break a privacy claim, or make one that does not hold.

    Args:
        reason: One sentence.
        nearest: The nearest valid choice, one sentence.
    """

    code, title = "privacy-refused", "The privacy settings do not hold"

    def __init__(self, reason: str, nearest: str = "", *, retry_after_s: float | None = None) -> None:
        super().__init__(f"{reason} {nearest}".strip(), retry_after_s=retry_after_s)
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


def _all_subclasses(of: type[Refusal]) -> list[type[Refusal]]:
    return [found for direct in of.__subclasses__() for found in (direct, *_all_subclasses(direct))]


REFUSALS: dict[str, type[Refusal]] = {refusal.code: refusal for refusal in _all_subclasses(Refusal)}
"""Every refusal by its permanent code."""


def refusal_named(code: str, detail: str, retry_after_s: float | None = None) -> Refusal:
    """Rebuild the refusal a peer sent; a code of a later version becomes a plain `Refusal`."""
    return REFUSALS.get(code, Refusal)(detail, retry_after_s=retry_after_s)
