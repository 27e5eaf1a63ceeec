"""Examples on the device's disk: declared, checked, sealed, limited, ageing, and deleted for good."""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from edge_runtime.example_store import rows
from edge_runtime.example_store.ageing import presumed_s
from edge_runtime.example_store.batches import Ids, StoredExamples
from edge_runtime.example_store.collection import Added, Collection, Eligibility, Statistics, pack
from edge_runtime.example_store.keys import DataKey, new_data_key, open_data_key
from edge_runtime.example_store.tables import DAMAGED_FILE, meaning, writing
from edge_runtime.examples import Examples, check_values
from edge_runtime.journal.sealing import Seal, SealBroken
from edge_runtime.protocol.errors import (
    DeviceStorageFull,
    InvalidExamples,
    NotFound,
    SchemaChanged,
    UnknownCollection,
)

DAMAGED_KEPT_S: Final = 7 * 86_400.0
"""A damaged file that was set aside is deleted after so long."""


class ExampleStore:
    """Opened by `open_store`, for one process. Safe to use from several threads. Times: seconds since the epoch.

    Guarantee: what returned is on disk; what raised did not happen. A process killed at any instant leaves each call
    done or not done. Every call that writes raises `DeviceStorageFull` where there is no room, deletions too, as
    SQLite keeps what it changes until it is changed; `erase_store` needs none. Every call raises `StateDamaged` where
    the file can no longer be read: the next opening sets it aside.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection, seal: Seal, *, found_damaged: bool) -> None:
        self.found_damaged = found_damaged
        """Whether this opening set a damaged file aside and began anew; the examples in it are lost."""
        self._folder = folder
        self._connection = connection
        self._seal = seal
        self._declared: dict[str, tuple[Collection, DataKey]] = {}
        self._turn = threading.RLock()

    def close(self) -> None:
        """Let go of the file; the folder stays held."""
        with self._turn:
            self._connection.close()

    def declare(self, collection: Collection, *, drop_other_schema: bool = False) -> None:
        """Say what a collection holds, at every start before it is used. Examples beyond a smaller quota go.

        Args:
            drop_other_schema: Delete examples of another schema, instead of refusing.

        Raises:
            SchemaChanged: It holds examples of another schema; nothing happened.
        """
        name, schema = collection.name, collection.schema_sha256
        with self._turn:
            with self._writing() as connection:
                held = self._stored_key(name)
                if held is not None and held[0] != schema:
                    if not drop_other_schema:
                        raise SchemaChanged(f"collection {name} holds examples of another schema")
                    rows.forget(connection, name)
                    held = None
                if held is None:
                    held = (schema, new_data_key(collection, self._seal))
                    connection.execute("INSERT INTO collections VALUES (?, ?, ?, NULL)", (name, *held))
                to_live = (collection.time_to_live_s, name)
                connection.execute("UPDATE collections SET time_to_live_s = ? WHERE name = ?", to_live)
                rows.evict(connection, name, rows.count(connection, name) - collection.capacity)
            self._declared[name] = collection, open_data_key(held[1], name, schema, self._seal)
            rows.give_back(self._connection)

    def add(self, name: str, examples: Examples, now_s: float) -> Added:
        """Keep all of these examples, or none of them. Beyond the quota the oldest go, be they of these.

        Raises:
            UnknownCollection: The app did not declare it.
            InvalidExamples: One does not fit the schema.
        """
        with self._turn:
            collection, key = self._declaration(name)
            _check(examples, collection)
            ids: list[int] = []
            evicted: list[int] = []
            with self._writing() as connection:
                stamp_s = presumed_s(rows.look(connection, now_s), now_s)
                row, room = rows.next_id(connection), collection.capacity - rows.count(connection, name)
                for position in range(len(examples)):
                    plain = pack(examples.x, examples.y, position)
                    fingerprint = key.fingerprint(plain) if collection.dedupe else None
                    if fingerprint is not None and rows.holds(connection, name, fingerprint):
                        continue
                    ids.append(row + len(ids))
                    evicted += rows.evict(connection, name, len(ids) - len(evicted) - room)
                    rows.insert(connection, ids[-1], name, stamp_s, fingerprint, key.close(plain, ids[-1]))
            gone = set(evicted)
            return Added(
                ids=tuple(one for one in ids if one not in gone),
                duplicates=len(examples) - len(ids),
                evicted=len(evicted),
            )

    def expire(self, now_s: float) -> int:
        """Delete what is past its time to live, in every collection ever declared; returns how many examples went.

        Source of what a clock that jumps does: the text of `ageing`.
        """
        with self._turn:
            with self._writing() as connection:
                time_s = rows.look(connection, now_s).time_s
                gone = rows.delete_expired(connection, time_s)
            rows.give_back(self._connection)
            damaged = self._folder / DAMAGED_FILE
            if damaged.exists() and damaged.stat().st_mtime <= time_s - DAMAGED_KEPT_S:
                damaged.unlink()
            return gone

    def delete(self, name: str, ids: Iterable[int]) -> int:
        """Delete examples by their ids; returns how many were there. No file of the folder holds them afterwards."""
        with self._turn:
            with self._writing() as connection:
                gone = rows.delete(connection, name, list(ids))
            rows.give_back(self._connection)
            return gone

    def delete_collection(self, name: str) -> None:
        """Delete a collection with its examples, its snapshots and its key, declared or not; then it is undeclared."""
        with self._turn:
            with self._writing() as connection:
                rows.forget(connection, name)
            self._declared.pop(name, None)
            rows.give_back(self._connection)

    def collections(self) -> tuple[str, ...]:
        """Names of all that is stored, whether this version of the app declares it or not."""
        with self._reading() as connection:
            return tuple(name for (name,) in connection.execute("SELECT name FROM collections ORDER BY name"))

    def statistics(self, name: str, now_s: float) -> Statistics:
        """Count what can be read now. For the classes each example is opened, one at a time.

        Raises:
            UnknownCollection: The app did not declare it.
        """
        with self._reading() as connection:
            collection, _key = self._declaration(name)
            time_s = presumed_s(rows.clock(connection), now_s)
            ids = rows.readable(connection, name, time_s, collection.time_to_live_s, None).tolist()
            span = rows.span(connection, name, time_s, collection.time_to_live_s)
            return Statistics(
                count=len(ids),
                bytes=len(ids) * collection.row_bytes,
                classes=self._classes(collection, ids),
                oldest_age_s=time_s - span[0] if span else None,
                newest_age_s=time_s - span[1] if span else None,
            )

    def eligible(self, name: str, minimum: int, maximum_age_s: float | None, now_s: float) -> Eligibility:
        """Count the examples that are at most so old (None: of any age), and not past their time to live.

        Raises:
            UnknownCollection: The app did not declare it.
        """
        with self._reading():
            return Eligibility(len(self._readable(name, maximum_age_s, now_s)), minimum)

    def snapshot(self, name: str, maximum_age_s: float | None, now_s: float) -> str:
        """Fix which examples a training uses, and their order; returns an id of 32 hex digits for `batches`.

        Raises:
            UnknownCollection: The app did not declare it.
        """
        with self._writing() as connection:
            rows.look(connection, now_s)
            ids = self._readable(name, maximum_age_s, now_s).astype("<i8")
            snapshot = secrets.token_hex(16)
            connection.execute("INSERT INTO snapshots VALUES (?, ?, ?)", (snapshot, name, ids.tobytes()))
            return snapshot

    def batches(self, snapshot: str) -> StoredExamples:
        """The examples of a snapshot, read as they are taken.

        Raises:
            NotFound: There is no such snapshot, or no longer.
            UnknownCollection: The app did not declare its collection.
        """
        with self._reading() as connection:
            question = "SELECT collection, ids FROM snapshots WHERE id = ?"
            held = connection.execute(question, (snapshot,)).fetchone()
            if held is None:
                raise NotFound("there is no such snapshot of examples")
            name, ids = held
            collection, _key = self._declaration(name)
            return StoredExamples(collection, np.frombuffer(ids, "<i8").astype(np.int64), partial(self._read, name))

    def keep_snapshots(self, *kept: str) -> None:
        """Forget every snapshot but these."""
        with self._writing() as connection:
            rows.keep_snapshots(connection, kept)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._turn, writing(self._connection):
            yield self._connection

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._turn, meaning():
            yield self._connection

    def _declaration(self, name: str) -> tuple[Collection, DataKey]:
        if name not in self._declared:
            raise UnknownCollection(f"the app declared no collection {name}")
        return self._declared[name]

    def _stored_key(self, name: str) -> tuple[bytes, bytes] | None:
        question = "SELECT schema_sha256, data_key FROM collections WHERE name = ?"
        held: tuple[bytes, bytes] | None = self._connection.execute(question, (name,)).fetchone()
        return held

    def _readable(self, name: str, maximum_age_s: float | None, now_s: float) -> Ids:
        collection, _key = self._declaration(name)
        time_s = presumed_s(rows.clock(self._connection), now_s)
        return rows.readable(self._connection, name, time_s, collection.time_to_live_s, maximum_age_s)

    def _read(self, name: str, ids: list[int]) -> Iterator[tuple[int, bytes]]:
        with self._reading():
            yield from self._opened(name, ids)

    def _opened(self, name: str, ids: list[int]) -> Iterator[tuple[int, bytes]]:
        """Examples that are there and whole, one after another; those that are damaged are deleted at the end."""
        _collection, key = self._declaration(name)
        damaged: list[int] = []
        for row, sealed in rows.sealed_rows(self._connection, name, ids):
            try:
                yield row, key.open(sealed, row)
            except SealBroken:
                damaged.append(row)
        if damaged:
            with suppress(DeviceStorageFull):
                self.delete(name, damaged)

    def _classes(self, collection: Collection, ids: list[int]) -> Mapping[int, int]:
        if collection.labels.shape or collection.labels.dtype != "int32":
            return {}
        opened = self._opened(collection.name, ids)
        return Counter(int.from_bytes(plain[-4:], "little", signed=True) for _row, plain in opened)


def _check(examples: Examples, collection: Collection) -> None:
    check_values(examples.x, collection.features, "feature")
    check_values(examples.y, collection.labels, "label")
    if len(examples.x) != len(examples.y):
        raise InvalidExamples(f"{len(examples.x)} rows of features for {len(examples.y)} labels")
