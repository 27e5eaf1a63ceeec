"""Secrets shared so that any t shares rebuild one, and t - 1 say nothing about it.

Source: A. Shamir, How to share a secret, Communications of the ACM 22 (1979).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from edge_runtime.protocol.secure_sum import field

Randomness: TypeAlias = Callable[[int], bytes]
"""Bytes from a cryptographic source, as many as asked for: `os.urandom`, or a keyed stream."""

POINT_LIMIT: Final = 1 << 16
"""Points are 1 and more, and below it."""
_FEWEST: Final = 2
"""A threshold of one would hand the secret itself to every holder."""


def split(secret: bytes, threshold: int, points: Sequence[int], randomness: Randomness) -> list[int]:
    """Share a secret: one element for each point, in their order.

    Guarantee: any `threshold` of them determine the secret; fewer are uniform and independent of it, if `randomness`
    is.

    Args:
        secret: 32 bytes.
        threshold: Shares that rebuild it, from 2 to the number of points.
        points: Where the polynomial is evaluated: distinct, from 1 to 65,535.

    Raises:
        ValueError: An argument is out of range: a bug of the caller.
    """
    _check_points(points)
    if not _FEWEST <= threshold <= len(points):
        raise ValueError(f"a threshold is {_FEWEST} to the number of points, not {threshold} of {len(points)}")
    coefficients = [uniform(randomness) for _ in range(threshold - 1)]  # the highest first
    return [_evaluated(coefficients, point, field.of_secret(secret)) for point in points]


@dataclass(frozen=True, slots=True)
class Weights:
    """The Lagrange weights of one set of points: computed once, used for every secret that these holders share."""

    _weights: tuple[int, ...]

    @classmethod
    def of(cls, points: Sequence[int]) -> Weights:
        """Weight j is the product over m ≠ j of x_m / (x_m - x_j).

        Args:
            points: As many as the threshold; distinct, from 1 to 65,535.

        Raises:
            ValueError: A point is out of range or there twice: a bug of the caller.
        """
        _check_points(points)
        whole = math.prod(points)
        below = [here * math.prod(other - here for other in points if other != here) for here in points]
        return cls(tuple(whole * inverse % field.PRIME for inverse in field.inverses(below)))

    def rebuild(self, shares: Sequence[int]) -> bytes:
        """The secret of these shares, given in the order of the points.

        A wrong share gives a wrong secret, or none: the caller compares what it gets with a commitment.

        Raises:
            WrongShare: No secret has these shares.
            ValueError: They are not as many as the points: a bug of the caller.
        """
        total = sum(weight * share for weight, share in zip(self._weights, shares, strict=True))
        return field.to_secret(total % field.PRIME)


def uniform(randomness: Randomness) -> int:
    """An element drawn evenly, by drawing anew while the draw is p or more."""
    bits = field.PRIME.bit_length()
    while True:
        drawn = int.from_bytes(randomness(field.ELEMENT_BYTES), "little") & ((1 << bits) - 1)
        if drawn < field.PRIME:
            return drawn


def _evaluated(coefficients: Sequence[int], point: int, constant: int) -> int:
    value = 0
    for coefficient in coefficients:
        value = (value + coefficient) * point % field.PRIME
    return (value + constant) % field.PRIME


def _check_points(points: Sequence[int]) -> None:
    if len(set(points)) != len(points) or not points or not all(0 < point < POINT_LIMIT for point in points):
        raise ValueError("points are distinct, from 1 to 65,535")
