"""Transactions beside others: whoever reads and then writes is right, on either database, and surroundings pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlmodel import Session, func, select

from coordinator.store import migrate, postgres
from coordinator.store.database import TRIES, Database, database_now
from coordinator.store.tables import Heartbeat, Tenant
from edge_runtime.protocol.errors import Refusal, StorageFull, Unavailable
from tests.postgres import OwnServer, Postgres, drop_database, running
from tests.programme import START, Clock


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """With every table."""
    url = f"sqlite:///{tmp_path / 'coordinator.sqlite'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").new()
    made = Database(url)
    migrate.upgrade(made)
    yield made
    made.close()
    if request.param == "postgresql":
        drop_database(url)


@pytest.fixture
def pg(postgres: Postgres) -> Iterator[Database]:
    url = postgres.new()
    made = Database(url, connections=10)
    yield made
    made.close()
    drop_database(url)


def count(session: Session) -> int:
    return session.exec(select(func.count()).select_from(Tenant)).one()


def add_one_more(session: Session) -> None:
    """Right only if nothing is added between the look and the write."""
    number = count(session)
    session.add(Tenant(name=f"tenant-{number}", public_key=bytes(32), created_at=START))


def at_once(times: int, act: Callable[[], object]) -> None:
    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(act) for _one in range(times)]:
            done.result()


def test_whoever_looks_and_then_writes_sees_every_one_before(database: Database) -> None:
    at_once(40, lambda: database.transact(add_one_more))
    with database.reading() as session:
        assert count(session) == 40


def test_writers_alone_and_beside_others_do_not_harm_each_other(database: Database) -> None:
    def alone() -> None:
        with database.writing() as session:
            add_one_more(session)

    beside = threading.Thread(target=at_once, args=(20, lambda: database.transact(add_one_more)))
    beside.start()
    at_once(20, alone)
    beside.join()
    with database.reading() as session:
        assert count(session) == 40


def test_read_committed_would_lose_an_update_and_the_test_sees_it(
    pg: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant of the two tests above: without serialisable isolation, two see the same."""
    monkeypatch.setattr(pg, "engine", pg.engine.execution_options(isolation_level="READ COMMITTED"))
    both = threading.Barrier(2, timeout=20)

    def look_and_write(session: Session) -> None:
        number = count(session)
        both.wait()
        session.add(Tenant(name=f"tenant-{number}-{threading.get_ident()}", public_key=bytes(32), created_at=START))

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(pg.transact, look_and_write) for _one in range(2)]:
            done.result()
    with pg.reading() as session:
        assert {name.split("-")[1] for name in session.exec(select(Tenant.name)).all()} == {"0"}


def test_a_transaction_is_repeated_when_another_was_first(pg: Database) -> None:
    tries: list[int] = []

    def interrupted(session: Session) -> int:
        number = count(session)
        if not tries:
            with ThreadPoolExecutor(1) as other:
                other.submit(pg.transact, add_one_more).result()
        tries.append(number)
        session.add(Tenant(name=f"tenant-{number}", public_key=bytes(32), created_at=START))
        return number

    assert pg.transact(interrupted) == 1
    assert tries == [0, 1]


def test_a_transaction_that_others_always_overtake_has_the_database_to_itself_at_last(pg: Database) -> None:
    tries: list[int] = []

    def overtaken(session: Session) -> None:
        tries.append(count(session))
        if len(tries) < TRIES:
            with ThreadPoolExecutor(1) as other:
                other.submit(pg.transact, add_one_more).result()
        session.add(Tenant(name=f"tenant-{tries[-1]}", public_key=bytes(32), created_at=START))

    pg.transact(overtaken)
    assert tries == [0, 1, 2, 3]


def test_a_row_that_is_there_twice_is_a_bug_however_often_it_is_tried(database: Database) -> None:
    tries: list[int] = []

    def twice(session: Session) -> None:
        tries.append(1)
        for _again in range(2):
            session.connection().execute(
                Tenant.__table__.insert().values(name="acme", public_key=bytes(32), created_at=START)  # type: ignore[attr-defined]
            )

    with pytest.raises(IntegrityError):
        database.transact(twice)
    assert len(tries) == (TRIES if database.is_postgres else 1)
    with database.writing() as session:
        assert count(session) == 0


def test_a_refusal_is_not_repeated_and_leaves_nothing(database: Database) -> None:
    tries: list[int] = []

    def refuse(session: Session) -> None:
        tries.append(1)
        add_one_more(session)
        raise Unavailable("not now")

    with pytest.raises(Unavailable):
        database.transact(refuse)
    with database.reading() as session:
        assert (len(tries), count(session)) == (1, 0)


def test_what_is_read_cannot_be_written_on_postgresql(pg: Database) -> None:
    with pg.reading() as session:
        session.add(Heartbeat(id=1, at=START))
        with pytest.raises(DBAPIError, match="read-only"):
            session.flush()


def test_the_database_says_what_time_it_is(database: Database) -> None:
    before = datetime.now(UTC)
    with database.writing() as session:
        written = database_now(session)
        assert database_now(session) == written
    with database.reading() as session:
        read = database_now(session)
    assert before - timedelta(seconds=1) <= written <= read <= datetime.now(UTC) + timedelta(seconds=1)
    assert written.tzinfo is UTC or written.utcoffset() == timedelta()


def test_a_clock_that_is_given_is_the_time(database: Database) -> None:
    clocked = Database(database.url.render_as_string(hide_password=False), clock=Clock())
    with clocked.writing() as session:
        assert database_now(session) == START
    with clocked.reading() as session:
        assert database_now(session) == START
    clocked.close()


@pytest.mark.parametrize(
    "url",
    ["mysql://root@127.0.0.1/x", "postgresql+asyncpg://x@127.0.0.1/x", "", "coordinator.sqlite", "sqlite+what://"],
)
def test_an_address_of_another_kind_is_refused_by_a_sentence(url: str) -> None:
    with pytest.raises(ValueError, match="begins with sqlite:/// or postgresql://"):
        Database(url)


# --- surroundings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "refusal"),
    [
        ("53100", StorageFull),
        ("53300", Unavailable),
        ("55P03", Unavailable),
        ("57014", Unavailable),
        ("57P01", Unavailable),
        ("57P03", Unavailable),
        ("25P03", Unavailable),
        ("08006", Unavailable),
        ("40001", Unavailable),
        (None, Unavailable),
    ],
)
def test_what_passes_says_when_to_come_back(pg: Database, state: str | None, refusal: type[Refusal]) -> None:
    cause = psycopg.OperationalError("as it would be") if state is None else psycopg.errors.lookup(state)("so")

    def suffer() -> None:
        with pg.writing():
            raise OperationalError("SELECT", {}, cause)

    with pytest.raises(refusal) as raised:
        suffer()
    assert raised.value.retry_after_s is not None
    assert raised.value.retry_after_s > 0
    assert raised.value.__cause__ is not None


def test_what_does_not_pass_is_a_bug(pg: Database) -> None:
    def wrong(session: Session) -> None:
        session.connection().exec_driver_sql("SELECT nonsense")

    with pytest.raises(DBAPIError, match="nonsense"):
        pg.transact(wrong)


def test_whoever_waits_too_long_for_a_writer_is_told_to_come_back(
    pg: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "LOCK_TIMEOUT_S", 0.05)
    hurried = Database(pg.url.render_as_string(hide_password=False))

    def write() -> None:
        with hurried.writing():
            raise AssertionError("there was another")

    with pg.writing() as session:
        for attempt in (write, lambda: hurried.transact(add_one_more)):
            with pytest.raises(Unavailable, match="busy"):
                attempt()
        add_one_more(session)
    hurried.transact(add_one_more)  # and holds on to nothing
    with pg.reading() as session:
        assert count(session) == 2
    hurried.close()


def test_a_writer_that_stops_halfway_is_put_out_and_the_others_go_on(
    pg: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgres._BEGIN, "idle", "100ms")
    frozen = Database(pg.url.render_as_string(hide_password=False))

    def sleep_while_writing() -> None:
        with frozen.writing() as session:
            add_one_more(session)
            pg.transact(add_one_more)  # goes on as soon as the other was put out
            session.flush()

    with pytest.raises(Unavailable):
        sleep_while_writing()
    with pg.reading() as session:
        assert session.exec(select(Tenant.name)).all() == ["tenant-0"]
    frozen.close()


def test_all_connections_in_use_is_said(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.store.postgres.LOCK_TIMEOUT_S", 0.05)
    url = postgres.new()
    small = Database(url, connections=1)
    with small.reading() as session:
        count(session)
        with pytest.raises(Unavailable, match="in use"):
            small.transact(add_one_more)
    small.close()
    drop_database(url)


def test_a_database_that_restarts_is_unavailable_and_then_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEWISE_TEST_POSTGRES", raising=False)
    with running() as server:
        assert isinstance(server, OwnServer)
        database = Database(server.new())
        for _connection in range(3):
            at_once(8, lambda: database.transact(add_one_more))
        server.stop()
        with pytest.raises(Unavailable, match="does not answer") as raised:
            database.transact(add_one_more)
        assert isinstance(raised.value.retry_after_s, float)
        server.start()
        database.transact(add_one_more)
        with database.writing() as session:
            assert count(session) == 25
        database.close()


def test_a_crash_in_the_middle_of_a_transaction_leaves_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEWISE_TEST_POSTGRES", raising=False)
    with running() as server:
        assert isinstance(server, OwnServer)
        database = Database(server.new())

        def crashing(session: Session) -> None:
            add_one_more(session)
            session.flush()
            server.stop()
            server.start()

        with pytest.raises(Unavailable):
            database.transact(crashing)
        with database.reading() as session:
            assert count(session) == 0
        database.close()
