"""A spec for a model that comes without one: what its inputs and outputs tell, and the usual for the rest."""

from __future__ import annotations

from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

from edge_runtime.protocol.bundle import Schema
from model_export.asked import METRICS_OF, Asked, numbered
from model_export.errors import UnsupportedModel
from model_export.examples import table_rows
from model_export.spec import ExportSpec, Loss, class_labels

_ANY_NUMBER: Final = 1e6
"""Labels that are numbers lie within this, unless somebody says otherwise."""


def derived_spec(model: keras.Model | tf.Module, name: str, asked: Asked) -> ExportSpec:
    """The spec of a model by itself.

    Indices are those of the model's table, other features 0 to 1. A model with several outputs is a classifier, one
    whose output has the input's shape writes it out again, a single output is a yes or no after a sigmoid and a number
    otherwise; `asked.loss` overrules all that.

    Raises:
        UnsupportedModel: Nothing can be said of the model without a spec.
    """
    features = _features(model, asked)
    shape, final = _output(model, features)
    loss = asked.loss or _loss(shape, final, features)
    labels, names = _labels(loss, shape, features, asked)
    return ExportSpec(
        name=name, features=features, labels=labels, class_names=names, loss=loss, metrics=METRICS_OF[loss]
    )


def _features(model: keras.Model | tf.Module, asked: Asked) -> Schema:
    taken = getattr(model, "inputs", None) if isinstance(model, keras.Model) else None
    if not taken:
        if asked.input_shape is None:
            raise UnsupportedModel(
                "the model does not say what it takes; return it with an ExportSpec, or give --input-shape"
            )
        return Schema(shape=asked.input_shape, dtype="float32", low=0.0, high=1.0)
    whole = all(one.dtype.startswith(("int", "uint")) for one in taken)
    if any(None in one.shape[1:] for one in taken):
        raise UnsupportedModel(
            f"the model takes inputs of shape {', '.join(str(tuple(one.shape)) for one in taken)}; "
            "every side but the batch is a number"
        )
    sizes = [int(np.prod(one.shape[1:])) for one in taken]
    shape = tuple(taken[0].shape[1:]) if len(taken) == 1 else (sum(sizes),)
    rows = table_rows(model)
    high = max(rows.values(), default=256 if whole else 2) - 1.0
    return Schema(shape=shape, dtype="int32" if whole else "float32", low=0.0, high=high)


def _output(model: Any, features: Schema) -> tuple[tuple[int, ...], str]:
    """Shape of one example's output, and the operator that the model ends in."""
    if isinstance(model, keras.Model) and isinstance(getattr(model, "outputs", None), list) and model.outputs:
        if len(model.outputs) > 1:
            raise UnsupportedModel("the model gives several outputs; export one that gives the output to be trained")
        last = model.layers[-1]
        activation = getattr(getattr(last, "activation", None), "__name__", type(last).__name__.lower())
        return tuple(model.outputs[0].shape[1:]), activation
    probe = tf.TensorSpec((1, *features.shape), features.dtype)
    output = tf.function(model, autograph=False).get_concrete_function(probe).outputs[0]
    return tuple(output.shape.as_list()[1:]), output.op.type.lower()


def _loss(shape: tuple[int, ...], final: str, features: Schema) -> Loss:
    if final == "softmax":
        return Loss.SPARSE_CROSS_ENTROPY
    if final == "sigmoid":
        return Loss.BINARY_CROSS_ENTROPY
    if shape == features.shape and features.dtype == "float32":
        return Loss.MEAN_SQUARED_ERROR
    return Loss.SPARSE_CROSS_ENTROPY if shape and shape[-1] > 1 else Loss.MEAN_SQUARED_ERROR


def _labels(loss: Loss, shape: tuple[int, ...], features: Schema, asked: Asked) -> tuple[Schema, tuple[str, ...]]:
    """Labels, and names of their classes if they are classes."""
    if loss is Loss.SPARSE_CROSS_ENTROPY:
        if not shape or shape[-1] < 2:
            raise UnsupportedModel(f"{loss} needs an output for each of two or more classes, not shape {shape}")
        names = asked.class_names or numbered(asked.classes or shape[-1])
        return class_labels(names, shape[:-1]), names
    if loss is Loss.CROSS_ENTROPY:
        names = asked.class_names or numbered(asked.classes or (shape[-1] if shape else 0))
        return Schema(shape=shape, dtype="float32", low=0.0, high=1.0), names
    if loss is Loss.BINARY_CROSS_ENTROPY:
        return Schema(shape=shape, dtype="float32", low=0.0, high=1.0), asked.class_names or ()
    same = shape == features.shape and features.dtype == "float32"
    low, high = (features.low, features.high) if same else (-_ANY_NUMBER, _ANY_NUMBER)
    return Schema(shape=shape, dtype="float32", low=low, high=high), ()
