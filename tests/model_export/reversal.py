"""The trap of REVERSE_V2 as a file. TensorFlow worker only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from model_export.gradients import Emission, Trace
from tests.model_export.operators import _converted


def both_ways() -> tuple[bytes, npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """A file that reverses two axes as it is and by our rule; what goes in, and what should come out."""
    spec = tf.TensorSpec((2, 3, 4), tf.float32, name="x")

    @tf.function(input_signature=[spec], autograph=False)  # type: ignore[untyped-decorator]
    def as_it_is(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.reverse(x, [1, 2])}

    trace = Trace(lambda x: {"y": tf.reverse(x, [1, 2])}, [spec])

    @tf.function(input_signature=[spec], autograph=False)  # type: ignore[untyped-decorator]
    def by_rule(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return Emission(trace, [x], lambda one: one.read_value()).outputs

    functions = {"as_it_is": as_it_is.get_concrete_function(), "by_rule": by_rule.get_concrete_function()}
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    return _converted(functions, []), x, x[:, ::-1, ::-1]
