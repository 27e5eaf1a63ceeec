"""Random examples that fit a spec: what a bundle is tried out with before it ever sees a real one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edge_runtime.protocol.bundle import Input
from model_export.spec import ExportSpec, Loss
from model_export.verify import Array


def table_rows(model: Any) -> dict[str, int]:
    """Rows of the table that an input of a Keras model looks up, by the input's name.

    A schema has one range for all inputs, so it may allow indices that a table does not have.
    """
    found: dict[str, int] = {}
    inputs = {id(one): one.name for one in getattr(model, "inputs", None) or ()}
    layers = model._flatten_layers() if inputs else ()
    for layer in layers:
        if type(layer).__name__ != "Embedding":
            continue
        for node in layer._inbound_nodes:
            for tensor in node.input_tensors:
                if id(tensor) in inputs:
                    name = inputs[id(tensor)]
                    found[name] = min(layer.input_dim, found.get(name, layer.input_dim))
    return found


def random_batch(
    spec: ExportSpec, inputs: tuple[Input, ...], rows: Mapping[str, int], count: int, rng: np.random.Generator
) -> dict[str, Array]:
    """`x` and `y` of so many examples, uniform over what the schemas and the model's tables allow."""
    return {"x": _features(spec, inputs, rows, count, rng), "y": _labels(spec, count, rng)}


def _features(
    spec: ExportSpec, inputs: tuple[Input, ...], rows: Mapping[str, int], count: int, rng: np.random.Generator
) -> Array:
    schema = spec.features
    highs = [np.full(one.size, min(schema.high, _last_row(rows, one.name, schema.high, len(inputs)))) for one in inputs]
    high = np.concatenate(highs).reshape(schema.shape)
    drawn = rng.random((count, *schema.shape))
    if schema.dtype == "int32":
        indices: Array = (schema.low + np.floor(drawn * (high - schema.low + 1))).astype(np.int32)
        return indices
    values = np.clip(schema.low + drawn * (high - schema.low), schema.low, high)
    # indices beside numbers, in one float vector, are whole numbers all the same
    whole = np.concatenate([np.full(one.size, one.name in rows) for one in inputs]).reshape(schema.shape)
    found: Array = np.where(whole, np.floor(values), values).astype(np.float32)
    return found


def _last_row(rows: Mapping[str, int], name: str, otherwise: float, inputs: int) -> float:
    """A single input is called `x` whatever the model calls it."""
    if inputs == 1 and rows:
        return min(rows.values()) - 1.0
    return rows[name] - 1.0 if name in rows else otherwise


def _labels(spec: ExportSpec, count: int, rng: np.random.Generator) -> Array:
    schema = spec.labels
    shape = (count, *schema.shape)
    if schema.dtype == "int32":
        return rng.integers(int(schema.low), int(schema.high) + 1, shape).astype(np.int32)
    if spec.loss is Loss.CROSS_ENTROPY:
        shares = rng.gamma(1.0, size=shape)
        found: Array = (shares / shares.sum(-1, keepdims=True)).astype(np.float32)
        return found
    if spec.loss is Loss.BINARY_CROSS_ENTROPY:
        return rng.integers(0, 2, shape).astype(np.float32)
    return np.clip(rng.normal(size=shape), schema.low, schema.high).astype(np.float32)
