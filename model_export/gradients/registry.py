"""The one place that touches TensorFlow's private gradient registry.

`tf.RegisterGradient` refuses a second registration and `Graph.gradient_override_map` is ignored by `GradientTape`, so
the entries of the registry are replaced for the duration of a scope. TensorFlow is pinned because of this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tensorflow.python.framework import ops

Gradient = Callable[..., Any]
"""From an operation and the gradients of its outputs to the gradients of its inputs.

It may read only those inputs and outputs that TensorFlow's own gradient reads: the tape keeps no others.
"""


@contextmanager
def swapped(gradients: Mapping[str, Gradient]) -> Iterator[None]:
    """Replace the gradients of these operators until the scope ends. Not for several threads at once.

    Raises:
        KeyError: TensorFlow has no gradient for an operator of that name.
    """
    entries: dict[str, dict[str, Any]] = ops.gradient_registry._registry
    saved = {operator: entries[operator] for operator in gradients}
    try:
        for operator, gradient in gradients.items():
            entries[operator] = {**entries[operator], "type": gradient}
        yield
    finally:
        entries.update(saved)
