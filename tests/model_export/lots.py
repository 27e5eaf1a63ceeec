"""What pytest asks the TensorFlow worker for: lots of operators and of models, beside TensorFlow's own numbers."""

from __future__ import annotations

import functools
import types
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from unittest import mock

import numpy as np
import tensorflow as tf

from model_export import objectives
from model_export.gradients import convolution, elementwise, lowering, matmul, pooling, reductions, windows
from model_export.gradients.randomness import DRAWS
from model_export.gradients.rule import OuterProduct
from model_export.gradients.shapes import folded
from model_export.subject import Subject, subject, unrolled
from tests.model_export import cases_layout, cases_products, cases_values, kinds, operators
from tests.model_export.comparison import Lot
from tests.model_export.operators import Example

CASES: Final = {**cases_values.CASES, **cases_layout.CASES, **cases_products.CASES}

MANY: Final = frozenset(
    {
        "Conv2D", "Conv2DBackpropInput", "DepthwiseConv2dNative", "MaxPool", "AvgPool", "StridedSlice", "Einsum",
        "MatMul", "BatchMatMulV2",
    }
)  # fmt: skip
"""Operators of many attributes, of which four times as many examples are drawn."""


def names() -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Operators with a rule, with cases, and those that draw random numbers."""
    return frozenset(lowering.RULES), frozenset(CASES), DRAWS


def of_operators(count: int, seed: int, *, convert: bool = True) -> Lot:
    """Examples of every operator, `count` of each at most."""
    return operators.lot(
        {name: operators.drawn(CASES[name], count * (4 if name in MANY else 1), seed) for name in CASES},
        convert=convert,
    )


def of_some(chosen: Sequence[str], count: int, seed: int) -> list[str]:
    """Problems of a few operators, without a file."""
    return list(
        operators.lot({name: operators.drawn(CASES[name], count, seed) for name in chosen}, convert=False).problems
    )


def kinds_of_models() -> tuple[frozenset[str], frozenset[str]]:
    """All of them, and those whose random numbers TensorFlow draws otherwise."""
    return frozenset(kinds.KINDS), frozenset(kinds.NOISY)


def of_models(chosen: Sequence[str], dynamic: bool = False) -> Lot:
    """Models that train: their loss, the gradient of each weight, and statistics that the batch moved."""
    return operators.lot({name: [example_of(name, dynamic=dynamic)] for name in chosen})


def example_of(name: str, *, dynamic: bool = False) -> Example:
    model = kinds.model(name)
    spec = kinds.spec_of(name, dynamic=dynamic)
    return _training(subject(model, spec), spec, np.random.default_rng(zlib.crc32(name.encode())), model)


def _training(made: Subject, spec: Any, rng: np.random.Generator, model: Any) -> Example:
    """One pass of training as an example: outputs and the losses of all examples."""
    shape = (spec.batch_size, *spec.features.shape)
    if spec.features.dtype == "int32":
        x = rng.integers(0, int(spec.features.high) + 1, shape).astype(np.int32)
    else:
        x = rng.normal(size=shape).astype(np.float32)
    classes = int(spec.labels.high) + 1
    labels = rng.integers(0, classes, (spec.batch_size, *spec.labels.shape)).astype(np.int32)

    def function(x: tf.Tensor, y: tf.Tensor) -> list[tf.Tensor]:
        outputs = made.call(x, True)
        loss = objectives.LOSSES[spec.loss](outputs, y)
        return [outputs, tf.reduce_sum(loss)]

    learned = tuple(weight.variable for weight in made.weights if weight.learned)
    moving = tuple(weight.variable for weight in made.weights if weight.tensor.trainable and not weight.learned)
    return Example(
        "in training",
        function,
        (x, labels),
        dynamic=spec.dynamic_batch,
        terms=max(64, *(int(np.prod(one.shape)) for one in learned)),
        variables=learned,
        statistics=moving,
        before=tuple(one.numpy() for one in moving),
        held=tuple(weight.variable for weight in made.weights if not weight.tensor.trainable),
        within=functools.partial(unrolled, model),
    )


_offsets: Final = windows.Windows.offsets

MUTANTS: Final[Mapping[str, tuple[str, Callable[[], Any]]]] = {
    "the last of several maxima": (
        "MaxPool",
        lambda: mock.patch.object(windows.Windows, "offsets", lambda self: _offsets(self)[::-1]),
    ),
    "a mean that forgets its factor": (
        "Mean",
        lambda: mock.patch.object(reductions, "math", types.SimpleNamespace(prod=lambda sides: 1)),
    ),
    "a convolution without its dilation": ("Conv2D", lambda: _windows(convolution, dilation=(1, 1))),
    "a padding that is one-sided": ("AvgPool", lambda: _windows(pooling, padding=((0, 0), (0, 0)))),
    "a relu that lets a thousandth through": (
        "Relu",
        lambda: _rule("Relu", elementwise.unary(lambda x, y, dy: dy * tf.maximum(tf.sign(y), 0.001))),
    ),
    "repeats that are averaged": (
        "Mul",
        lambda: _exchanged(elementwise, "folded", lambda dz, z, like: folded(dz, z, like) / (like.shape.rank or 1)),
    ),
    "a filter that is a hundred-thousandth too large": (
        "MatMul",
        lambda: _exchanged(matmul, "OuterProduct", lambda left, right: OuterProduct(left * 1.00001, right)),
    ),
}
"""A deliberate bug, the operator it is in, and how it is made."""


def of_mutant(name: str) -> list[str]:
    """Problems found in a rule with a bug; none if the tests are blind to it."""
    operator, broken = MUTANTS[name]
    with broken():
        return of_some([operator], 16, 0)


def _rule(name: str, rule: Any) -> Any:
    return mock.patch.dict(lowering.RULES, {name: rule})


def _exchanged(module: Any, name: str, replacement: Any) -> Any:
    return mock.patch.object(module, name, replacement)


def _windows(module: Any, **changes: Any) -> Any:
    """The windows of one family, changed."""
    right = windows.windows_of
    return mock.patch.object(module, "windows_of", lambda *where: replace(right(*where), **changes))
