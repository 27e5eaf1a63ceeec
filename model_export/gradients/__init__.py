"""Gradients made of built-in TFLite operators only, one file for each family of operators.

TensorFlow's own gradients of many operators need operators that only exist in Flex. While a training function is traced
inside `builtin_gradients`, these are used instead; a model needs no change.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Final

from model_export.gradients import activations, convolution, matmul, pooling
from model_export.gradients.registry import Gradient, swapped

GRADIENTS: Final[Mapping[str, Gradient]] = {
    **activations.GRADIENTS,
    **convolution.GRADIENTS,
    **matmul.GRADIENTS,
    **pooling.GRADIENTS,
}
"""By TensorFlow's name of the operator."""


def builtin_gradients() -> AbstractContextManager[None]:
    """Trace inside this scope, and `GradientTape` uses the gradients of this package."""
    return swapped(GRADIENTS)
