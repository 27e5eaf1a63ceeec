"""Leases: one holder at a time, and a holder that was overtaken writes nothing, whatever the clocks say."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlmodel import Session, select

from coordinator.store import leases, migrate
from coordinator.store.database import Database
from coordinator.store.leases import Lease, LeaseLost, LeaseRow
from coordinator.store.tables import Heartbeat
from tests.postgres import Postgres, drop_database
from tests.programme import START

LATER = START + timedelta(seconds=31)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        made = Database(f"sqlite:///{tmp_path / 'coordinator.sqlite'}")
        migrate.upgrade(made)
        yield made
        made.close()
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.new()
    made = Database(url)
    yield made
    made.close()
    drop_database(url)


def claim(database: Database, holder: str, keys: str = "a", at: object = START, most: int = 1) -> list[Lease]:
    return database.transact(
        lambda session: leases.claim(session, "round", keys, holder, at, 30, most)  # type: ignore[arg-type]
    )


def test_a_key_has_one_holder(database: Database) -> None:
    (first,) = claim(database, "one")
    assert claim(database, "two") == []
    assert claim(database, "one") == [], "not even itself: two threads of a worker are two"
    assert (first.key, first.holder, first.expires_at) == ("a", "one", START + timedelta(seconds=30))


def test_a_worker_claims_at_most_what_it_asked_for_and_another_the_rest(database: Database) -> None:
    assert [lease.key for lease in claim(database, "one", "abcd", most=3)] == ["a", "b", "c"]
    assert [lease.key for lease in claim(database, "two", "abcd", most=3)] == ["d"]


def test_the_next_holder_has_a_larger_number(database: Database) -> None:
    (first,) = claim(database, "one")
    (second,) = claim(database, "two", at=LATER)
    assert second.fence > first.fence


def test_a_holder_that_wakes_up_late_writes_nothing(database: Database) -> None:
    (first,) = claim(database, "one")
    (second,) = claim(database, "two", at=LATER)

    def write(session: Session, lease: Lease) -> None:
        session.add(Heartbeat(id=1, at=START))
        leases.check_fence(session, lease)

    with pytest.raises(LeaseLost):
        database.transact(lambda session: write(session, first))
    with database.reading() as session:
        assert session.get(Heartbeat, 1) is None
    database.transact(lambda session: write(session, second))


def test_a_holder_that_is_late_but_was_not_overtaken_may_still_write(database: Database) -> None:
    (lease,) = claim(database, "one")
    database.transact(lambda session: leases.check_fence(session, lease))
    renewed = database.transact(lambda session: leases.renew(session, lease, LATER, 30))
    assert renewed.expires_at == LATER + timedelta(seconds=30)
    assert claim(database, "two", at=LATER) == []


def test_a_lease_given_back_is_free_at_once_and_of_no_use_any_more(database: Database) -> None:
    (first,) = claim(database, "one")
    for _again in range(2):
        database.transact(lambda session: leases.release(session, first))
    with pytest.raises(LeaseLost):
        database.transact(lambda session: leases.renew(session, first, START, 30))
    (second,) = claim(database, "two")
    assert second.fence > first.fence
    database.transact(lambda session: leases.release(session, first))
    database.transact(lambda session: leases.check_fence(session, second))


@pytest.mark.parametrize("step_s", [-86_400, -1, 3600])
def test_a_step_of_the_clock_makes_no_two_writers(database: Database, step_s: int) -> None:
    (first,) = claim(database, "one")
    database.transact(lambda session: leases.release(session, first))
    stepped = START + timedelta(seconds=step_s)
    (second,) = claim(database, "two", at=stepped)
    assert second.fence > first.fence
    with pytest.raises(LeaseLost):
        database.transact(lambda session: leases.check_fence(session, first))


def test_a_forgotten_lease_is_lost_and_its_key_begins_above_it(database: Database) -> None:
    (first,) = claim(database, "one")
    assert database.transact(lambda session: leases.sweep(session, START)) == 0
    assert database.transact(lambda session: leases.sweep(session, LATER)) == 1
    (second,) = claim(database, "one", at=LATER)
    assert second.fence > first.fence
    with pytest.raises(LeaseLost):
        database.transact(lambda session: leases.check_fence(session, first))


@pytest.mark.parametrize("lease_s", [0, -1])
def test_a_lease_lasts(database: Database, lease_s: float) -> None:
    with pytest.raises(ValueError, match="longer than 0"):
        database.transact(lambda session: leases.claim(session, "round", ["a"], "one", START, lease_s))


def test_of_many_workers_at_once_each_key_has_one_winner(database: Database) -> None:
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(claim, database, f"w{number}", "abcdefgh", START, 2) for number in range(8)]
        won = [lease for done in asked for lease in done.result()]
    assert len({lease.key for lease in won}) == len(won)
    rest = claim(database, "last", "abcdefgh", most=8)
    assert sorted(lease.key for lease in [*won, *rest]) == list("abcdefgh")


def test_on_postgresql_a_key_that_is_being_claimed_is_passed_over_without_waiting(postgres: Postgres) -> None:
    url = postgres.new()
    database = Database(url)
    for lease in claim(database, "before", "ab", most=2):
        database.transact(partial(leases.release, lease=lease))
    inside, over = threading.Event(), threading.Event()

    def slowly(session: Session) -> list[Lease]:
        found = leases.claim(session, "round", "ab", "slow", START, 30)
        inside.set()
        over.wait(20)
        return found

    with ThreadPoolExecutor(1) as other:
        slow = other.submit(database.transact, slowly)
        assert inside.wait(20)
        quick = claim(database, "quick", "ab")
        over.set()
        assert (slow.result()[0].key, [lease.key for lease in quick]) == ("a", ["b"])
    with database.reading() as session:
        assert sorted(filter(None, session.exec(select(LeaseRow.holder)).all())) == ["quick", "slow"]
    database.close()
    drop_database(url)


def test_a_number_that_does_not_grow_would_let_a_sleeper_write(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: a fence that is only the clock's, after a step back of the clock."""
    (first,) = claim(database, "one")
    monkeypatch.setattr(leases, "max", lambda _before, clock: clock, raising=False)
    (second,) = claim(database, "one", at=START + timedelta(seconds=30))
    assert second.fence > first.fence
    database.transact(lambda session: leases.release(session, second))
    (third,) = claim(database, "one", at=START)
    assert third.fence == first.fence
    database.transact(lambda session: leases.check_fence(session, first))
