"""Enrolment: a device makes itself known, once an installation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

from edge_runtime.protocol import wire
from edge_runtime.protocol.keys import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, is_id
from edge_runtime.protocol.names import is_label as is_label
from edge_runtime.protocol.names import is_name as is_name
from edge_runtime.protocol.policy import Policy

ENROL_PATH: Final = "/v1/device/enrol"
DEVICE_PATH: Final = "/v1/device"
LONGEST_DELAY_S: Final = 30 * 86_400
"""A device that is told to come back later than this does not believe it."""


class Evidence(StrEnum):
    """What shows that the device is a real one."""

    NONE = "none"


def require_delay(seconds: float, name: str) -> None:
    """Raise `Malformed` unless a coordinator may ask a device to wait so long: at most 30 days."""
    wire.require(0 <= seconds <= LONGEST_DELAY_S, f"{name} is 0 to {LONGEST_DELAY_S} s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrol:
    """Signed with the very key it brings. The answer is of the same version."""

    VERSION: ClassVar[int] = 3
    OLDEST: ClassVar[int] = 1
    version: int
    tenant: str
    population: str
    public_key: bytes
    app: str
    app_version: str
    platform: str
    evidence: Evidence

    def __post_init__(self) -> None:
        wire.require(is_name(self.tenant) and is_name(self.population), "tenant and population are names")
        wire.require(len(self.public_key) == PUBLIC_KEY_BYTES, "public_key has 32 bytes")
        for text in (self.app, self.app_version, self.platform):
            wire.require(is_label(text), "app, app_version and platform have 1 to 128 printable characters")


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    VERSION: ClassVar[int] = 3
    OLDEST: ClassVar[int] = 1
    ADDED: ClassVar[Mapping[str, int]] = {"policy": 2, "certificate": 3}
    version: int
    device_id: str
    retry_after_s: float
    """When to check in, in seconds."""
    policy: Policy | None = None
    """When the device may work; null where no operator said so: the app's floors hold."""
    certificate: bytes = b""
    """Of the device's key, by the enrolment authority; empty where there is none."""

    def __post_init__(self) -> None:
        wire.require(wire.fits_version(self), f"version {self.version} has what a later one brought")
        wire.require(len(self.certificate) in (0, SIGNATURE_BYTES), "certificate has 64 bytes, or is empty")
        wire.require(is_id(self.device_id), "device_id is 32 hex digits")
        require_delay(self.retry_after_s, "retry_after_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """The device is out: it is never chosen again. Again gets the same answer."""

    VERSION: ClassVar[int] = 1
    version: int
    device_id: str

    def __post_init__(self) -> None:
        wire.require(is_id(self.device_id), "device_id is 32 hex digits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An RFC 9457 problem: how every refusal travels."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retry: str
    retry_after_s: float | None
    server_time: int
    """Seconds since the epoch, so that a device whose clock is off can sign again."""
