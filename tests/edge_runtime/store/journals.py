"""A journal, its keys and its witness, for the tests of what becomes of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from edge_runtime.journal import AppKey, Journal, Progress, StateFolder, open_journal
from edge_runtime.journal import state as now_is
from edge_runtime.journal.state import Identity, Restart
from tests.edge_runtime.store.test_participation import HERE, NOW_S

SEED = hashlib.sha256(b"the device key of the journal tests").digest()
ME = Identity(seed=SEED, tenant="acme", device_id="d" * 32)
PROGRESS = Progress(
    epoch=0,
    step=2,
    order_seed=1,
    rng=b"{}",
    snapshot="s",
    weights=np.arange(5, dtype=np.float32),
    slots=np.array([0.25], np.float32),
)


def key() -> bytes:
    return bytes(range(32))


def another_key() -> bytes:
    return bytes(32)


class Numbers:
    """A witness in memory."""

    def __init__(self) -> None:
        self.epoch: int | None = None

    def read(self) -> int | None:
        return self.epoch

    def write(self, epoch: int) -> None:
        self.epoch = epoch


def reopened(folder: StateFolder, app_key: AppKey | None = key, witness: Numbers | None = None) -> Journal:
    """As a new process finds it: nothing but the files is handed over."""
    return open_journal(folder, key=app_key, now_s=NOW_S, witness=witness)


def enrolled(folder: StateFolder, app_key: AppKey | None = key, witness: Numbers | None = None) -> Journal:
    journal = reopened(folder, app_key, witness)
    journal.update(lambda state: now_is.enrolled(state, ME))
    return journal


def training(folder: StateFolder, app_key: AppKey | None = key) -> Journal:
    journal = enrolled(folder, app_key)
    journal.update(lambda state: now_is.assigned(state, HERE, "pop", NOW_S))
    journal.save(PROGRESS)
    return journal


def files(folder: StateFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.path.iterdir()}


def put_back(folder: StateFolder, backup: dict[str, bytes], *names: str) -> None:
    for name in names:
        (folder.path / name).write_bytes(backup[name])


def flip(path: Path, position: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[position] ^= 1
    path.write_bytes(raw)


def why_restarted(journal: Journal) -> Restart | None:
    return journal.state.restarted.why if journal.state.restarted else None


def nothing_is_left(journal: Journal, folder: StateFolder) -> bool:
    state = journal.state
    unknown = (state.identity, state.participation, state.usage, state.ended) == (None, None, None, ())
    return unknown and not [name for name in files(folder) if name.startswith("stored-")]
