"""What a worker of one process tells the check-ins that another holds: two coordinators on one PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import anyio.from_thread
import pytest
from sqlalchemy import text
from sqlmodel import Session

from coordinator.store import news
from coordinator.store.database import Database
from edge_runtime.protocol.checkin import CheckInAnswer
from tests.coordinator.asking import check_in
from tests.coordinator.test_held_check_ins import wait_for_candidates
from tests.postgres import Postgres, drop_database
from tests.programme import Clock, Home, forget_home, make_home, open_home

LONG_S = 20


@pytest.fixture
def replicas(postgres: Postgres, tmp_path: Path, clock: Clock) -> Iterator[tuple[Home, Home]]:
    """Both would hold a check-in far longer than a test runs."""
    folder = tmp_path / "home"
    folder.mkdir()
    token = make_home(folder, postgres.new())
    with (
        open_home(folder, clock, token, hold_s=60) as one,
        open_home(folder, clock, token, hold_s=60) as other,
    ):
        yield one, other
    forget_home(folder)


@contextmanager
def four_held(home: Home) -> Iterator[list[Future[CheckInAnswer]]]:
    phones = [home.phone(number) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        held = [pool.submit(check_in, home, phone) for phone in phones]
        try:
            wait_for_candidates(home, 4)
            assert not any(one.done() for one in held)
            yield held
        finally:
            home.app.state.draining = True
            home.app.state.parts.bell.ring()


def test_check_ins_that_one_process_holds_wake_when_the_worker_of_another_chose(replicas: tuple[Home, Home]) -> None:
    holding, working = replicas
    working.start_task()
    with four_held(holding) as held:
        working.look()
        assert all(one.result(LONG_S).assignment for one in held)


def test_a_worker_that_tells_nothing_wakes_nobody(replicas: tuple[Home, Home], monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant."""
    holding, working = replicas
    working.start_task()
    with four_held(holding) as held:
        monkeypatch.setattr(news, "tell", lambda _session: None)
        working.look()
        assert working.rounds()[0]["phase"] == "training"
        with pytest.raises(TimeoutError):
            held[0].result(0.5)


@pytest.fixture
def database(postgres: Postgres) -> Iterator[Database]:
    url = postgres.new()
    database = Database(url)
    yield database
    database.close()
    drop_database(url)


@contextmanager
def listening(database: Database) -> Iterator[threading.Semaphore]:
    """Released whenever something is heard."""
    heard = threading.Semaphore(0)
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(news.hearing(database, heard.release)),
    ):
        assert heard.acquire(timeout=LONG_S), "it may have missed something before it listened"
        yield heard


def test_what_is_told_is_heard_when_it_is_committed_and_not_otherwise(database: Database) -> None:
    def told_in_vain(session: Session) -> None:
        news.tell(session)
        raise ZeroDivisionError

    with listening(database) as heard:
        with pytest.raises(ZeroDivisionError):
            database.transact(told_in_vain)
        with database.writing() as session:
            news.tell(session)
            news.tell(session)
            assert not heard.acquire(blocking=False)
        assert heard.acquire(timeout=LONG_S)
        assert not heard.acquire(blocking=False), "once a transaction"


def test_a_listener_whose_connection_is_lost_listens_again_and_looks_whether_it_missed_something(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "RETRY_S", 0.01)
    with listening(database) as heard:
        with database.engine.connect() as connection:
            ended = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :name")
            assert connection.execute(ended, {"name": "edgewise-news"}).scalars().all() == [True]
        assert heard.acquire(timeout=LONG_S)
        with database.writing() as session:
            news.tell(session)
        assert heard.acquire(timeout=LONG_S)


def test_on_sqlite_there_is_nobody_to_tell(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'coordinator.sqlite'}")
    with database.writing() as session:
        news.tell(session)
    database.close()
