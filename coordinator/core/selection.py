"""Who takes part: a keyed ranking, so that neither fast phones nor the order of check-ins decide."""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Iterable


def round_seed(task_seed: bytes, number: int) -> bytes:
    """The 32-byte seed of one round of a task."""
    return hmac.digest(task_seed, b"edgewise/round/v1\0" + number.to_bytes(8, "big"), hashlib.sha256)


def ranked(seed: bytes, device_ids: Iterable[str]) -> list[str]:
    """Order devices by HMAC-SHA256 of the round seed and the device id: the same devices give the same order."""
    return sorted(device_ids, key=lambda device: hmac.digest(seed, device.encode(), hashlib.sha256))


def wanted(goal: int, over_selection: float, most: int) -> int:
    """How many devices to choose for a goal: a share more, because some drop out, and never more than `most`."""
    return min(most, math.ceil(goal * over_selection))
