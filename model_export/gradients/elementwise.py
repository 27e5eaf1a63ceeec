"""Arithmetic, one value at a time.

For y = f(x) the gradient is dx = dy · f'(x). For z = f(x, y), where one may be repeated along sides of the other, the
gradient is that of each value, summed along the repeats. Conditions are arithmetic, since comparisons leave the fast
path of the interpreters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import tensorflow as tf

from model_export.errors import unsupported
from model_export.gradients.rule import Lowered, Rule, attribute, copied, lowered
from model_export.gradients.shapes import folded, same_shape

MANY_SIDES: Final = 5
"""From here on, MUL of tflite-runtime 2.14 repeats nothing."""

Derivative = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
"""From x, y = f(x) and dy to dx."""


def positive(x: tf.Tensor) -> tf.Tensor:
    """1 where x > 0 and 0 where x = 0, for x of at least 0.

    Every x down to the smallest normal number becomes at least 1 when it is multiplied by 3·10³⁸. SIGN would do it in
    one step, but it leaves XNNPACK.
    """
    return tf.minimum(x * 3e38, 1.0)


def above(one: tf.Tensor, other: tf.Tensor | float) -> tf.Tensor:
    """1 where one > other, else 0."""
    return positive(tf.nn.relu(one - other))


def unary(derivative: Derivative) -> Rule:
    """An operator that TFLite has, with its derivative."""

    def rule(op: tf.Operation, x: tf.Tensor) -> Lowered:
        y = copied(op, x).outputs[0]
        return lowered(y, lambda dy: (derivative(x, y, dy),), broadcasts=True)

    return rule


def passing(op: tf.Operation, x: tf.Tensor) -> Lowered:
    """An operator that is the identity here."""
    return lowered(x, lambda dy: (dy,), broadcasts=True)


def stopping(op: tf.Operation, x: tf.Tensor) -> Lowered:
    """The identity, whose gradient is nothing."""
    return lowered(x)


def forbidding(op: tf.Operation, x: tf.Tensor) -> Lowered:
    """PreventGradient: the identity, whose gradient nobody may ask for."""

    def backward(dy: tf.Tensor) -> tuple[tf.Tensor]:
        raise unsupported(f"the operator {op.name} (PreventGradient) forbids to train what comes before it")

    return lowered(x, backward)


def cast(op: tf.Operation, x: tf.Tensor) -> Lowered:
    if x.dtype == op.outputs[0].dtype:
        return passing(op, x)
    return copied(op, x)


def add(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Lowered:
    z = x + y
    return lowered(z, lambda dz: (folded(dz, z, x), folded(dz, z, y)), broadcasts=True)


def subtract(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Lowered:
    z = x - y
    return lowered(z, lambda dz: (folded(dz, z, x), -folded(dz, z, y)), broadcasts=True)


def multiply(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Lowered:
    z = times(x, y)
    return lowered(z, lambda dz: (folded(times(dz, y), z, x), folded(times(dz, x), z, y)), broadcasts=True)


def times(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """x · y, where one may be repeated along sides of the other.

    MUL of tflite-runtime 2.14 ends the process where it repeats along one of five sides or more; DIV does not. So there
    the product is x / (1 / y), which is 0 where y is.
    """
    if max(x.shape.rank, y.shape.rank) < MANY_SIDES or same_shape(x, y) or 1 in (_values(x), _values(y)):
        return x * y
    return x / (1.0 / y) if _values(y) <= _values(x) else y / (1.0 / x)


def _values(x: tf.Tensor) -> float:
    """How many values, the batch counted once."""
    return float(math.prod(1 if side is None else int(side) for side in x.shape))


def divide(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Lowered:
    """z = x / y: dx = dz / y, dy = -dz · z / y."""
    z = x / y

    def backward(dz: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        share = dz / y
        return folded(share, z, x), -folded(share * z, z, y)

    return lowered(z, backward, broadcasts=True)


def remainder(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Lowered:
    """FloorMod, z = x - y ⌊x / y⌋: dx = dz, dy = -dz ⌊x / y⌋."""
    z = tf.math.floormod(x, y)
    if x.dtype != tf.float32:
        return lowered(z)
    return lowered(z, lambda dz: (folded(dz, z, x), -folded(dz * tf.floor(x / y), z, y)), broadcasts=True)


def divide_no_nan(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Lowered:
    """x / y, and 0 where y is 0; TFLite has no such operator: 1/y is taken of y + [y = 0], and set to 0 there."""
    present = tf.abs(tf.sign(y))
    inverse = present / (y + (1.0 - present))
    z = x * inverse
    return lowered(z, lambda dz: (folded(dz * inverse, z, x), -folded(dz * z * inverse, z, y)), broadcasts=True)


def squared_difference(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Lowered:
    difference = x - y
    z = difference * difference

    def backward(dz: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        share = (dz + dz) * difference
        return folded(share, z, x), -folded(share, z, y)

    return lowered(z, backward, broadcasts=True)


def maximum(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Lowered:
    """Where both are equal, x gets the gradient."""
    return _larger(tf.maximum(x, y), x, y, lambda: above(y, x))


def minimum(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Lowered:
    return _larger(tf.minimum(x, y), x, y, lambda: above(x, y))


def _larger(z: tf.Tensor, x: tf.Tensor, y: tf.Tensor, takes_y: Callable[[], tf.Tensor]) -> Lowered:
    def backward(dz: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        of_y = dz * takes_y()
        return folded(dz - of_y, z, x), folded(of_y, z, y)

    return lowered(z, backward, broadcasts=True)


def power(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Lowered:
    """x to a constant power; small whole powers and the root are multiplied out."""
    value = tf.get_static_value(y)
    if value is None or value.size != 1:
        raise unsupported(f"the operator {op.name} (Pow) has an exponent that is not one constant")
    exponent = float(value.reshape(()))
    z = _to_the(x, exponent)
    return lowered(z, lambda dz: (dz * (exponent * _to_the(x, exponent - 1)), None), broadcasts=True)


def _to_the(x: tf.Tensor, exponent: float) -> tf.Tensor:
    if exponent in (0.0, 1.0, 2.0, 3.0, 4.0):
        product = tf.ones_like(x) if exponent == 0 else x
        for _ in range(int(exponent) - 1):
            product = product * x
        return product
    if exponent == 0.5:
        return tf.sqrt(x)
    return tf.pow(x, tf.constant(exponent, x.dtype))


def select(op: tf.Operation, condition: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> Lowered:
    if op.type == "Select" and condition.shape.rank == 1:  # one answer for each row, not for each column
        condition = tf.reshape(condition, [-1] + [1] * (x.shape.rank - 1))
    z = tf.where(condition, x, y)

    def backward(dz: tf.Tensor) -> tuple[None, tf.Tensor, tf.Tensor]:
        zero = tf.constant(0, z.dtype)
        return None, folded(tf.where(condition, dz, zero), z, x), folded(tf.where(condition, zero, dz), z, y)

    return lowered(z, backward)


def add_all(op: tf.Operation, *inputs: tf.Tensor) -> Lowered:
    total = inputs[0]
    for one in inputs[1:]:
        total = total + one
    return lowered(total, lambda dz: [dz for _ in inputs], broadcasts=True)


def log_1_plus(op: tf.Operation, x: tf.Tensor) -> Lowered:
    return lowered(tf.math.log(1.0 + x), lambda dy: (dy / (1.0 + x),), broadcasts=True)


def exp_minus_1(op: tf.Operation, x: tf.Tensor) -> Lowered:
    y = tf.exp(x) - 1.0
    return lowered(y, lambda dy: (dy * (y + 1.0),), broadcasts=True)


def reciprocal(op: tf.Operation, x: tf.Tensor) -> Lowered:
    y = 1.0 / x
    return lowered(y, lambda dy: (-dy * y * y,), broadcasts=True)


def bias_add(op: tf.Operation, x: tf.Tensor, bias: tf.Tensor) -> Lowered:
    if attribute(op, "data_format") != "NHWC":
        raise unsupported(f"the operator {op.name} (BiasAdd) has its channels first")
    return add(op, x, bias)


_UNARY: Final[Mapping[str, Derivative]] = {
    "Neg": lambda x, y, dy: -dy,
    "Abs": lambda x, y, dy: dy * tf.sign(x),
    "Square": lambda x, y, dy: dy * (x + x),
    "Sqrt": lambda x, y, dy: dy * (0.5 / y),
    "Rsqrt": lambda x, y, dy: dy * (-0.5 * (y * y * y)),
    "Exp": lambda x, y, dy: dy * y,
    "Log": lambda x, y, dy: dy / x,
    "Sin": lambda x, y, dy: dy * tf.cos(x),
    "Cos": lambda x, y, dy: -dy * tf.sin(x),
}

_FLAT: Final = (
    "Sign", "Floor", "Ceil", "Round", "Rint", "FloorDiv", "Equal", "NotEqual", "Less", "LessEqual",
    "Greater", "GreaterEqual", "LogicalAnd", "LogicalOr", "LogicalNot", "IsNan", "IsFinite", "IsInf",
)  # fmt: skip
"""Without a gradient anywhere."""

RULES: Final[Mapping[str, Rule]] = {
    **{name: unary(derivative) for name, derivative in _UNARY.items()},
    **dict.fromkeys(_FLAT, copied),
    **dict.fromkeys(("Identity", "CheckNumerics", "EnsureShape"), passing),
    "PreventGradient": forbidding,
    "StopGradient": stopping,
    "Cast": cast,
    "Add": add,
    "AddV2": add,
    "AddN": add_all,
    "BiasAdd": bias_add,
    "Sub": subtract,
    "Mul": multiply,
    "RealDiv": divide,
    "Div": divide,
    "DivNoNan": divide_no_nan,
    "FloorMod": remainder,
    "SquaredDifference": squared_difference,
    "Maximum": maximum,
    "Minimum": minimum,
    "Pow": power,
    "SelectV2": select,
    "Select": select,
    "Log1p": log_1_plus,
    "Expm1": exp_minus_1,
    "Reciprocal": reciprocal,
    "Inv": reciprocal,
}
