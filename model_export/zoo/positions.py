"""A layer that Keras lacks. Loads Keras."""

from __future__ import annotations

from typing import Any

from keras import layers


class LearnedPositions(layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Adds a trained vector to each position of a sequence: (n, length, width) to the same shape."""

    def build(self, input_shape: tuple[int | None, int, int]) -> None:
        self.positions = self.add_weight(shape=input_shape[1:], initializer="random_normal", name="positions")

    def call(self, x: Any) -> Any:
        return x + self.positions
