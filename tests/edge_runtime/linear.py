"""A linear model in numpy behind the interpreters' seam: every signature and switch of the contract, without a graph.

Unlike a runtime it takes nothing but exactly what the contract says, so a call that a graph would misread fails here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from edge_runtime.examples import Examples
from edge_runtime.interpreters import Array
from edge_runtime.model import Model
from edge_runtime.protocol.bundle import Bundle, DefaultPlan, Input, Manifest, Output, Role, Schema, Tensor

BATCH: Final = 4
BUNDLE_SHA256: Final = "a" * 64
MOMENTUM: Final = np.float32(0.9)
PRIVATE_STEPS: Final = ("accumulate", "apply")
SLOTS: Final = tuple(
    Tensor(name=name, shape=shape, trainable=False, role=Role.PERSONAL)
    for name, shape in (("kernel_momentum", (3, 2)), ("bias_momentum", (2,)))
)
MANIFEST: Final = Manifest(
    version=Manifest.VERSION,
    name="linear",
    graph_sha256="0" * 64,
    tensors=(
        Tensor(name="kernel", shape=(3, 2), trainable=True, role=Role.BASE),
        Tensor(name="bias", shape=(2,), trainable=True, role=Role.BASE),
    ),
    slots=(),
    features=Schema(shape=(3,), dtype="float32", low=0.0, high=1.0),
    inputs=(Input(name="x", shape=(3,)),),
    labels=Schema(shape=(2,), dtype="float32", low=1.0, high=5.0),
    class_names=(),
    outputs=(Output(name="targets", shape=(2,)), Output(name="total", shape=())),
    loss="mean_squared_error",
    metrics=("absolute_error", "squared_error"),
    optimizer="sgd",
    proximal=False,
    seeded=False,
    batch_size=BATCH,
    dynamic_batch=False,
    default_plan=DefaultPlan(epochs=1, batch_size=BATCH, learning_rate=0.1),
    signatures=("begin_round", "delta", "evaluate", "get_weights", "infer", "set_weights", "train"),
    operators=(),
    minimum_runtime="none",
    measured=None,
    exporter="tests",
)


class Linear:
    """y = x kernel + bias, with the mean squared error of an example as its loss."""

    runtime = "numpy"

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.asked: list[tuple[str, dict[str, Array]]] = []
        self.weights = _zeros(manifest.tensors)
        self.anchor = _zeros(manifest.tensors)
        self.slots = _zeros(manifest.slots)
        self.sums = _zeros(manifest.tensors)

    def signatures(self) -> tuple[str, ...]:
        return tuple(self._expected())

    def call(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.asked.append((signature, dict(inputs)))
        self._check(signature, inputs)
        found: dict[str, Array] = getattr(self, f"_{signature}")(**inputs)
        return found

    def inputs_of(self, signature: str) -> list[dict[str, Array]]:
        """What each call of a signature was given."""
        return [inputs for name, inputs in self.asked if name == signature]

    def _expected(self) -> dict[str, dict[str, tuple[tuple[int, ...], str]]]:
        """Shape without the batch, and dtype, of every input of every signature."""
        of = self.manifest
        x, y, scalar = (of.features.shape, of.features.dtype), (of.labels.shape, of.labels.dtype), ((), "float32")
        seed: Any = {"seed": ((), "int32")} if of.seeded else {}
        mu: Any = {"mu": scalar} if of.proximal else {}
        batch = {"x": x, "y": y, "mask": scalar}
        found: dict[str, Any] = {"train": {**batch, "lr": scalar, **mu, **seed}, "evaluate": batch, "infer": {"x": x}}
        found |= {"begin_round": {}, "delta": {"clip": scalar}, "get_weights": {}}
        found |= {"set_weights": {tensor.name: (tensor.shape, "float32") for tensor in of.tensors}}
        if of.slots:
            found |= {"get_slots": {}, "set_slots": {slot.name: (slot.shape, "float32") for slot in of.slots}}
        if set(PRIVATE_STEPS) <= set(of.signatures):
            found |= {"accumulate": {"x": x, "y": y, "clip": scalar, **seed}, "apply": {"lr": scalar, "count": scalar}}
        return found

    def _check(self, signature: str, inputs: Mapping[str, Array]) -> None:
        expected = self._expected()[signature]
        assert set(inputs) == set(expected), (signature, sorted(inputs))
        count = 1 if signature == "accumulate" else len(inputs["x"]) if "x" in inputs else 0
        if "x" in inputs and signature != "accumulate":
            fitting = range(1, BATCH + 1) if self.manifest.dynamic_batch else (BATCH,)
            assert count in fitting, (signature, count)
        for name, (shape, dtype) in expected.items():
            whole = (count, *shape) if name in ("x", "y", "mask") else shape
            assert (inputs[name].shape, inputs[name].dtype) == (whole, np.dtype(dtype)), (signature, name)

    def _train(self, x: Array, y: Array, mask: Array, lr: Array, mu: Any = None, seed: Any = None) -> dict[str, Array]:
        x = _dropped(x, seed)
        error = self._output(x) - y
        gradients = _gradients(x, error * (mask / mask.sum())[:, None])
        for name, gradient in gradients.items():
            pull = 0 if mu is None else mu * (self.weights[name] - self.anchor[name])
            self._step(name, gradient + pull, lr)
        return {"loss": ((error**2).mean(1) * mask).sum() / mask.sum(), **_errors(error, mask)}

    def _evaluate(self, x: Array, y: Array, mask: Array) -> dict[str, Array]:
        error = self._output(x) - y
        return {"loss_sum": ((error**2).mean(1) * mask).sum(), "count": mask.sum(), **_errors(error, mask)}

    def _infer(self, x: Array) -> dict[str, Array]:
        output = self._output(x)
        return {"targets": output, "total": output.sum(1)}

    def _begin_round(self) -> dict[str, Array]:
        self.anchor = dict(self.weights)
        return {"ok": np.array(1)}

    def _delta(self, clip: Array) -> dict[str, Array]:
        changes = {name: self.weights[name] - self.anchor[name] for name in self.weights}
        return {**changes, "norm": _norm(changes)}

    def _get_weights(self) -> dict[str, Array]:
        return dict(self.weights)

    def _set_weights(self, **weights: Array) -> dict[str, Array]:
        self.weights = {name: weights[name].copy() for name in self.weights}
        return {"ok": np.array(1)}

    def _get_slots(self) -> dict[str, Array]:
        return dict(self.slots)

    def _set_slots(self, **slots: Array) -> dict[str, Array]:
        self.slots = {name: slots[name].copy() for name in self.slots}
        return {"ok": np.array(1)}

    def _accumulate(self, x: Array, y: Array, clip: Array, seed: Any = None) -> dict[str, Array]:
        x = _dropped(x, seed)
        gradients = _gradients(x, self._output(x) - y)
        norm = _norm(gradients)
        for name, gradient in gradients.items():
            self.sums[name] = self.sums[name] + gradient * min(np.float32(1), clip / norm)
        return {"norm": norm}

    def _apply(self, lr: Array, count: Array) -> dict[str, Array]:
        for name, total in self.sums.items():
            self._step(name, total / count, lr)
        self.sums = _zeros(self.manifest.tensors)
        return {"ok": np.array(1)}

    def _output(self, x: Array) -> Array:
        return x @ self.weights["kernel"] + self.weights["bias"]

    def _step(self, name: str, gradient: Array, lr: Array) -> None:
        if self.slots:
            gradient = self.slots[f"{name}_momentum"] = MOMENTUM * self.slots[f"{name}_momentum"] + gradient
        self.weights[name] = self.weights[name] - lr * gradient


def linear(**changes: Any) -> tuple[Model, Linear]:
    """A model and the interpreter beneath it; the changes are to the manifest."""
    manifest = replace(MANIFEST, **changes)
    interpreter = Linear(manifest)
    return Model(Bundle(sha256=BUNDLE_SHA256, manifest=manifest, graph=b""), interpreter), interpreter


def targets(count: int, seed: int = 0) -> Examples:
    """Examples that fit `MANIFEST`."""
    rng = np.random.default_rng(seed)
    return Examples(rng.random((count, 3), np.float32), rng.uniform(1, 5, (count, 2)).astype(np.float32))


def _zeros(tensors: tuple[Tensor, ...]) -> dict[str, Array]:
    return {tensor.name: np.zeros(tensor.shape, np.float32) for tensor in tensors}


def _gradients(x: Array, error: Array) -> dict[str, Array]:
    """Of the sum of mean squared errors: 2 / outputs · error, which is `error` for two outputs."""
    return {"kernel": x.T @ error, "bias": error.sum(0)}


def _errors(error: Array, mask: Array) -> dict[str, Array]:
    return {
        "absolute_error": (np.abs(error).mean(1) * mask).sum(),
        "squared_error": ((error**2).mean(1) * mask).sum(),
    }


def _norm(parts: Mapping[str, Array]) -> Any:
    return np.sqrt(sum((part**2).sum() for part in parts.values()))


def _dropped(x: Array, seed: Array | None) -> Array:
    """Without about half of the features, where there is a seed."""
    if seed is None:
        return x
    return x * np.random.default_rng(int(seed)).integers(0, 2, x.shape).astype(np.float32)
