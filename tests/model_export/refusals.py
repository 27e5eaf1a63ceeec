"""What cannot be trained through, and what is said about it. TensorFlow worker only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import tensorflow as tf
from keras import layers

from edge_runtime.protocol.keys import SigningKey
from model_export.convert import export
from tests.model_export import kinds, lots, models, operators
from tests.model_export.operators import Example

_KEY: Final = SigningKey(bytes(range(32)))


def _images(function: Callable[..., Any], *, dynamic: bool = False) -> Example:
    return Example("", function, (np.ones((2, 4, 4, 2), np.float32),), dynamic=dynamic)


def _looped(x: tf.Tensor) -> tf.Tensor:
    return tf.while_loop(lambda i, _: i < tf.cast(tf.reduce_sum(x), tf.int32), lambda i, y: (i + 1, y * 1.1), (0, x))[1]


OPERATORS: Final[Mapping[str, Example]] = {
    "sorting": _images(tf.sort),
    "largest few": _images(lambda x: tf.math.top_k(x, 2)[0]),
    "resizing": _images(lambda x: tf.image.resize(x, (8, 8))),
    "a loop": _images(_looped),
    "a product of values": _images(lambda x: tf.reduce_prod(x, -1)),
    "a gradient that is forbidden": _images(lambda x: tf.raw_ops.PreventGradient(input=x)),
    "a backward slice": _images(lambda x: x[:, ::-1]),
    "another axis": _images(lambda x: tf.gather(x, [0, 1], axis=2)),
    "an exponent that is computed": _images(lambda x: x ** (x + 1.0)),
    "channels first": _images(lambda x: tf.nn.max_pool2d(x, 2, 2, "VALID", data_format="NCHW")),
    "a mean over an unknown batch": _images(lambda x: tf.reduce_mean(x, 0), dynamic=True),
    "part of an unknown batch": _images(lambda x: x[1:], dynamic=True),
    "batches behind one another": _images(lambda x: tf.concat([x, x], 0), dynamic=True),
    "a batch that is repeated": _images(lambda x: tf.tile(x, [2, 1, 1, 1]), dynamic=True),
    "a lone axis": Example("", lambda x: tf.einsum("ab,b->b", x, tf.ones(3)), (np.ones((2, 3), np.float32),)),
}

_FILM: Final[kinds.Shape] = (5, 8, 8, 3)

MODELS: Final[Mapping[str, tuple[kinds.Shape, Callable[[], list[Any]]]]] = {
    "Conv3D": (_FILM, lambda: [layers.Conv3D(2, 3, name="cube")]),
    "Resizing": (kinds.IMAGE, lambda: [layers.UpSampling2D(2, interpolation="bilinear", name="smooth")]),
    "a loop that was not unrolled": (kinds.SEQUENCE, lambda: [kinds.Looping(name="rounds")]),
}


def of_operators() -> dict[str, str]:
    """What is said, by what is wrong; empty where nothing was said."""
    return {name: _said(operators.refusal, example) for name, example in OPERATORS.items()}


def of_models() -> dict[str, str]:
    found = {}
    for name, (shape, between) in MODELS.items():
        model = kinds._through(shape, between)()
        found[name] = _said(_exported, model, shape)
    return found


def of_private_steps() -> dict[str, str]:
    """Steps that hide examples, of a model with statistics of batches; and of one in which these are frozen."""

    def attempt(model: Any, spec: Any) -> str:
        export(model, replace(spec, private_steps=True, dynamic_batch=False), _KEY)
        return ""

    made = {name: models.MADE[name]() for name in ("normalized", "frozen_statistics")}
    return {name: _said(attempt, one.model, one.spec) for name, one in made.items()}


def of_unknown_batches(names: list[str]) -> dict[str, str]:
    """Models that need to know their batch."""
    return {name: _said(operators.refusal, lots.example_of(name, dynamic=True)) for name in names}


def _exported(model: Any, shape: kinds.Shape) -> str:
    export(model, kinds.spec(shape), _KEY)
    return ""


def _said(attempt: Callable[..., str], *given: Any) -> str:
    try:
        return attempt(*given)
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
