"""Which release a device uses: the newest that includes it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class Offer:
    """A release: a model version for a share of the population, in parts per million."""

    number: int
    checkpoint_sha256: str
    share_ppm: int
    withdrawn: bool


def place_ppm(population_key: bytes, checkpoint_sha256: str, device_id: str) -> int:
    """Where a device stands in the canary order of a model version, 0 to 999,999.

    HMAC-SHA256 under the population's key: who comes first differs from version to version, and nobody outside can
    tell. A release that grows keeps whom it had. The modulus favours no place by more than 1 in 10^13.
    """
    message = b"edgewise/release/v1\0" + bytes.fromhex(checkpoint_sha256) + device_id.encode()
    return int.from_bytes(hmac.digest(population_key, message, hashlib.sha256)[:8], "big") % PPM


def offered(releases: Iterable[Offer], population_key: bytes, device_id: str) -> Offer | None:
    """The newest release that includes a device and was not withdrawn; None if there is none."""
    standing = sorted((one for one in releases if not one.withdrawn), key=lambda one: one.number, reverse=True)
    for one in standing:
        if one.share_ppm >= PPM or place_ppm(population_key, one.checkpoint_sha256, device_id) < one.share_ppm:
            return one
    return None
