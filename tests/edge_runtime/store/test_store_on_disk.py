"""The example store's files: deletion, keys, damage, versions and a full disk."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.example_store import ExampleStore, erase_store, open_store
from edge_runtime.example_store.store import DAMAGED_KEPT_S
from edge_runtime.example_store.tables import MIGRATIONS, set_aside
from edge_runtime.examples import Examples
from edge_runtime.journal import AppKey, StateFolder, open_folder
from edge_runtime.protocol.errors import (
    DeviceStorageFull,
    SchemaChanged,
    StateDamaged,
    UnsupportedVersion,
    WrongStorageKey,
)
from tests.edge_runtime.store.journals import another_key, flip, key
from tests.edge_runtime.store.pairs import (
    HOUR_S,
    KEYS,
    NOW_S,
    PAIRS,
    WIDTH,
    everything,
    on_disk,
    open_pairs,
    same,
    shows,
    some,
)
from tests.workers import ROOT


@KEYS
def test_no_file_holds_a_byte_of_what_was_deleted(folder: StateFolder, app_key: AppKey | None) -> None:
    """Plain bytes are looked for, and the sealed ones, as they stood in the file before."""
    store = open_pairs(folder, app_key)
    store.declare(replace(PAIRS, time_to_live_s=1800.0, name="short"))
    added = store.add("pairs", some(60), NOW_S)
    store.add("short", some(20, seed=2), NOW_S)
    sealed = sealed_bytes(folder)
    kept = set(added.ids[::3])
    assert app_key is not None or shows(on_disk(folder), some(60))
    store.delete("pairs", [row for row in added.ids if row not in kept])
    store.expire(NOW_S + 1800)
    raw = on_disk(folder)
    for row, blob in sealed.items():
        assert any(blob[at : at + 16] in raw for at in range(0, len(blob) - 16, 16)) == (row in kept)
    gone = [position for position, row in enumerate(added.ids) if row not in kept]
    assert not shows(raw, some(60).take(np.array(gone)))
    assert not shows(raw, some(20, seed=2))
    store.close()
    assert not shows(on_disk(folder), some(60).take(np.array(gone)))


def sealed_bytes(folder: StateFolder) -> dict[int, bytes]:
    connection = sqlite3.connect(folder.path / "examples.db")
    found = dict(connection.execute("SELECT id, sealed FROM examples"))
    connection.close()
    return found


def test_evicted_examples_are_gone_from_every_file(folder: StateFolder) -> None:
    store = open_pairs(folder, None)
    store.declare(replace(PAIRS, max_rows=10))
    store.add("pairs", some(10), NOW_S)
    store.add("pairs", some(10, seed=1), NOW_S)
    assert not shows(on_disk(folder), some(10))
    assert shows(on_disk(folder), some(10, seed=1))
    store.close()


@KEYS
def test_a_deleted_collection_takes_its_key_along_and_gives_its_room_back(
    folder: StateFolder, app_key: AppKey | None
) -> None:
    store = open_pairs(folder, app_key)
    empty = (folder.path / "examples.db").stat().st_size
    store.add("pairs", some(100), NOW_S)
    (data_key,) = keys_on_disk(folder)
    assert data_key in on_disk(folder)
    full = (folder.path / "examples.db").stat().st_size
    store.delete_collection("pairs")
    assert data_key not in on_disk(folder)
    assert not shows(on_disk(folder), some(100))
    assert (folder.path / "examples.db").stat().st_size <= empty < full
    store.declare(PAIRS)
    assert keys_on_disk(folder) != [data_key]
    assert store.add("pairs", some(5), NOW_S).duplicates == 0
    store.close()


def keys_on_disk(folder: StateFolder) -> list[bytes]:
    connection = sqlite3.connect(folder.path / "examples.db")
    found = [data_key for (data_key,) in connection.execute("SELECT data_key FROM collections")]
    connection.close()
    return found


def test_a_sealed_store_shows_neither_features_nor_fingerprints_that_anybody_can_make(folder: StateFolder) -> None:
    store = open_pairs(folder)
    store.add("pairs", some(50), NOW_S)
    assert not shows(on_disk(folder), some(50), part_bytes=8)
    store.close()
    other = folder.path / "other"
    with open_folder(other) as elsewhere:
        same_examples = open_pairs(elsewhere)
        same_examples.add("pairs", some(50), NOW_S)
        assert not fingerprints(elsewhere) & fingerprints(folder)
        same_examples.close()


def fingerprints(folder: StateFolder) -> set[bytes]:
    connection = sqlite3.connect(folder.path / "examples.db")
    found = {fingerprint for (fingerprint,) in connection.execute("SELECT fingerprint FROM examples")}
    connection.close()
    return found


def test_erasing_leaves_no_file_of_the_store(folder: StateFolder) -> None:
    store = open_pairs(folder)
    store.add("pairs", some(5), NOW_S)
    store.close()
    (folder.path / "examples.damaged").write_bytes(b"old")
    erase_store(folder)
    assert [path.name for path in folder.path.iterdir()] == ["lock"]


@pytest.mark.parametrize(
    ("made_with", "opened_with"), [(key, another_key), (key, None), (None, key)], ids=["other", "none", "some"]
)
def test_a_wrong_key_is_refused_and_loses_nothing(
    folder: StateFolder, made_with: AppKey | None, opened_with: AppKey | None
) -> None:
    store = open_pairs(folder, made_with)
    store.add("pairs", some(5), NOW_S)
    store.close()
    before = on_disk(folder)
    with pytest.raises(WrongStorageKey):
        open_store(folder, key=opened_with, now_s=NOW_S)
    assert on_disk(folder) == before
    again = open_pairs(folder, made_with)
    assert same(everything(again), some(5))
    again.close()


def test_a_row_that_was_moved_or_changed_is_left_out_and_deleted(folder: StateFolder) -> None:
    store = open_pairs(folder)
    store.add("pairs", some(4), NOW_S)
    store.close()
    connection = sqlite3.connect(folder.path / "examples.db")
    connection.execute("UPDATE examples SET sealed = (SELECT sealed FROM examples WHERE id = 1) WHERE id = 2")
    connection.execute("UPDATE examples SET sealed = zeroblob(20) WHERE id = 4")
    connection.commit()
    connection.close()
    again = open_pairs(folder)
    assert same(everything(again), some(4).take(np.array([0, 2])))
    assert again.statistics("pairs", NOW_S).count == 2
    again.close()


@KEYS
def test_any_changed_byte_leaves_right_examples_or_a_new_beginning(folder: StateFolder, app_key: AppKey | None) -> None:
    store = open_pairs(folder, app_key)
    store.add("pairs", some(40), NOW_S)
    store.close()
    path = folder.path / "examples.db"
    whole = path.read_bytes()
    right = {row.tobytes() for row in some(40).x}
    begun_anew = 0
    for position in [*range(0, 100, 3), *range(100, len(whole), 397)]:
        path.write_bytes(whole)
        flip(path, position)
        try:
            again = open_pairs(folder, app_key)
        except (WrongStorageKey, SchemaChanged, UnsupportedVersion):
            continue  # the byte was in what says so; nothing was lost or read
        begun_anew += again.found_damaged
        try:
            found = everything(again)
        except StateDamaged:
            found = some(0)
        again.close()
        assert {row.tobytes() for row in found.x} <= right, f"byte {position}"
        erase_store(folder)
    assert begun_anew > 3


@pytest.mark.parametrize("left", [0.0, 0.4, 0.9])
def test_a_file_that_was_cut_is_set_aside_and_begun_anew(folder: StateFolder, left: float) -> None:
    store = open_pairs(folder)
    store.add("pairs", some(40), NOW_S)
    store.close()
    path = folder.path / "examples.db"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(left * len(whole))])
    again = open_pairs(folder)
    assert again.found_damaged == (left > 0)
    assert again.statistics("pairs", NOW_S).count == 0
    assert again.add("pairs", some(3), NOW_S).duplicates == 0
    again.close()


def test_something_else_in_the_file_is_set_aside_and_deleted_after_a_week(folder: StateFolder) -> None:
    (folder.path / "examples.db").write_bytes(b"this is no database" * 100)
    (folder.path / "examples.db-journal").write_bytes(b"nor is this")
    store = open_pairs(folder)
    assert store.found_damaged
    aside = folder.path / "examples.damaged"
    assert aside.read_bytes().startswith(b"this is no database")
    for hours in range(int(DAMAGED_KEPT_S / HOUR_S)):
        store.expire(NOW_S + hours * HOUR_S)
        assert aside.exists()
    store.expire(NOW_S + DAMAGED_KEPT_S)
    assert not aside.exists()
    store.close()


def test_damage_that_comes_while_the_store_is_open_is_refused_by_name(folder: StateFolder) -> None:
    store = open_pairs(folder)
    store.add("pairs", some(40), NOW_S)
    raw = (folder.path / "examples.db").read_bytes()
    (folder.path / "examples.db").write_bytes(raw[:4096] + b"\x55" * (len(raw) - 4096))
    flip(folder.path / "examples.db", 27)  # SQLite's count of changes: what it holds in memory is not up to date
    with pytest.raises(StateDamaged):
        store.add("pairs", some(40, seed=1), NOW_S)
    store.close()
    again = open_pairs(folder)
    assert again.found_damaged
    again.close()


def test_a_full_database_refuses_and_keeps_what_it_had(store: ExampleStore, folder: StateFolder) -> None:
    store.add("pairs", some(20), NOW_S)
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(DeviceStorageFull):
        store.add("pairs", some(50, seed=1), NOW_S)
    assert same(everything_held(store), some(20))
    store._connection.execute("PRAGMA max_page_count=100000")
    assert len(store.add("pairs", some(50, seed=1), NOW_S).ids) == 50


def everything_held(store: ExampleStore) -> Examples:
    """Without a snapshot, which needs room."""
    found = dict(store._read("pairs", list(range(1, 1000))))
    rows = [np.frombuffer(plain, "<f4") for _row, plain in sorted(found.items())]
    x = np.array([row[:WIDTH] for row in rows])
    return Examples(x, np.array([row[WIDTH:].view(np.int32)[0] for row in rows]))


def test_a_disk_that_takes_no_more_bytes_refuses_and_keeps_what_it_had(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.edge_runtime.store.full_disk", str(tmp_path / "state")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) >= 8


def test_a_rollback_journal_goes_before_the_file_it_belongs_to(folder: StateFolder) -> None:
    for name in ("examples.db", "examples.db-journal"):
        (folder.path / name).write_bytes(b"damaged")
    assert set_aside(folder.path).read_bytes() == b"damaged"
    assert sorted(path.name for path in folder.path.iterdir()) == ["examples.damaged", "lock"]


def test_a_later_version_is_refused_and_left_alone(folder: StateFolder) -> None:
    open_pairs(folder).close()
    connection = sqlite3.connect(folder.path / "examples.db")
    connection.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    connection.close()
    before = on_disk(folder)
    with pytest.raises(UnsupportedVersion):
        open_store(folder, key=key, now_s=NOW_S)
    assert on_disk(folder) == before


def test_a_migration_is_applied_once_and_keeps_the_examples(
    folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_pairs(folder)
    store.add("pairs", some(5), NOW_S)
    store.close()
    later = (*MIGRATIONS, ("CREATE TABLE later (name TEXT PRIMARY KEY) STRICT",))
    monkeypatch.setattr("edge_runtime.example_store.tables.MIGRATIONS", later)
    for _again in range(2):
        migrated = open_pairs(folder)
        assert same(everything(migrated), some(5))
        migrated.close()


def test_a_transaction_that_is_cut_off_leaves_nothing(folder: StateFolder) -> None:
    store = open_pairs(folder)
    store.add("pairs", some(5), NOW_S)
    store._connection.execute("BEGIN IMMEDIATE")
    store._connection.execute("DELETE FROM examples")
    store.close()
    again = open_pairs(folder)
    assert same(everything(again), some(5))
    again.close()
