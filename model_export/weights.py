"""The way back: trained weights into the Keras model they came from, and into a plain inference graph."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from edge_runtime.protocol.bundle import Manifest
from edge_runtime.protocol.checkpoint import Weights
from model_export.errors import UnsupportedModel
from model_export.examples import random_batch, table_rows
from model_export.gradients import Emission, Trace
from model_export.lora import add_adapters_of
from model_export.objectives import named_outputs
from model_export.spec import ExportSpec, Loss
from model_export.subject import Subject, subject, unrolled
from model_export.verify import Answer


def spec_of(manifest: Manifest) -> ExportSpec:
    """What of a spec a manifest tells, enough to find a model's weights and to run it."""
    known = {loss.value: loss for loss in Loss}
    return ExportSpec(
        name=manifest.name,
        features=manifest.features,
        labels=manifest.labels,
        class_names=manifest.class_names,
        loss=known.get(manifest.loss, _own_loss),
        metrics=(),
        batch_size=manifest.batch_size,
        dynamic_batch=manifest.dynamic_batch,
    )


def put_weights(model: keras.Model | tf.Module, manifest: Manifest, weights: Weights) -> Subject:
    """Put a weights vector into the model that its bundle was exported from, tensor by tensor.

    Adapters that the bundle has and the model lacks are added first: Keras saves a model without them.

    Raises:
        UnsupportedModel: A tensor is missing in the model, or left over, or has another shape. Nothing was changed.
    """
    add_adapters_of(model, manifest.tensors)
    made = subject(model, spec_of(manifest))
    ours = {weight.tensor.name: weight for weight in made.weights}
    theirs = {tensor.name: tensor for tensor in manifest.tensors}
    if missing := [name for name in theirs if name not in ours]:
        raise UnsupportedModel(f"the model has no weights called {_some(missing)}, which the checkpoint is of")
    if left := [name for name in ours if name not in theirs]:
        raise UnsupportedModel(f"the checkpoint has no weights for {_some(left)} of the model")
    for name, tensor in theirs.items():
        if ours[name].tensor.shape != tensor.shape:
            raise UnsupportedModel(
                f"the weights {name} have the shape {ours[name].tensor.shape} in the model and {tensor.shape} in the "
                "checkpoint"
            )
    begin = 0
    for tensor in manifest.tensors:
        ours[tensor.name].variable.assign(weights[begin : begin + tensor.size].reshape(tensor.shape))
        begin += tensor.size
    return made


def inference_graph(model: keras.Model | tf.Module, manifest: Manifest, batch_size: int) -> bytes:
    """A graph with the one signature `infer`, the weights as constants, and built-in operators only.

    Raises:
        UnsupportedModel: TensorFlow cannot convert it.
    """
    spec = spec_of(manifest)
    made = subject(model, spec)
    shape = tf.TensorSpec((batch_size, *spec.features.shape), spec.features.dtype, name="x")
    with unrolled(model):
        trace = Trace(lambda x: named_outputs(made.call(x, False), spec), [shape])
    values = {variable.ref(): variable.numpy() for variable in trace.variables.values()}

    def infer(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return Emission(trace, [x], lambda variable: tf.constant(values[variable.ref()])).outputs

    module = tf.Module()
    module.infer = tf.function(infer, input_signature=[shape], autograph=False)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={"infer": module.infer})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["infer"])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            return bytes(converter.convert())
        except Exception as problem:
            raise UnsupportedModel(f"TensorFlow cannot convert the model: {str(problem)[:300]}") from problem


def answers_of(model: keras.Model | tf.Module, manifest: Manifest, batch_size: int, times: int) -> tuple[Answer, ...]:
    """What TensorFlow makes of random features: to hold a baked graph against."""
    spec = spec_of(manifest)
    made, rows, rng = subject(model, spec), table_rows(model), np.random.default_rng(0)
    run = tf.function(lambda x: named_outputs(made.call(x, False), spec), autograph=False)
    found = []
    for _ in range(times):
        x = random_batch(spec, made.inputs, rows, batch_size, rng)["x"]
        outputs = {name: np.array(tensor.numpy()) for name, tensor in run(tf.constant(x)).items()}
        found.append(Answer("infer", {"x": x}, outputs))
    return tuple(found)


def save(model: keras.Model, path: Path) -> None:
    """Write a `.keras` file, whole or not at all."""
    part = path.with_name(f"{path.stem}.part.keras")
    model.save(part)
    part.replace(path)


def _own_loss(outputs: Any, labels: Any) -> Any:
    """Stands for a loss that the manifest only names; nothing here trains."""
    raise UnsupportedModel("the bundle names a loss of its author's own, and only its name")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
