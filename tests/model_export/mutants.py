"""A deliberately wrong gradient, to show that `verify` catches one. TensorFlow worker only."""

from __future__ import annotations

from unittest import mock

import tensorflow as tf

from model_export.gradients import GRADIENTS
from model_export.gradients.registry import swapped
from model_export.spec import Exported
from model_export.verify import Step
from tests.exports import build
from tests.model_export import models


def case_with_wrong_relu() -> tuple[Exported, list[Step]]:
    """The MLP with a relu gradient that lets one part in a thousand through where it should be zero."""

    def leaky(op: tf.Operation, upstream: tf.Tensor) -> tf.Tensor:
        return upstream * tf.maximum(tf.sign(op.outputs[0]), 0.001)

    wrong = swapped({**GRADIENTS, "Relu": leaky})
    with mock.patch("model_export.convert.builtin_gradients", return_value=wrong):
        mutant = build.__wrapped__("mlp")
    return mutant, models.case("mlp")[1]
