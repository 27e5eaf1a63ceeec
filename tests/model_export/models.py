"""Keras models that use every supported layer, in shapes that are easy to get wrong. TensorFlow worker only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import keras
import numpy as np
from keras import layers

from model_export import reference, zoo
from model_export.convert import export
from model_export.spec import Exported, ExportSpec
from model_export.verify import Step
from tests import exports
from tests.exports import CLASSES, INPUT_SHAPE, TENANT_KEY, build, spec_for


def convolutions() -> keras.Model:
    """Strides, dilation, even windows, strides larger than the window, one-hot and sliced patches."""
    return keras.Sequential(
        [
            layers.Input((11, 9, 2)),
            layers.Conv2D(8, (3, 2), strides=(2, 1), padding="same", activation="relu"),
            layers.Conv2D(12, (2, 3), padding="valid", activation="tanh"),
            layers.Conv2D(6, 3, dilation_rate=2, padding="same"),
            layers.Conv2D(6, 1, strides=2, use_bias=False),
            layers.Conv2D(4, 3, strides=2, padding="same", activation="sigmoid"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(CLASSES),
        ]
    )


def poolings() -> keras.Model:
    """Windows that overlap, that leave a rest, and that reach into padding."""
    image = layers.Input((11, 9, 2))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    pooled = [
        layers.MaxPooling2D(3, strides=2, padding="same")(x),
        layers.AveragePooling2D(3, strides=2, padding="same")(x),
        layers.MaxPooling2D(2)(x),
        layers.AveragePooling2D((3, 2))(x),
        layers.MaxPooling2D(2, strides=3, padding="valid")(x),
    ]
    parts = [layers.Dense(CLASSES)(layers.Flatten()(part)) for part in pooled]
    return keras.Model(image, layers.add(parts))


def dense() -> keras.Model:
    """Rescaled bytes, a reshape, a frozen layer, and a softmax at the end."""
    return keras.Sequential(
        [
            layers.Input(INPUT_SHAPE),
            layers.Rescaling(1 / 127.5, offset=-1),
            layers.Reshape((16, 4)),
            layers.Flatten(),
            layers.Dense(12, activation="tanh", trainable=False),
            layers.Dense(12, activation="sigmoid"),
            layers.ReLU(),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )


MODELS: Final[Mapping[str, Callable[[], keras.Model]]] = {
    "convolutions": convolutions,
    "poolings": poolings,
    "dense": dense,
}


def case(name: str) -> tuple[Exported, list[Step]]:
    """Export a model, of the zoo or of this file, then record three steps of TensorFlow."""
    if name in zoo.__all__:
        return build(name), _recorded(exports.model(name), spec_for(name))
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    spec = spec_for(name, model.input_shape[1:], high=255.0 if name == "dense" else 1.0)
    return export(model, spec, TENANT_KEY), _recorded(model, spec)


def _recorded(model: keras.Model, spec: ExportSpec) -> list[Step]:
    return reference.record(model, spec, np.random.default_rng(1), steps=3, learning_rate=0.1, mu=0.5)


def refused(name: str) -> None:
    """Export a model that must be refused."""
    image = layers.Input(INPUT_SHAPE)
    flat = layers.Flatten()(image)
    outputs = {
        "dropout": lambda: layers.Dense(CLASSES)(layers.Dropout(0.5, name="forget")(flat)),
        "grouped": lambda: layers.Dense(CLASSES)(
            layers.Flatten()(layers.Conv2D(4, 3, groups=2)(layers.Conv2D(4, 1)(image)))
        ),
        "depthwise": lambda: layers.Dense(CLASSES)(layers.Flatten()(layers.DepthwiseConv2D(3, name="deep")(image))),
        "elu": lambda: layers.Dense(CLASSES)(layers.Dense(4, activation="elu", name="smooth")(flat)),
        "normed": lambda: layers.Dense(CLASSES)(layers.BatchNormalization(name="steady")(flat)),
        "outputs": lambda: layers.Dense(CLASSES + 1)(flat),
        "untrainable": lambda: layers.Dense(CLASSES, trainable=False)(flat),
    }
    model = keras.Model(image, outputs[name]())
    export(model, spec_for(name), TENANT_KEY)


def wrong_input() -> None:
    """Export a model with the schema of another input."""
    export(zoo.mlp((3, 3, 1), CLASSES), spec_for("mlp"), TENANT_KEY)


def built_again(name: str) -> tuple[str, str]:
    """Digests of a second export, in a process that has exported other models since the first."""
    exported = build.__wrapped__(name)
    return exported.bundle_sha256, exported.checkpoint_sha256
