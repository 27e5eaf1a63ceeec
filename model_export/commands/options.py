"""The options that say what an `ExportSpec` says, once for all commands that take them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from edge_runtime.protocol.errors import Malformed
from model_export.asked import Asked
from model_export.commands.console import one_line_errors, sides
from model_export.spec import Adam, Loss, Metric, Sgd, Storage

_MOMENTUM: Final = 0.9


class Optimizer(StrEnum):
    SGD = "sgd"
    MOMENTUM = "momentum"
    ADAM = "adam"


class Dtype(StrEnum):
    FLOAT32 = "float32"
    INT32 = "int32"


def _option(kind: Any, about: str, **more: Any) -> Any:
    return Annotated[kind | None, typer.Option(help=about, show_default=False, **more)]


_OPTIONS: Final[dict[str, Any]] = {
    "name": _option(str, "Of the model, for people."),
    "input_shape": _option(str, "Of one example: 28,28,1."),
    "low": _option(float, "Smallest value of a feature; devices refuse others."),
    "high": _option(float, "Largest value of a feature."),
    "classes": _option(int, "How many; they are named 0, 1, 2 ...", min=2),
    "class_names": _option(str, "Names instead: cat,dog,bird."),
    "labels_shape": _option(str, "Of one label: 20 for one at each of 20 positions; empty for a number."),
    "labels_dtype": _option(Dtype, "int32 for classes, float32 for numbers."),
    "labels_low": _option(float, "Smallest label."),
    "labels_high": _option(float, "Largest label."),
    "loss": _option(Loss, "What training makes small."),
    "metric": _option(list[Metric], "What is measured beside the loss. May be given again and again."),
    "optimizer": _option(Optimizer, "Of the device."),
    "momentum": _option(float, f"Of --optimizer momentum, {_MOMENTUM} unless given.", min=0.0, max=1.0),
    "trainable": _option(list[str], "Layers that train, such as 'block_*'; others are frozen. Again and again."),
    "personal": _option(list[str], "Layers that train and whose weights never leave the device. Again and again."),
    "lora": _option(int, "Put LoRA adapters of this rank on every layer that can, and train nothing else.", min=1),
    "proximal": Annotated[
        bool | None,
        typer.Option("--proximal/--no-proximal", help="Whether training takes a FedProx term.", show_default=False),
    ],
    "private_steps": Annotated[
        bool | None,
        typer.Option(
            "--private-steps/--no-private-steps",
            help="Whether to add example-level DP-SGD: the signatures accumulate and apply.",
            show_default=False,
        ),
    ],
    "batch_size": _option(int, "Examples in one call; shorter batches are padded.", min=1),
    "dynamic_batch": Annotated[
        bool | None,
        typer.Option(
            "--dynamic-batch/--fixed-batch",
            help="Whether a call takes any number of examples up to the batch, without padding. Slower.",
            show_default=False,
        ),
    ],
    "seed": _option(int, "Determines the initial weights, and so every byte; a .keras file has its own.", min=0),
    "storage": _option(Storage, "How the file keeps the initial weights."),
    "epochs": _option(int, "Suggested to whoever writes a plan.", min=1),
    "learning_rate": _option(float, "Suggested to whoever writes a plan."),
}  # fmt: skip


def with_spec_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command every option of a spec; it gets what was asked for as its argument `asked`."""
    own = [one for one in inspect.signature(command, eval_str=True).parameters.values() if one.name != "asked"]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        with one_line_errors():
            asked = _asked({name: given.pop(name) for name in _OPTIONS})
        command(asked=asked, **given)

    spec = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in _OPTIONS.items()
    ]
    mine = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
    parameters = [*mine, *spec]
    del run.__wrapped__  # typer would look at the command itself
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _asked(given: dict[str, Any]) -> Asked:
    """What was asked for.

    Raises:
        Malformed: An option has a value that means nothing.
    """
    shape, labels_shape, names = given.pop("input_shape"), given.pop("labels_shape"), given.pop("class_names")
    optimizer, momentum = given.pop("optimizer"), given.pop("momentum")
    metrics, trainable, personal = given.pop("metric"), given.pop("trainable"), given.pop("personal")
    dtype = given.pop("labels_dtype")
    return Asked(
        input_shape=None if shape is None else sides(shape, "--input-shape"),
        labels_shape=None if labels_shape is None else sides(labels_shape, "--labels-shape"),
        class_names=tuple(names.split(",")) if names else None,
        labels_dtype=None if dtype is None else dtype.value,
        optimizer=_optimizer(optimizer, momentum),
        metrics=tuple(metrics) if metrics else None,
        trainable=tuple(trainable) if trainable else None,
        personal=tuple(personal) if personal else None,
        lora_rank=given.pop("lora"),
        **given,
    )


def _optimizer(kind: Optimizer | None, momentum: float | None) -> Sgd | Adam | None:
    if momentum is not None and kind is not Optimizer.MOMENTUM:
        raise Malformed("--momentum is for --optimizer momentum")
    if kind is Optimizer.ADAM:
        return Adam()
    if kind is Optimizer.MOMENTUM:
        return Sgd(momentum=_MOMENTUM if momentum is None else momentum)
    return Sgd() if kind is Optimizer.SGD else None
