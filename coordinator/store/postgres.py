"""What is PostgreSQL's own: how its transactions begin, and what its errors mean to whoever asked."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.engine import ExceptionContext

from edge_runtime.protocol.errors import Malformed, Refusal, StorageFull, Unavailable

LOCK_TIMEOUT_S = 20
STATEMENT_TIMEOUT_S = 60
IDLE_TIMEOUT_S = 60
"""A replica that stops halfway through writing loses its transaction after so long, and the others go on."""
CONNECT_TIMEOUT_S = 10

_WRITERS = 0x45646765
"""The advisory lock of writers: shared by transactions that may be repeated, exclusive to one that may not."""
_MIGRATIONS = _WRITERS + 1

_CONFLICTS = ("40001", "40P01", "23505", "23503")
"""Serialisation failure, deadlock, and rows that another transaction added or deleted first."""
_DISK_FULL = "53100"
_PASSES = {
    "40001": 1.0,
    "40P01": 1.0,
    "53200": 60.0,  # out of memory
    "53300": 30.0,  # too many connections
    "53400": 60.0,  # a configured limit
    "55P03": 30.0,  # lock timeout
    "57014": 30.0,  # statement timeout
    "57P01": 10.0,  # it shuts down,
    "57P02": 10.0,  # crashed,
    "57P03": 10.0,  # or starts
    "57P05": 10.0,  # idle session timeout
    "25P03": 10.0,  # idle transaction timeout
}
"""What passes by itself, and when to try again, in seconds."""
_LOST_S = 10.0
_UNKEPT = (None, "22021", "22P05")
"""Of data errors: NUL in a text, as the driver finds it, and characters without a place in the database's encoding."""

_BEGIN_SHARED = text(
    "SELECT set_config('idle_in_transaction_session_timeout', :idle, true), "
    "pg_advisory_xact_lock_shared(:writers), clock_timestamp()"
)
_BEGIN_ALONE = text(
    "SELECT set_config('idle_in_transaction_session_timeout', :idle, true), "
    "pg_advisory_xact_lock(:writers), pg_advisory_unlock(:writers), clock_timestamp()"
)
_BEGIN = {"idle": f"{IDLE_TIMEOUT_S}s", "writers": _WRITERS}


def configure(connection: psycopg.Connection[Any], _record: object) -> None:
    """Limit how long statements and locks are waited for, on a new connection."""
    connection.autocommit = True
    for setting in (
        f"lock_timeout = '{LOCK_TIMEOUT_S}s'",
        f"statement_timeout = '{STATEMENT_TIMEOUT_S}s'",
        "synchronous_commit = on",  # a receipt outlives a power cut, whatever the server's default
        "timezone = 'UTC'",
    ):
        connection.execute(f"SET {setting}")
    connection.autocommit = False


def keep_values_out(context: ExceptionContext) -> None:
    """Cut an error to its first line: PostgreSQL adds the values of rows in the next ones."""
    for problem in (context.original_exception, context.sqlalchemy_exception):
        if problem is not None and problem.args:
            problem.args = (str(problem.args[0]).partition("\n")[0],)


def wait_to_be_alone(connection: Connection) -> None:
    """Wait until no other transaction writes, and keep it so. Goes before the transaction, and `begin` into it.

    A serialisable transaction decides on what it saw at its start: the waiting must be over by then.
    """
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError("not a connection to PostgreSQL")
    try:
        driver.autocommit = True
        driver.execute("SELECT pg_advisory_lock(%s)", (_WRITERS,))
        driver.autocommit = False
    except BaseException:
        connection.invalidate()  # the lock, if it was got, ends with the connection
        raise


def begin(connection: Connection, *, alone: bool) -> datetime:
    """Begin to write, and return the database's time.

    Args:
        alone: Whether `wait_to_be_alone` went before: its lock is handed to the transaction, whose end frees it.
    """
    try:
        now: datetime = connection.execute(_BEGIN_ALONE if alone else _BEGIN_SHARED, _BEGIN).one()[-1]
    except BaseException:
        connection.invalidate()
        raise
    return now


def wait_to_migrate(connection: Connection) -> None:
    """Let one replica migrate at a time, for as long as it takes, until the transaction ends."""
    connection.execute(text("SET LOCAL lock_timeout = 0"))
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATIONS})


def time_of(connection: Connection) -> datetime:
    now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return now


def is_conflict(problem: BaseException | None) -> bool:
    """Whether another transaction was first, so that the same again may go well."""
    return isinstance(problem, psycopg.Error) and problem.sqlstate in _CONFLICTS


def refusal_for(problem: BaseException | None) -> Refusal | None:
    """What the surroundings did, if it passes; or that a text has a character which the database cannot keep."""
    if not isinstance(problem, psycopg.Error):
        return None
    if isinstance(problem, psycopg.DataError) and problem.sqlstate in _UNKEPT:
        return Malformed("a text of the request has the character NUL, or another that the database cannot keep")
    if problem.sqlstate == _DISK_FULL:
        return StorageFull("the database's disk is full", retry_after_s=900)
    if problem.sqlstate in _PASSES:
        return Unavailable("the coordinator's database is busy", retry_after_s=_PASSES[problem.sqlstate])
    lost = problem.sqlstate is None and isinstance(problem, psycopg.OperationalError)
    if lost or (problem.sqlstate or "").startswith("08"):
        return Unavailable("the coordinator's database does not answer", retry_after_s=_LOST_S)
    return None


def _driver(connection: Connection) -> psycopg.Connection[Any]:
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError("not a connection to PostgreSQL")
    return driver
