"""A deliberately wrong gradient, to show that `verify` catches one. TensorFlow worker only."""

from __future__ import annotations

import tensorflow as tf

from model_export.gradients import GRADIENTS
from model_export.gradients.registry import swapped
from model_export.spec import Exported
from model_export.verify import Step
from tests.model_export import models


def case_with_wrong_relu() -> tuple[Exported, list[Step]]:
    """The MLP's export with a relu gradient that lets one part in a thousand through where it should be zero."""
    from model_export import convert

    def leaky(op: tf.Operation, upstream: tf.Tensor) -> tf.Tensor:
        return upstream * tf.maximum(tf.sign(op.outputs[0]), 0.001)

    right = convert.builtin_gradients
    convert.builtin_gradients = lambda: swapped({**GRADIENTS, "Relu": leaky})
    try:
        return models.case("mlp")
    finally:
        convert.builtin_gradients = right
