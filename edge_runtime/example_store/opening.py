"""Opening the example store, and erasing it."""

from __future__ import annotations

import os
import sqlite3
from typing import Final

from edge_runtime.example_store.keys import open_data_key
from edge_runtime.example_store.store import ExampleStore
from edge_runtime.example_store.tables import connected, meaning, remove, set_aside, writing
from edge_runtime.journal.folder import StateFolder
from edge_runtime.journal.sealing import AppKey, Seal, SealBroken, seal_of
from edge_runtime.protocol.errors import StateDamaged, WrongStorageKey

_PURPOSE: Final = b"edgewise/example-store/v1"
_CHECK: Final = b"edgewise/example-store/key-check/v1"


def open_store(folder: StateFolder, *, key: AppKey | None, now_s: float) -> ExampleStore:
    """Open the store of a folder, made at the first call. `found_damaged` says whether it had to begin anew.

    Args:
        folder: Held by this process.
        key: Seals every example; None is the choice to store them in the clear.
        now_s: Seconds since the epoch.

    Raises:
        WrongStorageKey: The key does not open what is there, which stays as it is.
        UnsupportedVersion: A later version of the app wrote it; it stays as it is.
        DeviceStorageFull: There is no room to begin.
        OSError: The folder cannot be used.
    """
    seal = seal_of(key, _PURPOSE)
    try:
        return ExampleStore(folder.path, _connected(folder, seal, now_s), seal, found_damaged=False)
    except StateDamaged:
        os.utime(set_aside(folder.path), (now_s, now_s))
    return ExampleStore(folder.path, _connected(folder, seal, now_s), seal, found_damaged=True)


def erase_store(folder: StateFolder) -> None:
    """Delete every example, key and damaged file of a folder whose store is closed. Needs no room and no key."""
    remove(folder.path)


def _connected(folder: StateFolder, seal: Seal, now_s: float) -> sqlite3.Connection:
    connection = connected(folder.path)
    try:
        with meaning():
            _check_key(connection, seal, now_s)
            for name, schema, data_key in connection.execute("SELECT name, schema_sha256, data_key FROM collections"):
                open_data_key(data_key, name, schema, seal)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_key(connection: sqlite3.Connection, seal: Seal, now_s: float) -> None:
    held = connection.execute("SELECT secret, key_check FROM store").fetchone()
    if held is None:
        with writing(connection):
            row = (seal.secret, seal.close(b"", _CHECK), 1, now_s, now_s, None)
            connection.execute("INSERT INTO store VALUES (?, ?, ?, ?, ?, ?)", row)
        return
    secret, check = held
    if bool(secret) != seal.secret:
        raise WrongStorageKey("the examples are sealed, and there is no key" if secret else "they are not sealed")
    try:
        seal.open(check, _CHECK)
    except SealBroken:
        if seal.secret:
            raise WrongStorageKey("the app's key does not open the stored examples") from None
        raise StateDamaged("the store's first row is not as it was written") from None
