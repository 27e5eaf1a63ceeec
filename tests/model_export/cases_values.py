"""Examples of operators that compute value by value, of reductions, lookups and losses. TensorFlow worker only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

from tests.model_export.comparison import Array
from tests.model_export.operators import Example, Function, raw

Draw = Any
Cases = dict[str, st.SearchStrategy[Example]]
Values = Callable[[np.random.Generator, tuple[int, ...]], Array]

SIDES: Final = st.integers(1, 4)
SEEDS: Final = st.integers(0, 2**32 - 1)


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.normal(size=shape).astype(np.float32)


def tied(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Halves, so that values are often equal, and often 0."""
    values: Array = (np.round(rng.normal(size=shape) * 2) / 2).astype(np.float32)
    return values


def positive(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.uniform(0.2, 3.0, shape).astype(np.float32)


def extreme(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """At zero, at the borders of pieces, far out, and between."""
    ends = np.array([0.0, -0.0, 6.0, -1e-7, 1e-7, -40.0, 40.0, 88.0, -88.0, 1e4, -1e4, 1e-30], np.float32)
    values: Array = np.where(rng.random(shape) < 0.6, rng.choice(ends, shape), normal(rng, shape) * np.float32(3))
    return values


def integers(low: int, high: int) -> Values:
    return lambda rng, shape: rng.integers(low, high, shape).astype(np.int32)


def booleans(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.random(shape) < 0.5


@st.composite
def unary(draw: Draw, function: Function, values: Values = normal) -> Example:
    """An operator of one input of any shape."""
    shape = tuple(draw(st.lists(SIDES, min_size=1, max_size=4)))
    x = values(np.random.default_rng(draw(SEEDS)), shape)
    return Example(str(shape), function, (x,), dynamic=draw(st.booleans()))


@st.composite
def binary(draw: Draw, function: Function, values: Values = normal, others: Values | None = None) -> Example:
    """An operator of two inputs that are repeated along each other's sides of 1."""
    rng = np.random.default_rng(draw(SEEDS))
    shape = draw(st.lists(SIDES, min_size=1, max_size=4))
    kept = draw(st.integers(0, len(shape)))
    other = [side if draw(st.booleans()) else 1 for side in shape[len(shape) - kept :]]
    if kept == len(shape) and draw(st.booleans()):
        shape = [side if draw(st.booleans()) else 1 for side in shape]
    dynamic = draw(st.booleans())
    inputs = [(tuple(shape), values), (tuple(other), others or values)]
    of_batch = [True, dynamic and len(other) == len(shape) and other[0] == shape[0]]
    if dynamic and len(other) == len(shape) and not of_batch[1]:
        of_batch = [shape[0] >= other[0], False] if other[0] == 1 else [False, True]
    if draw(st.booleans()):
        inputs, of_batch = inputs[::-1], of_batch[::-1]
    drawn = [how(rng, side) for (side, _), (_, how) in zip(inputs, [(0, values), (0, others or values)], strict=True)]
    what = " and ".join(str(side) for side, _ in inputs)
    return Example(what, function, tuple(drawn), tuple(of_batch), dynamic, terms=int(np.prod(shape)))


@st.composite
def reduction(draw: Draw, name: str, values: Values = normal, *, batch: bool = True) -> Example:
    shape = tuple(draw(st.lists(SIDES, min_size=1, max_size=4)))
    axes = draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    dynamic = draw(st.booleans()) and (batch or 0 not in axes)
    signed = [axis - len(shape) if draw(st.booleans()) else axis for axis in axes]
    keep = draw(st.booleans())
    x = values(np.random.default_rng(draw(SEEDS)), shape)
    reduce = raw(name, keep_dims=keep)
    what = f"{shape} over {signed}{', sides kept' if keep else ''}"
    return Example(what, lambda x: reduce(x, signed), (x,), dynamic=dynamic, terms=x.size)


@st.composite
def where(draw: Draw) -> Example:
    example = draw(binary(tf.add))
    shape = np.broadcast_shapes(*(one.shape for one in example.inputs))
    mask = booleans(np.random.default_rng(draw(SEEDS)), shape if draw(st.booleans()) else shape[-1:])
    fixed = not example.dynamic or mask.ndim < len(shape)
    return Example(
        f"{mask.shape} ? {example.what}",
        tf.where,
        (mask, *example.inputs),
        (not fixed, *(example.batched or ())),
        example.dynamic and shape[0] in {len(one) for one in example.inputs if one.ndim == len(shape)},
        example.terms,
    )


@st.composite
def old_where(draw: Draw) -> Example:
    """Select, which may take one condition for each row."""
    shape = tuple(draw(st.lists(SIDES, min_size=1, max_size=3)))
    rng = np.random.default_rng(draw(SEEDS))
    mask = booleans(rng, shape[: draw(st.sampled_from([1, len(shape)]))])
    what = f"{mask.shape} ? {shape}"
    return Example(what, raw("Select"), (mask, normal(rng, shape), normal(rng, shape)), dynamic=draw(st.booleans()))


@st.composite
def power(draw: Draw) -> Example:
    exponent = draw(st.sampled_from([0.0, 0.5, 1.0, 1.7, 2.0, 3.0, 4.0, -0.5, -1.0, -2.0]))
    shaped = draw(st.sampled_from([exponent, [exponent]]))
    example: Example = draw(unary(lambda x: tf.pow(x, shaped), positive))
    return _said(example, f"to the {shaped}")


def _said(example: Example, what: str) -> Example:
    return replace(example, what=f"{example.what} {what}")


@st.composite
def sum_of_all(draw: Draw) -> Example:
    shape = tuple(draw(st.lists(SIDES, min_size=1, max_size=3)))
    rng = np.random.default_rng(draw(SEEDS))
    inputs = tuple(normal(rng, shape) for _ in range(draw(st.integers(1, 4))))
    return Example(f"{len(inputs)} of {shape}", lambda *xs: raw("AddN")(list(xs)), inputs, dynamic=draw(st.booleans()))


@st.composite
def bias(draw: Draw) -> Example:
    shape = tuple(draw(st.lists(SIDES, min_size=2, max_size=4)))
    rng = np.random.default_rng(draw(SEEDS))
    inputs = (normal(rng, shape), normal(rng, shape[-1:]))
    return Example(str(shape), tf.nn.bias_add, inputs, (True, False), draw(st.booleans()), terms=int(np.prod(shape)))


@st.composite
def softmax(draw: Draw, name: str) -> Example:
    shape = tuple(draw(st.lists(SIDES, min_size=1, max_size=4)))
    values = draw(st.sampled_from([normal, extreme]))
    x = values(np.random.default_rng(draw(SEEDS)), shape)
    return Example(f"{shape} {values.__name__}", raw(name), (x,), dynamic=draw(st.booleans()) and len(shape) > 1)


@st.composite
def cumulative(draw: Draw) -> Example:
    shape = tuple(draw(st.lists(SIDES, min_size=1, max_size=3)))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    exclusive, reverse = draw(st.booleans()), draw(st.booleans())
    x = normal(np.random.default_rng(draw(SEEDS)), shape)
    what = f"{shape} along {axis}{' exclusive' * exclusive}{' reverse' * reverse}"
    return Example(what, lambda x: tf.cumsum(x, axis, exclusive, reverse), (x,), dynamic=draw(st.booleans()))


@st.composite
def lookup(draw: Draw, name: str) -> Example:
    """Rows of a table, many of them more than once."""
    rng = np.random.default_rng(draw(SEEDS))
    table = normal(rng, (draw(st.integers(1, 7)), *draw(st.lists(SIDES, min_size=0, max_size=2))))
    ids = rng.integers(0, len(table), tuple(draw(st.lists(SIDES, min_size=1, max_size=3)))).astype(np.int32)
    function = (tf.gather) if name == "GatherV2" else raw(name)
    what = f"{ids.shape} of {table.shape}"
    return Example(what, function, (table, ids), (False, True), draw(st.booleans()), terms=ids.size)


@st.composite
def lookup_in_variable(draw: Draw) -> Example:
    """ResourceGather, which reads rows of a variable without reading all of it."""
    example = draw(lookup("GatherV2"))
    table = tf.Variable(example.inputs[0])
    what = f"{example.what}, a variable"
    ids = example.inputs[1:]
    return Example(what, lambda i: tf.gather(table, i), ids, None, example.dynamic, example.terms, variables=(table,))


@st.composite
def sparse_loss(draw: Draw) -> Example:
    rng = np.random.default_rng(draw(SEEDS))
    rows, classes = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    scale = draw(st.sampled_from([1, 10]))  # a loss is told up to 85
    labels = rng.integers(0, classes, rows).astype(draw(st.sampled_from([np.int32, np.int64])))
    function = lambda x, y: tf.nn.sparse_softmax_cross_entropy_with_logits(y, x)  # noqa: E731
    return Example(
        f"{rows}×{classes}", function, (normal(rng, (rows, classes)) * scale, labels), dynamic=draw(st.booleans())
    )


@st.composite
def dense_loss(draw: Draw) -> Example:
    rng = np.random.default_rng(draw(SEEDS))
    shape = tuple(draw(st.lists(SIDES, min_size=2, max_size=3)))
    labels = rng.dirichlet(np.ones(shape[-1]), shape[:-1]).astype(np.float32)
    learned = draw(st.booleans())
    function = lambda x, y: tf.nn.softmax_cross_entropy_with_logits(y if learned else tf.stop_gradient(y), x)  # noqa: E731
    what = f"{shape}{', of learned shares' * learned}"
    return Example(what, function, (normal(rng, shape), labels), dynamic=draw(st.booleans()))


def _flat(name: str) -> Cases:
    """A step function or a question between values that learn."""
    asked = raw(name)
    return {name: unary(lambda x: tf.cast(asked(x), tf.float32) + x, tied)}


def _comparison(name: str) -> Cases:
    asked = raw(name)
    return {name: binary(lambda x, y: tf.cast(asked(x, y), tf.float32) * x + y, tied)}


_UNARY: Final[Mapping[str, Values]] = {
    **dict.fromkeys(("Neg", "Abs", "Square", "Sin", "Cos", "Tanh", "Sigmoid", "Erf", "Erfc", "Softsign"), normal),
    **dict.fromkeys(("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Softplus"), extreme),
    **dict.fromkeys(("Sqrt", "Rsqrt", "Log", "Log1p", "Reciprocal", "Inv"), positive),
    **dict.fromkeys(("Exp", "Expm1", "Identity", "StopGradient", "L2Loss"), normal),
}
_STEEP: Final = ("Relu", "Relu6", "Elu", "Selu", "Tanh", "Sigmoid", "Softplus", "Softsign", "Erf", "Erfc", "Abs")
"""Asked for far out and at 0 too."""

_BINARY: Final[Mapping[str, tuple[Values, Values]]] = {
    **dict.fromkeys(("Add", "AddV2", "Sub", "Mul", "SquaredDifference"), (normal, normal)),
    **dict.fromkeys(("RealDiv", "Div"), (normal, positive)),
    "DivNoNan": (normal, tied),
    **dict.fromkeys(("Maximum", "Minimum"), (tied, tied)),
}

CASES: Final[Cases] = {
    **{name: unary(raw(name), values) for name, values in _UNARY.items()},
    **{name: st.one_of(unary(raw(name)), unary(raw(name), extreme)) for name in _STEEP},
    "LeakyRelu": st.sampled_from([0.0, 0.2, 0.9]).flatmap(lambda alpha: unary(raw("LeakyRelu", alpha=alpha), extreme)),
    "PreventGradient": unary(lambda x: raw("PreventGradient")(tf.stop_gradient(x)) * x),
    "CheckNumerics": unary(raw("CheckNumerics", message="")),
    "EnsureShape": unary(lambda x: tf.ensure_shape(x, x.shape)),
    **{name: binary(raw(name), *values) for name, values in _BINARY.items()},
    **{key: case for name in ("Sign", "Floor", "Ceil", "Round", "Rint") for key, case in _flat(name).items()},
    **{key: case for name in ("IsNan", "IsFinite", "IsInf") for key, case in _flat(name).items()},
    **{
        key: case
        for name in ("Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual")
        for key, case in _comparison(name).items()
    },
    "FloorDiv": binary(raw("FloorDiv"), normal, positive),
    "FloorMod": binary(raw("FloorMod"), normal, positive),
    "LogicalAnd": binary(lambda x, y: tf.cast((x > 0) & (y > 0), tf.float32) * x),
    "LogicalOr": binary(lambda x, y: tf.cast((x > 0) | (y > 0), tf.float32) * x),
    "LogicalNot": unary(lambda x: tf.cast(~(x > 0), tf.float32) * x),
    "Cast": st.one_of(
        unary(lambda x: tf.cast(tf.cast(x, tf.int32), tf.float32) + x, tied),
        unary(raw("Cast", DstT=tf.float32)),
    ),
    "AddN": sum_of_all(),
    "BiasAdd": bias(),
    "Pow": power(),
    "SelectV2": where(),
    "Select": old_where(),
    "Softmax": softmax("Softmax"),
    "LogSoftmax": softmax("LogSoftmax"),
    "Sum": reduction("Sum"),
    "Mean": reduction("Mean", batch=False),
    "Max": reduction("Max", tied),
    "Min": reduction("Min", tied),
    "Cumsum": cumulative(),
    "All": reduction("All", booleans),
    "Any": reduction("Any", booleans),
    "ArgMax": unary(lambda x: tf.argmax(x, -1, tf.int32)),
    "ArgMin": unary(lambda x: tf.argmin(x, -1, tf.int32)),
    "Gather": lookup("Gather"),
    "GatherV2": lookup("GatherV2"),
    "ResourceGather": lookup_in_variable(),
    "SparseSoftmaxCrossEntropyWithLogits": sparse_loss(),
    "SoftmaxCrossEntropyWithLogits": dense_loss(),
}
