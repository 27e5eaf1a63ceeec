"""From a model to a signed bundle and the first checkpoint."""

from __future__ import annotations

import importlib.metadata
import re
import tempfile
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from edge_runtime.protocol.bundle import Manifest, Measured, Operator, Output, encode_bundle
from edge_runtime.protocol.checkpoint import encode_checkpoint
from edge_runtime.protocol.keys import SigningKey, digest
from model_export import objectives, optimizers
from model_export.compact import compacted
from model_export.errors import UnsupportedModel, unsupported
from model_export.flatbuffer import minimum_runtime, operators
from model_export.signatures import Signatures
from model_export.spec import Exported, ExportSpec
from model_export.subject import Subject, subject


def export(
    model: keras.Model | tf.Module, spec: ExportSpec, key: SigningKey, measured: Measured | None = None
) -> Exported:
    """Convert a model with all of its signatures; its current weights, or fresh ones, become model version 0.

    Guarantee: the graph has built-in operators only. The model itself is not changed.

    Args:
        model: Built; takes `spec.features` and gives what `spec.loss` compares with `spec.labels`.
        key: The tenant's; signs both files.
        measured: What a step cost, for the manifest.

    Raises:
        UnsupportedModel: Something in the model does not train on a stock interpreter, or does not fit the spec.
    """
    made = subject(_reseeded(model, spec.seed), spec)
    signatures = Signatures(made, spec)
    functions = signatures.functions()
    traced = {name: function.get_concrete_function() for name, function in functions.items()}
    graph, weights = compacted(
        _convert(signatures, traced), [one.variable.numpy() for one in made.weights], spec.storage
    )
    manifest = _manifest(made, spec, signatures, graph, tuple(sorted(functions)), measured)
    bundle = encode_bundle(manifest, graph, key)
    bundle_sha256 = digest(bundle).hex()
    checkpoint = encode_checkpoint(np.concatenate([one.reshape(-1) for one in weights]), bundle_sha256, 0, key)
    return Exported(
        manifest=manifest,
        bundle=bundle,
        bundle_sha256=bundle_sha256,
        checkpoint=checkpoint,
        checkpoint_sha256=digest(checkpoint).hex(),
    )


def _reseeded(model: keras.Model | tf.Module, seed: int | None) -> keras.Model | tf.Module:
    """The model with fresh weights, if a seed is given; the model itself keeps its own."""
    if seed is None:
        return model
    if not isinstance(model, keras.Model):
        raise UnsupportedModel("a tf.Module cannot be given fresh weights; leave out the seed")
    keras.utils.set_random_seed(seed)
    return keras.models.clone_model(model)


def _manifest(
    made: Subject,
    spec: ExportSpec,
    signatures: Signatures,
    graph: bytes,
    names: tuple[str, ...],
    measured: Measured | None,
) -> Manifest:
    return Manifest(
        version=Manifest.VERSION,
        name=spec.name,
        graph_sha256=digest(graph).hex(),
        tensors=made.tensors,
        slots=tuple(signatures.slots),
        features=spec.features,
        inputs=made.inputs,
        labels=spec.labels,
        class_names=spec.class_names,
        outputs=tuple(Output(name=name, shape=tuple(shape[1:])) for name, shape in signatures.outputs.items()),
        loss=objectives.loss_name(spec),
        metrics=tuple(metric.value for metric in spec.metrics),
        optimizer=optimizers.name_of(spec.optimizer),
        proximal=spec.proximal,
        seeded=signatures.seeded,
        batch_size=spec.batch_size,
        dynamic_batch=spec.dynamic_batch,
        default_plan=spec.default_plan,
        signatures=names,
        operators=_builtin_only(operators(graph)),
        minimum_runtime=minimum_runtime(graph),
        measured=measured,
        exporter=_exporter(),
    )


def _convert(signatures: Signatures, traced: Mapping[str, Any]) -> bytes:
    """Convert traced signatures to one TFLite file."""
    module = tf.Module()
    module.weights = [one.variable for one in signatures.weights]
    module.others = [*signatures.anchors.values(), *signatures.slot_variables, *signatures.sums]
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=dict(traced))
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(traced))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.experimental_enable_resource_variables = True
        try:
            return bytes(converter.convert())
        except Exception as problem:
            raise _explained(str(problem), traced) from problem


def _explained(message: str, traced: Mapping[str, Any]) -> UnsupportedModel:
    """Name the operator that the converter could not place, and where in the model it is."""
    refused = sorted(set(re.findall(r"'tf\.(\w+)' op is neither", message)))
    if not refused:
        return UnsupportedModel(f"TensorFlow cannot convert the model: {message.strip().splitlines()[0][:300]}")
    places = [op.name for op in traced["train"].graph.get_operations() if op.type in refused]
    where = f" at {places[0]}" if places else ""
    return unsupported(f"the operator {', '.join(refused)}{where} has no built-in form")


def _builtin_only(found: tuple[Operator, ...]) -> tuple[Operator, ...]:
    if custom := [operator.name for operator in found if operator.name.startswith("CUSTOM")]:
        raise unsupported(f"the graph needs the operators {', '.join(custom)}, which are not built in")
    return found


def _exporter() -> str:
    return f"edgewise {importlib.metadata.version('edgewise')} (TensorFlow {tf.__version__}, Keras {keras.__version__})"
