"""One clock for all replicas: the database's, whatever a machine's own says."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from coordinator import app
from coordinator.store import database as store
from coordinator.store.database import Database, database_now
from tests.postgres import Postgres, drop_database
from tests.programme import Clock, forget_home, make_home, settings_in

WRONG = timedelta(hours=1)
CLOSE = timedelta(minutes=1)


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    url = postgres.new()
    yield url
    drop_database(url)


@pytest.fixture
def _wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's clock is wrong."""
    monkeypatch.setattr(store, "utc_now", lambda: datetime.now(UTC) + WRONG)


@pytest.mark.usefixtures("_wrong")
def test_a_process_follows_postgresqls_clock(url: str) -> None:
    database = Database(url)
    assert abs(database.now() - datetime.now(UTC)) > CLOSE, "nothing was written yet"
    told = database.transact(database_now)
    with database.reading() as session:
        read = database_now(session)
    for time in (told, read, database.now()):
        assert abs(time - datetime.now(UTC)) < CLOSE
    database.close()


@pytest.mark.usefixtures("_wrong")
def test_what_requests_are_held_against_is_the_database_s_clock(postgres: Postgres, tmp_path: Path) -> None:
    make_home(tmp_path, postgres.new())
    parts = app.create_app(settings_in(tmp_path)).state.parts
    with parts.database.writing():
        pass
    assert abs(parts.now() - datetime.now(UTC)) < CLOSE
    parts.database.close()
    forget_home(tmp_path)


def test_the_clock_of_tests_goes_before_all_others(url: str, tmp_path: Path) -> None:
    clock = Clock()
    for address in (url, f"sqlite:///{tmp_path / 'coordinator.sqlite'}"):
        database = Database(address, clock=clock)
        assert database.now() == database.transact(database_now) == clock()
        clock.forward(10)
        assert database.now() == clock()
        database.close()


def test_sqlites_clock_is_this_process_s(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'coordinator.sqlite'}")
    before = datetime.now(UTC)
    assert before <= database.transact(database_now) <= database.now() <= datetime.now(UTC)
    database.close()
