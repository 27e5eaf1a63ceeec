"""Random numbers for dropout and noise layers, from a seed that the host gives to each step.

TFLite's own RANDOM_UNIFORM keeps its state inside the interpreter, where a savepoint cannot reach it: an interrupted
training would not repeat. Here the numbers are a function of the seed and the position, in whole numbers that float32
holds exactly on every device: with P = 2039 each position i = r P + c and the seed s = s₁ P + s₀ give
u = (a c + b r + d s₀ + e s₁ + k) mod P, then u³ mod P (a permutation, since 3 does not divide P - 1), then the same
once more with other coefficients. No sum exceeds 2²⁴. A number is (u + ½) / P: probabilities are met to 1/2039.
"""

from __future__ import annotations

import math
import zlib
from typing import Final

import numpy as np
import tensorflow as tf

from model_export.errors import unsupported
from model_export.gradients.rule import Lowered, lowered

_P: Final = 2039.0

DRAWS: Final = frozenset(
    {"StatelessRandomUniformV2", "StatelessRandomNormalV2", "RandomUniform", "RandomStandardNormal"}
)
"""Operators of which only the first input, the shape, is looked at."""


def drawn(op: tf.Operation, shape: tf.Tensor, seed: tf.Tensor | None, salt: str) -> Lowered:
    """Random numbers of a shape; different ones for each salt.

    Raises:
        UnsupportedModel: There is no seed: random numbers are for training alone.
    """
    if seed is None:
        raise unsupported(f"the operator {op.name} ({op.type}) draws random numbers outside of training")
    if "Uniform" in op.type:
        return lowered(_uniform(op, shape, seed, f"{salt}/0"))
    # Box and Muller: √(-2 log u) cos(2π v).
    radius = tf.sqrt(-2.0 * tf.math.log(_uniform(op, shape, seed, f"{salt}/1")))
    return lowered(radius * tf.cos(2.0 * math.pi * _uniform(op, shape, seed, f"{salt}/2")))


def _uniform(op: tf.Operation, shape: tf.Tensor, seed: tf.Tensor, salt: str) -> tf.Tensor:
    """Numbers above 0 and below 1, of the wanted shape."""
    known = op.outputs[0].shape
    target = known.as_list() if known.is_fully_defined() else shape
    count = float(math.prod(target)) if known.is_fully_defined() else tf.cast(tf.reduce_prod(shape), tf.float32)
    position = tf.range(0.0, count, 1.0)
    column = tf.math.floormod(position, _P)
    row = (position - column) * (1.0 / _P)
    low = tf.cast(tf.math.floormod(seed, int(_P)), tf.float32)
    high = tf.cast(tf.math.floormod(seed // int(_P), int(_P)), tf.float32)
    row = tf.math.floormod(tf.round(row), _P)
    coefficients = np.random.default_rng(zlib.crc32(salt.encode()))
    mixed = tf.constant(0.0)
    for _round in range(2):
        a, b, d, e, k = (float(value) for value in coefficients.integers(1, int(_P), 5))
        moved = tf.math.floormod(d * low + e * high + k + mixed, _P)
        mixed = _cubed(tf.math.floormod(a * column + b * row + moved, _P))
    return tf.reshape((mixed + 0.5) * (1.0 / _P), target)


def _cubed(u: tf.Tensor) -> tf.Tensor:
    return tf.math.floormod(u * tf.math.floormod(u * u, _P), _P)
