"""A verified bundle in an interpreter: train, evaluate, infer, weights in and out.

The interpreters accept a wrong shape or a wrong label and compute nonsense, so everything is checked before every call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from edge_runtime.examples import Examples, Features, Labels, check_examples, check_features, check_labels
from edge_runtime.interpreters import Array, Interpreter, open_interpreter
from edge_runtime.protocol.bundle import Bundle, Tensor
from edge_runtime.protocol.checkpoint import Weights
from edge_runtime.protocol.errors import InvalidExamples, InvalidWeights, MalformedBundle, NonFiniteTraining
from edge_runtime.protocol.secure_sum.lanes import Delta

_NEEDED: Final = ("train", "evaluate", "infer", "begin_round", "delta", "get_weights", "set_weights")
_UNCLIPPED: Final = np.array(np.finfo(np.float32).max, np.float32)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well the current weights do on some examples."""

    loss: float
    """Mean cross-entropy, in nats."""
    accuracy: float
    """Share of the examples whose label has the largest logit, 0 to 1."""
    count: int


class Model:
    """One bundle in one interpreter, with weights of its own. Not for several threads at once.

    Args:
        bundle: Its digest and signature were verified.
        interpreter: Has the bundle's graph loaded.

    Raises:
        MalformedBundle: The graph lacks a signature of the contract.
    """

    def __init__(self, bundle: Bundle, interpreter: Interpreter) -> None:
        missing = sorted({*_NEEDED, *bundle.manifest.signatures} - set(interpreter.signatures()))
        if missing:
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
        if weights.shape != (self.manifest.parameters,) or weights.dtype != np.float32:
            raise InvalidWeights(
                f"weights are float32 of shape ({self.manifest.parameters},), not {weights.dtype} of {weights.shape}"
            )
        parts, begin = {}, 0
        for tensor in self.manifest.tensors:
            parts[tensor.name] = weights[begin : begin + tensor.size].reshape(tensor.shape)
            begin += tensor.size
        self._interpreter.call("set_weights", parts)

    def get_weights(self) -> Weights:
        """Read the weights vector: float32, shape ``(manifest.parameters,)``."""
        return _flat(self._interpreter.call("get_weights", {}), self.manifest.tensors)

    def begin_round(self) -> None:
        """Take the current weights as the anchor that `delta` and the proximal term refer to."""
        self._interpreter.call("begin_round", {})

    def train_step(self, x: Features, y: Labels, learning_rate: float, proximal_mu: float = 0.0) -> float:
        """Take one SGD step on 1 to `manifest.batch_size` examples and return their mean loss before it, in nats.

        The examples are padded to the graph's batch and the padding is masked. Values of `x` are not looked at:
        check them once with `check_examples`.

        Raises:
            InvalidExamples: A shape, dtype or label does not fit, or there are too many or none.
        """
        check_labels(y, self.manifest)
        batch = self._padded(x, y)
        rates = {"lr": np.array(learning_rate, np.float32), "mu": np.array(proximal_mu, np.float32)}
        return float(self._interpreter.call("train", {**batch, **rates})["loss"])

    def evaluate(self, examples: Examples) -> Evaluation:
        """Measure the current weights; exact whatever the number of examples.

        Raises:
            InvalidExamples: An example does not fit the schema, or there are none.
        """
        check_examples(examples, self.manifest)
        if not len(examples):
            raise InvalidExamples("there are no examples to evaluate")
        loss_sum = correct = 0.0
        for begin in range(0, len(examples), self.manifest.batch_size):
            end = begin + self.manifest.batch_size
            batch = self._padded(examples.x[begin:end], examples.y[begin:end])
            sums = self._interpreter.call("evaluate", batch)
            loss_sum += float(sums["loss_sum"])
            correct += float(sums["correct"])
        return Evaluation(loss_sum / len(examples), correct / len(examples), len(examples))

    def infer(self, x: Features) -> npt.NDArray[np.float32]:
        """Return the probabilities of the classes, float32, shape ``(count, classes)``.

        Raises:
            InvalidExamples: The features do not fit the schema.
        """
        check_features(x, self.manifest)
        found = np.empty((len(x), len(self.manifest.class_names)), np.float32)
        for begin in range(0, len(x), self.manifest.batch_size):
            rows = x[begin : begin + self.manifest.batch_size]
            padded = self._padded_rows(rows)
            found[begin : begin + len(rows)] = self._interpreter.call("infer", {"x": padded})["probabilities"][
                : len(rows)
            ]
        return found

    def delta(self) -> Delta:
        """Return trained minus anchor over the shared tensors, unclipped: float32, shape ``(shared_parameters,)``.

        Raises:
            NonFiniteTraining: It, or its norm, is not finite.
        """
        parts = self._interpreter.call("delta", {"clip": _UNCLIPPED})
        delta = _flat(parts, self._shared)
        if not (np.isfinite(parts["norm"]) and np.isfinite(delta).all()):
            raise NonFiniteTraining("the trained weights are not finite")
        return delta

    def _padded(self, x: Features, y: Labels) -> dict[str, Array]:
        size, count = self.manifest.batch_size, len(y)
        if not 1 <= count <= size:
            raise InvalidExamples(f"{count} examples in a batch of 1 to {size}")
        features = self.manifest.features
        if x.shape != (count, *features.shape) or x.dtype != np.dtype(features.dtype):
            raise InvalidExamples(
                f"features are {features.dtype} of {(count, *features.shape)}, not {x.dtype} of {x.shape}"
            )
        mask = np.zeros(size, np.float32)
        mask[:count] = 1
        labels = y if count == size else np.concatenate([y, np.zeros(size - count, np.int32)])
        return {"x": self._padded_rows(x), "y": labels, "mask": mask}

    def _padded_rows(self, rows: Features) -> Features:
        """Repeat the first row up to the graph's batch: padding that no operator can choke on."""
        short = self.manifest.batch_size - len(rows)
        return rows if not short else np.concatenate([rows, np.repeat(rows[:1], short, axis=0)])


def open_model(bundle: Bundle, runtime: str | None = None) -> Model:
    """Load a verified bundle into the runtime of that name, or the preferred one, on one thread.

    Raises:
        InterpreterMissing: The runtime is not installed.
        MalformedBundle: The graph lacks a signature of the contract.
    """
    return Model(bundle, open_interpreter(bundle.graph, runtime))


def _flat(parts: dict[str, Array], tensors: tuple[Tensor, ...]) -> npt.NDArray[np.float32]:
    flat: npt.NDArray[np.float32] = np.concatenate([parts[tensor.name].reshape(-1) for tensor in tensors])
    return flat
