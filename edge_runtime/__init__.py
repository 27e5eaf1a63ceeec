"""What an app bundles: numpy, cryptography, an HTTP client, and a TFLite interpreter behind a seam. Nothing else.

The names below are loaded on first use, so that importing `edge_runtime.protocol` brings in nothing of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_runtime.driver import Driver, Retries, Unreachable, http_client, over_http
    from edge_runtime.examples import Examples
    from edge_runtime.model import Model, open_model
    from edge_runtime.privacy import private_report
    from edge_runtime.protocol.keys import SigningKey, TrustRoots
    from edge_runtime.session.enrol import Installation, enrol
    from edge_runtime.session.visit import Offer, visit
    from edge_runtime.training import train

_HOMES = {
    "Driver": "driver",
    "Examples": "examples",
    "Installation": "session.enrol",
    "Model": "model",
    "Offer": "session.visit",
    "Retries": "driver",
    "SigningKey": "protocol.keys",
    "TrustRoots": "protocol.keys",
    "Unreachable": "driver",
    "enrol": "session.enrol",
    "http_client": "driver",
    "open_model": "model",
    "over_http": "driver",
    "private_report": "privacy",
    "train": "training",
    "visit": "session.visit",
}

__all__ = [
    "Driver",
    "Examples",
    "Installation",
    "Model",
    "Offer",
    "Retries",
    "SigningKey",
    "TrustRoots",
    "Unreachable",
    "enrol",
    "http_client",
    "open_model",
    "over_http",
    "private_report",
    "train",
    "visit",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
