"""What a command line asks for beside the model itself, and what that makes of a spec. No TensorFlow here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from edge_runtime.protocol.bundle import DefaultPlan, Schema
from model_export.spec import Adam, ExportSpec, Loss, Metric, Sgd, Storage, class_labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Everything an `ExportSpec` says, and a rank for LoRA; None is "as the model says"."""

    name: str | None = None
    input_shape: tuple[int, ...] | None = None
    low: float | None = None
    high: float | None = None
    classes: int | None = None
    class_names: tuple[str, ...] | None = None
    labels_shape: tuple[int, ...] | None = None
    labels_dtype: str | None = None
    labels_low: float | None = None
    labels_high: float | None = None
    loss: Loss | None = None
    metrics: tuple[Metric, ...] | None = None
    optimizer: Sgd | Adam | None = None
    trainable: tuple[str, ...] | None = None
    personal: tuple[str, ...] | None = None
    lora_rank: int | None = None
    proximal: bool | None = None
    private_steps: bool | None = None
    batch_size: int | None = None
    dynamic_batch: bool | None = None
    seed: int | None = None
    storage: Storage | None = None
    epochs: int | None = None
    learning_rate: float | None = None

    @property
    def number_of_classes(self) -> int | None:
        return self.classes if self.class_names is None else len(self.class_names)


NOTHING: Final = Asked()

METRICS_OF: Final = {
    Loss.SPARSE_CROSS_ENTROPY: (Metric.CORRECT,),
    Loss.CROSS_ENTROPY: (Metric.CORRECT,),
    Loss.BINARY_CROSS_ENTROPY: (Metric.BINARY_CORRECT,),
    Loss.MEAN_SQUARED_ERROR: (Metric.ABSOLUTE_ERROR,),
    Loss.HUBER: (Metric.ABSOLUTE_ERROR,),
}
"""What is measured where nobody says what."""


def numbered(classes: int) -> tuple[str, ...]:
    """Names for classes that have none."""
    return tuple(str(label) for label in range(classes))


def spec_with(spec: ExportSpec, asked: Asked) -> ExportSpec:
    """The spec with what was asked for instead; the schemas of features and labels part by part.

    The seed is not looked at: it is for whoever builds the model.
    """
    changes: dict[str, object] = {
        field: value
        for field in ("name", "metrics", "optimizer", "trainable", "personal", "proximal", "private_steps")
        if (value := getattr(asked, field)) is not None
    }
    for field in ("batch_size", "dynamic_batch", "storage"):
        if (value := getattr(asked, field)) is not None:
            changes[field] = value
    if asked.loss is not None:
        changes["loss"] = asked.loss
        if asked.metrics is None and asked.loss is not spec.loss:
            changes["metrics"] = METRICS_OF[asked.loss]
    if asked.lora_rank is not None:
        changes["adapters_only"] = True
    changes |= _labels(spec, asked)
    changes["features"] = _schema(spec.features, asked.input_shape, None, asked.low, asked.high)
    changes["default_plan"] = _plan(spec, asked)
    return replace(spec, **changes)  # type: ignore[arg-type]  # field by field, as above


def _labels(spec: ExportSpec, asked: Asked) -> dict[str, object]:
    changes: dict[str, object] = {}
    labels = spec.labels
    if asked.number_of_classes is not None:
        names = asked.class_names or numbered(asked.number_of_classes)
        changes["class_names"] = names
        if labels.dtype == "int32":
            labels = class_labels(names, labels.shape)
    changes["labels"] = _schema(labels, asked.labels_shape, asked.labels_dtype, asked.labels_low, asked.labels_high)
    return changes


def _schema(
    schema: Schema, shape: tuple[int, ...] | None, dtype: str | None, low: float | None, high: float | None
) -> Schema:
    return Schema(
        shape=schema.shape if shape is None else shape,
        dtype=schema.dtype if dtype is None else dtype,
        low=schema.low if low is None else low,
        high=schema.high if high is None else high,
    )


def _plan(spec: ExportSpec, asked: Asked) -> DefaultPlan:
    """A plan's batch is never larger than the bundle's."""
    plan = spec.default_plan
    batch_size = asked.batch_size or spec.batch_size
    return DefaultPlan(
        epochs=plan.epochs if asked.epochs is None else asked.epochs,
        batch_size=batch_size if asked.batch_size else min(plan.batch_size, batch_size),
        learning_rate=plan.learning_rate if asked.learning_rate is None else asked.learning_rate,
    )
