"""The one report codec: real vectors as fixed-point integers modulo R = 2^b, so that sums are exact in any order.

A delta of L2 norm at most C is scaled by s, rounded stochastically to integers and written as unsigned lanes modulo R;
four zero lanes follow. σ = z C / √(m - A) is the noise of one device, for noise multiplier z, m the fewest survivors
and A of them corrupt: those who are left hide a participant.

*24 bits and more.* s = (R/2 - 1 - n) / (n C + 9 √n σ). Without noise no sum of n reports can leave the signed range:
each lane is at most s C + 1 in size, and n (s C + 1) <= R/2 - 1. Overflow is impossible by construction. With noise it
needs 9 standard deviations: less than 1e-12 for a sum of 10^6 lanes. Sums that are folded before they get noise have
half of the range: R/4 in place of R/2.

*Fewer bits.* Random signs and Walsh-Hadamard in blocks of B = 4,096, from a seed in the plan, and
s = √(R² - n k²) / (2 k √(ρ C² n²/B + n σ²)), k = 9, ρ = 1: R/2 is k standard deviations of the sum of a lane, rounding
included, and a sum of 10^6 lanes wraps with probability below 1e-11.
Source: https://arxiv.org/abs/2102.06387, sections 4.2 and 4.4; ρ = 1 holds for random signs (Hoeffding).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_runtime.protocol.errors import InvalidPlan, LanesOutOfRange
from edge_runtime.protocol.secure_sum import packing
from edge_runtime.protocol.secure_sum.packing import LaneVector

__all__ = ["LANE_BITS", "ZERO_LANES", "Delta", "LaneVector", "Lanes", "add_into", "sum_lanes"]

Delta: TypeAlias = npt.NDArray[np.float32]

ZERO_LANES: Final = 4
"""Lanes after the delta that are zero in every report: a sum in which they are not was tampered with or misaligned."""

LANE_BITS: Final = tuple(range(32, 19, -1))
"""Widths of a lane, the widest first."""

ROTATED_BELOW: Final = 24
"""Lanes of fewer bits are rotated, in whole blocks."""

ROTATION_BLOCK: Final = 4096
"""B."""
SEED_BYTES: Final = 32

CLIPPING_NORMS: Final = (1e-9, 1e6)
"""The smallest and the largest clipping norm: the scale stays finite, and float32 holds every value."""

LARGEST_NOISE: Final = 1e3
"""No plan has a larger noise multiplier."""

_BLOCK: Final = 1 << 14
"""Values that are rounded at a time, so that they stay in the cache and no phone holds a large delta in float64."""
FLOAT32_SLACK: Final = 1e-6
"""Relative room for the float32 rounding of a clipped delta."""
_DEVIATIONS: Final = 9
"""k: standard deviations that fit into half the range."""
_ROUNDINGS: Final = 100
"""Each is kept with probability above .39: none of so many is a bug."""


@dataclass(frozen=True, slots=True)
class Lanes:
    """How one plan writes deltas as lanes; within the ranges below, the norm is at least one step (s C ≥ 1).

    Args:
        bits: Bits of one lane, b, 20 to 32.
        clipping_norm: Largest L2 norm C of a delta.
        max_participants: Most reports n in one sum.
        noise_multiplier: Standard deviation of the noise of a sum, divided by C; z. 0 for none.
        honest_survivors: Devices whose noise every opened sum has, m - A.
        rotation_seed: 32 bytes where lanes have fewer than 24 bits, none elsewhere.
        bounded: Noise hides a participant, whoever adds it: the integers' norm is held to `rounded_norm`. With noise on
            devices it always is.
        folds: Sums of n honest reports are within R/4, so that folding those beyond changes none. Not of rotated lanes.

    Raises:
        InvalidPlan: The width is not spoken, n reports could overflow it, or a number is out of range.
    """

    bits: int
    clipping_norm: float
    max_participants: int
    noise_multiplier: float = 0.0
    honest_survivors: int = 1
    rotation_seed: bytes = b""
    bounded: bool = False
    folds: bool = False

    def __post_init__(self) -> None:
        if self.bits not in LANE_BITS:
            raise InvalidPlan(f"lanes of {self.bits} bits are not spoken; only {LANE_BITS[-1]} to {LANE_BITS[0]}")
        if not 1 <= self.max_participants <= (1 << (self.bits - 9)):
            raise InvalidPlan(f"{self.max_participants} participants leave too few of {self.bits} bits for a delta")
        low, high = CLIPPING_NORMS
        if not low <= self.clipping_norm <= high:
            raise InvalidPlan(f"clipping_norm is {low} to {high}, not {self.clipping_norm}")
        if not 0 <= self.noise_multiplier <= LARGEST_NOISE:
            raise InvalidPlan(f"noise_multiplier is 0 to {LARGEST_NOISE}, not {self.noise_multiplier}")
        if not 1 <= self.honest_survivors <= self.max_participants:
            raise InvalidPlan("honest_survivors is 1 to max_participants")
        if len(self.rotation_seed) != (SEED_BYTES if self.rotated else 0):
            raise InvalidPlan(f"lanes below {ROTATED_BELOW} bits have a rotation_seed of 32 bytes, others have none")

    @property
    def rotated(self) -> bool:
        return self.bits < ROTATED_BELOW

    @property
    def _holds_norm(self) -> bool:
        return self.bounded or self.noise_multiplier > 0

    @property
    def noise(self) -> float:
        """Standard deviation of one device's noise, in units of the delta, σ."""
        return self.noise_multiplier * self.clipping_norm / math.sqrt(self.honest_survivors)

    @property
    def scale(self) -> float:
        """Integer steps to one unit of the delta, s."""
        n = self.max_participants
        if self.rotated:
            room = (1 << (2 * self.bits)) - n * _DEVIATIONS**2
            spread = (self.clipping_norm * n) ** 2 / ROTATION_BLOCK + n * self.noise**2
            return math.sqrt(room) / (2 * _DEVIATIONS * math.sqrt(spread))
        half = (1 << (self.bits - 1)) - 1
        room = half // 2 if self.folds else half
        return (room - n) / (n * self.clipping_norm + _DEVIATIONS * math.sqrt(n) * self.noise)

    @property
    def bound(self) -> int:
        """Largest size of one lane of an honest report, after centring.

        Wide lanes without noise: n * bound <= R/2 - 1, because s C is at most (R/2 - 1 - n) / n and rounding adds less
        than one. Elsewhere: the norm, nine deviations of the noise, and rounding.
        """
        half = (1 << (self.bits - 1)) - 1
        if not self.rotated and self.noise_multiplier == 0:
            return half // self.max_participants
        return min(half, math.ceil(self.scale * (self.clipping_norm + _DEVIATIONS * self.noise)) + 1)

    def count(self, parameters: int) -> int:
        """Lanes of one report for d parameters: in whole blocks where they are rotated, and the zero lanes."""
        return (_whole_blocks(parameters) if self.rotated else parameters) + ZERO_LANES

    def packed_bytes(self, parameters: int) -> int:
        """Exact length of the lanes of one report for d parameters."""
        return packing.packed_bytes(self.count(parameters), self.bits)

    def rounded_norm(self, parameters: int) -> float:
        """Largest L2 norm of the integers of one report before noise, in steps.

        √((s C)² + d/4 + s C + √d/2), d padded: what conditional rounding with β = e^(-1/2) keeps. The sensitivity of
        a sum that is hidden by noise. Source: https://arxiv.org/abs/2102.06387, proposition 26.
        """
        size, steps = self.count(parameters) - ZERO_LANES, self.scale * self.clipping_norm
        return math.sqrt(steps**2 + size / 4 + steps + math.sqrt(size) / 2)

    def encode(self, delta: Delta, rng: np.random.Generator) -> LaneVector:
        """Write a clipped delta as lanes, uint32, modulo 2^32: the masks and the noise are added to them.

        Guarantee: the expected value of a lane over `rng` is the scaled value, and its error is below one step. Where
        noise is to hide a participant, the integers' norm is at most `rounded_norm`: rounding is done anew until it is.

        Args:
            delta: Float32, shape ``(parameters,)``, finite, L2 norm at most `clipping_norm` (float32 rounding aside).
            rng: For stochastic rounding; rounding is statistics here, not privacy.

        Raises:
            LanesOutOfRange: A value is not finite, or beyond what an honest delta can hold.
        """
        peak = max(float(delta.max(initial=0.0)), -float(delta.min(initial=0.0)))  # NaN if there is one anywhere
        if not math.isfinite(peak):
            raise LanesOutOfRange("a value of the delta is not finite")
        if peak > self.clipping_norm * (1 + FLOAT32_SLACK):
            raise LanesOutOfRange("a value of the delta is beyond the clipping norm")
        lanes = np.zeros(self.count(delta.size), dtype=np.uint32)
        for _attempt in range(_ROUNDINGS):
            if self._round(delta, rng, lanes) <= self.rounded_norm(delta.size) ** 2 * (1 + FLOAT32_SLACK):
                return lanes
        raise LanesOutOfRange("the delta is beyond the clipping norm")

    def pack(self, delta: Delta, rng: np.random.Generator) -> bytes:
        """`encode`, as bytes: the lanes of a plain report.

        Raises:
            LanesOutOfRange: As `encode`.
        """
        return packing.pack(self.encode(delta, rng), self.bits)

    def packed(self, lanes: LaneVector) -> bytes:
        """Cut lanes to b bits each and write them as bytes."""
        return packing.pack(lanes, self.bits)

    def unpack(self, packed: bytes | memoryview, parameters: int) -> LaneVector:
        """Read lanes without judging them, uint32: those of `parameters`, then the four.

        Raises:
            ReportLength: The length is not exactly that of `parameters` lanes and the zero lanes.
            LanesOutOfRange: A bit behind the last lane is not zero.
        """
        return packing.unpack(packed, self.count(parameters), self.bits)

    def check_plain(self, lanes: LaneVector) -> None:
        """Return if an unmasked report's lanes are ones an honest device can send.

        Raises:
            LanesOutOfRange: A lane is larger than any honest one, or a zero lane is not zero.
        """
        signed = self._centred(lanes)
        if signed[-ZERO_LANES:].any():
            raise LanesOutOfRange("the four zero lanes are not zero")
        if max(int(signed.max()), -int(signed.min())) > self.bound:
            raise LanesOutOfRange(f"a lane is outside ±{self.bound}")

    def open_sum(self, total: LaneVector, parameters: int | None = None) -> npt.NDArray[np.float64]:
        """Turn a sum of reports back into the sum of their deltas, float64, shape ``(parameters,)``.

        Args:
            parameters: d. Rotated lanes need it: they are more.

        Raises:
            LanesOutOfRange: The four zero lanes did not sum to zero.
            ValueError: The sum is not that of so many parameters: a bug of the caller.
        """
        size = total.size - ZERO_LANES
        wanted = size if parameters is None else parameters
        if total.size != self.count(wanted):
            raise ValueError(f"a sum of {total.size} lanes is not one of {wanted} parameters")
        signed = self._centred(total)
        if signed[-ZERO_LANES:].any():
            raise LanesOutOfRange("the four zero lanes do not sum to zero")
        values = signed[:size].astype(np.float64)
        if not self.rotated:
            values /= self.scale
            return values
        from edge_runtime.protocol.secure_sum import rotation  # few lanes are rotated: others need not load it

        following = rotation.signs(self.rotation_seed)
        for begin in range(0, size, _BLOCK):
            block = values[begin : begin + _BLOCK]
            block[:] = rotation.hadamard(block) * following(block.size)
        values /= self.scale
        return values[:wanted]

    def _centred(self, lanes: LaneVector) -> npt.NDArray[np.int32]:
        """The b low bits of each lane as a signed number."""
        spare = LANE_BITS[0] - self.bits
        if not spare:
            return lanes.view(np.int32)
        signed = (lanes << np.uint32(spare)).view(np.int32)
        signed >>= np.int32(spare)
        return signed

    def _round(self, delta: Delta, rng: np.random.Generator, lanes: LaneVector) -> float:
        """Fill the lanes with the scaled, rounded values; return the squared norm where noise makes it matter, or 0."""
        squared, signed = 0.0, lanes.view(np.int32)
        for begin, scaled in self._scaled(delta):
            rounded = np.floor(scaled)
            np.subtract(scaled, rounded, out=scaled)
            rounded += rng.random(scaled.shape) < scaled
            signed[begin : begin + rounded.size] = rounded
            if self._holds_norm:
                squared += float(np.dot(rounded, rounded))
        return squared

    def _scaled(self, delta: Delta) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
        """Block after block of what is to be rounded, each with the lane where it begins."""
        turned = self._turn()
        beyond = float(max(delta.max(initial=0.0), -delta.min(initial=0.0))) > self.clipping_norm
        for begin in range(0, delta.size, _BLOCK):
            scaled = delta[begin : begin + _BLOCK].astype(np.float64)
            if beyond:  # by float32 rounding
                np.clip(scaled, -self.clipping_norm, self.clipping_norm, out=scaled)
            if turned is not None:
                scaled = turned(np.pad(scaled, (0, _whole_blocks(scaled.size) - scaled.size)))
            scaled *= self.scale
            yield begin, scaled

    def _turn(self) -> Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]] | None:
        """What rotates the next whole blocks; None where nothing is rotated."""
        if not self.rotated:
            return None
        from edge_runtime.protocol.secure_sum import rotation  # few lanes are rotated: others need not load it

        following = rotation.signs(self.rotation_seed)
        return lambda values: rotation.hadamard(values * following(values.size))


def _whole_blocks(parameters: int) -> int:
    """Values in whole rotation blocks."""
    return -(-parameters // ROTATION_BLOCK) * ROTATION_BLOCK


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
