"""Check-in: a device offers itself; the answer is an assignment or a retry window."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias

from edge_runtime.protocol import wire
from edge_runtime.protocol.enrolment import is_label, is_name, require_delay
from edge_runtime.protocol.errors import Malformed
from edge_runtime.protocol.keys import SIGNATURE_BYTES, is_id, is_sha256
from edge_runtime.protocol.policy import Policy
from edge_runtime.protocol.reasons import Wait

CHECK_IN_PATH: Final = "/v1/device/check-in"

AttributeValue: TypeAlias = str | int | bool
"""Text, a whole number, or yes or no; never a fraction."""

MOST_ATTRIBUTES: Final = 32
ATTRIBUTE_TEXT_CHARACTERS: Final = 64
ATTRIBUTE_INTEGER_LIMIT: Final = 1 << 53
"""Integers are below it in size: what every language holds exactly."""

_TOO_MANY_ATTRIBUTES: Final = f"a device has at most {MOST_ATTRIBUTES} attributes"
_ATTRIBUTE_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_CODE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")


def bundle_path(sha256: str) -> str:
    return f"/v1/device/bundles/{sha256}"


def checkpoint_path(sha256: str) -> str:
    return f"/v1/device/checkpoints/{sha256}"


def bucketed(count: int) -> int:
    """Round a number of examples down to a power of two, so that it identifies nobody; 0 stays 0."""
    return 1 << (count.bit_length() - 1) if count > 0 else 0


def is_attribute_name(text: str) -> bool:
    """Whether a text can name an attribute: 1 to 32 of a-z 0-9 _, a letter first."""
    return _ATTRIBUTE_NAME.fullmatch(text) is not None


def is_attribute_value(value: object) -> bool:
    """Whether this can be said of a device: text of 1 to 64 printable characters, an integer of 53 bits, a boolean."""
    if isinstance(value, str):
        return 1 <= len(value) <= ATTRIBUTE_TEXT_CHARACTERS and value.isprintable()
    return type(value) is bool or (type(value) is int and abs(value) < ATTRIBUTE_INTEGER_LIMIT)


def is_code(text: str) -> bool:
    """Whether a text can be a region or a hardware class: 1 to 32 of A-Z a-z 0-9 . _ -, a letter or digit first."""
    return _CODE.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckIn:
    """An offer. `visit` is random and stays the same when a lost answer is asked for again.

    The answer is of the same version. What version 3 brought says which cohorts the device is in: classes that many
    devices share, and nothing that identifies a person.
    """

    VERSION: ClassVar[int] = 3
    OLDEST: ClassVar[int] = 1
    ADDED: ClassVar[Mapping[str, int]] = {
        "app_version": 3,
        "platform": 3,
        "region": 3,
        "hardware_class": 3,
        "attributes": 3,
    }
    version: int
    population: str
    visit: str
    runtime: str
    examples: int
    """Bucketed by `bucketed`."""
    app_version: str | None = None
    """Of the app now; it may have been updated since the device enrolled."""
    platform: str | None = None
    region: str | None = None
    """A code for a place where many live, such as a country's; null where the app does not say."""
    hardware_class: str | None = None
    """A code for a class of devices, in the app's words; null where the app does not say."""
    attributes: dict[str, AttributeValue] | None = None
    """What the app says of its device, by name; the coordinator keeps what its population declares."""

    def __post_init__(self) -> None:
        wire.require(wire.fits_version(self), "only version 3 says more of the device")
        wire.require(is_name(self.population), "population is a name")
        wire.require(is_id(self.visit), "visit is 32 hex digits")
        wire.require(is_label(self.runtime), "runtime has 1 to 128 printable characters")
        wire.require(0 <= self.examples == bucketed(self.examples), "examples is 0 or a power of two")
        if self.version >= 3:
            self._check_device()

    def _check_device(self) -> None:
        version, platform = self.app_version, self.platform
        wire.require(version is not None and is_label(version), "app_version has 1 to 128 printable characters")
        wire.require(platform is not None and is_label(platform), "platform has 1 to 128 printable characters")
        wire.require(self.attributes is not None, "attributes is an object; {} says nothing")
        require_said(self.region, self.hardware_class, self.attributes or {})


def require_said(region: str | None, hardware_class: str | None, attributes: Mapping[str, AttributeValue]) -> None:
    """Raise `Malformed` unless all of this may be said of a device."""
    sentence = "is 1 to 32 of A-Z a-z 0-9 . _ -, a letter or digit first, or nothing"
    for what, code in (("region", region), ("hardware_class", hardware_class)):
        if code is not None and not is_code(code):
            raise Malformed(f"{what} {sentence}")
    wire.require(len(attributes) <= MOST_ATTRIBUTES, _TOO_MANY_ATTRIBUTES)
    for name, value in attributes.items():
        wire.require(is_attribute_name(name), "the name of an attribute is 1 to 32 of a-z 0-9 _, a letter first")
        sentence = "is text of 1 to 64 printable characters, an integer below 2^53 in size, or a boolean"
        wire.require(is_attribute_value(value), f"the attribute {name} {sentence}")


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
    """Either an assignment or a retry window; of version 3 as of version 2."""

    VERSION: ClassVar[int] = 3
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
