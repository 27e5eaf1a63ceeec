"""Data goes up to the newest schema from every one before, and down again, on both databases."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import JSON, Boolean, DateTime, Float, Integer, LargeBinary, MetaData, Table, insert, select

from coordinator.store import migrate
from coordinator.store.database import Database
from tests.postgres import drop_database
from tests.programme import START

_SCRIPT = ScriptDirectory(str(Path(migrate.__file__).parent / "migrations"))
REVISIONS = [script.revision for script in _SCRIPT.walk_revisions()][::-1]
NAMES = {"tenant": "acme", "population": "keyboard", "state": "active", "phase": "reporting", "kind": "round"}
NAMES_OF = {"tenants": "acme", "populations": "keyboard", "tasks": "words", "cohorts": "all"}
SETTINGS: dict[str, Any] = {
    "over_selection": 1.0,
    "pool_size": 1,
    "selecting_deadline_s": 1.0,
    "reporting_deadline_s": 1.0,
    "retry_rejected_s": 1.0,
    "retry_reported_s": 1.0,
    "stop": {"rounds": 1},
    "server_optimiser": {"learning_rate": 1.0},
}


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        made = Database(f"sqlite:///{tmp_path / 'coordinator.sqlite'}")
        yield made
        made.close()
        return
    url = request.getfixturevalue("postgres").new(migrated=False)
    made = Database(url)
    yield made
    made.close()
    drop_database(url)


def tables(database: Database) -> list[Table]:
    """As they are now, parents before children."""
    found = MetaData()
    found.reflect(database.engine)
    return [table for table in found.sorted_tables if table.name != "alembic_version"]


def row(table: Table) -> dict[str, Any]:
    """A row of a table; every id is the same, so that it belongs to the rows of the other tables."""
    values: dict[str, Any] = {}
    for column in table.columns:
        if column.name == "settings":
            values[column.name] = json.dumps(SETTINGS).encode()
        elif isinstance(column.type, LargeBinary):
            values[column.name] = bytes(range(32))
        elif isinstance(column.type, DateTime):
            values[column.name] = START
        elif isinstance(column.type, Boolean):
            values[column.name] = False
        elif isinstance(column.type, Integer | Float):
            values[column.name] = 1
        elif isinstance(column.type, JSON):
            values[column.name] = {"a": [1]}
        elif column.name == "name":
            values[column.name] = NAMES_OF[table.name]
        else:
            values[column.name] = NAMES.get(column.name, "ab" * (16 if column.type.length == 32 else 8))  # type: ignore[attr-defined]
    return values


def load(database: Database) -> None:
    with database.engine.begin() as connection:
        for table in tables(database):
            connection.execute(insert(table).values(**row(table)))


def plain(value: object) -> object:
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
    return base64.b64encode(value).decode() if isinstance(value, bytes | memoryview) else value


def content(database: Database) -> dict[str, list[dict[str, object]]]:
    with database.engine.connect() as connection:
        return {
            table.name: [
                {name: plain(value) for name, value in found.items()}
                for found in connection.execute(select(table)).mappings()
            ]
            for table in tables(database)
        }


@pytest.mark.parametrize("revision", REVISIONS)
def test_data_of_every_schema_goes_up_to_the_newest_and_down_again(database: Database, revision: str) -> None:
    migrate.upgrade(database, revision)
    load(database)
    before = content(database)
    assert all(len(rows) == 1 for rows in before.values())
    migrate.upgrade(database)
    newest = content(database)
    for table, (old,) in before.items():
        (new,) = newest[table]
        kept = old.keys() & new.keys()
        assert {name: old[name] for name in kept} == {name: new[name] for name in kept}, table
    migrate.downgrade(database, revision)
    assert content(database) == before


def test_the_newest_schema_with_data_goes_down_step_by_step_to_nothing(database: Database) -> None:
    migrate.upgrade(database)
    load(database)
    for revision in [*REVISIONS[:-1][::-1], "base"]:
        migrate.downgrade(database, revision)
    assert tables(database) == []


def test_coordinators_that_start_one_after_another_migrate_once(database: Database) -> None:
    for _start in range(2):
        migrate.upgrade(database)
    load(database)
    migrate.upgrade(database)
    assert all(len(rows) == 1 for rows in content(database).values())
