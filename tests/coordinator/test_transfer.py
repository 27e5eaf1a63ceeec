"""A tenant goes from one coordinator to another whole, or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import SQLModel

from coordinator.services import transfer
from coordinator.services.transfer import LEFT_BEHIND, export_tenant, import_tenant
from coordinator.store import migrate
from coordinator.store.blobs import BlobKind, Blobs, FolderBlobs
from coordinator.store.database import Database
from edge_runtime.protocol.errors import (
    Conflict,
    DigestMismatch,
    Malformed,
    NotFound,
    Refusal,
    UnsupportedVersion,
    UntrustedDocument,
)
from edge_runtime.protocol.keys import SigningKey, digest
from tests.coordinator.asking import assigned, send_report
from tests.postgres import Postgres, drop_database
from tests.programme import COORDINATOR_KEY, PLAN, TENANT, Home, replace


@pytest.fixture
def lines(home: Home) -> list[bytes]:
    """The export of a tenant with a committed round, and one in which one of three has reported."""
    home.start_task(replace(PLAN, goal=3), rounds=2, pool_size=3, over_selection=1.0)
    phones = [home.phone(number) for number in range(3)]
    for phone, assignment in zip(phones, assigned(home, phones), strict=True):
        send_report(home, phone, assignment).raise_for_status()
    home.look()
    send_report(home, phones[0], assigned(home, phones)[0]).raise_for_status()
    return export(home.app.state.parts.database, home.app.state.parts.blobs)


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty coordinator's database."""
    where = getattr(request, "param", "sqlite")
    url = f"sqlite:///{tmp_path / 'target.sqlite'}"
    if where == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        url = server.new()
    made = Database(url)
    migrate.upgrade(made)
    yield made
    made.close()
    if where == "postgresql":
        drop_database(url)


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "target-blobs", 0)


def export(database: Database, blobs: Blobs, tenant: str = TENANT) -> list[bytes]:
    with database.reading() as session:
        return list(export_tenant(session, blobs, tenant, COORDINATOR_KEY))


def bring(target: Database, blobs: Blobs, lines: list[bytes]) -> str:
    with target.writing() as session:
        return import_tenant(session, blobs, lambda: lines, COORDINATOR_KEY.public)


def rows(database: Database) -> int:
    with database.reading() as session:
        tables = [table for table in SQLModel.metadata.sorted_tables if table.name not in LEFT_BEHIND]
        return sum(len(session.connection().execute(table.select()).all()) for table in tables)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"], indirect=True, scope="session")
@pytest.mark.parametrize("target", ["sqlite", "postgresql"], indirect=True)
def test_a_tenant_that_was_brought_is_exported_the_same(
    lines: list[bytes], target: Database, blobs: FolderBlobs
) -> None:
    assert bring(target, blobs, lines) == TENANT
    assert export(target, blobs) == lines


def test_every_table_is_brought_or_left_behind_on_purpose(lines: list[bytes]) -> None:
    brought = {json.loads(line).get("table") for line in lines} - {None}
    every = {table.name for table in SQLModel.metadata.sorted_tables}
    assert brought <= every - LEFT_BEHIND
    secure = {"faults", "group_steps", "member_keys", "members", "quarantines"}
    private = {name for name in every if name.startswith("privacy_")}
    none = {"cohorts", "partial_sums", "releases"} | secure | private
    assert every - LEFT_BEHIND - brought <= none, "the tenant of this test has none"
    kinds = {json.loads(line).get("blob") for line in lines} - {None}
    assert {BlobKind.BUNDLE, BlobKind.CHECKPOINT, BlobKind.REPORT} <= kinds


def test_an_export_has_no_token(lines: list[bytes], home: Home) -> None:
    whole = b"".join(lines)
    assert home.token.encode() not in whole
    assert digest(home.token.encode()).hex().encode() not in whole


def test_a_tenant_that_is_there_is_not_changed(lines: list[bytes], target: Database, blobs: FolderBlobs) -> None:
    bring(target, blobs, lines)
    before = rows(target)
    with pytest.raises(Conflict, match="here already"):
        bring(target, blobs, lines)
    assert rows(target) == before


def head_with(line: bytes, **changes: object) -> bytes:
    return json.dumps({**json.loads(line), **changes}, separators=(",", ":"), sort_keys=True).encode() + b"\n"


WRONG: dict[str, tuple[type[Refusal], object]] = {
    "no line": (Malformed, lambda lines: []),
    "another file": (Malformed, lambda lines: [b"PK\x03\x04\n"]),
    "other JSON": (Malformed, lambda lines: [b"{}\n", *lines[1:]]),
    "cut between lines": (Malformed, lambda lines: lines[:-1]),
    "cut within a line": (Malformed, lambda lines: [*lines[:-1], lines[-1][:-9]]),
    "cut before its last line feed": (Malformed, lambda lines: [*lines[:-1], lines[-1][:-1]]),
    "a row left out": (Malformed, lambda lines: [*lines[:3], *lines[4:]]),
    "a row twice": (Malformed, lambda lines: [*lines[:3], lines[3], *lines[3:]]),
    "two rows exchanged": (DigestMismatch, lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]]),
    "a byte changed": (DigestMismatch, lambda lines: [*lines[:4], lines[4].replace(b"0", b"1"), *lines[5:]]),
    "another tenant": (DigestMismatch, lambda lines: [head_with(lines[0], tenant="globex"), *lines[1:]]),
    "a version to come": (UnsupportedVersion, lambda lines: [head_with(lines[0], version=2), *lines[1:]]),
    "another schema": (UnsupportedVersion, lambda lines: [head_with(lines[0], schema="0001"), *lines[1:]]),
    "another signature": (
        UntrustedDocument,
        lambda lines: [*lines[:-1], head_with(lines[-1], signature="AAAA" * 21 + "AA==")],
    ),
}


@pytest.mark.parametrize("what", list(WRONG))
def test_what_is_not_the_whole_export_leaves_nothing(
    lines: list[bytes], target: Database, blobs: FolderBlobs, what: str
) -> None:
    refusal, change = WRONG[what]
    with pytest.raises(refusal):
        bring(target, blobs, change(lines))  # type: ignore[operator]
    assert rows(target) == 0
    assert list(blobs.stored()) == []


def test_another_coordinators_export_is_refused(lines: list[bytes], target: Database, blobs: FolderBlobs) -> None:
    stranger = SigningKey(digest(b"another coordinator"))
    with pytest.raises(UntrustedDocument), target.writing() as session:
        import_tenant(session, blobs, lambda: lines, stranger.public)
    assert rows(target) == 0


def test_an_import_that_dies_halfway_leaves_no_row_and_can_be_repeated(
    lines: list[bytes], target: Database, blobs: FolderBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(Exception):
        """Here."""

    def die(*_arguments: object) -> str:
        raise Died

    with monkeypatch.context() as dying:
        dying.setattr(FolderBlobs, "put", die)
        with pytest.raises(Died):
            bring(target, blobs, lines)
    assert rows(target) == 0
    bring(target, blobs, lines)
    assert export(target, blobs) == lines


def test_an_unknown_tenant_is_not_exported(home: Home) -> None:
    with pytest.raises(NotFound, match="globex"):
        export(home.app.state.parts.database, home.app.state.parts.blobs, "globex")


def test_an_import_that_checked_nothing_would_take_a_changed_row(
    lines: list[bytes], target: Database, blobs: FolderBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: without the digest, what was changed on the way comes in."""
    monkeypatch.setattr(transfer, "verify_export", lambda *_arguments: TENANT)
    changed = [line.replace(b'"app":"app"', b'"app":"evil"') for line in lines]
    bring(target, blobs, changed)
    assert export(target, blobs) != lines
