"""What was asked for, as JSON: a command hands it to a child process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from model_export.asked import Asked
from model_export.spec import Adam, Loss, Metric, Sgd, Storage


def wishes_of(asked: Asked) -> dict[str, Any]:
    """What is not None, as plain values."""
    plain: dict[str, Any] = {}
    for one in fields(Asked):
        value = getattr(asked, one.name)
        if isinstance(value, Adam):
            value = {"adam": [value.beta_1, value.beta_2, value.epsilon]}
        elif isinstance(value, Sgd):
            value = {"sgd": value.momentum}
        if value is not None:
            plain[one.name] = list(value) if isinstance(value, tuple) else value
    return plain


def asked_from(wishes: Mapping[str, Any]) -> Asked:
    """The inverse of `wishes_of`."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in wishes.items()
    }
    if (optimizer := wishes.get("optimizer")) is not None:
        values["optimizer"] = Adam(*optimizer["adam"]) if "adam" in optimizer else Sgd(optimizer["sgd"])
    if "loss" in wishes:
        values["loss"] = Loss(wishes["loss"])
    if "metrics" in wishes:
        values["metrics"] = tuple(Metric(one) for one in wishes["metrics"])
    if "storage" in wishes:
        values["storage"] = Storage(wishes["storage"])
    return Asked(**values)
