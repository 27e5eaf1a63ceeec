"""Sizes and indices that are known when the model is exported are computed then.

Keras computes many a shape with operators. Rules want to know them, and the graph need not compute them every step.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Final

import tensorflow as tf

from model_export.gradients.randomness import DRAWS

_LARGEST: Final = 1 << 16
"""Values of a constant that is worth keeping instead of computing."""


def folded_constants(op: tf.Operation, inputs: Sequence[tf.Tensor]) -> tuple[tf.Tensor, ...] | None:
    """The outputs as constants, if they are whole numbers or answers and all inputs are known; otherwise None."""
    if op.type == "Const" or op.type in DRAWS or any(one.dtype.is_floating for one in op.outputs):
        return None
    if op.type == "Shape":
        known = inputs[0].shape
        return (tf.constant(known.as_list(), op.outputs[0].dtype),) if known.is_fully_defined() else None
    values = [tf.get_static_value(one) for one in inputs]
    if not values or any(value is None or value.size > _LARGEST for value in values):
        return None
    function = getattr(tf.raw_ops, op.type, None)
    if function is None:
        return None
    with tf.init_scope():
        found = function(
            **_named(op, [tf.constant(value, one.dtype) for value, one in zip(values, inputs, strict=True)])
        )
        arrays = [one.numpy() for one in (found if isinstance(found, list | tuple) else [found])]
    if any(array.size > _LARGEST for array in arrays):
        return None
    return tuple(tf.constant(array, one.dtype) for array, one in zip(arrays, op.outputs, strict=True))


def _named(op: tf.Operation, inputs: Sequence[tf.Tensor]) -> dict[str, object]:
    """The arguments of `tf.raw_ops`: inputs by name, lists where the operator takes several, and attributes."""
    arguments: dict[str, object] = {}
    left = list(inputs)
    for one in op.op_def.input_arg:
        if one.number_attr:
            count = op.get_attr(one.number_attr)
            arguments[one.name], left = left[:count], left[count:]
        else:
            arguments[one.name] = left.pop(0)
    taken = [name for name in inspect.signature(getattr(tf.raw_ops, op.type)).parameters if name != "name"]
    arguments.update({one.name: op.get_attr(one.name) for one in op.op_def.attr if not _inferred(op, one.name)})
    renamed = [name for name in taken if name not in arguments]  # such as ExpandDims' dim and Squeeze's squeeze_dims
    unknown = [name for name in arguments if name not in taken]
    return {
        **{name: arguments[name] for name in taken if name in arguments},
        **dict(zip(renamed, [arguments[name] for name in unknown], strict=False)),
    }


def _inferred(op: tf.Operation, attribute: str) -> bool:
    """Whether an attribute is the type or the number of inputs: those follow from the inputs."""
    return any(attribute in (one.type_attr, one.number_attr, one.type_list_attr) for one in op.op_def.input_arg)
