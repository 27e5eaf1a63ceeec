"""Small models for anything of a fixed size: pixels, windows of a sensor."""

from __future__ import annotations

import keras
from keras import layers


def mlp(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    """One hidden layer of 128: 101,770 parameters for digits of 28×28×1."""
    return keras.Sequential(
        [
            layers.Input(input_shape),
            layers.Flatten(name="flatten"),
            layers.Dense(128, activation="relu", name="hidden"),
            layers.Dense(classes, name="logits"),
        ],
        name="mlp",
    )
