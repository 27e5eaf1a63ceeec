"""The store's questions to SQLite: each a function of the connection, inside whatever transaction is open."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from edge_runtime.example_store.ageing import StoreClock, looked, presumed_s
from edge_runtime.example_store.tables import meaning
from edge_runtime.protocol.errors import DeviceStorageFull


def clock(connection: sqlite3.Connection) -> StoreClock:
    """The store's clock at the last look."""
    return StoreClock(*connection.execute("SELECT time_s, wall_s, leapt_to_s FROM store").fetchone())


def look(connection: sqlite3.Connection, wall_s: float) -> StoreClock:
    """Look at the wall clock and remember it."""
    before = clock(connection)
    after = looked(before, wall_s)
    connection.execute("UPDATE store SET time_s = ?, wall_s = ?, leapt_to_s = ?", (*_columns(after),))
    if before.leapt_to_s is not None:  # a leap that was taken back may have stamped examples with the future
        now_s = presumed_s(after, wall_s)
        connection.execute("UPDATE examples SET added_at_s = ? WHERE added_at_s > ?", (now_s, now_s))
    return after


def next_id(connection: sqlite3.Connection) -> int:
    """The id of the next example. None is ever used twice."""
    return int(connection.execute("SELECT next_id FROM store").fetchone()[0])


def insert(
    connection: sqlite3.Connection, row: int, name: str, added_at_s: float, fingerprint: bytes | None, sealed: bytes
) -> None:
    """Keep one example under the next id."""
    connection.execute("INSERT INTO examples VALUES (?, ?, ?, ?, ?)", (row, name, added_at_s, fingerprint, sealed))
    connection.execute("UPDATE store SET next_id = ?", (row + 1,))


def holds(connection: sqlite3.Connection, name: str, fingerprint: bytes) -> bool:
    """Whether an example is held already."""
    question = "SELECT 1 FROM examples WHERE collection = ? AND fingerprint = ?"
    return connection.execute(question, (name, fingerprint)).fetchone() is not None


def readable(
    connection: sqlite3.Connection, name: str, now_s: float, time_to_live_s: float | None, maximum_age_s: float | None
) -> npt.NDArray[np.int64]:
    """Ids in order, younger than the time to live, and at most of the maximum age."""
    found = connection.execute(
        "SELECT id FROM examples WHERE collection = ? AND added_at_s > ? AND added_at_s >= ? ORDER BY id",
        (name, _before(now_s, time_to_live_s), _before(now_s, maximum_age_s)),
    )
    return np.fromiter((row for (row,) in found), np.int64)


def span(
    connection: sqlite3.Connection, name: str, now_s: float, time_to_live_s: float | None
) -> tuple[float, float] | None:
    """When the oldest and the newest readable example were added; None without one."""
    oldest, newest = connection.execute(
        "SELECT min(added_at_s), max(added_at_s) FROM examples WHERE collection = ? AND added_at_s > ?",
        (name, _before(now_s, time_to_live_s)),
    ).fetchone()
    return None if oldest is None else (oldest, newest)


def sealed_rows(connection: sqlite3.Connection, name: str, ids: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """The stored bytes of those ids that are there, one after another."""
    return connection.execute(  # the plus keeps SQLite from a way round by the index, whose pages it would read too
        "SELECT id, sealed FROM examples WHERE +collection = ? AND id IN (SELECT value FROM json_each(?))",
        (name, json.dumps(ids)),
    )


def delete(connection: sqlite3.Connection, name: str, ids: Sequence[int]) -> int:
    """Delete examples; returns how many were there."""
    return connection.execute(
        "DELETE FROM examples WHERE collection = ? AND id IN (SELECT value FROM json_each(?))",
        (name, json.dumps(ids)),
    ).rowcount


def delete_expired(connection: sqlite3.Connection, now_s: float) -> int:
    """Delete what is past its time to live, in every collection; returns how many there were."""
    return connection.execute(
        "DELETE FROM examples WHERE id IN (SELECT id FROM examples JOIN collections ON name = collection "
        "WHERE added_at_s <= ? - time_to_live_s)",
        (now_s,),
    ).rowcount


def count(connection: sqlite3.Connection, name: str) -> int:
    """How many examples a collection holds, readable or not."""
    return int(connection.execute("SELECT count(*) FROM examples WHERE collection = ?", (name,)).fetchone()[0])


def evict(connection: sqlite3.Connection, name: str, surplus: int) -> list[int]:
    """Delete so many of those that were added first; returns their ids. None for a surplus below 1."""
    first = "SELECT id FROM examples WHERE collection = ? ORDER BY id LIMIT ?"
    ids = [row for (row,) in connection.execute(first, (name, max(0, surplus)))]
    delete(connection, name, ids)
    return ids


def forget(connection: sqlite3.Connection, name: str) -> None:
    """Delete a collection with all that belongs to it."""
    for statement in (
        "DELETE FROM snapshots WHERE collection = ?",
        "DELETE FROM examples WHERE collection = ?",
        "DELETE FROM collections WHERE name = ?",
    ):
        connection.execute(statement, (name,))


def keep_snapshots(connection: sqlite3.Connection, kept: Sequence[str]) -> None:
    """Delete every snapshot but these."""
    connection.execute("DELETE FROM snapshots WHERE id NOT IN (SELECT value FROM json_each(?))", (json.dumps(kept),))


def give_back(connection: sqlite3.Connection) -> None:
    """Return free pages, which are overwritten already, to the disk; on a full one that waits."""
    with suppress(DeviceStorageFull), meaning():
        connection.executescript("PRAGMA incremental_vacuum")  # `execute` would give back a single page


def _before(now_s: float, age_s: float | None) -> float:
    return -math.inf if age_s is None else now_s - age_s


def _columns(of: StoreClock) -> tuple[float, float, float | None]:
    return of.time_s, of.wall_s, of.leapt_to_s
