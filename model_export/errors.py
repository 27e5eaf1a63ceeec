"""What the exporter refuses. No TensorFlow here."""

from __future__ import annotations

from typing import Final

SUPPORTED: Final = (
    "Dense, Conv2D, MaxPooling2D, AveragePooling2D, GlobalAveragePooling2D, Flatten, Reshape, Rescaling, "
    "and the activations relu, tanh, sigmoid and a final softmax"
)


class UnsupportedModel(Exception):
    """The model cannot be made to train on a stock TFLite interpreter; the message is one sentence for its author."""


def unsupported(what: str) -> UnsupportedModel:
    """Name what stands in the way, and what does not."""
    return UnsupportedModel(f"{what}; supported are {SUPPORTED}")
