"""Random signs and Walsh-Hadamard in blocks: narrow lanes need values that are spread evenly.

After it no single weight can hold the whole norm: each value of a block x is subgaussian with variance |x|²/B, whatever
x is, because the signs are random. It is its own inverse but for the signs, and keeps every norm.
Source: https://arxiv.org/abs/2102.06387, section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_runtime.protocol.secure_sum.masks import KEY_BYTES, Use, derived, keyed_randomness

_SIDE: Final = 64
"""A block is a square: its transform is two products with the matrix of this side."""

Values: TypeAlias = npt.NDArray[np.float64]


def signs(seed: bytes) -> Callable[[int], Values]:
    """The next so many signs, a multiple of 8 at a time: bits of a key stream, lowest first, 1 for -1."""
    stream = keyed_randomness(derived(seed, bytes(KEY_BYTES), Use.SIGNS))

    def following(count: int) -> Values:
        bits = np.unpackbits(np.frombuffer(stream(count // 8), np.uint8), bitorder="little")
        return 1.0 - 2.0 * bits

    return following


def hadamard(values: Values) -> Values:
    """Walsh-Hadamard of each block, in natural order, divided by the root of B: orthogonal, its own inverse.

    Args:
        values: Whole blocks, float64, shape ``(blocks * 4096,)``.
    """
    squares = values.reshape(-1, _SIDE, _SIDE)
    turned: Values = np.matmul(np.matmul(_MATRIX, squares), _MATRIX)
    turned /= _SIDE
    return turned.reshape(-1)


def _sylvester(side: int) -> npt.NDArray[Any]:
    matrix = np.ones((1, 1))
    while matrix.shape[0] < side:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


_MATRIX: Final = _sylvester(_SIDE)
