"""The example store: what a device may learn from, kept on the device, limited, sealed, ageing, and deletable.

One SQLite file in the state folder, one process at a time. The app declares collections; each has a schema, quotas, a
time to live and a data key of its own. Examples are checked when they are added, and read one batch at a time.

* Sealed: each example by AES-256-GCM with a fresh nonce, bound to its id, its collection and its schema; the data key
  by the app's key. In the clear stay: names of collections, digests of schemas, how many examples there are, how large
  they are and when they were added. Labels are inside the seal: the balance of classes is counted by opening examples,
  and is kept nowhere. Equal examples are known by an HMAC.
* Deleted: overwritten in the file, with no copy in a log. The flash below the file system may keep old blocks; with a
  key they hold sealed bytes, and after `delete_collection` the data key to them is gone too. Whoever must be sure of
  the flash destroys the app's key.
* Ageing: by a clock of the store's own, see `ageing`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_runtime.example_store.batches import StoredExamples
    from edge_runtime.example_store.collection import Added, Collection, Eligibility, Statistics
    from edge_runtime.example_store.opening import erase_store, open_store
    from edge_runtime.example_store.store import ExampleStore

_HOMES = {
    "Added": "collection",
    "Collection": "collection",
    "Eligibility": "collection",
    "ExampleStore": "store",
    "Statistics": "collection",
    "StoredExamples": "batches",
    "erase_store": "opening",
    "open_store": "opening",
}
"""Loaded on first use: an app that declares a collection loads no SQLite yet."""

__all__ = [
    "Added",
    "Collection",
    "Eligibility",
    "ExampleStore",
    "Statistics",
    "StoredExamples",
    "erase_store",
    "open_store",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
