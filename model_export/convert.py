"""From a Keras model to a signed bundle and the first checkpoint."""

from __future__ import annotations

import importlib.metadata
import re
import tempfile
from collections.abc import Mapping
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

from edge_runtime.protocol.bundle import Manifest, Operator, Role, Tensor, encode_bundle
from edge_runtime.protocol.checkpoint import encode_checkpoint
from edge_runtime.protocol.keys import SigningKey, digest
from model_export.errors import UnsupportedModel, unsupported
from model_export.flatbuffer import minimum_runtime, operators
from model_export.gradients import builtin_gradients
from model_export.signatures import Signatures
from model_export.spec import Exported, ExportSpec

_RESERVED: Final = frozenset({"clip", "norm", "ok"})
"""Names that signatures use beside those of tensors."""


def export(model: keras.Model, spec: ExportSpec, key: SigningKey) -> Exported:
    """Convert a model with all of its signatures; its current weights become model version 0.

    Guarantee: the graph has built-in operators only. The model itself is not changed.

    Args:
        model: Built; takes `spec.features` and ends in one output for each class, before or after a softmax.
        key: The tenant's; signs both files.

    Raises:
        UnsupportedModel: Something in the model does not train on a stock interpreter, or does not fit the spec.
    """
    _check_interface(model, spec)
    tensors = tensors_of(model)
    signatures = Signatures(model, tensors, spec)
    graph = _convert(model, signatures, _trace(signatures))
    manifest = Manifest(
        version=Manifest.VERSION,
        name=spec.name,
        graph_sha256=digest(graph).hex(),
        tensors=tensors,
        features=spec.features,
        class_names=spec.class_names,
        batch_size=spec.batch_size,
        signatures=tuple(sorted(signatures.functions())),
        operators=_builtin_only(operators(graph)),
        minimum_runtime=minimum_runtime(graph),
        exporter=_exporter(),
    )
    bundle = encode_bundle(manifest, graph, key)
    bundle_sha256 = digest(bundle).hex()
    weights = np.concatenate([np.asarray(variable.numpy(), np.float32).reshape(-1) for variable in model.weights])
    checkpoint = encode_checkpoint(weights, bundle_sha256, 0, key)
    return Exported(
        manifest=manifest,
        bundle=bundle,
        bundle_sha256=bundle_sha256,
        checkpoint=checkpoint,
        checkpoint_sha256=digest(checkpoint).hex(),
    )


def _check_interface(model: keras.Model, spec: ExportSpec) -> None:
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            raise unsupported(
                f"the layer {layer.name!r} is a BatchNormalization, whose moving statistics no device reports; "
                "set its trainable to False, or leave it out"
            )
    expected = (None, *spec.features.shape)
    found = getattr(model, "input_shape", None)
    if not isinstance(found, tuple) or len(found) != len(expected) or found[1:] != expected[1:]:
        raise UnsupportedModel(f"the model takes inputs of shape {found}, not {expected}")
    outputs, classes = model.output_shape, len(spec.class_names)
    if outputs != (None, classes):
        raise UnsupportedModel(
            f"the model gives outputs of shape {outputs}, not {(None, classes)} for {classes} classes"
        )
    if not model.trainable_variables:
        raise UnsupportedModel("the model has no trainable weights")
    for variable in model.weights:
        if variable.dtype != "float32":
            raise unsupported(f"the weights {variable.path} are {variable.dtype}, not float32")


def tensors_of(model: keras.Model) -> tuple[Tensor, ...]:
    """The model's weights in Keras's order, named by layer and variable."""
    trainable = {id(variable) for variable in model.trainable_variables}
    tensors: list[Tensor] = []
    taken = set(_RESERVED)
    for variable in model.weights:
        stem = re.sub(r"\W", "_", variable.path.removeprefix(f"{model.name}/"), flags=re.ASCII)
        name, copies = stem, 1
        while name in taken:
            copies += 1
            name = f"{stem}_{copies}"
        taken.add(name)
        shape = tuple(int(side) for side in variable.shape)
        tensors.append(Tensor(name=name, shape=shape, trainable=id(variable) in trainable, role=Role.BASE))
    return tuple(tensors)


def _trace(signatures: Signatures) -> dict[str, Any]:
    """Trace every signature with gradients of built-in operators."""
    try:
        with builtin_gradients():
            return {name: function.get_concrete_function() for name, function in signatures.functions().items()}
    except LookupError as problem:  # TensorFlow: "gradient registry has no entry for: ..."
        raise unsupported(f"an operator has no gradient ({problem})") from problem


def _convert(model: keras.Model, signatures: Signatures, traced: Mapping[str, Any]) -> bytes:
    """Convert traced signatures to one TFLite file that holds the weights once.

    The anchors start as copies of the weights, so that the converter stores the two as one buffer.
    """
    module = tf.Module()
    module.variables_of_model = [variable.value for variable in model.variables]
    module.anchors = signatures.anchors
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
