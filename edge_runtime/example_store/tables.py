"""The store's SQLite file: its tables, its settings, and what its errors mean.

A rollback journal that is truncated, not a write-ahead log: a log keeps the old pages, and with them deleted examples,
until it is overwritten some day. Here a transaction ends by truncating the journal, and `secure_delete` overwrites what
was deleted in the pages themselves, so that no file of the folder holds it when the deletion returns. Nothing is kept
in temporary files.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from edge_runtime.protocol.errors import DeviceStorageFull, StateDamaged, Unavailable, UnsupportedVersion

STORE_FILE: Final = "examples.db"
ROLLBACK_FILE: Final = "examples.db-journal"
DAMAGED_FILE: Final = "examples.damaged"
"""Where a file goes that can no longer be read; there is never more than one."""

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE store (
            secret INTEGER NOT NULL,
            key_check BLOB NOT NULL,
            next_id INTEGER NOT NULL,
            time_s REAL NOT NULL,
            wall_s REAL NOT NULL,
            leapt_to_s REAL
        ) STRICT""",
        """CREATE TABLE collections (
            name TEXT PRIMARY KEY,
            schema_sha256 BLOB NOT NULL,
            data_key BLOB NOT NULL,
            time_to_live_s REAL
        ) STRICT""",
        """CREATE TABLE examples (
            id INTEGER PRIMARY KEY,
            collection TEXT NOT NULL REFERENCES collections (name),
            added_at_s REAL NOT NULL,
            fingerprint BLOB,
            sealed BLOB NOT NULL
        ) STRICT""",
        "CREATE INDEX examples_in_order ON examples (collection, id, added_at_s)",
        "CREATE UNIQUE INDEX examples_once ON examples (collection, fingerprint) WHERE fingerprint IS NOT NULL",
        """CREATE TABLE snapshots (
            id TEXT PRIMARY KEY,
            collection TEXT NOT NULL REFERENCES collections (name),
            ids BLOB NOT NULL
        ) STRICT""",
    ),
)
"""Statements from each version to the next. Only ever added to."""


def connected(folder: Path) -> sqlite3.Connection:
    """Open the file, made if need be, and bring its tables up to date.

    Raises:
        StateDamaged: It cannot be read as it was written.
        UnsupportedVersion: A later version of the app wrote it.
        DeviceStorageFull: There is no room.
    """
    path = folder / STORE_FILE
    with meaning():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            _configure(connection)
            _check(connection)
            _migrate(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def set_aside(folder: Path) -> Path:
    """Move a damaged file out of the way. The rollback journal goes first: it must never meet another file."""
    (folder / ROLLBACK_FILE).unlink(missing_ok=True)
    return (folder / STORE_FILE).replace(folder / DAMAGED_FILE)


def remove(folder: Path) -> None:
    """Delete every file of the store."""
    for name in (ROLLBACK_FILE, STORE_FILE, DAMAGED_FILE):
        (folder / name).unlink(missing_ok=True)


@contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[None]:
    """One transaction: on disk when the block ends, and nothing of it when it raises.

    Raises:
        DeviceStorageFull: There is no room.
        StateDamaged: The file can no longer be read as it was written.
    """
    with meaning():
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # a full disk may have ended the transaction already
                connection.execute("ROLLBACK")
            raise


@contextmanager
def meaning() -> Iterator[None]:
    """Name what SQLite's errors mean to the app.

    Raises:
        DeviceStorageFull: There is no room, or the disk does not take what is written.
        StateDamaged: The file can no longer be read as it was written.
        Unavailable: Something else holds the file.
    """
    try:
        yield
    except sqlite3.DatabaseError as problem:
        code = getattr(problem, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
            raise DeviceStorageFull("the device takes no more examples: its disk is full or failing") from problem
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise StateDamaged("the stored examples can no longer be read as they were written") from problem
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise Unavailable("something else holds the stored examples", retry_after_s=60) from problem
        raise


def _configure(connection: sqlite3.Connection) -> None:
    for pragma in (
        "auto_vacuum=INCREMENTAL",  # of a new file only
        "journal_mode=TRUNCATE",
        "synchronous=FULL",
        "secure_delete=ON",
        "temp_store=MEMORY",
        "foreign_keys=ON",
        "trusted_schema=OFF",
        "cell_size_check=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _check(connection: sqlite3.Connection) -> None:
    found = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != ("ok",):
        raise StateDamaged("the stored examples can no longer be read as they were written")


def _migrate(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise UnsupportedVersion(f"example store version {version}; spoken here: {len(MIGRATIONS)}")
    if version == len(MIGRATIONS):
        return
    with writing(connection):
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
