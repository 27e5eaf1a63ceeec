"""Random numbers as steps draw them, from TensorFlow and as a file for the interpreters. TensorFlow worker only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import layers

from model_export.gradients import Emission, Trace, added_up
from tests.model_export.comparison import Draws
from tests.model_export.operators import _converted

Array = npt.NDArray[Any]

COUNT: Final = 2039 * 8
"""Positions of each draw: eight rows of the generator."""


def drawn(seeds: Sequence[int]) -> Draws:
    def draws(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {
            "first": tf.random.uniform([COUNT], name="first") + x,
            "second": tf.random.uniform([COUNT], name="second") + x,
            "normal": tf.random.normal([COUNT], name="normal") + x,
        }

    trace = Trace(draws, [tf.TensorSpec((), tf.float32)])

    @tf.function(input_signature=[tf.TensorSpec((), tf.int32, name="seed")], autograph=False)  # type: ignore[untyped-decorator]
    def emitted(seed: tf.Tensor) -> dict[str, tf.Tensor]:
        return Emission(trace, [tf.constant(0.0)], lambda one: one.read_value(), seed=seed).outputs

    function = emitted.get_concrete_function()
    found = [function(tf.constant(seed)) for seed in seeds]
    kept = {name: np.stack([one[name].numpy() for one in found]) for name in ("first", "second", "normal")}
    return Draws(**kept, graph=_converted({"draw": function}, []))


def thrown_out(kind: str, seed: int) -> tuple[Array, Array]:
    """What a layer makes of ones, and the gradient of its sum: (50, 8, 40)."""
    layer = {
        "dropout": lambda: layers.Dropout(0.4, name="noisy"),
        "spatial": lambda: layers.SpatialDropout1D(0.4, name="noisy"),
        "noise": lambda: layers.GaussianNoise(0.5, name="noisy"),
        "noise_dropout": lambda: layers.GaussianDropout(0.2, name="noisy"),
        "alpha": lambda: layers.AlphaDropout(0.3, name="noisy"),
    }[kind]()
    shape = (50, 8, 40)
    trace = Trace(lambda x: {"y": layer(x, training=True)}, [tf.TensorSpec(shape, tf.float32)])
    key = trace.inputs[0]

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def emitted(x: tf.Tensor, seed: tf.Tensor) -> list[tf.Tensor]:
        emission = Emission(trace, [x], lambda one: one.read_value(), trained=[key], seed=seed)
        y = emission.outputs["y"]
        return [y, added_up(emission.shares({trace.outputs["y"]: tf.ones_like(y)}, [key])[0])]

    y, gradient = emitted(tf.ones(shape), tf.constant(seed))
    return y.numpy(), np.broadcast_to(gradient.numpy(), shape)
