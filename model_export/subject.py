"""What is exported: a Keras model or a `tf.Module`, seen the same way.

The model itself is not changed. Recurrent layers are unrolled while they are traced, and put back.
"""

from __future__ import annotations

import contextlib
import fnmatch
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

from edge_runtime.protocol.bundle import Input, Role, Tensor
from model_export.errors import UnsupportedModel, unsupported
from model_export.spec import ExportSpec

_RESERVED: Final = frozenset({"clip", "norm", "ok", "x", "y", "mask", "lr", "mu", "seed", "count", "loss"})
"""Names that signatures use beside those of tensors."""

_STATISTICS: Final = ("moving_mean", "moving_variance")
"""Weights that training changes without a gradient."""


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A variable of the model and what becomes of it."""

    variable: tf.Variable
    path: str
    """Such as "block/dense_1/kernel"."""
    tensor: Tensor
    learned: bool
    """Whether it has a gradient; statistics of a batch change without one."""

    @property
    def statistic(self) -> bool:
        """Whether it follows the statistics of batches."""
        return self.path.endswith(_STATISTICS)


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A model to export.

    Attributes:
        call: From `x` and whether to train, to the model's output.
        weights: All of them, in the order of every weights vector.
        inputs: How `x` is made up.
        layers: The name and the class of each layer, for messages.
    """

    name: str
    call: Callable[[tf.Tensor, bool], tf.Tensor]
    weights: tuple[Weight, ...]
    inputs: tuple[Input, ...]
    layers: tuple[tuple[str, str], ...]
    module: Any
    """Holds the variables."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(weight.tensor for weight in self.weights)


def subject(model: keras.Model | tf.Module, spec: ExportSpec) -> Subject:
    """See a model as the exporter does.

    Raises:
        UnsupportedModel: Its weights, inputs or layers do not fit the spec, or cannot be exported.
    """
    if isinstance(model, keras.Model):
        return _of_keras(model, spec)
    if isinstance(model, tf.Module) and callable(model):
        return _of_module(model, spec)
    raise UnsupportedModel(f"{type(model).__name__} is neither a keras.Model nor a tf.Module that can be called")


@contextlib.contextmanager
def unrolled(model: Any) -> Iterator[None]:
    """Recurrent layers take their steps one by one while traced: loops do not convert."""
    layers = model._flatten_layers() if isinstance(model, keras.Model) else []
    rolled = [layer for layer in layers if isinstance(layer, keras.layers.RNN) and not layer.unroll]
    for layer in rolled:
        layer.unroll = True
    try:
        yield
    finally:
        for layer in rolled:
            layer.unroll = False


def _of_keras(model: keras.Model, spec: ExportSpec) -> Subject:
    if not model.built:
        raise UnsupportedModel("the model is not built; begin it with keras.layers.Input(shape)")
    inputs = _inputs(model, spec)
    trainable = {id(variable) for variable in model.trainable_variables}
    trainable |= {id(one) for layer in model._flatten_layers() if layer.trainable for one in _statistics(layer)}
    variables = [one for one in model.weights if "seed_generator" not in one.path]
    found = [(one.value, one.path.removeprefix(f"{model.name}/"), id(one) in trainable) for one in variables]
    layers = tuple((layer.name, type(layer).__name__) for layer in model._flatten_layers() if layer is not model)

    def call(x: tf.Tensor, training: bool) -> tf.Tensor:
        parts = _parts(x, inputs, [one.dtype for one in getattr(model, "inputs", None) or [x]])
        arranged = parts[0] if len(parts) == 1 else tf.nest.pack_sequence_as(model._inputs_struct, parts)
        return model(arranged, training=training)

    return Subject(model.name, call, _weights(found, spec), inputs, layers, model)


def _statistics(layer: keras.layers.Layer) -> list[keras.Variable]:
    return [one for one in layer.non_trainable_variables if one.path.endswith(_STATISTICS)]


def _of_module(model: tf.Module, spec: ExportSpec) -> Subject:
    trainable = {one.ref() for one in model.trainable_variables}
    names = {value.ref(): path for path, value in _attributes(model)}
    found = [
        (one, names.get(one.ref(), one.name.partition(":")[0]), one.ref() in trainable)
        for one in model.variables
        if one.dtype == tf.float32
    ]
    takes_training = "training" in inspect.signature(model.__call__).parameters

    def call(x: tf.Tensor, training: bool) -> tf.Tensor:
        output: tf.Tensor = model(x, training=training) if takes_training else model(x)
        return output

    inputs = (Input(name="x", shape=spec.features.shape),)
    return Subject(type(model).__name__.lower(), call, _weights(found, spec), inputs, (), model)


def _attributes(module: tf.Module) -> list[tuple[str, tf.Variable]]:
    """Every variable by where it hangs in the module, such as "hidden/kernel"."""
    flat = module._flatten(predicate=lambda one: isinstance(one, tf.Variable), with_path=True)
    return [("/".join(map(str, path)), variable) for path, variable in flat]


def _inputs(model: keras.Model, spec: ExportSpec) -> tuple[Input, ...]:
    """How x is made up of the model's inputs; checked against the schema."""
    features = spec.features
    taken = getattr(model, "inputs", None)
    if not taken:  # a subclass of keras.Model, whose inputs are known from its call alone
        return (Input(name="x", shape=features.shape),)
    shapes = [tuple(one.shape[1:]) for one in taken]
    if any(None in shape for shape in shapes):
        raise UnsupportedModel(
            f"the model takes inputs of shape {_listed(taken)}; every side but the batch is a number"
        )
    if len(taken) == 1:
        if shapes[0] != features.shape:
            raise UnsupportedModel(f"the model takes inputs of shape {_listed(taken)}, not {(None, *features.shape)}")
        return (Input(name="x", shape=features.shape),)
    total = sum(int(np.prod(shape)) for shape in shapes)
    if features.shape != (total,):
        raise UnsupportedModel(
            f"the model takes {len(taken)} inputs, of {total} values together; laid side by side they are features of "
            f"shape ({total},), not {features.shape}"
        )
    return tuple(Input(name=one.name, shape=shape) for one, shape in zip(taken, shapes, strict=True))


def _listed(taken: Sequence[Any]) -> str:
    return ", ".join(str(tuple(one.shape)) for one in taken)


def _parts(x: tf.Tensor, inputs: Sequence[Input], dtypes: Sequence[Any]) -> list[tf.Tensor]:
    """The model's inputs out of x."""
    if len(inputs) == 1:
        return [x]
    parts, begin = [], 0
    for one, dtype in zip(inputs, dtypes, strict=True):
        size = int(np.prod(one.shape))
        part = tf.slice(x, [0, begin], [-1, size])
        parts.append(tf.cast(tf.reshape(part, [-1, *one.shape]), dtype))
        begin += size
    return parts


def _weights(found: Sequence[tuple[tf.Variable, str, bool]], spec: ExportSpec) -> tuple[Weight, ...]:
    """Name every variable, and say which train and which stay at home.

    Args:
        found: Variables, their paths, and whether the model lets training change them.
    """
    for patterns in (spec.trainable, spec.personal):
        for pattern in patterns:
            if not any(_matches(path, pattern) for _variable, path, _trainable in found):
                raise UnsupportedModel(f"no layer with weights is called {pattern!r}")
    taken = set(_RESERVED)
    weights = []
    for variable, path, trainable in found:
        if variable.dtype != tf.float32:
            raise unsupported(f"the weights {path} are {variable.dtype.name}, not float32")
        adapter = "/lora_" in f"/{path}"
        personal = any(_matches(path, pattern) for pattern in spec.personal)
        chosen = personal or any(_matches(path, pattern) for pattern in spec.trainable)
        changes = trainable and chosen and (adapter or not spec.adapters_only)
        learned = changes and not path.endswith(_STATISTICS)
        role = Role.PERSONAL if personal else Role.ADAPTER if adapter else Role.BASE
        shape = tuple(int(side) for side in variable.shape)
        tensor = Tensor(name=_name(path, taken), shape=shape, trainable=changes, role=role)
        weights.append(Weight(variable, path, tensor, learned))
    if not any(weight.learned for weight in weights):
        raise UnsupportedModel(
            "the model has no LoRA adapters; call layer.enable_lora(rank)"
            if spec.adapters_only
            else "the model has no trainable weights"
        )
    return tuple(weights)


def _matches(path: str, pattern: str) -> bool:
    """Whether a weight's layer, at any depth, is called so."""
    *layers, _weight = path.split("/")
    whole = "/".join(layers)
    return fnmatch.fnmatchcase(whole, pattern) or any(fnmatch.fnmatchcase(layer, pattern) for layer in layers)


def _name(path: str, taken: set[str]) -> str:
    stem = re.sub(r"\W", "_", path, flags=re.ASCII)
    name, copies = stem, 1
    while name in taken:
        copies += 1
        name = f"{stem}_{copies}"
    taken.add(name)
    return name
