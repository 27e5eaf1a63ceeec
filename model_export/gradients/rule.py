"""What a rule is: one operator of TensorFlow, written with built-in operators of TFLite, forwards and backwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf


@dataclass(frozen=True, slots=True, eq=False)
class OuterProduct:
    """A share of a matrix's gradient: leftᵀ · right, of shapes (k, n) and (k, m), not yet computed.

    Shares of one matrix are added by laying their rows below each other: one product instead of many, and no sum of
    matrices. An unrolled recurrent layer has a share for every step.
    """

    left: tf.Tensor
    right: tf.Tensor


Share = Any
"""What one use of a tensor adds to its gradient: a tensor, an `OuterProduct`, or None for nothing."""

Backward = Callable[..., Sequence[Share]]
"""From the gradient of each output to a share for each input. An output that nothing reads has the gradient None."""


@dataclass(frozen=True, slots=True, eq=False)
class Lowered:
    """An operator, emitted.

    Attributes:
        outputs: One tensor for each of the operator's outputs.
        backward: None where the operator passes no gradient on.
        broadcasts: Whether `backward` also takes gradients that have a side of 1 where all values along it are equal.
    """

    outputs: tuple[tf.Tensor, ...]
    backward: Backward | None = None
    broadcasts: bool = False


Rule = Callable[..., Lowered]
"""From an operation of the traced graph, read for its attributes, and its emitted inputs to what is emitted for it."""


def lowered(output: tf.Tensor, backward: Backward | None = None, *, broadcasts: bool = False) -> Lowered:
    """An operator with one output."""
    return Lowered((output,), backward, broadcasts)


def attribute(op: tf.Operation, name: str) -> Any:
    """An attribute of an operation, with text as str."""
    value = op.get_attr(name)
    return value.decode() if isinstance(value, bytes) else value


def copied(op: tf.Operation, *inputs: tf.Tensor) -> Lowered:
    """The operator as it is, without a gradient."""
    attributes = {name: value for name, value in op.node_def.attr.items() if not name.startswith("_")}
    graph = tf.compat.v1.get_default_graph()
    types = [output.dtype for output in op.outputs]
    return Lowered(tuple(graph.create_op(op.type, list(inputs), types, name=op.name, attrs=attributes).outputs))
