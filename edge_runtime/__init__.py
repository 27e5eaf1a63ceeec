"""What an app bundles: numpy, cryptography, an HTTP client, and a TFLite interpreter behind a seam. Nothing else.

The names below are loaded on first use, so that importing `edge_runtime.protocol` brings in nothing of them. All else
is imported from its module.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_runtime.conditions import Conditions
    from edge_runtime.example_store import Collection
    from edge_runtime.examples import Examples
    from edge_runtime.installation import Installation
    from edge_runtime.network import Network
    from edge_runtime.outcomes import Happened, SliceEnd, Why
    from edge_runtime.protocol.errors import Refusal
    from edge_runtime.protocol.keys import PublicKey, TrustRoots
    from edge_runtime.protocol.policy import Policy
    from edge_runtime.protocol.schema import Schema
    from edge_runtime.runtime import Runtime
    from edge_runtime.schedule import Floors
    from edge_runtime.session import Unreachable

_HOMES = {
    "Collection": "example_store.collection",
    "Conditions": "conditions",
    "Examples": "examples",
    "Floors": "schedule",
    "Happened": "outcomes",
    "Installation": "installation",
    "Network": "network",
    "Policy": "protocol.policy",
    "PublicKey": "protocol.keys",
    "Refusal": "protocol.errors",
    "Runtime": "runtime",
    "Schema": "protocol.schema",
    "SliceEnd": "outcomes",
    "TrustRoots": "protocol.keys",
    "Unreachable": "session",
    "Why": "outcomes",
}

__all__ = [
    "Collection",
    "Conditions",
    "Examples",
    "Floors",
    "Happened",
    "Installation",
    "Network",
    "Policy",
    "PublicKey",
    "Refusal",
    "Runtime",
    "Schema",
    "SliceEnd",
    "TrustRoots",
    "Unreachable",
    "Why",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
