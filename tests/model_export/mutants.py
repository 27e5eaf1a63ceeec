"""A deliberately wrong gradient, to show that `verify` catches one. TensorFlow worker only."""

from __future__ import annotations

from unittest import mock

import tensorflow as tf

from model_export.gradients.lowering import RULES
from model_export.gradients.rule import Lowered
from model_export.spec import Exported
from model_export.verify import Recording
from tests.model_export import models


def case_with_wrong_tanh() -> tuple[Exported, Recording]:
    """Two dense layers with a gradient of tanh that is one part in a thousand too large."""
    right = RULES["Tanh"]

    def wrong(op: tf.Operation, x: tf.Tensor) -> Lowered:
        step = right(op, x)
        assert step.backward is not None
        backward = step.backward
        return Lowered(step.outputs, lambda upstream: [1.001 * share for share in backward(upstream)])

    with mock.patch.dict(RULES, {"Tanh": wrong}):
        return models.case("momentum")
