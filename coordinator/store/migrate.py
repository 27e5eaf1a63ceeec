"""Bring a database to the newest schema, or back."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection

from coordinator.store import postgres
from coordinator.store.database import Database

_FOLDER = Path(__file__).parent / "migrations"


def upgrade(database: Database, revision: str = "head") -> None:
    """Apply every migration that is missing; nothing happens when none is."""
    with _migrating(database) as connection:
        if revision == "head" and MigrationContext.configure(connection).get_current_heads() == (_newest(),):
            return
        command.upgrade(_config(connection), revision)


def downgrade(database: Database, revision: str) -> None:
    """Go back to a revision (`base` for an empty database)."""
    with _migrating(database) as connection:
        command.downgrade(_config(connection), revision)


def missing(database: Database) -> list[str]:
    """The migrations that are still to be applied, oldest first."""
    script = ScriptDirectory(str(_FOLDER))
    with database.engine.connect() as connection:
        applied = set(MigrationContext.configure(connection).get_current_heads())
    found = [one.revision for one in script.iterate_revisions("heads", "base")]
    newest = next((place for place, revision in enumerate(found) if revision in applied), len(found))
    return found[:newest][::-1]


def revisions() -> list[Script]:
    """Every revision, oldest first, with what it says of itself."""
    return list(ScriptDirectory(str(_FOLDER)).iterate_revisions("heads", "base"))[::-1]


def applied(database: Database) -> list[str]:
    """The revisions that the database has, oldest first."""
    behind = set(missing(database))
    return [one.revision for one in revisions() if one.revision not in behind]


@contextmanager
def _migrating(database: Database) -> Iterator[Connection]:
    """One transaction. SQLite changes a table by making it anew, which must not count as deleting what it holds."""
    options = {"isolation_level": "READ COMMITTED"} if database.is_postgres else {}  # sees what another replica did
    with database.engine.connect().execution_options(**options) as connection:
        sqlite = connection.dialect.name == "sqlite"
        switch = connection.connection.driver_connection
        if sqlite and switch is not None:
            switch.execute("PRAGMA foreign_keys=OFF")  # takes effect outside a transaction only
        try:
            with connection.begin():
                if database.is_postgres:
                    postgres.wait_to_migrate(connection)
                yield connection
                if sqlite and (orphans := connection.exec_driver_sql("PRAGMA foreign_key_check").all()):
                    raise RuntimeError(f"a migration would leave {len(orphans)} rows that belong to nothing")
        finally:
            if sqlite and switch is not None:
                switch.execute("PRAGMA foreign_keys=ON")


@functools.cache
def _newest() -> str | None:
    return ScriptDirectory(str(_FOLDER)).get_current_head()


def _config(connection: object) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    config.attributes["connection"] = connection
    return config
