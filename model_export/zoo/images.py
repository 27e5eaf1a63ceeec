"""Small models for images."""

from __future__ import annotations

import keras
from keras import layers


def cnn(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    """Two convolutions with pooling, then one dense layer: 9,098 parameters for digits of 28×28×1."""
    return keras.Sequential(
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
