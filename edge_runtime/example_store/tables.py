"""The store's SQLite file: its tables, its settings, and what its errors mean.

A rollback journal that is truncated, not a write-ahead log: a log keeps the old pages, and with them deleted examples,
until it is overwritten some day. Here a transaction ends by truncating the journal, and `secure_delete` overwrites what
was deleted in the pages themselves, so that no file of the folder holds it when the deletion returns. Nothing is kept
in temporary files.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
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


_DAMAGE: Final = frozenset(
    {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_ERROR,  # a table or column is missing
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
    }
)


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
            _configure(connection, new=path.stat().st_size == 0)
            _check(connection)
            if _version(connection) < len(MIGRATIONS):
                with writing(connection):
                    migrate(connection, MIGRATIONS)
            _check_tables(connection)
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
        if code in _DAMAGE:
            raise StateDamaged("the stored examples can no longer be read as they were written") from problem
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise Unavailable("something else holds the stored examples", retry_after_s=60) from problem
        raise


def migrate(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]]) -> None:
    """Take the tables from the version they have to the last; within a transaction."""
    for statement in itertools.chain.from_iterable(migrations[_version(connection) :]):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version={len(migrations)}")


def _configure(connection: sqlite3.Connection, *, new: bool) -> None:
    if new:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
    for pragma in (
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
    if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise StateDamaged("the stored examples can no longer be read as they were written")
    if _version(connection) > len(MIGRATIONS):
        raise UnsupportedVersion(f"example store {_version(connection)}; spoken here: {len(MIGRATIONS)}")


def _check_tables(connection: sqlite3.Connection) -> None:
    """Damage may have hit the text that says what the tables are; what it must be is found by making them anew."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        migrate(fresh, MIGRATIONS)
        if _tables(connection) != _tables(fresh):
            raise StateDamaged("the store's tables are not as they were made")


def _tables(connection: sqlite3.Connection) -> list[tuple[str, str, str | None]]:
    return connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall()


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
