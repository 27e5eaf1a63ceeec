"""Which worker may write about a task, where there are several: on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from coordinator import claims
from coordinator.claims import Claims
from coordinator.store.database import Database
from coordinator.store.leases import LeaseLost
from tests.postgres import Postgres, drop_database
from tests.programme import Clock

LEASE_S = 15.0


@pytest.fixture
def database(postgres: Postgres, clock: Clock) -> Iterator[Database]:
    url = postgres.new()
    database = Database(url, clock=clock)
    yield database
    database.close()
    drop_database(url)


@pytest.fixture
def two(database: Database) -> tuple[Claims, Claims]:
    return Claims(database, "one", LEASE_S), Claims(database, "other", LEASE_S)


def may_write(database: Database, worker: Claims) -> bool:
    try:
        database.transact(lambda session: worker.check(session, "task"))
    except LeaseLost:
        return False
    return True


def test_a_task_has_one_worker_and_the_next_when_that_is_silent(
    database: Database, two: tuple[Claims, Claims], clock: Clock
) -> None:
    one, other = two
    assert (one.hold("task"), other.hold("task")) == (True, False)
    clock.forward(LEASE_S + 1)
    assert may_write(database, one), "nobody was faster"
    assert other.hold("task")
    assert (may_write(database, one), may_write(database, other)) == (False, True)


def test_a_step_that_takes_longer_than_a_lease_keeps_its_task(
    database: Database, two: tuple[Claims, Claims], clock: Clock
) -> None:
    one, other = two
    assert one.hold("task")
    for _third in range(12):
        clock.forward(LEASE_S / 3)
        one.renew()
        assert not other.hold("task")
    assert may_write(database, one)


def test_without_renewing_a_long_step_would_lose_its_task(
    database: Database, two: tuple[Claims, Claims], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant."""
    monkeypatch.setattr(Claims, "renew", lambda _worker: None)
    with pytest.raises(AssertionError):
        test_a_step_that_takes_longer_than_a_lease_keeps_its_task(database, two, clock)


def test_a_task_that_was_lost_is_not_held_again_by_renewing(
    database: Database, two: tuple[Claims, Claims], clock: Clock
) -> None:
    one, other = two
    assert one.hold("task")
    clock.forward(LEASE_S + 1)
    assert other.hold("task")
    one.renew()
    assert (may_write(database, one), may_write(database, other)) == (False, True)
    assert not one.hold("task"), "it learns that, and holds it no more"


def test_a_task_that_was_given_back_is_the_next_workers(database: Database, two: tuple[Claims, Claims]) -> None:
    one, other = two
    assert one.hold("task")
    one.keep(())
    one.renew()
    assert other.hold("task")
    assert (may_write(database, one), may_write(database, other)) == (False, True)


def test_a_worker_leaves_tasks_to_the_others(two: tuple[Claims, Claims]) -> None:
    one, other = two
    tasks = [f"task {number}" for number in range(claims.MOST_HELD + 1)]
    assert [one.hold(task) for task in tasks] == [True] * claims.MOST_HELD + [False]
    assert other.hold(tasks[-1])
