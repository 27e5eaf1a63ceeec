from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from coordinator.store import migrate
from coordinator.store.database import Database
from tests.coordinator.cohorts.world import DEVICES, disagreements, holding, populate, read
from tests.postgres import Postgres


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database with a population and without devices, of each kind in turn."""
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path_factory.mktemp('cohorts')}/cohorts.sqlite")
        migrate.upgrade(database)
    else:
        database = Database(request.getfixturevalue("postgres").new())
    populate(database)
    yield database
    database.close()


@pytest.fixture
def disagreeing_elsewhere(postgres: Postgres) -> Iterator[Callable[[dict[str, Any]], list[str]]]:
    """The same in a PostgreSQL whose columns sort text as people do: `a` before `B`."""
    database = Database(postgres.new())
    populate(database)
    with holding(database, DEVICES) as connection:
        for column in ("app_version_key", "platform", "region"):
            connection.exec_driver_sql(f'ALTER TABLE devices ALTER COLUMN {column} TYPE varchar COLLATE "unicode"')
        found = read(connection)
        yield lambda rule: disagreements(connection, found, rule)
    database.close()


@pytest.fixture
def disagreeing(database: Database) -> Iterator[Callable[[dict[str, Any]], list[str]]]:
    """What the evaluations of a rule disagree about, in the database with every kind of device in it."""
    with holding(database, DEVICES) as connection:
        found = read(connection)
        yield lambda rule: disagreements(connection, found, rule)
