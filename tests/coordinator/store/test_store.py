"""Rows and blobs: migrations there and back, damage found, paths that lead nowhere else."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import stat
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import inspect
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, StatementError
from sqlmodel import SQLModel, select

from coordinator.services import catalogue
from coordinator.store import migrate
from coordinator.store.blobs import BlobKind, FolderBlobs
from coordinator.store.database import Database
from coordinator.store.tables import Heartbeat, Population, Tenant
from edge_runtime.protocol.errors import DigestMismatch, NotFound, Refusal, StorageFull, Unavailable
from edge_runtime.protocol.keys import PublicKey, digest
from tests.postgres import drop_database
from tests.programme import START


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty one, of either kind."""
    if request.param == "sqlite":
        yield Database(f"sqlite:///{tmp_path / 'coordinator.sqlite'}")
        return
    url = request.getfixturevalue("postgres").new(migrated=False)
    yield Database(url)
    drop_database(url)


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "blobs", 0)


def tables(database: Database) -> set[str]:
    return set(inspect(database.engine).get_table_names())


# --- migrations ---------------------------------------------------------------------------------------------------


def test_the_migrations_make_the_tables_that_the_code_describes(database: Database) -> None:
    migrate.upgrade(database)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, SQLModel.metadata) == []
    database.close()


def test_migrations_go_up_down_and_up_again_with_data(database: Database) -> None:
    for _again in range(2):
        migrate.upgrade(database)
        with database.writing() as session:
            catalogue.create_tenant(session, "acme", PublicKey(bytes(32)), START)
            session.flush()
            session.add(Population(tenant="acme", name="keyboard", created_at=START, bucket_key=bytes(32)))
        migrate.upgrade(database)
        with database.reading() as session:
            assert session.exec(select(Population.name)).all() == ["keyboard"]
        migrate.downgrade(database, "base")
        assert tables(database) == {"alembic_version"}
    database.close()


def test_every_migration_follows_one_other() -> None:
    script = ScriptDirectory(str(Path(migrate.__file__).parent / "migrations"))
    assert len(script.get_heads()) == len(script.get_bases()) == 1


# --- transactions -------------------------------------------------------------------------------------------------


@pytest.fixture
def migrated(database: Database) -> Database:
    migrate.upgrade(database)
    return database


def tenants(database: Database) -> list[str]:
    with database.reading() as session:
        return sorted(session.exec(select(Tenant.name)).all())


def test_a_transaction_that_raises_leaves_nothing(migrated: Database) -> None:
    def broken() -> None:
        with migrated.writing() as session:
            session.add(Tenant(name="acme", public_key=bytes(32), created_at=START))
            session.flush()
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError):
        broken()
    assert tenants(migrated) == []
    migrated.close()


def test_writers_take_turns(migrated: Database) -> None:
    def count() -> None:
        for _again in range(20):
            with migrated.writing() as session:
                row = session.get(Heartbeat, 1) or Heartbeat(id=1, at=START)
                row.at += timedelta(seconds=1)
                session.add(row)

    threads = [threading.Thread(target=count) for _one in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with migrated.reading() as session:
        assert session.get_one(Heartbeat, 1).at == START + timedelta(seconds=80)
    migrated.close()


def test_a_reader_sees_one_state_of_things(migrated: Database) -> None:
    with migrated.reading() as session:
        assert session.exec(select(Tenant)).all() == []
        with migrated.writing() as writing:
            catalogue.create_tenant(writing, "acme", PublicKey(bytes(32)), START)
        assert session.exec(select(Tenant)).all() == []
    assert tenants(migrated) == ["acme"]
    migrated.close()


def test_what_belongs_to_nothing_is_refused_by_the_database(migrated: Database) -> None:
    def orphan() -> None:
        with migrated.writing() as session:
            session.add(Population(tenant="nobody", name="keyboard", created_at=START, bucket_key=bytes(32)))

    with pytest.raises(IntegrityError):
        orphan()
    migrated.close()


def test_values_stay_out_of_database_errors(migrated: Database) -> None:
    secret = "what nobody may read"  # pragma: allowlist secret

    def wrong() -> None:
        with migrated.writing() as session:
            session.add(Population(tenant=secret, name=secret, created_at=START, bucket_key=bytes(32)))

    with pytest.raises(IntegrityError) as raised:
        wrong()
    assert secret not in str(raised.value)
    migrated.close()


@pytest.mark.parametrize(
    ("code", "refusal"),
    [(sqlite3.SQLITE_FULL, StorageFull), (sqlite3.SQLITE_BUSY, Unavailable), (sqlite3.SQLITE_LOCKED, Unavailable)],
)
def test_what_passes_is_a_refusal_with_a_time_to_retry(migrated: Database, code: int, refusal: type[Refusal]) -> None:
    cause = sqlite3.OperationalError("as the disk or another process would have it")
    cause.sqlite_errorcode = code

    def suffer() -> None:
        with migrated.writing():
            raise OperationalError("BEGIN", {}, cause)

    with pytest.raises(refusal) as raised:
        suffer()
    assert raised.value.retry_after_s is not None
    assert raised.value.retry_after_s > 0
    migrated.close()


def test_a_database_without_tables_is_a_bug_and_no_refusal(database: Database) -> None:
    def write() -> None:
        with database.writing() as session:
            session.add(Tenant(name="acme", public_key=bytes(32), created_at=START))

    with pytest.raises(DBAPIError, match=r"no such table|does not exist"):
        write()
    database.close()


def test_a_naive_datetime_is_never_stored(migrated: Database) -> None:
    def naive() -> None:
        with migrated.writing() as session:
            session.add(Heartbeat(id=1, at=datetime(2026, 1, 5)))  # noqa: DTZ001

    with pytest.raises(StatementError, match="naive"):
        naive()
    migrated.close()


def test_a_datetime_comes_back_in_utc(migrated: Database) -> None:
    there = datetime(2026, 1, 5, 12, 0, 0, 250_000, tzinfo=timezone(timedelta(hours=5)))
    with migrated.writing() as session:
        session.add(Heartbeat(id=1, at=there))
    with migrated.reading() as session:
        back = session.get_one(Heartbeat, 1).at
    assert (back, back.tzinfo) == (there, UTC)
    migrated.close()


# --- blobs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(BlobKind))
def test_a_blob_comes_back_as_it_was(blobs: FolderBlobs, kind: BlobKind) -> None:
    address = blobs.put("acme", kind, b"some bytes")
    assert address == digest(b"some bytes").hex()
    assert blobs.get("acme", kind, address) == b"some bytes"


def test_a_blob_put_twice_is_one_file(blobs: FolderBlobs, tmp_path: Path) -> None:
    address = blobs.put("acme", BlobKind.REPORT, b"some bytes")
    assert blobs.put("acme", BlobKind.REPORT, b"some bytes") == address
    assert [path.name for path in (tmp_path / "blobs/acme/reports").iterdir()] == [address]


def test_damaged_bytes_are_found_and_repaired_when_the_blob_comes_again(blobs: FolderBlobs) -> None:
    address = blobs.put("acme", BlobKind.REPORT, b"some bytes")
    blobs.path("acme", BlobKind.REPORT, address).write_bytes(b"some bites")
    with pytest.raises(DigestMismatch):
        blobs.get("acme", BlobKind.REPORT, address)
    blobs.put("acme", BlobKind.REPORT, b"some bytes")
    assert blobs.get("acme", BlobKind.REPORT, address) == b"some bytes"


def test_a_blob_belongs_to_its_tenant_and_kind(blobs: FolderBlobs) -> None:
    address = blobs.put("acme", BlobKind.REPORT, b"some bytes")
    for tenant, kind in (("globex", BlobKind.REPORT), ("acme", BlobKind.CHECKPOINT)):
        with pytest.raises(NotFound):
            blobs.get(tenant, kind, address)


def test_a_blob_deleted_twice_is_gone(blobs: FolderBlobs) -> None:
    address = blobs.put("acme", BlobKind.REPORT, b"some bytes")
    for _again in range(2):
        blobs.delete("acme", BlobKind.REPORT, address)
    with pytest.raises(NotFound):
        blobs.get("acme", BlobKind.REPORT, address)


@given(tenant=st.text(max_size=12), address=st.text(max_size=70))
def test_no_address_leads_out_of_the_folder(tenant: str, address: str) -> None:
    blobs = FolderBlobs(Path("/blobs"), 0)
    with pytest.raises(NotFound):
        blobs.path(tenant, BlobKind.REPORT, address)
    with pytest.raises(NotFound):
        blobs.path("acme", BlobKind.REPORT, f"../{address}")


@pytest.mark.parametrize("tenant", ["..", ".", "", "a/b", "acme\n", "A", "a" * 65])
def test_a_tenant_that_is_no_name_has_no_blobs(blobs: FolderBlobs, tenant: str) -> None:
    with pytest.raises(NotFound):
        blobs.put(tenant, BlobKind.REPORT, b"some bytes")


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_blob_that_would_fill_the_disk_is_refused(
    blobs: FolderBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=9))
    with pytest.raises(StorageFull):
        blobs.put("acme", BlobKind.REPORT, b"ten bytes!")
    assert files(tmp_path) == []
    assert blobs.put("acme", BlobKind.REPORT, b"9 bytes! ")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_after_all_leaves_no_half_file(
    blobs: FolderBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(_handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "blobs/acme/reports").mkdir(parents=True)
    with pytest.raises(StorageFull) as raised:
        blobs.put("acme", BlobKind.REPORT, b"some bytes")
    assert isinstance(raised.value.__cause__, OSError)
    assert files(tmp_path) == []


def test_a_disk_that_fails_otherwise_is_no_refusal(blobs: FolderBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("coordinator.store.blobs._write_durably", broken)
    with pytest.raises(OSError, match="Input/output"):
        blobs.put("acme", BlobKind.REPORT, b"some bytes")


def test_a_file_is_on_disk_before_its_name_and_its_name_before_the_answer(
    blobs: FolderBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    sync, replace = os.fsync, Path.replace

    def syncing(handle: int) -> None:
        happened.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def replacing(path: Path, target: Path) -> Path:
        happened.append("name")
        return replace(path, target)

    blobs.put("acme", BlobKind.REPORT, b"the folder is there")
    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Path, "replace", replacing)
    blobs.put("acme", BlobKind.REPORT, b"some bytes")
    assert happened == ["file", "name", "folder"]
    blobs.put("acme", BlobKind.REPORT, b"some bytes")
    assert happened[3:] == ["folder"], "whoever answers second knows that it is durable, too"
