"""Release: which checkpoint a device uses for inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from edge_runtime.protocol import wire
from edge_runtime.protocol.enrolment import is_name
from edge_runtime.protocol.keys import is_sha256

RELEASE_PATH: Final = "/v1/device/release"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseQuery:
    VERSION: ClassVar[int] = 1
    version: int
    population: str
    held_sha256: str | None
    """The checkpoint the device has."""

    def __post_init__(self) -> None:
        wire.require(is_name(self.population), "population is a name")
        wire.require(self.held_sha256 is None or is_sha256(self.held_sha256), "held_sha256 is 64 hex digits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """The checkpoint to use, with its bundle; or keep what is held (`checkpoint_sha256` equal to it)."""

    VERSION: ClassVar[int] = 1
    version: int
    bundle_sha256: str
    checkpoint_sha256: str
    model_version: int
    final: bool
    """No better one will come: the task that trains it has ended."""

    def __post_init__(self) -> None:
        wire.require(is_sha256(self.bundle_sha256), "bundle_sha256 is 64 hex digits")
        wire.require(is_sha256(self.checkpoint_sha256), "checkpoint_sha256 is 64 hex digits")
        wire.require(self.model_version >= 0, "model versions are counted from 0")
