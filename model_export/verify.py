"""A bundle against TensorFlow, one step at a time.

Trajectories of ReLU networks part by themselves after some steps, so each step starts from TensorFlow's weights and
slots. No TensorFlow here: the reference is recorded by `model_export.reference`, in another process, because
tflite-runtime cannot live beside TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edge_runtime.protocol.bundle import Manifest

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
"""Arrays by name."""

_OUTPUT_SLACK: Final = 10.0
"""Rounding adds up through the layers to an output; a step divides it by the batch and multiplies it by a rate."""
_ROUNDING: Final = 2.0**-23
_NOISE_SLACK: Final = 32.0
"""A step rounds at every operator, and the noise is that of rounding once."""

Call = Callable[[str, Arrays], Arrays]
"""Run a signature of the bundle's graph: its name and arrays by name in, arrays by name out."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One training step as TensorFlow takes it with its own gradients and Keras' optimizer.

    Attributes:
        inputs: Of the signature `train`.
        outputs: Of the signature `train`: the loss before the step, and the sums of the metrics.
        before, after: Weights by tensor name.
        slots_before, slots_after: The optimizer's memory by slot name; empty for plain SGD.
        noise: How far each output, weight and slot moves when weights and features are moved by one rounding: what no
            other order of additions can be held to. Single numbers by name.
    """

    inputs: Arrays
    outputs: Arrays
    before: Arrays
    after: Arrays
    slots_before: Arrays
    slots_after: Arrays
    noise: Arrays = field(default_factory=dict)

    @property
    def change(self) -> float:
        """Largest change of a weight: what an error is to be compared with."""
        return max(_distance(self.before[name], self.after[name]) for name in self.before)


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a signature that changes nothing answers, with the weights that training begins with."""

    signature: str
    inputs: Arrays
    outputs: Arrays


@dataclass(frozen=True, slots=True, eq=False)
class PrivateStep:
    """One example-level private step: examples accumulated one by one, then applied.

    Attributes:
        examples: Inputs of each call of `accumulate`.
        norms: Of each example's gradient, before clipping.
        applied: Inputs of `apply`.
        before, after: Weights by tensor name.
    """

    examples: tuple[Arrays, ...]
    norms: tuple[float, ...]
    applied: Arrays
    before: Arrays
    after: Arrays


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """What TensorFlow did."""

    steps: tuple[Step, ...] = ()
    answers: tuple[Answer, ...] = ()
    private: PrivateStep | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far one array is from TensorFlow's.

    Attributes:
        signature: That gave it.
        step: From 0; that of the recording.
        name: Of the tensor, slot or output.
        error: Largest absolute difference; infinite where either is not finite.
        scale: What the error is measured against: the largest size of TensorFlow's, at least 1; more for outputs,
            and where rounding alone moves TensorFlow's own values.
    """

    signature: str
    step: int
    name: str
    error: float
    scale: float

    def within(self, tolerance: float) -> bool:
        return self.error <= tolerance * self.scale


def compare(call: Call, manifest: Manifest, recording: Recording) -> Iterator[Difference]:
    """Do with the bundle what TensorFlow did, each step from TensorFlow's weights; the first one's are the anchor."""
    if recording.steps:
        call("set_weights", recording.steps[0].before)
    for answer in recording.answers:
        yield from _differences(answer.signature, 0, call(answer.signature, answer.inputs), answer.outputs)
    for index, step in enumerate(recording.steps):
        yield from _compare_step(call, manifest, index, step)
    if recording.steps:
        yield from _compare_delta(call, manifest, recording.steps[0].before)
    if recording.private is not None:
        yield from _compare_private(call, recording.private)


def _compare_step(call: Call, manifest: Manifest, index: int, step: Step) -> Iterator[Difference]:
    call("set_weights", step.before)
    if not index:
        call("begin_round", {})  # its slots are zero, as the recording's are
    elif manifest.slots:
        call("set_slots", step.slots_before)
    yield from _differences("train", index, call("train", step.inputs), step.outputs, step.noise)
    yield from _differences("train", index, call("get_weights", {}), step.after, step.noise)
    if manifest.slots:
        yield from _differences("train", index, call("get_slots", {}), step.slots_after, step.noise)


def _compare_delta(call: Call, manifest: Manifest, anchor: Arrays) -> Iterator[Difference]:
    """The change of the shared tensors, clipped to half of its norm."""
    names = [tensor.name for tensor in manifest.tensors if tensor.shared]
    weights = call("get_weights", {})
    change = {name: np.asarray(weights[name], np.float64) - anchor[name] for name in names}
    norm = float(np.sqrt(sum(float(np.square(one).sum()) for one in change.values())))
    clip = np.array(norm / 2 or 1.0, np.float32)
    expected = {name: one * min(1.0, float(clip) / (norm or 1.0)) for name, one in change.items()}
    yield from _differences("delta", 0, call("delta", {"clip": clip}), {**expected, "norm": np.array(norm)})


def _compare_private(call: Call, private: PrivateStep) -> Iterator[Difference]:
    call("set_weights", private.before)
    call("begin_round", {})
    for index, (example, norm) in enumerate(zip(private.examples, private.norms, strict=True)):
        yield from _differences("accumulate", index, call("accumulate", example), {"norm": np.array(norm)})
    call("apply", private.applied)
    yield from _differences("apply", 0, call("get_weights", {}), private.after)


def _differences(
    signature: str, step: int, ours: Arrays, theirs: Arrays, noise: Arrays | None = None
) -> Iterator[Difference]:
    # Where a rounding turns one relu on, everything behind it moves, whatever moved in the trials.
    anywhere = max((float(one) for one in (noise or {}).values()), default=0.0)
    for name, expected in theirs.items():
        scale = float(np.abs(np.asarray(expected, np.float64)).max(initial=1.0))
        if signature == "infer":
            scale *= _OUTPUT_SLACK
        scale = max(scale, _NOISE_SLACK / _ROUNDING * float((noise or {}).get(name, 0.0)), anywhere / _ROUNDING)
        error = _distance(ours[name], expected) if name in ours else float("inf")
        yield Difference(
            signature=signature, step=step, name=name, error=error, scale=scale if np.isfinite(scale) else 1.0
        )


def _distance(ours: Array, theirs: Array) -> float:
    left, right = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if left.shape != right.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):
        largest = float(np.abs(left - right).max(initial=0.0))
    return largest if np.isfinite(largest) else float("inf")
