"""A model whose steps hide examples, with TensorFlow's gradient of each example. TensorFlow worker only."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

from edge_runtime.examples import Examples
from edge_runtime.protocol.bundle import Schema
from model_export.convert import export
from model_export.spec import Exported, ExportSpec, Loss
from model_export.subject import subject
from tests.exports import BATCH_SIZE, CLASSES, INPUT_SHAPE, TENANT_KEY, spec_for

Array = np.ndarray[Any, np.dtype[np.float64]]
COUNT: Final = BATCH_SIZE


@functools.cache
def build() -> tuple[Exported, Examples, Array]:
    """An exported model, examples, and at its first weights each example's gradient, shape ``(count, parameters)``."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(INPUT_SHAPE),
            keras.layers.Conv2D(3, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    spec = replace(spec_for("hidden"), private_steps=True)
    rng = np.random.default_rng(3)
    local = Examples(rng.random((COUNT, *INPUT_SHAPE), np.float32), rng.integers(0, CLASSES, COUNT, np.int32))
    variables = [weight.variable for weight in subject(model, spec).weights]
    gradients = []
    for row in range(COUNT):
        with tf.GradientTape() as tape:
            found = model(local.x[row : row + 1], training=True)
            loss = keras.losses.sparse_categorical_crossentropy(local.y[row : row + 1], found)
        of_variables = tape.gradient(loss, variables)
        gradients.append(np.concatenate([one.numpy().astype(np.float64).reshape(-1) for one in of_variables]))
    return export(model, spec, TENANT_KEY), local, np.array(gradients)


@functools.cache
def wide(inputs: int, outputs: int) -> Exported:
    """A linear model with hidden steps: its gradient at zero is the outer product of features and labels, and these."""
    model = keras.Sequential([keras.Input((inputs,)), keras.layers.Dense(outputs)])
    spec = ExportSpec(
        name="wide",
        features=Schema(shape=(inputs,), dtype="float32", low=-1e6, high=1e6),
        labels=Schema(shape=(outputs,), dtype="float32", low=-1e9, high=1e9),
        loss=Loss.MEAN_SQUARED_ERROR,
        metrics=(),
        private_steps=True,
    )
    return export(model, spec, TENANT_KEY)
