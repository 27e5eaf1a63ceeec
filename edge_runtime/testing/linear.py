"""A model that needs no interpreter: the weighted sum of the features, and a bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from edge_runtime.interpreters import Array
from edge_runtime.model import Model
from edge_runtime.protocol.bundle import Bundle, DefaultPlan, Input, Manifest, Output, Role, Schema, Tensor
from edge_runtime.protocol.keys import digest

GRAPH: Final = b"a linear model, without a graph"


def linear_manifest(features: int = 3, *, personal_bias: bool = False, batch_size: int = 4) -> Manifest:
    """A model with one output: the weighted sum of the features and a bias, trained by squared error."""
    bias = Role.PERSONAL if personal_bias else Role.BASE
    return Manifest(
        version=Manifest.VERSION,
        name="linear",
        graph_sha256=digest(GRAPH).hex(),
        tensors=(
            Tensor(name="kernel", shape=(features,), trainable=True, role=Role.BASE),
            Tensor(name="bias", shape=(), trainable=True, role=bias),
        ),
        slots=(),
        features=Schema(shape=(features,), dtype="float32", low=-10.0, high=10.0),
        inputs=(Input(name="x", shape=(features,)),),
        labels=Schema(shape=(), dtype="float32", low=-100.0, high=100.0),
        class_names=(),
        outputs=(Output(name="y", shape=()),),
        loss="mean_squared_error",
        metrics=(),
        optimizer="sgd",
        proximal=True,
        seeded=False,
        batch_size=batch_size,
        dynamic_batch=True,
        default_plan=DefaultPlan(epochs=1, batch_size=batch_size, learning_rate=0.1),
        signatures=("begin_round", "delta", "evaluate", "get_weights", "infer", "set_weights", "train"),
        operators=(),
        minimum_runtime="none",
        measured=None,
        exporter="edge_runtime.testing",
    )


class Linear:
    """The interpreter of `linear_manifest`, in numpy."""

    runtime = "numpy"

    def __init__(self, manifest: Manifest) -> None:
        self._signatures = manifest.signatures
        self._kernel = np.zeros(manifest.tensors[0].shape, np.float32)
        self._bias = np.float32(0)
        self._anchor = self._kernel, self._bias

    def signatures(self) -> tuple[str, ...]:
        """All of the contract but slots and private steps."""
        return self._signatures

    def call(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run a signature."""
        found: dict[str, Array] = getattr(self, f"_{signature}")(**inputs)
        return found

    def _output(self, x: Array) -> Array:
        return np.asarray(x @ self._kernel + self._bias, np.float32)

    def _train(self, x: Array, y: Array, mask: Array, lr: Array, mu: Array) -> dict[str, Array]:
        error = (self._output(x) - y) * mask / mask.sum()
        loss = np.asarray(((self._output(x) - y) ** 2 * mask).sum() / mask.sum())
        pull = mu * (self._kernel - self._anchor[0]), mu * (self._bias - self._anchor[1])
        self._kernel = np.asarray(self._kernel - lr * (2 * x.T @ error + pull[0]), np.float32)
        self._bias = np.float32(self._bias - lr * (2 * error.sum() + pull[1]))
        return {"loss": loss}

    def _evaluate(self, x: Array, y: Array, mask: Array) -> dict[str, Array]:
        return {"loss_sum": np.asarray(((self._output(x) - y) ** 2 * mask).sum()), "count": mask.sum()}

    def _infer(self, x: Array) -> dict[str, Array]:
        return {"y": self._output(x)}

    def _begin_round(self) -> dict[str, Array]:
        self._anchor = self._kernel, self._bias
        return {"ok": np.array(1)}

    def _delta(self, clip: Array) -> dict[str, Array]:
        kernel, bias = self._kernel - self._anchor[0], np.asarray(self._bias - self._anchor[1])
        return {"kernel": kernel, "bias": bias, "norm": np.sqrt((kernel**2).sum() + bias**2)}

    def _get_weights(self) -> dict[str, Array]:
        return {"kernel": self._kernel, "bias": np.asarray(self._bias)}

    def _set_weights(self, kernel: Array, bias: Array) -> dict[str, Array]:
        self._kernel, self._bias = kernel.copy(), np.float32(bias)
        return {"ok": np.array(1)}


@dataclass(frozen=True, slots=True)
class LinearEngine:
    """Opens the bundles of a `FakeCoordinator` with numpy: no interpreter needs to be installed."""

    name: str = "numpy, for tests"

    def open(self, bundle: Bundle) -> Model:
        """Make the model of a linear manifest."""
        return Model(bundle, Linear(bundle.manifest))
