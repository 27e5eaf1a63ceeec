"""A verified bundle in an interpreter: train, evaluate, infer, weights in and out.

The interpreters accept a wrong shape or a wrong label and compute nonsense, so everything is checked before every call.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from edge_runtime.examples import Examples, Features, Labels, check_examples, check_features, check_labels, check_rows
from edge_runtime.interpreters import Array, Interpreter, open_interpreter, runtime_name
from edge_runtime.protocol.bundle import SEED_LIMIT, Bundle, Tensor
from edge_runtime.protocol.checkpoint import Weights
from edge_runtime.protocol.errors import (
    InvalidExamples,
    InvalidPlan,
    InvalidWeights,
    MalformedBundle,
    NonFiniteTraining,
)
from edge_runtime.protocol.secure_sum.lanes import Delta

Slots = npt.NDArray[np.float32]
"""The optimiser's memory, one flat vector."""

_NEEDED: Final = ("train", "evaluate", "infer", "begin_round", "delta", "get_weights", "set_weights")
_FOR_SLOTS: Final = ("get_slots", "set_slots")
_FOR_PRIVATE_STEPS: Final = ("accumulate", "apply")
_UNCLIPPED: Final = np.array(np.finfo(np.float32).max, np.float32)
_ACCURACY: Final = "correct"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well the current weights do on some examples."""

    loss: float
    """Mean over the examples, in the loss's unit; nats for a cross-entropy."""
    metrics: Mapping[str, float]
    """Mean over the examples of each of the manifest's metrics."""
    count: int

    @property
    def accuracy(self) -> float:
        """Share of the examples whose label has the largest output, 0 to 1.

        Raises:
            LookupError: The model does not count them.
        """
        if _ACCURACY not in self.metrics:
            raise LookupError(f"the model has no metric {_ACCURACY!r}; it has {', '.join(self.metrics) or 'none'}")
        return self.metrics[_ACCURACY]


class Model:
    """One bundle in one interpreter, with weights of its own. Not for several threads at once.

    Every call may raise `InterpreterFailed`.

    Args:
        bundle: Its digest and signature were verified.
        interpreter: Has the bundle's graph loaded.

    Raises:
        MalformedBundle: The graph lacks a signature of the contract.
    """

    def __init__(self, bundle: Bundle, interpreter: Interpreter) -> None:
        needed = {*_NEEDED, *bundle.manifest.signatures, *(_FOR_SLOTS if bundle.manifest.slots else ())}
        if missing := sorted(needed - set(interpreter.signatures())):
            raise MalformedBundle(f"the graph lacks the signatures {', '.join(missing)}")
        self.bundle = bundle
        self.manifest = bundle.manifest
        self._interpreter = interpreter
        self._shared = tuple(tensor for tensor in self.manifest.tensors if tensor.shared)

    def set_weights(self, weights: Weights) -> None:
        """Load a weights vector: float32, shape ``(manifest.parameters,)``.

        Raises:
            InvalidWeights: It has another shape or dtype.
        """
        self._interpreter.call("set_weights", _parts(weights, self.manifest.tensors, "weights"))

    def get_weights(self, into: Weights | None = None) -> Weights:
        """Read the weights vector: float32, shape ``(manifest.parameters,)``.

        Args:
            into: A vector of that shape that is overwritten and returned; None for a new one.
        """
        return _flat(self._interpreter.call("get_weights", {}), self.manifest.tensors, into)

    def set_slots(self, slots: Slots) -> None:
        """Load the optimiser's memory: float32, shape ``(manifest.slot_values,)``, empty for plain SGD.

        Zeros are an optimiser that has taken no step.

        Raises:
            InvalidWeights: It has another shape or dtype.
        """
        parts = _parts(slots, self.manifest.slots, "slots")
        if parts:
            self._interpreter.call("set_slots", parts)

    def get_slots(self) -> Slots:
        """Read the optimiser's memory: float32, shape ``(manifest.slot_values,)``, empty for plain SGD."""
        if not self.manifest.slots:
            return np.empty(0, np.float32)
        return _flat(self._interpreter.call("get_slots", {}), self.manifest.slots)

    def begin_round(self) -> None:
        """Take the current weights as the anchor that `delta` and the proximal term refer to."""
        self._interpreter.call("begin_round", {})

    def train_step(
        self, x: Features, y: Labels, learning_rate: float, proximal_mu: float = 0.0, seed: int = 0
    ) -> float:
        """Take one step of the bundle's optimiser on 1 to `manifest.batch_size` examples; their mean loss before it.

        Unless the graph takes any number of examples, they are padded to its batch and the padding is masked. Values
        of `x` are not looked at: check them once with `check_examples`.

        Args:
            x: Float32 or int32, as the manifest says, shape ``(count, *features.shape)``.
            y: Float32 or int32, as the manifest says, shape ``(count, *labels.shape)``.
            learning_rate: Of this step.
            proximal_mu: Weight of the FedProx term.
            seed: What this step's dropout is drawn from, 0 to 2^22 - 1; without effect unless `manifest.seeded`.

        Raises:
            InvalidExamples: A shape, dtype or label does not fit, or there are too many or none.
            InvalidPlan: `proximal_mu` is not 0 and the graph has no FedProx term.
            ValueError: There is no such seed.
        """
        check_labels(y, self.manifest)
        inputs = {**self._batch(x, y), "lr": np.array(learning_rate, np.float32), **self._seed(seed)}
        if self.manifest.proximal:
            inputs["mu"] = np.array(proximal_mu, np.float32)
        elif proximal_mu:
            raise InvalidPlan("the bundle was exported without the FedProx term")
        return float(self._interpreter.call("train", inputs)["loss"])

    def accumulate(self, x: Features, y: Labels, clip: float, seed: int = 0) -> float:
        """Add the gradient of one example, scaled to an L2 norm of at most `clip`, to those that `apply` will use.

        Args:
            x: As in `train_step`, of exactly one example.
            y: As in `train_step`, of exactly one example.
            clip: Largest L2 norm that one example contributes, above 0.
            seed: As in `train_step`.

        Returns:
            The gradient's norm before that; not finite if the gradient is not.

        Raises:
            InvalidExamples: A shape, dtype or label does not fit, or it is not one example.
            InvalidPlan: `clip` is not a positive float32, or the graph has no private steps.
            ValueError: There is no such seed.
        """
        self._require_private_steps()
        bound = _positive(clip, "clip")
        check_labels(y, self.manifest)
        self._check_shapes(x, y)
        if len(x) != 1:
            raise InvalidExamples(f"{len(x)} examples where one at a time is accumulated")
        inputs = {"x": x, "y": y, "clip": bound, **self._seed(seed)}
        return float(self._interpreter.call("accumulate", inputs)["norm"])

    def apply(self, learning_rate: float, count: float) -> None:
        """Take one step on the accumulated gradients divided by `count`, and forget them.

        Args:
            learning_rate: Of this step.
            count: What the sum is divided by, above 0: the examples that a batch is expected to have.

        Raises:
            InvalidPlan: `count` is not a positive float32, or the graph has no private steps.
        """
        self._require_private_steps()
        divisor = _positive(count, "count")
        self._interpreter.call("apply", {"lr": np.array(learning_rate, np.float32), "count": divisor})

    def evaluate(self, examples: Examples) -> Evaluation:
        """Measure the current weights; exact whatever the number of examples.

        Raises:
            InvalidExamples: An example does not fit the schema, or there are none.
        """
        check_examples(examples, self.manifest)
        if not len(examples):
            raise InvalidExamples("there are no examples to evaluate")
        totals = dict.fromkeys(("loss_sum", *self.manifest.metrics), 0.0)
        for begin in range(0, len(examples), self.manifest.batch_size):
            end = begin + self.manifest.batch_size
            sums = self._interpreter.call("evaluate", self._batch(examples.x[begin:end], examples.y[begin:end]))
            for name in totals:
                totals[name] += float(sums[name])
        means = {name: total / len(examples) for name, total in totals.items()}
        return Evaluation(means.pop("loss_sum"), means, len(examples))

    def infer(self, x: Features) -> dict[str, npt.NDArray[np.float32]]:
        """Return every output by its name in the manifest, float32, shape ``(count, *output.shape)``.

        Raises:
            InvalidExamples: The features do not fit the schema.
        """
        check_features(x, self.manifest)
        found = {one.name: np.empty((len(x), *one.shape), np.float32) for one in self.manifest.outputs}
        for begin in range(0, len(x), self.manifest.batch_size):
            rows = x[begin : begin + self.manifest.batch_size]
            outputs = self._interpreter.call("infer", {"x": self._padded(rows)})
            for name, values in found.items():
                values[begin : begin + len(rows)] = outputs[name][: len(rows)]
        return found

    def delta(self) -> Delta:
        """Return trained minus anchor over the shared tensors, unclipped: float32, shape ``(shared_parameters,)``.

        Raises:
            NonFiniteTraining: It, or its norm, is not finite.
        """
        parts = self._interpreter.call("delta", {"clip": _UNCLIPPED})
        delta, norm = _flat(parts, self._shared), float(parts["norm"])
        del parts  # as large as the delta, and so is what is looked at next
        if not np.isfinite((norm, delta.min(initial=0), delta.max(initial=0))).all():  # NaN if there is one anywhere
            raise NonFiniteTraining("the trained weights are not finite")
        return delta

    def _batch(self, x: Features, y: Labels) -> dict[str, Array]:
        """The inputs that `train` and `evaluate` share; the mask is 1 for an example and 0 for padding."""
        self._check_shapes(x, y)
        if not 1 <= len(x) <= self.manifest.batch_size:
            raise InvalidExamples(f"{len(x)} examples in a batch of 1 to {self.manifest.batch_size}")
        padded = self._padded(x)
        mask = np.zeros(len(padded), np.float32)
        mask[: len(x)] = 1
        return {"x": padded, "y": self._padded(y), "mask": mask}

    def _check_shapes(self, x: Features, y: Labels) -> None:
        """The labels were checked before."""
        check_rows(x, self.manifest.features, "feature")
        if len(x) != len(y):
            raise InvalidExamples(f"{len(x)} rows of features for {len(y)} labels")

    def _padded(self, rows: Array) -> Array:
        """Repeat the first row up to a fixed batch: padding that no operator can choke on."""
        short = 0 if self.manifest.dynamic_batch else self.manifest.batch_size - len(rows)
        return rows if not short else np.concatenate([rows, np.repeat(rows[:1], short, axis=0)])

    def _seed(self, seed: int) -> dict[str, Array]:
        if not 0 <= seed < SEED_LIMIT:
            raise ValueError(f"a seed is 0 to {SEED_LIMIT - 1}, not {seed}")
        return {"seed": np.array(seed, np.int32)} if self.manifest.seeded else {}

    def _require_private_steps(self) -> None:
        if not set(_FOR_PRIVATE_STEPS) <= set(self.manifest.signatures):
            raise InvalidPlan("the bundle was exported without private steps")


class Engine(Protocol):
    """What opens bundles: the wheels of an interpreter, or a bridge to the system's."""

    @property
    def name(self) -> str:
        """Package and version, for check-ins.

        Raises:
            InterpreterMissing: There is none.
        """

    def open(self, bundle: Bundle) -> Model:
        """Load a verified bundle.

        Raises:
            InterpreterMissing, InterpreterFailed, MalformedBundle: As they say.
        """


@dataclass(frozen=True, slots=True)
class Installed:
    """The interpreter of that name ("litert", "tflite"), or the preferred one of those that are installed."""

    runtime: str | None = None

    @property
    def name(self) -> str:
        return runtime_name(self.runtime)

    def open(self, bundle: Bundle) -> Model:
        return open_model(bundle, self.runtime)


def open_model(bundle: Bundle, runtime: str | None = None) -> Model:
    """Load a verified bundle into the runtime of that name, or the preferred one, on one thread.

    Raises:
        InterpreterMissing: The runtime is not installed.
        InterpreterFailed: It cannot load the graph.
        MalformedBundle: The graph lacks a signature of the contract.
    """
    return Model(bundle, open_interpreter(bundle.graph, runtime))


def _positive(number: float, name: str) -> Array:
    """The number as the graph takes it.

    Raises:
        InvalidPlan: As float32 it is not above 0 and finite.
    """
    with np.errstate(over="ignore", under="ignore"):
        value = np.array(number, np.float32)
    if not 0 < value < math.inf:
        raise InvalidPlan(f"{name} is a positive float32, not {number}")
    return value


def _parts(vector: npt.NDArray[np.float32], tensors: tuple[Tensor, ...], word: str) -> dict[str, Array]:
    """Cut a vector into tensors by name.

    Raises:
        InvalidWeights: It has another shape or dtype.
    """
    length = sum(tensor.size for tensor in tensors)
    if vector.shape != (length,) or vector.dtype != np.float32:
        raise InvalidWeights(f"{word} are float32 of shape ({length},), not {vector.dtype} of {vector.shape}")
    parts, begin = {}, 0
    for tensor in tensors:
        parts[tensor.name] = vector[begin : begin + tensor.size].reshape(tensor.shape)
        begin += tensor.size
    return parts


def _flat(
    parts: dict[str, Array], tensors: tuple[Tensor, ...], into: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    flat: npt.NDArray[np.float32] = np.concatenate([parts[tensor.name].reshape(-1) for tensor in tensors], out=into)
    return flat
