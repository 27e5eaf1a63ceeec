"""Transactions on the one database: SQLite in WAL mode, embedded, or PostgreSQL."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import psycopg
from sqlalchemy import DateTime, Engine, TypeDecorator, create_engine, event, make_url
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlmodel import Session

from coordinator.store import postgres, sqlite_functions
from edge_runtime.protocol.errors import Refusal, StorageFull, Unavailable

BUSY_TIMEOUT_MS = 20_000
TRIES = 4
"""How often a transaction that may be repeated begins, at most; the last time it has the database to itself."""
_NOW, _CLOCK, _AFTER = "edgewise.now", "edgewise.clock", "edgewise.after"

Answer = TypeVar("Answer")


class UtcDateTime(TypeDecorator[datetime]):
    """Aware datetimes in UTC on every database; SQLite keeps no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("a naive datetime cannot be stored")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def utc_now() -> datetime:
    return datetime.now(UTC)


class Database:
    """Opens transactions. Every one is serialisable: it does what it would do if it were the only one.

    `writing` has the database to itself among writers. `transact` shares it, where the database can (PostgreSQL).

    Args:
        url: `sqlite:///file` or `postgresql://user@host/name`.
        connections: How many connections this process may hold at once.
        clock: The time of transactions; unset for the database's own clock (on SQLite: this process's).

    Raises:
        ValueError: The address is of neither kind.
    """

    def __init__(self, url: str, *, connections: int = 20, clock: Callable[[], datetime] | None = None) -> None:
        self.url = _address(url)
        self._clock = clock
        self._apart = timedelta()
        self._turn: AbstractContextManager[object] = nullcontext()
        # Values of rows stay out of exceptions and logs.
        if self.is_postgres:
            self.engine: Engine = create_engine(
                self.url,
                hide_parameters=True,
                isolation_level="SERIALIZABLE",
                pool_size=connections,
                max_overflow=0,
                pool_timeout=postgres.LOCK_TIMEOUT_S,
                pool_pre_ping=True,  # after PostgreSQL restarted, the next transaction finds a new connection
                connect_args={"connect_timeout": postgres.CONNECT_TIMEOUT_S, "application_name": "edgewise"},
            )
            event.listen(self.engine, "connect", postgres.configure)
            event.listen(self.engine, "handle_error", postgres.keep_values_out)
        else:
            self._clock = clock or utc_now
            self.engine = create_engine(self.url, hide_parameters=True)
            # SQLite has one writer, and waits for it by sleeping ever longer: threads of this process queue up instead.
            self._turn = threading.Lock()
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @property
    def is_postgres(self) -> bool:
        return self.url.get_backend_name() == "postgresql"

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A consistent view; nothing is written.

        Raises:
            Unavailable: The database does not answer, or is too busy.
        """
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True} if self.is_postgres else {}
        with (
            _translated(),
            self.engine.connect().execution_options(**options) as connection,
            Session(bind=connection, expire_on_commit=False) as session,
        ):
            session.info[_CLOCK] = self._clock
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction, with no other writer beside it on any replica; committed durably when the block ends.

        It never fails halfway for another's sake, and is rolled back when the block raises.

        Raises:
            StorageFull: The disk has no room for it.
            Unavailable: The database does not answer, or others write for too long.
        """
        with _translated(), self.attempt(alone=True) as session:
            yield session

    def transact(self, act: Callable[[Session], Answer]) -> Answer:
        """One transaction, beside others where the database can; committed durably when this returns.

        At most `TRIES` attempts: when another transaction was first, `act` is called again on what that one left. So it
        reads and writes by its session and does nothing else.

        Raises: As `writing`, and what `act` raises.
        """
        with _translated():
            for _try in range(TRIES - 1 if self.is_postgres else 0):
                try:
                    with self.attempt(alone=False) as session:
                        return act(session)
                except DBAPIError as problem:
                    if not postgres.is_conflict(problem.orig):
                        raise
            with self.attempt(alone=True) as session:
                return act(session)

    @contextmanager
    def attempt(self, *, alone: bool) -> Iterator[Session]:
        """One attempt at a transaction, whose errors are as the database names them."""
        with self._turn, self.engine.connect().execution_options(writing=True) as connection:
            if self.is_postgres and alone:
                postgres.wait_to_be_alone(connection)
            with connection.begin():
                now = postgres.begin(connection, alone=alone) if self.is_postgres else None
                self._apart = timedelta() if now is None else now - utc_now()
                session = Session(bind=connection, expire_on_commit=False)
                session.info[_CLOCK] = self._clock
                session.info[_NOW] = self._clock() if self._clock else now
                try:
                    yield session
                    session.flush()
                finally:
                    session.close()
            for act in session.info.pop(_AFTER, ()):
                act()

    def now(self) -> datetime:
        """The time outside a transaction: this process's clock, put right by the last transaction that wrote."""
        return self._clock() if self._clock else utc_now() + self._apart

    def close(self) -> None:
        self.engine.dispose()


def database_now(session: Session) -> datetime:
    """The time of a transaction, by the database's clock: the same for all replicas, whatever their own clocks say.

    Of a transaction that writes, the time at which it had its turn; of one that reads, now.
    """
    if _NOW not in session.info:
        clock: Callable[[], datetime] | None = session.info.get(_CLOCK)
        return clock() if clock else postgres.time_of(session.connection())
    now: datetime = session.info[_NOW]
    return now


def after_commit(session: Session, act: Callable[[], None]) -> None:
    """Act once what the transaction wrote is durable; never for an attempt that was rolled back, or is made again.

    Who dies in between has not acted: it is for what others may miss, such as lines of the log.
    """
    session.info.setdefault(_AFTER, []).append(act)


def _address(url: str) -> URL:
    try:
        address = make_url(url)
    except ArgumentError:
        address = None
    if address is not None and address.drivername in ("postgresql", "postgresql+psycopg"):
        return address.set(drivername="postgresql+psycopg")
    if address is not None and address.drivername in ("sqlite", "sqlite+pysqlite"):
        return address
    raise ValueError("the database's address begins with sqlite:/// or postgresql://")


@contextmanager
def _translated() -> Iterator[None]:
    """Surroundings that fail for a while become refusals that say when to come back."""
    try:
        yield
    except PoolTimeout as problem:
        raise Unavailable("all connections to the database are in use", retry_after_s=10) from problem
    except DBAPIError as problem:
        raise _refusal_for(problem.orig) or problem from problem
    except psycopg.Error as problem:
        raise _refusal_for(problem) or problem from problem


def _refusal_for(problem: BaseException | None) -> Refusal | None:
    """What a caller is told of an error of the database, if it is not a bug."""
    if not isinstance(problem, sqlite3.OperationalError):
        return postgres.refusal_for(problem)
    code = getattr(problem, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StorageFull("the coordinator's disk is full", retry_after_s=900)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable("the coordinator's database is busy", retry_after_s=60)
    return None


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where _begin_sqlite says
    sqlite_functions.add_functions(connection)
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
