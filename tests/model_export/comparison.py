"""What operators give and what TensorFlow gives, and how far apart they may be. No TensorFlow here.

The tolerance, in one place: a value may differ by 1e-6 of the largest value of its tensor. float32 holds 6e-8 of
a value, so that is about sixteen roundings. A sum of k products is rounded k times, in an order that is the
implementation's own; errors of either sign grow with √k. Beyond 16 terms the tolerance grows with √(k / 16).

A tensor whose largest value is below `SMALLEST` is compared as if that were its largest: what should cancel to nothing
leaves roundings of what was cancelled, and upstream gradients are of size 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TOLERANCE: Final = 1e-6
SMALLEST: Final = 0.5
_FREE_TERMS: Final = 16


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """What one value should be.

    Attributes:
        what: The operator, its attributes, and which of its values.
        value: TensorFlow's.
        terms: Products that are added up for one number of it.
    """

    what: str
    value: Array
    terms: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Examples that run in one call of one signature: inputs by name, and what should come out, by name."""

    signature: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Expected]


@dataclass(frozen=True, slots=True, eq=False)
class Lot:
    """Groups in one TFLite file.

    Attributes:
        graph: The file.
        groups: Its signatures.
        exercised: Operators whose rule was asked to emit.
        differentiated: Operators whose rule was asked for a gradient.
        problems: Found on the way there: what was refused, what does not convert, where TensorFlow itself disagrees.
    """

    graph: bytes
    groups: tuple[Group, ...]
    exercised: frozenset[str]
    differentiated: frozenset[str]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """What two layers draw for each seed, shape (seeds, positions), and the file that draws the same."""

    first: Array
    second: Array
    normal: Array
    graph: bytes


def tolerance(terms: int) -> float:
    """Largest error, as a share of the largest value."""
    return TOLERANCE * max(1.0, math.sqrt(terms / _FREE_TERMS))


def relative_error(found: Array, wanted: Array) -> float:
    """Largest difference as a share of the largest value; infinite where only one of both is finite."""
    if found.shape != wanted.shape:
        return math.inf
    if not found.size:
        return 0.0
    same = (found == wanted) | ((found != found) & (wanted != wanted))
    if same.all():
        return 0.0
    both = np.isfinite(found) & np.isfinite(wanted)
    if not (both | same).all() or found.dtype == bool:
        return math.inf
    near = np.where(both, wanted, 0).astype(np.float64)
    apart = np.where(both, found, 0).astype(np.float64) - near
    return float(np.abs(apart).max() / max(np.abs(near).max(), SMALLEST))


def disagreements(found: Mapping[str, Array], group: Group) -> list[str]:
    """A sentence for each value that is not what it should be."""
    sentences = [f"{one.what}: missing" for name, one in group.outputs.items() if name not in found]
    for name, value in found.items():
        expected = group.outputs[name]
        error = relative_error(value, expected.value)
        if error > tolerance(expected.terms):
            shapes = f"{value.shape} for {expected.value.shape}" if value.shape != expected.value.shape else ""
            sentences.append(f"{expected.what}: {error:.1e} above {tolerance(expected.terms):.1e} {shapes}".rstrip())
    return sentences


def on_interpreter(lot: Lot, runtime: str) -> list[str]:
    """Run every group on one interpreter; a sentence for each value that is wrong."""
    from edge_runtime.interpreters import open_interpreter

    interpreter = open_interpreter(lot.graph, runtime)
    sentences = []
    for group in lot.groups:
        sentences += disagreements(interpreter.call(group.signature, group.inputs), group)
    return sentences
