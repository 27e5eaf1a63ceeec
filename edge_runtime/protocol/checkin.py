"""Check-in: a device offers itself; the answer is an assignment or a retry window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from edge_runtime.protocol import wire
from edge_runtime.protocol.enrolment import is_label, is_name, require_delay
from edge_runtime.protocol.keys import SIGNATURE_BYTES, is_id, is_sha256
from edge_runtime.protocol.policy import Policy
from edge_runtime.protocol.reasons import Wait

CHECK_IN_PATH: Final = "/v1/device/check-in"


def bundle_path(sha256: str) -> str:
    return f"/v1/device/bundles/{sha256}"


def checkpoint_path(sha256: str) -> str:
    return f"/v1/device/checkpoints/{sha256}"


def bucketed(count: int) -> int:
    """Round a number of examples down to a power of two, so that it identifies nobody; 0 stays 0."""
    return 1 << (count.bit_length() - 1) if count > 0 else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckIn:
    """An offer. `visit` is random and stays the same when a lost answer is asked for again.

    The answer is of the same version.
    """

    VERSION: ClassVar[int] = 2
    OLDEST: ClassVar[int] = 1
    version: int
    population: str
    visit: str
    runtime: str
    examples: int
    """Bucketed by `bucketed`."""

    def __post_init__(self) -> None:
        wire.require(is_name(self.population), "population is a name")
        wire.require(is_id(self.visit), "visit is 32 hex digits")
        wire.require(is_label(self.runtime), "runtime has 1 to 128 printable characters")
        wire.require(0 <= self.examples == bucketed(self.examples), "examples is 0 or a power of two")


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """The device takes part in a round."""

    participation: str
    round: int
    plan: bytes
    plan_signature: bytes
    checkpoint_sha256: str
    deadline_s: float
    """The report is due within so many seconds."""

    def __post_init__(self) -> None:
        wire.require(is_id(self.participation), "participation is 32 hex digits")
        wire.require(self.round >= 1, "rounds are counted from 1")
        wire.require(len(self.plan_signature) == SIGNATURE_BYTES, "plan_signature has 64 bytes")
        wire.require(is_sha256(self.checkpoint_sha256), "checkpoint_sha256 is 64 hex digits")
        require_delay(self.deadline_s, "deadline_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryWindow:
    """Come back after `after_s` seconds, at an instant drawn evenly from the next `spread_s` seconds."""

    reason: Wait
    after_s: float
    spread_s: float

    def __post_init__(self) -> None:
        require_delay(self.after_s, "after_s")
        require_delay(self.spread_s, "spread_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckInAnswer:
    """Either an assignment or a retry window."""

    VERSION: ClassVar[int] = 2
    OLDEST: ClassVar[int] = 1
    ADDED: ClassVar[Mapping[str, int]] = {"policy": 2}
    version: int
    assignment: Assignment | None
    retry: RetryWindow | None
    policy: Policy | None = None
    """When the device may work from now on; null where no operator said so."""

    def __post_init__(self) -> None:
        wire.require(wire.fits_version(self), "version 1 has no policy")
        wire.require((self.assignment is None) != (self.retry is None), "an assignment or a retry window")
