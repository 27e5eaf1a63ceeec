"""A collection of small examples, for the tests of the store."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.example_store import Collection, ExampleStore, open_store
from edge_runtime.examples import Examples
from edge_runtime.journal import AppKey, StateFolder
from edge_runtime.protocol.bundle import Schema
from tests.edge_runtime.store.journals import key

NOW_S = 1_800_000_000.0
HOUR_S = 3600.0
DAY_S = 86_400.0
WIDTH = 64
PAIRS = Collection(
    name="pairs",
    features=Schema(shape=(WIDTH,), dtype="float32", low=-1.0, high=1.0),
    labels=Schema(shape=(), dtype="int32", low=0, high=4),
    max_rows=100,
    max_bytes=1 << 20,
    time_to_live_s=7 * DAY_S,
    dedupe=True,
)
KEYS = pytest.mark.parametrize("app_key", [None, key], ids=["in the clear", "sealed"])


def open_pairs(folder: StateFolder, app_key: AppKey | None = key, now_s: float = NOW_S) -> ExampleStore:
    store = open_store(folder, key=app_key, now_s=now_s)
    store.declare(PAIRS)
    return store


def some(count: int, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (count, WIDTH)).astype(np.float32)
    return Examples(x, rng.integers(0, 5, count).astype(np.int32))


def everything(store: ExampleStore, name: str = "pairs", now_s: float = NOW_S) -> Examples:
    found = store.batches(store.snapshot(name, None, now_s))
    return found.take(np.arange(len(found)))


def same(found: Examples, expected: Examples) -> bool:
    return np.array_equal(found.x, expected.x) and np.array_equal(found.y, expected.y)


def last_of(examples: Examples, count: int) -> Examples:
    return examples.take(np.arange(len(examples) - count, len(examples)))


def on_disk(folder: StateFolder) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.path.iterdir()))


def shows(raw: bytes, example: Examples, part_bytes: int = 16) -> bool:
    """Whether any 16 bytes of these features can be found."""
    for row in example.x:
        plain = row.tobytes()
        if any(plain[begin : begin + part_bytes] in raw for begin in range(0, len(plain), part_bytes)):
            return True
    return False


def joined(one: Examples, other: Examples) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    return np.concatenate([one.x, other.x]), np.concatenate([one.y, other.y])
