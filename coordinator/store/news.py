"""What processes tell each other through PostgreSQL: that rounds changed. `LISTEN` and `NOTIFY`.

A worker tells within the transaction that changes a round, so that nobody can die between the commit and the telling.
Nothing is in the message: whoever hears it looks at the database.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
from sqlmodel import Session

from coordinator.store import postgres
from coordinator.store.database import Database

_log = logging.getLogger("edgewise.news")

RETRY_S = 1.0
_CHANNEL = "edgewise_rounds"
_CONNECTION: dict[str, Any] = {
    "autocommit": True,
    "application_name": "edgewise-news",
    "connect_timeout": postgres.CONNECT_TIMEOUT_S,
    # That the other end is silently gone is noticed after 30 s.
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}


def tell(session: Session) -> None:
    """Tell every process when this transaction has committed; on SQLite there is no other."""
    if session.get_bind().dialect.name == "postgresql":
        session.connection().exec_driver_sql(f"NOTIFY {_CHANNEL}")


async def listen(database: Database, heard: Callable[[], None]) -> None:
    """Call `heard` whenever some process told, until cancelled; also when something may have been missed.

    One connection, beside those of the pool. While PostgreSQL does not answer, it is tried again and again.
    """
    arguments: dict[str, Any] = {**database.engine.dialect.create_connect_args(database.url)[1], **_CONNECTION}
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(**arguments) as connection:
                await connection.execute(f"LISTEN {_CHANNEL}")
                heard()
                async for _told in connection.notifies():
                    heard()
        except psycopg.OperationalError as problem:
            _log.warning("the database tells nothing: %s", type(problem).__name__)
        await asyncio.sleep(RETRY_S)


@asynccontextmanager
async def hearing(database: Database, heard: Callable[[], None]) -> AsyncIterator[None]:
    """Hear the other processes while the block runs; on SQLite there is none."""
    if not database.is_postgres:
        yield
        return
    listening = asyncio.create_task(listen(database, heard))
    try:
        yield
    finally:
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening
