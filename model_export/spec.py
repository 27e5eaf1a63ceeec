"""What is asked of an export, and what comes out of it. No TensorFlow here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from edge_runtime.protocol.bundle import DefaultPlan, Manifest, Schema

LossFunction = Callable[[Any, Any], Any]
"""From outputs and labels, tensors with the batch first, to a loss for each example: shape (n,), or (n, ...), which is
averaged over all but the batch."""


class Loss(StrEnum):
    """What training makes small. Cross-entropies take logits; a final softmax or sigmoid of the model is undone."""

    SPARSE_CROSS_ENTROPY = "sparse_categorical_crossentropy"
    """Labels are int32 classes, one an example or one a position of a sequence."""
    CROSS_ENTROPY = "categorical_crossentropy"
    """Labels are float32 shares of the classes that add up to 1."""
    BINARY_CROSS_ENTROPY = "binary_crossentropy"
    """Labels are float32 from 0 to 1, of the output's shape."""
    MEAN_SQUARED_ERROR = "mean_squared_error"
    HUBER = "huber"
    """Half the squared error up to an error of 1, and linear beyond."""


class Metric(StrEnum):
    """What `train` and `evaluate` add up beside the loss, over the real examples."""

    CORRECT = "correct"
    """1 where the largest output is the label's; for sequences, the share of such positions."""
    BINARY_CORRECT = "binary_correct"
    """1 where the output is on the label's side of one half; averaged over several outputs."""
    ABSOLUTE_ERROR = "absolute_error"
    SQUARED_ERROR = "squared_error"


@dataclass(frozen=True, slots=True)
class Sgd:
    """w ← w - lr · g. With `momentum` β > 0: m ← β m + g, w ← w - lr · m."""

    momentum: float = 0.0


@dataclass(frozen=True, slots=True)
class Adam:
    """Source: https://arxiv.org/abs/1412.6980, with ε beside the corrected root, as in Keras."""

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7


class Storage(StrEnum):
    """How the graph keeps the weights of model version 0."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    """A byte a weight, and one scale for each index of the last axis."""


DEFAULT_PLAN: Final = DefaultPlan(epochs=1, batch_size=20, learning_rate=0.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSpec:
    """What a model does not say of itself.

    Layers are named by patterns as of `fnmatch`, against the layer's path and name: ``"dense_1"``, ``"block_*"``.

    Attributes:
        name: Of the model, for people.
        features: Schema of `x`. A model of several inputs takes them side by side, flattened, in its own order.
        labels: Schema of `y`.
        class_names: In the order of the model's outputs; empty where labels are not classes.
        loss: One of ours, or a function of one's own.
        metrics: Added up beside the loss.
        optimizer: Of the device.
        trainable: Layers that train; others are frozen. A layer that the model froze stays frozen.
        adapters_only: Train nothing but LoRA adapters (`layer.enable_lora`) and leave the base frozen.
        personal: Layers that train and whose weights never leave the device.
        proximal: Whether `train` takes `mu`, the weight of the FedProx term. It costs a pass over the weights a step.
        private_steps: Whether to add `accumulate` and `apply`, for example-level DP-SGD.
        batch_size: Examples in one call, at most.
        dynamic_batch: Take 1 to `batch_size` examples a call, instead of padding. A fixed batch is faster.
        seed: Draw fresh initial weights from it; None keeps those of the model.
        storage: Of the initial weights in the file. What is stored is what model version 0 is, in full precision.
        default_plan: What to suggest to whoever writes a plan.
    """

    name: str
    features: Schema
    labels: Schema
    class_names: tuple[str, ...] = ()
    loss: Loss | LossFunction = Loss.SPARSE_CROSS_ENTROPY
    metrics: tuple[Metric, ...] = (Metric.CORRECT,)
    optimizer: Sgd | Adam = Sgd()
    trainable: tuple[str, ...] = ("*",)
    adapters_only: bool = False
    personal: tuple[str, ...] = ()
    proximal: bool = False
    private_steps: bool = False
    batch_size: int = 20
    dynamic_batch: bool = False
    seed: int | None = None
    storage: Storage = Storage.FLOAT32
    default_plan: DefaultPlan = DEFAULT_PLAN


def class_labels(names: tuple[str, ...], sequence: tuple[int, ...] = ()) -> Schema:
    """Labels that are indices into class names; one for each position of a sequence if it has a shape."""
    return Schema(shape=sequence, dtype="int32", low=0, high=len(names) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A signed bundle, the signed checkpoint of model version 0, and their digests."""

    manifest: Manifest
    bundle: bytes
    bundle_sha256: str
    checkpoint: bytes
    checkpoint_sha256: str

    def __repr__(self) -> str:
        return f"Exported({self.manifest.name}, bundle {self.bundle_sha256[:12]}…)"
