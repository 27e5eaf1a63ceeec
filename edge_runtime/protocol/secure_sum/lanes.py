"""The one report codec: real vectors as fixed-point integers modulo R = 2^b, so that sums are exact in any order.

A delta of L2 norm at most C is scaled by s, rounded stochastically to integers and written as unsigned lanes modulo R;
four zero lanes follow. With s = (R/2 - 1 - n) / (n C), no sum of n reports can leave the signed range:
each lane is at most s C + 1 in size, and n (s C + 1) <= R/2 - 1. Overflow is impossible by construction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from edge_runtime.protocol.errors import InvalidPlan, LanesOutOfRange, ReportLength

Delta = npt.NDArray[np.float32]
LaneVector = npt.NDArray[np.uint32]

ZERO_LANES: Final = 4
"""Lanes after the delta that are zero in every report: a sum in which they are not was tampered with or misaligned."""

LANE_BITS: Final = (32,)
"""Widths that version 1 speaks."""

CLIPPING_NORMS: Final = (1e-9, 1e6)
"""The smallest and the largest clipping norm: the scale stays finite, and float32 holds every value."""

_BLOCK: Final = 1 << 16
"""Values that are rounded at a time, so that a phone never holds a large delta in float64."""
_FLOAT32_SLACK: Final = 1e-6
"""Relative room for the float32 rounding of a clipped delta."""


@dataclass(frozen=True, slots=True)
class Lanes:
    """How one plan writes deltas as lanes.

    Args:
        bits: Bits of one lane, b.
        clipping_norm: Largest L2 norm C of a delta.
        max_participants: Most reports n in one sum.

    Raises:
        InvalidPlan: The width is not spoken, n reports could overflow it, or the norm is out of range.
    """

    bits: int
    clipping_norm: float
    max_participants: int

    def __post_init__(self) -> None:
        if self.bits not in LANE_BITS:
            raise InvalidPlan(f"lanes of {self.bits} bits are not spoken; only {LANE_BITS}")
        if not 1 <= self.max_participants <= (1 << (self.bits - 9)):
            raise InvalidPlan(f"{self.max_participants} participants leave too few of {self.bits} bits for a delta")
        low, high = CLIPPING_NORMS
        if not low <= self.clipping_norm <= high:
            raise InvalidPlan(f"clipping_norm is {low} to {high}, not {self.clipping_norm}")

    @property
    def scale(self) -> float:
        """Integer steps to one unit of the delta, s."""
        half = (1 << (self.bits - 1)) - 1
        return (half - self.max_participants) / (self.max_participants * self.clipping_norm)

    @property
    def bound(self) -> int:
        """Largest size of one lane of an honest report, after centring.

        n * bound <= R/2 - 1, because s C is at most (R/2 - 1 - n) / n and rounding adds less than one.
        """
        half = (1 << (self.bits - 1)) - 1
        return half // self.max_participants

    def packed_bytes(self, parameters: int) -> int:
        """Exact length of the lanes of one report for d parameters."""
        return (parameters + ZERO_LANES) * self.bits // 8

    def pack(self, delta: Delta, rng: np.random.Generator) -> bytes:
        """Write a clipped delta as lanes.

        Guarantee: the expected value of a lane over `rng` is the scaled value, and its error is below one step.

        Args:
            delta: Float32, shape ``(parameters,)``, finite, L2 norm at most `clipping_norm` (float32 rounding aside).
            rng: For stochastic rounding; rounding is statistics here, not privacy.

        Raises:
            LanesOutOfRange: A value is not finite, or beyond what an honest delta can hold.
        """
        peak = max(float(delta.max(initial=0.0)), -float(delta.min(initial=0.0)))  # NaN if there is one anywhere
        if not math.isfinite(peak):
            raise LanesOutOfRange("a value of the delta is not finite")
        if peak > self.clipping_norm * (1 + _FLOAT32_SLACK):
            raise LanesOutOfRange("a value of the delta is beyond the clipping norm")
        lanes = np.zeros(delta.size + ZERO_LANES, dtype="<u4")
        for begin in range(0, delta.size, _BLOCK):
            scaled = delta[begin : begin + _BLOCK].astype(np.float64)
            np.clip(scaled, -self.clipping_norm, self.clipping_norm, out=scaled)
            scaled *= self.scale
            rounded = np.floor(scaled)
            scaled -= rounded
            rounded += rng.random(scaled.shape) < scaled
            lanes[begin : begin + rounded.size] = rounded.astype(np.int32).view(np.uint32)
        return lanes.tobytes()

    def unpack(self, packed: bytes | memoryview, parameters: int) -> LaneVector:
        """Read lanes without judging them; shape ``(parameters + 4,)``, uint32.

        Raises:
            ReportLength: The length is not exactly that of `parameters` lanes and the zero lanes.
        """
        if len(packed) != self.packed_bytes(parameters):
            raise ReportLength(f"{len(packed)} bytes of lanes where {self.packed_bytes(parameters)} are expected")
        return np.frombuffer(packed, dtype="<u4").astype(np.uint32, copy=False)

    def check_plain(self, lanes: LaneVector) -> None:
        """Return if an unmasked report's lanes are ones an honest device can send.

        Raises:
            LanesOutOfRange: A lane is larger than any honest one, or a zero lane is not zero.
        """
        body, zeros = lanes[:-ZERO_LANES], lanes[-ZERO_LANES:]
        if zeros.any():
            raise LanesOutOfRange("the four zero lanes are not zero")
        signed = body.view(np.int32)
        if max(int(signed.max(initial=0)), -int(signed.min(initial=0))) > self.bound:
            raise LanesOutOfRange(f"a lane is outside ±{self.bound}")

    def open_sum(self, total: LaneVector) -> npt.NDArray[np.float64]:
        """Turn a sum of reports back into the sum of their deltas, float64, shape ``(parameters,)``.

        Raises:
            LanesOutOfRange: The four zero lanes did not sum to zero.
        """
        if total[-ZERO_LANES:].any():
            raise LanesOutOfRange("the four zero lanes do not sum to zero")
        centred: npt.NDArray[np.float64] = total[:-ZERO_LANES].view(np.int32).astype(np.float64)
        return centred / self.scale


def add_into(total: LaneVector, lanes: LaneVector) -> None:
    """Add one report to a running sum, in place, modulo 2^32; order does not matter."""
    np.add(total, lanes, out=total)


def sum_lanes(vectors: Iterable[LaneVector]) -> LaneVector:
    """Add lane vectors modulo 2^32, one in memory at a time.

    Raises:
        ValueError: There is none: an empty sum is never an update.
    """
    total: LaneVector | None = None
    for vector in vectors:
        if total is None:
            total = vector.astype(np.uint32)
        else:
            add_into(total, vector)
    if total is None:
        raise ValueError("there is nothing to add up")
    return total
