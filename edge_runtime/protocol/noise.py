"""Integer noise for privacy: the discrete Gaussian N_Z(0, σ²), from a cryptographic source.

P[X = x] is proportional to exp(-x² / 2σ²) over all integers. Noise of claims is drawn here and nowhere else: floats of
a statistical generator leak through their low bits and through their seed.

*σ up to 256.* One alias table over the whole support. A draw is one word of 64 bits: its high bits name a column, its
low bits are held against the column's border, and where they equal the border's 64 high bits exactly, one more word is
held against the 64 low bits. Weights are multiples of 2^-128 that add up to 1, computed in integers.

*Larger σ.* X = ±(k x + y), with k a power of two, x from the table of |N_Z(0, (σ/k)²)|'s half (weights exp(-x²/2(σ/k)²)
for x >= 0, 64 < σ/k <= 128), y uniform below k, and a random sign; kept with probability exp(-y (y + 2kx) / 2σ²),
and -0 is never kept. The product of both weights is exp(-(kx + y)²/2σ²): the law, for every integer once. Nearly all
draws are kept. The coin of probability exp(-t) compares 40 random bits with a double; where they are too close to
tell (once in 2^38 draws), it compares 168 bits with a value of 80 digits.

*How exact.* What is left out beyond 13.5 σ weighs less than 2^-130. Rounding moves each weight by at most 2^-128, and a
table has less than 2^13 of them. So one draw differs from the law by less than 2^-114 in total variation, and all
draws of a sum of n devices with d parameters by less than n d 2^-114: 5e-26 for n d = 10^9. An (ε, δ) claim about the
exact law holds with δ + (1 + e^ε) n d 2^-114, `claim_slack`; the key stream is assumed to be random (AES-256).

Not promised: a running time that does not depend on what is drawn. Somebody who can time a device's processor is
inside of it.

Sources: https://arxiv.org/abs/2004.00010 (the law and its privacy); https://doi.org/10.1109/32.92917 (alias tables);
https://eprint.iacr.org/2013/383, section 6 (k x + y).
"""

from __future__ import annotations

import decimal
import functools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from edge_runtime.protocol.errors import InvalidPlan

__all__ = ["SIGMAS", "AliasTable", "DiscreteGaussian", "Integers", "NoiseSource", "claim_slack"]

Words = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]

SIGMAS: Final = (1 / 16, float(1 << 26))
"""The smallest and the largest standard deviation, in steps: 13.5 of the largest are below 2^30."""

PRECISION_BITS: Final = 128
"""Weights of a table are multiples of 2^-128."""
WORD_BITS: Final = 64
KEY_BYTES: Final = 32
DRAW_SLACK: Final = 2.0**-114
"""Total variation between one draw and the law, at most."""

_TAIL: Final = 13.5
"""Standard deviations that a table covers: the rest weighs less than 2^-130."""
_LARGEST_TABLE: Final = 256.0
"""Larger σ are put together."""
_COARSE: Final = 128.0
_GUARD_BITS: Final = 96
"""Bits behind the 128 with which weights are computed."""
_DIGITS: Final = 80
_COIN_BITS: Final = 40
_BLOCK: Final = 1 << 14
"""Draws that are made at a time, so that they stay in the cache."""
_SPARE: Final = 1.02
"""Draws made for one wanted: most that are not kept are made up for at once."""


class NoiseSource:
    """Uniform words: the AES-256-CTR key stream of a key. A key serves one source once, and is never stored.

    Args:
        key: 32 bytes. Only tests pass one in: `NoiseSource.fresh` takes it from the system.
    """

    __slots__ = ("_stream",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a source has a key of {KEY_BYTES} bytes")
        self._stream: CipherContext = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    @classmethod
    def fresh(cls, randomness: Callable[[int], bytes] = os.urandom) -> NoiseSource:
        """A source that nobody can repeat."""
        return cls(randomness(KEY_BYTES))

    def words(self, count: int) -> Words:
        """The next words, uint64, shape ``(count,)``."""
        return np.frombuffer(self._stream.update(bytes(8 * count)), dtype="<u8")


@dataclass(frozen=True, slots=True, eq=False)
class AliasTable:
    """A law over integers whose weights are multiples of 2^-128.

    Column c of 2^k weighs 2^-k; below its border it stands for one value, above for another.

    Attributes:
        columns_log2: k.
        borders: Each column's border in units of 2^-128, 0 to 2^(128 - k).
        below: The value below the border, int32, shape ``(2^k,)``.
        above: The value above it.
    """

    columns_log2: int
    borders: tuple[int, ...]
    below: npt.NDArray[np.int32]
    above: npt.NDArray[np.int32]
    _high: Words = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # A full column has a border of 2^(64 - k) in its high bits: above every word.
        object.__setattr__(self, "_high", np.array([border >> WORD_BITS for border in self.borders], np.uint64))

    @classmethod
    def of(cls, weights: dict[int, int]) -> AliasTable:
        """A table for weights in units of 2^-128.

        Raises:
            ValueError: They do not add up to 2^128: a bug of the caller.
        """
        if sum(weights.values()) != 1 << PRECISION_BITS or min(weights.values()) < 0:
            raise ValueError("the weights of a table are not negative and add up to 2^128")
        columns_log2 = max(len(weights) - 1, 1).bit_length()
        full = 1 << (PRECISION_BITS - columns_log2)
        left = [[value, weight] for value, weight in weights.items()]
        left += [[left[0][0], 0] for _ in range((1 << columns_log2) - len(left))]
        small = [entry for entry in left if entry[1] < full]
        large = [entry for entry in left if entry[1] >= full]
        made: list[tuple[int, int, int]] = []
        while small:
            value, weight = small.pop()
            donor = large[-1]
            made.append((weight, value, donor[0]))
            donor[1] -= full - weight
            if donor[1] < full:
                small.append(large.pop())
        made += [(full, value, value) for value, _weight in large]
        borders, below, above = zip(*made, strict=True)
        return cls(columns_log2, tuple(borders), np.array(below, np.int32), np.array(above, np.int32))

    def law(self) -> dict[int, int]:
        """The weights that draws have, in units of 2^-128: what tests hold against the formula."""
        full = 1 << (PRECISION_BITS - self.columns_log2)
        found: dict[int, int] = {}
        for border, below, above in zip(self.borders, self.below.tolist(), self.above.tolist(), strict=True):
            found[below] = found.get(below, 0) + border
            found[above] = found.get(above, 0) + full - border
        return found

    def draw(self, words: Words, more: Callable[[int], Words]) -> npt.NDArray[np.int32]:
        """One value for each word; `more` gives the words that decide where a word meets a border."""
        low_bits = np.uint64(WORD_BITS - self.columns_log2)
        columns = (words >> low_bits).view(np.int64)
        rests = words & np.uint64((1 << int(low_bits)) - 1)
        high = self._high.take(columns)
        values = np.where(rests < high, self.below.take(columns), self.above.take(columns))
        for at in np.flatnonzero(rests == high).tolist():
            column = int(columns[at])
            within = int(more(1)[0]) < self.borders[column] % (1 << WORD_BITS)
            values[at] = (self.below if within else self.above)[column]
        return values


@dataclass(frozen=True, slots=True)
class DiscreteGaussian:
    """N_Z(0, σ²).

    Args:
        sigma: σ, in steps, 1/16 to 2^26. The variance is a little below σ²: by 2e-7 of it at σ = 1, by less beyond.

    Raises:
        InvalidPlan: σ is out of range.
    """

    sigma: float

    def __post_init__(self) -> None:
        low, high = SIGMAS
        if not low <= self.sigma <= high:
            raise InvalidPlan(f"integer noise has a standard deviation of {low} to {high:.0f} steps, not {self.sigma}")

    def draw(self, count: int, source: NoiseSource) -> Integers:
        """Independent draws, int64, shape ``(count,)``; |X| < 2^30."""
        made = np.empty(count, np.int64)
        for begin in range(0, count, _BLOCK):
            here = made[begin : begin + _BLOCK]
            here[:] = self._block(here.size, source)
        return made

    def add_to(self, lanes: npt.NDArray[np.uint32], source: NoiseSource) -> None:
        """Add one draw to each lane, in place, modulo 2^32; memory does not grow with the lanes.

        The zero lanes of a report have no noise: pass the lanes before them.
        """
        for begin in range(0, lanes.size, _BLOCK):
            here = lanes[begin : begin + _BLOCK]
            np.add(here, self._block(here.size, source).astype(np.uint32), out=here)

    def _block(self, count: int, source: NoiseSource) -> npt.NDArray[np.int64] | npt.NDArray[np.int32]:
        if self.sigma <= _LARGEST_TABLE:
            return _table(self.sigma).draw(source.words(count), source.words)
        kept: list[Integers] = []
        missing = count
        while missing:
            kept.append(self._kept(int(missing * _SPARE) + 8, source)[:missing])
            missing -= kept[-1].size
        return np.concatenate(kept) if len(kept) > 1 else kept[0]

    def _kept(self, tries: int, source: NoiseSource) -> Integers:
        """Draws put together from k x + y, those that are kept, in order."""
        step_log2 = coarse_steps_log2(self.sigma)
        words = source.words(tries)
        coarse = _half_table(self.sigma / (1 << step_log2)).draw(source.words(tries), source.words)
        low = (words & np.uint64((1 << step_log2) - 1)).view(np.int64)
        high = coarse.astype(np.int64) << step_log2
        excess = low * (low + 2 * high)
        coins = (words >> np.uint64(WORD_BITS - 1 - _COIN_BITS)).view(np.int64) & ((1 << _COIN_BITS) - 1)
        chance = np.exp(excess * (-0.5 / self.sigma**2))
        chance *= 1 << _COIN_BITS
        kept = coins < chance
        for at in np.flatnonzero(np.abs(coins + 0.5 - chance) < 2).tolist():
            kept[at] = _coin_falls(int(excess[at]), self.sigma, int(coins[at]), source.words(2))
        negative = words >> np.uint64(WORD_BITS - 1) != 0
        values = high + low
        kept &= ~negative | (values != 0)
        np.negative(values, out=values, where=negative)
        chosen: Integers = values[kept]
        return chosen


def coarse_steps_log2(sigma: float) -> int:
    """log2 of k: 64 < σ/k <= 128; at most 19, so that 20 bits, the coin's 40 and a sign fit into a word."""
    return math.ceil(math.log2(sigma / _COARSE))


def claim_slack(draws: int, epsilon: float) -> float:
    """What is added to δ because draws are exact only up to `DRAW_SLACK` each: (1 + e^ε) · draws · 2^-114."""
    return (1 + math.exp(epsilon)) * draws * DRAW_SLACK


def _coin_falls(excess: int, sigma: float, coin: int, more: Words) -> bool:
    """Whether 168 random bits, the coin's 40 first, are below exp(-excess / 2σ²)."""
    bits = _COIN_BITS + 2 * WORD_BITS
    drawn = (coin << (2 * WORD_BITS)) | (int(more[0]) << WORD_BITS) | int(more[1])
    with decimal.localcontext(prec=_DIGITS):
        chance = _exactly(Fraction(excess) / (2 * Fraction(sigma) ** 2)).copy_negate().exp()
        return drawn < int(chance * (1 << bits))


def _exactly(fraction: Fraction) -> decimal.Decimal:
    return decimal.Decimal(fraction.numerator) / decimal.Decimal(fraction.denominator)


@functools.lru_cache(maxsize=4)
def _table(sigma: float) -> AliasTable:
    """The table of N_Z(0, σ²)."""
    half = _half_weights(sigma)
    mirrored = {-value: weight for value, weight in half.items() if value}
    return AliasTable.of(_normalised(half | mirrored))


@functools.lru_cache(maxsize=4)
def _half_table(sigma: float) -> AliasTable:
    """The table of exp(-x²/2σ²) over x >= 0: zero weighs as much as one sign of it, not as both."""
    return AliasTable.of(_normalised(_half_weights(sigma)))


def _half_weights(sigma: float) -> dict[int, int]:
    """exp(-x²/2σ²) for 0 <= x <= 13.5 σ, in units of 2^-224, each a little too small: by less than x² units.

    With q = exp(-1/2σ²) the ratio of neighbours is q^(2x + 1), and the ratio of ratios q².
    """
    bits = PRECISION_BITS + _GUARD_BITS
    with decimal.localcontext(prec=_DIGITS):
        ratio = int((-_exactly(1 / (2 * Fraction(sigma) ** 2))).exp() * (1 << bits))
    squared = ratio * ratio >> bits
    weight, weights = 1 << bits, {}
    for value in range(math.ceil(_TAIL * sigma) + 1):
        weights[value] = weight
        weight = weight * ratio >> bits
        ratio = ratio * squared >> bits
    return weights


def _normalised(weights: dict[int, int]) -> dict[int, int]:
    """The same in units of 2^-128, adding up to exactly 2^128: what rounding leaves goes to zero."""
    total = sum(weights.values())
    scaled = {value: (weight << PRECISION_BITS) // total for value, weight in weights.items()}
    scaled[0] += (1 << PRECISION_BITS) - sum(scaled.values())
    return scaled
