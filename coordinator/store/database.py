"""Transactions on the one database: SQLite in WAL mode, embedded."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Engine, TypeDecorator, create_engine, event
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import OperationalError
from sqlmodel import Session

from edge_runtime.protocol.errors import Refusal, StorageFull, Unavailable

BUSY_TIMEOUT_MS = 20_000


class UtcDateTime(TypeDecorator[datetime]):
    """Aware datetimes in UTC on every database; SQLite keeps no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("a naive datetime cannot be stored")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class Database:
    """Opens transactions. `writing` takes the write lock at its start, so that it never fails halfway for the lock."""

    def __init__(self, url: str) -> None:
        # Values of rows stay out of exceptions and logs.
        self.engine: Engine = create_engine(url, hide_parameters=True)
        self._turn: AbstractContextManager[object] = nullcontext()
        if self.engine.dialect.name == "sqlite":
            # SQLite has one writer, and waits for it by sleeping ever longer: threads of this process queue up instead.
            self._turn = threading.Lock()
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A consistent view; nothing is written."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction: committed durably when the block ends, rolled back when it raises.

        Raises:
            StorageFull: The disk has no room for it.
            Unavailable: Another process holds the write lock for too long.
        """
        try:
            with self._turn, self.engine.connect().execution_options(writing=True) as connection, connection.begin():
                session = Session(bind=connection, expire_on_commit=False)
                try:
                    yield session
                    session.flush()
                finally:
                    session.close()
        except OperationalError as problem:
            raise _what_passes(problem) or problem from problem

    def close(self) -> None:
        self.engine.dispose()


def _what_passes(problem: OperationalError) -> Refusal | None:
    """What the surroundings did, if it is one of the things that pass."""
    code = getattr(problem.orig, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StorageFull("the coordinator's disk is full", retry_after_s=900)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable("the coordinator's database is busy", retry_after_s=60)
    return None


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where _begin_sqlite says
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",  # a receipt outlives a power cut
        "foreign_keys=ON",
        f"busy_timeout={BUSY_TIMEOUT_MS}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Any) -> None:
    writing = connection.get_execution_options().get("writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
