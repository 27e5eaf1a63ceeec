"""The contract of every trainable model: its signatures, as TensorFlow functions over the model's variables.

| signature | inputs | outputs |
|---|---|---|
| train | x, y, mask (1 for a real example, 0 for padding), lr, mu | loss, correct |
| evaluate | x, y, mask | loss_sum, correct, count |
| infer | x | logits, probabilities |
| begin_round | – | ok; copies the weights to the anchor |
| delta | clip | trained minus anchor for each shared tensor, scaled to a norm of at most clip; norm before that |
| get_weights, set_weights | – / tensors by name | tensors by name / ok |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

from edge_runtime.protocol.bundle import Tensor
from model_export.errors import unsupported
from model_export.spec import ExportSpec

Outputs = dict[str, tf.Tensor]

_NO_NORM: Final = 1e-12
"""Below this, a norm is not divided by."""


class Signatures:
    """The signatures of one model.

    Attributes:
        variables: The model's weights, in the manifest's order.
        anchors: The weights at the beginning of a round, for each trainable tensor, in order.
    """

    def __init__(self, model: keras.Model, tensors: tuple[Tensor, ...], spec: ExportSpec) -> None:
        self.model = model
        self.tensors = tensors
        self.spec = spec
        self.variables = [variable.value for variable in model.weights]
        self.anchors = [tf.Variable(variable, trainable=False) for variable, _tensor in self._trained()]

    def functions(self) -> dict[str, Any]:
        """Every signature as an untraced `tf.function`, by name."""
        features = self.spec.features
        x = tf.TensorSpec((self.spec.batch_size, *features.shape), features.dtype, name="x")
        y = tf.TensorSpec((self.spec.batch_size,), tf.int32, name="y")
        mask = tf.TensorSpec((self.spec.batch_size,), tf.float32, name="mask")
        lr, mu, clip = (tf.TensorSpec((), tf.float32, name=name) for name in ("lr", "mu", "clip"))
        weights = [tf.TensorSpec(tensor.shape, tf.float32, name=tensor.name) for tensor in self.tensors]
        signatures: dict[str, tuple[Callable[..., Outputs], list[tf.TensorSpec]]] = {
            "train": (self.train, [x, y, mask, lr, mu]),
            "evaluate": (self.evaluate, [x, y, mask]),
            "infer": (self.infer, [x]),
            "begin_round": (self.begin_round, []),
            "delta": (self.delta, [clip]),
            "get_weights": (self.get_weights, []),
            "set_weights": (self.set_weights, weights),
        }
        return {
            name: tf.function(function, input_signature=inputs, autograph=False)
            for name, (function, inputs) in signatures.items()
        }

    def train(self, x: tf.Tensor, y: tf.Tensor, mask: tf.Tensor, lr: tf.Tensor, mu: tf.Tensor) -> Outputs:
        """One SGD step on the mean loss of the real examples, plus mu/2 · ‖w - anchor‖² (FedProx).

        The learning rate enters as the gradient of the loss, so that the step is one subtraction a tensor.
        Source: https://arxiv.org/abs/1812.06127.
        """
        trained = self._trained()
        variables = [variable for variable, _tensor in trained]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for variable in variables:
                tape.watch(variable)
            losses, correct = self._losses(x, y, training=True)
            loss = tf.reduce_sum(losses * mask) / tf.maximum(tf.reduce_sum(mask), 1.0)
        steps = tape.gradient(loss, variables, output_gradients=lr)
        for (variable, tensor), anchor, step in zip(trained, self.anchors, steps, strict=True):
            if step is None:
                raise unsupported(f"the weights {tensor.name} have no influence on the model's output")
            variable.assign_sub(tf.convert_to_tensor(step) + lr * mu * (variable - anchor))
        return {"loss": loss, "correct": tf.reduce_sum(correct * mask)}

    def evaluate(self, x: tf.Tensor, y: tf.Tensor, mask: tf.Tensor) -> Outputs:
        """Sums over the real examples."""
        losses, correct = self._losses(x, y, training=False)
        return {
            "loss_sum": tf.reduce_sum(losses * mask),
            "correct": tf.reduce_sum(correct * mask),
            "count": tf.reduce_sum(mask),
        }

    def infer(self, x: tf.Tensor) -> Outputs:
        logits = self._logits(x, training=False)
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    def begin_round(self) -> Outputs:
        for (variable, _tensor), anchor in zip(self._trained(), self.anchors, strict=True):
            anchor.assign(variable)
        return {"ok": tf.constant(1)}

    def delta(self, clip: tf.Tensor) -> Outputs:
        """Changes of the shared tensors since `begin_round`, clipped together."""
        changes = {
            tensor.name: variable - anchor
            for (variable, tensor), anchor in zip(self._trained(), self.anchors, strict=True)
            if tensor.shared
        }
        norm = tf.sqrt(tf.add_n([tf.reduce_sum(change * change) for change in changes.values()]))
        scale = tf.minimum(1.0, clip / tf.maximum(norm, _NO_NORM))
        return {**{name: change * scale for name, change in changes.items()}, "norm": norm}

    def get_weights(self) -> Outputs:
        pairs = zip(self.tensors, self.variables, strict=True)
        return {tensor.name: tf.identity(variable.read_value()) for tensor, variable in pairs}

    def set_weights(self, *weights: tf.Tensor) -> Outputs:
        for variable, value in zip(self.variables, weights, strict=True):
            variable.assign(value)
        return {"ok": tf.constant(1)}

    def _trained(self) -> list[tuple[tf.Variable, Tensor]]:
        pairs = zip(self.variables, self.tensors, strict=True)
        return [(variable, tensor) for variable, tensor in pairs if tensor.trainable]

    def _losses(self, x: tf.Tensor, y: tf.Tensor, *, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Cross-entropy of each example, and 1 where its label has the largest logit."""
        logits = self._logits(x, training=training)
        correct = tf.cast(tf.equal(tf.argmax(logits, -1, output_type=tf.int32), y), tf.float32)
        return cross_entropy(logits, y), correct

    def _logits(self, x: tf.Tensor, *, training: bool) -> tf.Tensor:
        """The model's output, before its softmax if it ends in one."""
        outputs = self.model(x, training=training)
        return outputs.op.inputs[0] if outputs.op.type == "Softmax" else outputs


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """-log softmax(logits)[label] for each row, with the gradient softmax - one-hot.

    The one-hot rows are max(0, 1 - |class - label|): ONE_HOT and its casts keep XNNPACK away.
    """
    classes = tf.constant(np.arange(logits.shape[-1], dtype=np.float32))
    one_hot = tf.nn.relu(1.0 - tf.abs(classes - tf.reshape(tf.cast(labels, tf.float32), [-1, 1])))

    def of(values: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return tf.reshape(upstream, [-1, 1]) * (tf.nn.softmax(values) - one_hot)

        return -tf.reduce_sum(tf.nn.log_softmax(values) * one_hot, -1), gradient

    return tf.custom_gradient(of)(logits)
