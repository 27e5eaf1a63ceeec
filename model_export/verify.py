"""A bundle against TensorFlow, one step at a time.

Trajectories of ReLU networks part by themselves after some steps, so each step starts from TensorFlow's weights. No
TensorFlow here: the reference is recorded by `model_export.reference`, possibly in another process, because
tflite-runtime cannot live beside TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.protocol.bundle import Manifest

Array = npt.NDArray[Any]
Call = Callable[[str, Mapping[str, Array]], Mapping[str, Array]]
"""Run a signature of the bundle's graph: its name and arrays by name in, arrays by name out."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One training step as TensorFlow takes it with its own gradients.

    Attributes:
        inputs: Of the signature `train`, by name.
        before: Weights by tensor name.
        after: Weights by tensor name.
        loss: Before the step.
    """

    inputs: Mapping[str, Array]
    before: Mapping[str, Array]
    after: Mapping[str, Array]
    loss: float


@dataclass(frozen=True, slots=True)
class StepError:
    """How far the bundle is from TensorFlow after one step; infinite where either is not finite.

    Attributes:
        weights: Largest absolute difference of a weight.
        loss: Absolute difference of the loss.
        update: Largest absolute change of a weight in TensorFlow: what `weights` is to be compared with.
    """

    weights: float
    loss: float
    update: float


def compare(call: Call, manifest: Manifest, steps: Iterable[Step]) -> list[StepError]:
    """Take the recorded steps with the bundle, each from TensorFlow's weights; the first one's are the anchor."""
    names = [tensor.name for tensor in manifest.tensors]
    errors: list[StepError] = []
    for step in steps:
        call("set_weights", dict(step.before))
        if not errors:
            call("begin_round", {})
        loss = float(call("train", dict(step.inputs))["loss"])
        after = call("get_weights", {})
        errors.append(
            StepError(
                weights=max(_distance(after[name], step.after[name]) for name in names),
                loss=_distance(np.float64(loss), np.float64(step.loss)),
                update=max(_distance(step.before[name], step.after[name]) for name in names),
            )
        )
    return errors


def _distance(ours: Array | np.float64, theirs: Array | np.float64) -> float:
    with np.errstate(invalid="ignore"):
        largest = float(np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)).max())
    return largest if np.isfinite(largest) else float("inf")
