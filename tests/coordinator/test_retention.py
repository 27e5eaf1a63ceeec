"""What is kept is what somebody needs: ended rounds are forgotten by age, and blobs that nobody can name are swept."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlmodel import Session, func, select

from coordinator.services import retention
from coordinator.services.retention import Forgotten, orphans
from coordinator.store.blobs import BlobKind, Blobs, FolderBlobs, Stored
from coordinator.store.database import Database
from coordinator.store.group_tables import Member, MemberKey, StepRow
from coordinator.store.tables import Candidate, Group, PartialSum, Participation, Report, Round
from tests.coordinator.asking import assigned, report_of, send_report
from tests.coordinator.secure import meet, play, secure_round
from tests.programme import PLAN, START, TENANT, Clock, Home, open_home, replace

LATER = START + timedelta(days=1)


@pytest.fixture
def database(home: Home) -> Database:
    found: Database = home.app.state.parts.database
    return found


@pytest.fixture
def blobs(home: Home) -> FolderBlobs:
    found: FolderBlobs = home.app.state.parts.blobs
    return found


def one_round(home: Home) -> None:
    """Three phones report, and the only round of the task is committed."""
    home.start_task(replace(PLAN, goal=3), rounds=1, pool_size=3)
    phones = [home.phone(number) for number in range(3)]
    for phone, assignment in zip(phones, assigned(home, phones), strict=True):
        send_report(home, phone, assignment).raise_for_status()
    home.look()
    assert home.rounds()[0]["phase"] == "committed"


def counts(session: Session) -> list[int]:
    tables = (Candidate, Participation, Report, PartialSum)
    return [session.exec(select(func.count()).select_from(table)).one() for table in tables]


def forget(database: Database, before: datetime, most: int = 1000) -> Forgotten:
    return database.transact(lambda session: retention.forget_rounds(session, before, most))


def sweep(database: Database, blobs: Blobs, before: datetime) -> int:
    with database.reading() as session:
        return sum(retention.sweep(session, blobs, step) for step in retention.stale(blobs, before))


def old(blobs: FolderBlobs, kind: BlobKind, raw: bytes, at: datetime = START) -> Path:
    """A blob that was written at a time."""
    path = blobs.path(TENANT, kind, blobs.put(TENANT, kind, raw))
    os.utime(path, (at.timestamp(), at.timestamp()))
    return path


def test_who_took_part_in_a_round_that_ended_long_ago_is_forgotten(home: Home, database: Database) -> None:
    one_round(home)
    assert not forget(database, START)
    with database.reading() as session:
        before = counts(session)
    assert before[1:3] == [3, 3]
    went = forget(database, LATER)
    assert (went.candidates, went.participations, went.partial_sums) == (before[0], 3, before[3])
    with database.reading() as session:
        assert counts(session) == [0, 0, 0, 0]
        assert len(session.exec(select(Round)).all()) == len(session.exec(select(Group)).all()) == 1
    assert home.rounds()[0]["result_sha256"] == home.task()["checkpoint_sha256"], "the result stays"


def test_members_of_a_group_that_summed_securely_are_forgotten_and_their_keys_are_not(
    home: Home, database: Database
) -> None:
    phones = secure_round(home)
    meet(home, phones)
    play(home, phones, lambda _step: phones)
    home.look()
    assert home.rounds()[0]["phase"] == "committed"

    def held() -> list[int]:
        with database.reading() as session:
            return [
                session.exec(select(func.count()).select_from(table)).one() for table in (Member, StepRow, MemberKey)
            ]

    members, steps, keys = held()
    assert (members, keys) == (len(phones), 2 * len(phones))
    assert steps >= members
    assert forget(database, LATER).members == members
    assert held() == [0, 0, keys], "a key is never taken twice"


def test_each_step_forgets_no_more_than_it_may(home: Home, database: Database) -> None:
    one_round(home)
    steps = [forget(database, LATER, most=2) for _step in range(4)]
    assert [step.participations for step in steps] == [2, 1, 0, 0]
    assert not steps[-1]


def test_a_round_that_has_not_ended_is_kept_whatever_its_age(home: Home, database: Database) -> None:
    home.start_task(replace(PLAN, goal=3), rounds=1, pool_size=3)
    phones = [home.phone(number) for number in range(3)]
    send_report(home, phones[0], assigned(home, phones)[0]).raise_for_status()
    assert not forget(database, START + timedelta(days=10_000))


def test_a_blob_that_a_crash_left_is_swept_when_no_round_can_name_it(
    home: Home, database: Database, blobs: FolderBlobs
) -> None:
    one_round(home)
    left = [old(blobs, kind, b"left " + kind.value.encode()) for kind in BlobKind]
    assert sweep(database, blobs, START) == 0, "too young"
    assert sweep(database, blobs, LATER) == 4
    kept = {path.parent.name for path in left if path.exists()}
    assert kept == {BlobKind.BUNDLE.value, BlobKind.CHECKPOINT.value}


def test_a_report_that_may_still_be_acknowledged_is_not_swept(
    home: Home, database: Database, blobs: FolderBlobs
) -> None:
    """Its blob is durable and its row is not: the device sends it again, and is told that it counts."""
    home.start_task(replace(PLAN, goal=3), rounds=1, pool_size=3)
    phones = [home.phone(number) for number in range(3)]
    assignments = assigned(home, phones)
    body = report_of(phones[0], assignments[0])
    path = old(blobs, BlobKind.REPORT, body, START + timedelta(seconds=1))
    assert sweep(database, blobs, LATER) == 0
    send_report(home, phones[0], assignments[0], body).raise_for_status()
    assert path.exists()


def test_a_report_that_is_counted_is_not_swept(home: Home, database: Database, blobs: FolderBlobs) -> None:
    home.start_task(replace(PLAN, goal=3), rounds=1, pool_size=3)
    phones = [home.phone(number) for number in range(3)]
    assignments = assigned(home, phones)
    send_report(home, phones[0], assignments[0]).raise_for_status()
    path = old(blobs, BlobKind.REPORT, report_of(phones[0], assignments[0]), START - timedelta(days=2))
    assert sweep(database, blobs, LATER) == 0
    assert path.exists()


def test_parts_are_swept_when_nobody_will_send_the_rest(home: Home, database: Database, blobs: FolderBlobs) -> None:
    one_round(home)
    with database.reading() as session:
        participation = session.exec(select(Participation.id)).first()
    assert participation is not None
    blobs.put_part(TENANT, participation, 0, b"some", 10)
    assert sweep(database, blobs, datetime.max.replace(tzinfo=START.tzinfo)) == 1
    assert blobs.held_part(TENANT, participation) == 0


def test_what_a_row_names_or_a_round_may_still_name_is_no_orphan() -> None:
    report, parts = "ab" * 32, "cd" * 16
    of_acme = Stored("acme", BlobKind.REPORT, report, START)
    of_globex = Stored("globex", BlobKind.REPORT, report, START)
    half = Stored("acme", None, parts, START)
    every = [of_acme, of_globex, half, Stored("acme", BlobKind.CHECKPOINT, report, START)]
    assert orphans(every, [], {}) == [of_acme, of_globex, half]
    assert orphans(every, [("acme", BlobKind.REPORT, report)], {}) == [of_globex, half]
    assert orphans(every, [("acme", None, parts)], {"globex": START}) == [of_acme]
    opened = START + retention.CLOCK_MARGIN
    assert orphans([of_acme], [], {"acme": opened}) == []
    assert orphans([of_acme], [], {"acme": opened + timedelta(seconds=1)}) == [of_acme]


def test_a_sweep_that_looked_at_rows_alone_would_lose_a_report(
    home: Home, database: Database, blobs: FolderBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: without the rule about open rounds, the blob goes between its being durable and its row."""
    right = retention.orphans
    monkeypatch.setattr(retention, "orphans", lambda found, named, _oldest: right(found, named, {}))
    with pytest.raises(AssertionError):
        test_a_report_that_may_still_be_acknowledged_is_not_swept(home, database, blobs)


# --- the worker does it -------------------------------------------------------------------------------------------


def test_a_worker_forgets_by_age_what_the_settings_say(
    folder: Path, made: tuple[Path, str], clock: Clock, home: Home, database: Database, blobs: FolderBlobs
) -> None:
    one_round(home)
    left = old(blobs, BlobKind.REPORT, b"left by a crash")
    with database.reading() as session:
        before = counts(session)
    clock.forward(timedelta(days=1, hours=2).total_seconds())
    home.look()
    assert not left.exists()
    with database.reading() as session:
        assert counts(session) == before, "90 days"
    clock.forward(timedelta(days=89).total_seconds())
    home.look()
    with database.reading() as session:
        assert counts(session) == [0, 0, 0, 0]


def test_settings_say_for_how_long(folder: Path, made: tuple[Path, str], clock: Clock) -> None:
    with open_home(folder, clock, made[1], keep_rounds_days=2.0, sweep_after_s=10 * 86_400.0) as home:
        one_round(home)
        left = old(home.app.state.parts.blobs, BlobKind.REPORT, b"left by a crash")
        clock.forward(timedelta(days=3).total_seconds())
        home.look()
        with home.app.state.parts.database.reading() as session:
            assert counts(session) == [0, 0, 0, 0]
        assert left.exists()


def test_blobs_are_listed_once_an_hour_by_all_workers_together(
    folder: Path, made: tuple[Path, str], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[datetime] = []
    right = FolderBlobs.stored

    def stored(blobs: FolderBlobs) -> Iterator[Stored]:
        listed.append(clock())
        return right(blobs)

    monkeypatch.setattr(FolderBlobs, "stored", stored)
    with open_home(folder, clock, made[1]) as one, open_home(folder, clock, made[1]) as other:
        for _tenth in range(31):
            one.look()
            other.look()
            clock.forward(360)
    first = listed[0]
    assert [round((at - first).total_seconds()) for at in listed] == [0, 3600, 7200, 10800]


def test_a_look_takes_a_step_of_what_is_to_be_swept_and_no_more(
    home: Home, clock: Clock, blobs: FolderBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP", 2)
    one_round(home)
    left = [old(blobs, BlobKind.REPORT, bytes([number])) for number in range(6)]
    clock.forward(timedelta(days=2).total_seconds())
    there = []
    for _look in range(8):
        home.app.state.worker.look()
        there.append(sum(path.exists() for path in left))
    assert all(before - after <= 2 for before, after in itertools.pairwise([6, *there])), there
    assert there[-1] == 0
