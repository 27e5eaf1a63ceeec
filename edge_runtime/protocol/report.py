"""The report: what a participant sends back. A fixed header, then the lanes; the length is known beforehand.

Layout, little-endian: magic `EWRP`, u16 version, u8 lane bits, u8 zero, participation id (16 bytes), u32 lanes,
u32 zero, then the packed lanes. The body's SHA-256 travels in the signed Content-Digest header.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import bucketed
from edge_runtime.protocol.enrolment import require_delay
from edge_runtime.protocol.errors import MalformedReport, ReportLength, UnsupportedVersion
from edge_runtime.protocol.keys import is_id, is_sha256
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.secure_sum.lanes import Lanes

REPORT_HEADER: Final = struct.Struct("<4sHBB16sII")
_MAGIC: Final = b"EWRP"
_VERSION: Final = 1


def report_path(participation: str) -> str:
    return f"/v1/device/participations/{participation}/report"


def parts_path(participation: str) -> str:
    """Where a long report is sent in parts; with an offset behind it, one part."""
    return f"{report_path(participation)}/parts"


def outcome_path(participation: str) -> str:
    return f"/v1/device/participations/{participation}/outcome"


PART_BYTES: Final = 1 << 20
"""A report of more than this is sent in parts of this size; the last may be smaller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportHeld:
    """How many bytes of a report, from its beginning, the coordinator has. It may forget them."""

    VERSION: ClassVar[int] = 1
    version: int
    held_bytes: int

    def __post_init__(self) -> None:
        wire.require(0 <= self.held_bytes < wire.INTEGER_LIMIT, "held_bytes is 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportComplete:
    """All parts of a report were sent; together they have this digest. The answer is the receipt."""

    VERSION: ClassVar[int] = 1
    version: int
    report_sha256: str

    def __post_init__(self) -> None:
        wire.require(is_sha256(self.report_sha256), "report_sha256 is 64 hex digits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The coordinator holds this report durably. The same report gets the same receipt, byte for byte."""

    VERSION: ClassVar[int] = 1
    version: int
    participation: str
    report_sha256: str
    retry_after_s: float
    """When to check in again, in seconds."""

    def __post_init__(self) -> None:
        wire.require(is_id(self.participation), "participation is 32 hex digits")
        wire.require(is_sha256(self.report_sha256), "report_sha256 is 64 hex digits")
        require_delay(self.retry_after_s, "retry_after_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a participation cost the device's owner, rounded down to 0 or a power of two: it identifies nobody.

    Attributes:
        seconds: Of work.
        bytes: Both ways.
        battery_percent: Of a full battery.
    """

    seconds: int
    bytes: int
    battery_percent: int

    def __post_init__(self) -> None:
        for number in (self.seconds, self.bytes, self.battery_percent):
            wire.require(0 <= number == bucketed(number), "costs are 0 or powers of two")
        wire.require(self.battery_percent <= 100, "battery_percent is at most 64")


def coarse(seconds: float, transferred_bytes: int, battery_share: float) -> Costs:
    """Round costs for sending."""
    percent = min(100, max(0, int(100 * battery_share)))
    return Costs(seconds=bucketed(int(seconds)), bytes=bucketed(transferred_bytes), battery_percent=bucketed(percent))


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeNote:
    """A participation ended without a report, and why."""

    VERSION: ClassVar[int] = 2
    OLDEST: ClassVar[int] = 1
    ADDED: ClassVar[Mapping[str, int]] = {"costs": 2}
    version: int
    reason: Outcome
    costs: Costs | None = None
    """Null where nobody measured."""

    def __post_init__(self) -> None:
        wire.require(wire.fits_version(self), "version 1 has no costs")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeNoted:
    VERSION: ClassVar[int] = 1
    version: int
    retry_after_s: float

    def __post_init__(self) -> None:
        require_delay(self.retry_after_s, "retry_after_s")


def report_bytes(lanes: Lanes, parameters: int) -> int:
    """The exact length of a report for d parameters."""
    return REPORT_HEADER.size + lanes.packed_bytes(parameters)


def encode_report(participation: str, lanes: Lanes, packed: bytes) -> bytes:
    """Put the header before packed lanes."""
    count = len(packed) * 8 // lanes.bits
    return REPORT_HEADER.pack(_MAGIC, _VERSION, lanes.bits, 0, bytes.fromhex(participation), count, 0) + packed


def lanes_of_report(raw: bytes | memoryview, participation: str, lanes: Lanes, parameters: int) -> memoryview:
    """Check the header against what was agreed and return the packed lanes.

    Raises:
        ReportLength: The length is not exactly the agreed one.
        MalformedReport: The header is not of this participation.
        UnsupportedVersion: The report is of another version.
    """
    if len(raw) != report_bytes(lanes, parameters):
        raise ReportLength(f"{len(raw)} bytes where {report_bytes(lanes, parameters)} are expected")
    magic, version, bits, zero, of_participation, count, zeros = REPORT_HEADER.unpack_from(raw)
    if magic != _MAGIC or zero or zeros:
        raise MalformedReport("the bytes do not begin like a report")
    if version != _VERSION:
        raise UnsupportedVersion(f"report version {version}; spoken here: {_VERSION}")
    if of_participation.hex() != participation or bits != lanes.bits or count != lanes.count(parameters):
        raise MalformedReport("the report's header is of another participation or plan")
    return memoryview(raw)[REPORT_HEADER.size :]
