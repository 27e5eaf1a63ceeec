"""Canaries that are examples: a phone's own steps, over a model whose gradients lie in directions of their own.

The interpreter stands for a graph: it clips each example's gradient, as the signature `accumulate` does. Everything
behind it is the phone's own code: what is accumulated is read, put on its grid and hidden in noise by `HiddenSteps`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edge_runtime.examples import Examples
from edge_runtime.interpreters import Array
from edge_runtime.model import Model
from edge_runtime.private_steps import HiddenSteps
from edge_runtime.protocol.bundle import Bundle, DefaultPlan, Input, Manifest, Output, Role, Schema, Tensor
from edge_runtime.protocol.noise import NoiseSource
from edge_runtime.protocol.plan import Plan

_NOBODY = "0" * 64
_SIGNATURES = (
    "accumulate",
    "apply",
    "begin_round",
    "delta",
    "evaluate",
    "get_weights",
    "infer",
    "set_weights",
    "train",
)


class Directions:
    """The gradient of example i is `length` along weight i if its label is 1, and zero if it is 0."""

    runtime = "directions"

    def __init__(self, weights: int, length: float) -> None:
        self._length = np.float32(length)
        self._weights = np.zeros(weights, np.float32)
        self._sum = np.zeros(weights, np.float32)

    def signatures(self) -> tuple[str, ...]:
        return _SIGNATURES

    def call(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run a signature: those that steps which hide examples need."""
        found: dict[str, Array] = getattr(self, f"_{signature}")(**inputs)
        return found

    def _accumulate(self, x: Array, y: Array, clip: Array) -> dict[str, Array]:
        norm = self._length * y[0]
        self._sum[int(x[0])] += min(norm, clip)
        return {"norm": np.asarray(norm)}

    def _apply(self, lr: Array, count: Array) -> dict[str, Array]:
        self._weights = self._weights - self._sum * (lr / count)
        self._sum = np.zeros_like(self._sum)
        return {"ok": np.array(1)}

    def _evaluate(self, x: Array, y: Array, mask: Array) -> dict[str, Array]:
        return {"loss_sum": np.zeros(()), "count": mask.sum()}

    def _get_weights(self) -> dict[str, Array]:
        return {"w": self._weights}

    def _set_weights(self, w: Array) -> dict[str, Array]:
        self._weights = w.copy()
        return {"ok": np.array(1)}


def released(plan: Plan, included: npt.NDArray[np.bool_], length: float) -> npt.NDArray[np.float64]:
    """What one participation tells of each example: the mean over its epochs, in clipping norms, shape ``(examples,)``.

    All examples are one batch, so that the opponent sees each weight alone, after each step.

    Args:
        included: The coins: a label of 1 for an example that is there, and of 0 for one that is zeroed out.
        length: Of a gradient before clipping.
    """
    hidden = HiddenSteps.of(plan)
    hidden = HiddenSteps(hidden.norm, hidden.multiplier, included.size)
    bundle = Bundle(sha256=_NOBODY, manifest=_manifest(included.size), graph=b"")
    model = Model(bundle, Directions(included.size, length))
    rows = Examples(np.arange(included.size, dtype=np.float32), included.astype(np.float32))
    seeds, total = [0] * included.size, np.zeros(included.size)
    for _epoch in range(plan.epochs):
        before = model.get_weights().astype(np.float64)
        hidden.take(model, rows, float(included.size), seeds, NoiseSource.fresh())
        total += before - model.get_weights()
    mean: npt.NDArray[np.float64] = total / (plan.epochs * hidden.norm)
    return mean


def _manifest(weights: int) -> Manifest:
    return Manifest(
        version=Manifest.VERSION,
        name="directions",
        graph_sha256=_NOBODY,
        tensors=(Tensor(name="w", shape=(weights,), trainable=True, role=Role.BASE),),
        slots=(),
        features=Schema(shape=(), dtype="float32", low=0.0, high=float(weights)),
        inputs=(Input(name="x", shape=()),),
        labels=Schema(shape=(), dtype="float32", low=0.0, high=1.0),
        class_names=(),
        outputs=(Output(name="y", shape=()),),
        loss="none",
        metrics=(),
        optimizer="sgd",
        proximal=False,
        seeded=False,
        batch_size=65536,
        dynamic_batch=True,
        default_plan=DefaultPlan(epochs=1, batch_size=1, learning_rate=1.0),
        signatures=_SIGNATURES,
        operators=(),
        minimum_runtime="none",
        measured=None,
        exporter="audit",
    )
