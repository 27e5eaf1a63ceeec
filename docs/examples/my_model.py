"""A small convolutional network for images, such as the 28×28 digits of the demo."""

import keras
from keras import layers


def build(input_shape: tuple[int, ...], classes: int) -> keras.Model:
    return keras.Sequential(
        [
            layers.Input(input_shape),
            layers.Conv2D(8, 3, strides=2, padding="same", activation="tanh"),
            layers.Conv2D(16, 3, strides=2, padding="same", activation="tanh"),
            layers.Flatten(),
            layers.Dense(classes),
        ]
    )
