"""Convolutional models for images."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any, Final

from edge_runtime.protocol.bundle import DefaultPlan, Schema
from model_export.spec import ExportSpec, Sgd, class_labels
from model_export.zoo.reference import Reference, numbered, sizes

if TYPE_CHECKING:
    import keras

_DIGITS: Final = numbered(10)
_CHARACTERS: Final = tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
_OBJECTS: Final = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""The classes of CIFAR-10."""

_BLOCKS: Final = ((32, 1), (64, 2), (64, 1))
"""Filters and stride of each depthwise separable block of `mobilenet`."""


def cnn(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    """Two convolutions with pooling, then one dense layer: 9,098 parameters for digits of 28×28×1."""
    from keras import Sequential, layers

    return Sequential(
        [
            layers.Input(input_shape),
            layers.Conv2D(8, 3, padding="same", activation="relu", name="conv_1"),
            layers.MaxPooling2D(name="pool_1"),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="conv_2"),
            layers.MaxPooling2D(name="pool_2"),
            layers.Flatten(name="flatten"),
            layers.Dense(classes, name="logits"),
        ],
        name="cnn",
    )


def femnist_cnn(input_shape: tuple[int, ...], classes: int, hidden: int = 2048) -> keras.Model:
    """LEAF's model for handwritten characters: two convolutions of 5×5 with pooling, and a wide dense layer.

    Source: https://arxiv.org/abs/1812.01097.

    Args:
        input_shape: Height, width, channels.
        classes: Number of outputs.
        hidden: Units of the layer that holds nearly all of the parameters; 0 leaves it out.
    """
    from keras import Sequential, layers

    return Sequential(
        [
            layers.Input(input_shape, name="image"),
            layers.Conv2D(32, 5, padding="same", activation="relu", name="conv_1"),
            layers.MaxPooling2D(name="pool_1"),
            layers.Conv2D(64, 5, padding="same", activation="relu", name="conv_2"),
            layers.MaxPooling2D(name="pool_2"),
            layers.Flatten(name="flatten"),
            *([layers.Dense(hidden, activation="relu", name="hidden")] if hidden else []),
            layers.Dense(classes, name="logits"),
        ],
        name="femnist_cnn" if hidden else "femnist_cnn_small",
    )


def mobilenet(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    """Depthwise separable blocks with ReLU6, group normalization and residual additions.

    Group normalization stands in for batch normalization: it keeps no statistics of the data. A block that keeps its
    shape adds its input to its output. Sources: https://arxiv.org/abs/1704.04861 (blocks),
    https://arxiv.org/abs/1801.04381 (ReLU6, additions), https://arxiv.org/abs/1803.08494 (groups).
    """
    import keras
    from keras import layers

    image = layers.Input(input_shape, name="image")
    x = layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False, name="stem")(image)
    x = layers.ReLU(6.0, name="stem_relu")(layers.GroupNormalization(4, name="stem_norm")(x))
    for number, (filters, stride) in enumerate(_BLOCKS, start=1):
        x = _separable_block(x, filters, stride, f"block_{number}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(classes, name="logits")(x), name="mobilenet")


def _separable_block(x: Any, filters: int, stride: int, name: str) -> Any:
    """A convolution of each channel alone, then one across channels, each normalized."""
    from keras import layers

    deep = layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False, name=f"{name}_depthwise")(x)
    deep = layers.GroupNormalization(4, name=f"{name}_depthwise_norm")(deep)
    deep = layers.ReLU(6.0, name=f"{name}_depthwise_relu")(deep)
    wide = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_pointwise")(deep)
    wide = layers.GroupNormalization(4, name=f"{name}_pointwise_norm")(wide)
    if wide.shape == x.shape:
        return layers.Add(name=f"{name}_add")([x, wide])
    return layers.ReLU(6.0, name=f"{name}_pointwise_relu")(wide)


CNN: Final = Reference(
    summary="small convolutional network",
    spec=ExportSpec(
        name="cnn",
        features=Schema(shape=(28, 28, 1), dtype="float32", low=0.0, high=1.0),
        labels=class_labels(_DIGITS),
        class_names=_DIGITS,
        default_plan=DefaultPlan(epochs=5, batch_size=20, learning_rate=0.1),
    ),
    builder=lambda spec: cnn(*sizes(spec)),
    any_size=True,
)

FEMNIST_CNN: Final = Reference(
    summary="LEAF's convolutional network for handwritten characters",
    spec=ExportSpec(
        name="femnist_cnn",
        features=Schema(shape=(28, 28, 1), dtype="float32", low=0.0, high=1.0),
        labels=class_labels(_CHARACTERS),
        class_names=_CHARACTERS,
        default_plan=DefaultPlan(epochs=1, batch_size=20, learning_rate=0.05),
    ),
    builder=lambda spec: femnist_cnn(*sizes(spec)),
    any_size=True,
)

FEMNIST_CNN_SMALL: Final = Reference(
    summary="the same without its wide layer, for slow phones",
    spec=ExportSpec(
        name="femnist_cnn_small",
        features=Schema(shape=(28, 28, 1), dtype="float32", low=0.0, high=1.0),
        labels=class_labels(_CHARACTERS),
        class_names=_CHARACTERS,
        optimizer=Sgd(momentum=0.9),
        default_plan=DefaultPlan(epochs=1, batch_size=20, learning_rate=0.02),
    ),
    builder=lambda spec: femnist_cnn(*sizes(spec), hidden=0),
    any_size=True,
)

MOBILENET: Final = Reference(
    summary="depthwise separable blocks in the manner of MobileNet",
    spec=ExportSpec(
        name="mobilenet",
        features=Schema(shape=(32, 32, 3), dtype="float32", low=0.0, high=1.0),
        labels=class_labels(_OBJECTS),
        class_names=_OBJECTS,
        default_plan=DefaultPlan(epochs=1, batch_size=20, learning_rate=0.015),
    ),
    builder=lambda spec: mobilenet(*sizes(spec)),
    any_size=True,
)
