"""The example store: what is declared, added, evicted, aged, sealed, deleted and read."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.example_store import Collection, ExampleStore, erase_store, open_store
from edge_runtime.example_store.store import DAMAGED_KEPT_S
from edge_runtime.example_store.tables import MIGRATIONS, set_aside
from edge_runtime.examples import Examples
from edge_runtime.journal import AppKey, StateFolder, open_folder
from edge_runtime.protocol.bundle import Schema
from edge_runtime.protocol.errors import (
    DeviceStorageFull,
    InvalidExamples,
    NotFound,
    SchemaChanged,
    StateDamaged,
    UnknownCollection,
    UnsupportedVersion,
    WrongStorageKey,
)
from tests.edge_runtime.store.test_journal import another_key, flip, key
from tests.workers import ROOT

NOW_S = 1_800_000_000.0
HOUR_S = 3600.0
DAY_S = 86_400.0
WIDTH = 64
PAIRS = Collection(
    name="pairs",
    features=Schema(shape=(WIDTH,), dtype="float32", low=-1.0, high=1.0),
    labels=Schema(shape=(), dtype="int32", low=0, high=4),
    max_rows=100,
    max_bytes=1 << 20,
    time_to_live_s=7 * DAY_S,
    dedupe=True,
)
KEYS = pytest.mark.parametrize("app_key", [None, key], ids=["in the clear", "sealed"])


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StateFolder]:
    with open_folder(tmp_path / "state") as held:
        yield held


@pytest.fixture
def store(folder: StateFolder) -> Iterator[ExampleStore]:
    opened = open_pairs(folder)
    yield opened
    opened.close()


def open_pairs(folder: StateFolder, app_key: AppKey | None = key, now_s: float = NOW_S) -> ExampleStore:
    store = open_store(folder, key=app_key, now_s=now_s)
    store.declare(PAIRS)
    return store


def some(count: int, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (count, WIDTH)).astype(np.float32)
    return Examples(x, rng.integers(0, 5, count).astype(np.int32))


def everything(store: ExampleStore, name: str = "pairs", now_s: float = NOW_S) -> Examples:
    found = store.batches(store.snapshot(name, None, now_s))
    return found.take(np.arange(len(found)))


def same(found: Examples, expected: Examples) -> bool:
    return np.array_equal(found.x, expected.x) and np.array_equal(found.y, expected.y)


def first_of(examples: Examples, count: int) -> Examples:
    return examples.take(np.arange(count))


def last_of(examples: Examples, count: int) -> Examples:
    return examples.take(np.arange(len(examples) - count, len(examples)))


def on_disk(folder: StateFolder) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.path.iterdir()))


def shows(raw: bytes, example: Examples, part_bytes: int = 16) -> bool:
    """Whether any 16 bytes of these features can be found."""
    for row in example.x:
        plain = row.tobytes()
        if any(plain[begin : begin + part_bytes] in raw for begin in range(0, len(plain), part_bytes)):
            return True
    return False


@KEYS
def test_what_was_added_is_read_after_a_restart_bit_by_bit(folder: StateFolder, app_key: AppKey | None) -> None:
    store = open_pairs(folder, app_key)
    added = store.add("pairs", some(20), NOW_S)
    assert (len(added.ids), added.duplicates, added.evicted) == (20, 0, 0)
    store.close()
    again = open_pairs(folder, app_key)
    assert not again.found_damaged
    assert same(everything(again), some(20))
    again.close()


def test_every_shape_that_a_schema_may_have_is_kept(store: ExampleStore) -> None:
    sequences = Collection(
        name="sequences",
        features=Schema(shape=(3, 2), dtype="int32", low=-5, high=5),
        labels=Schema(shape=(2,), dtype="float32", low=0, high=1),
        max_rows=5,
        max_bytes=1 << 20,
        time_to_live_s=None,
        dedupe=False,
    )
    store.declare(sequences)
    examples = Examples(np.arange(-5, 1, dtype=np.int32).reshape(1, 3, 2), np.array([[0.25, 0.5]], np.float32))
    store.add("sequences", examples, NOW_S)
    assert same(everything(store, "sequences"), examples)
    assert store.statistics("sequences", NOW_S).classes == {}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (Examples(np.zeros((1, 3), np.float32), np.zeros(1, np.int32)), "shape"),
        (Examples(np.zeros((1, WIDTH)), np.zeros(1, np.int32)), "float64"),
        (Examples(np.zeros((1, WIDTH), np.float32), np.zeros(1, np.int64)), "int64"),
        (Examples(np.full((1, WIDTH), np.nan, np.float32), np.zeros(1, np.int32)), "not finite"),
        (Examples(np.full((1, WIDTH), 1.5, np.float32), np.zeros(1, np.int32)), "outside"),
        (Examples(np.zeros((1, WIDTH), np.float32), np.array([5], np.int32)), "outside 0 to 4"),
        (Examples(np.zeros((2, WIDTH), np.float32), np.zeros(1, np.int32)), "2 rows of features for 1 labels"),
    ],
)
def test_an_example_that_does_not_fit_is_refused_and_takes_its_batch_along(
    store: ExampleStore, wrong: Examples, sentence: str
) -> None:
    with pytest.raises(InvalidExamples, match=sentence):
        store.add("pairs", wrong, NOW_S)
    assert store.statistics("pairs", NOW_S).count == 0


def test_no_examples_are_added_without_complaint(store: ExampleStore) -> None:
    assert store.add("pairs", some(0), NOW_S).ids == ()


def test_the_oldest_give_way_beyond_the_quota_of_rows(store: ExampleStore) -> None:
    store.add("pairs", some(90), NOW_S)
    added = store.add("pairs", some(30, seed=1), NOW_S)
    assert (len(added.ids), added.evicted) == (30, 20)
    assert same(everything(store), Examples(*_joined(last_of(some(90), 70), some(30, seed=1))))


def _joined(one: Examples, other: Examples) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    return np.concatenate([one.x, other.x]), np.concatenate([one.y, other.y])


def test_a_batch_beyond_the_quota_leaves_its_last(store: ExampleStore) -> None:
    added = store.add("pairs", some(130), NOW_S)
    assert (len(added.ids), added.evicted) == (100, 30)
    assert same(everything(store), last_of(some(130), 100))


def test_the_quota_of_bytes_counts_what_is_stored(folder: StateFolder) -> None:
    store = open_store(folder, key=key, now_s=NOW_S)
    store.declare(replace(PAIRS, max_bytes=10 * PAIRS.row_bytes + 1))
    assert store.add("pairs", some(12), NOW_S).evicted == 2
    assert store.statistics("pairs", NOW_S).bytes == 10 * PAIRS.row_bytes
    store.declare(replace(PAIRS, max_rows=4))
    assert same(everything(store), last_of(some(12), 4))
    store.close()


@pytest.mark.parametrize("width", [1, 64, 784, 3072])
def test_the_file_is_about_as_large_as_the_quota_allows(folder: StateFolder, width: int) -> None:
    wide = replace(PAIRS, features=replace(PAIRS.features, shape=(width,)), max_rows=1 << 20, max_bytes=1 << 20)
    store = open_store(folder, key=key, now_s=NOW_S)
    store.declare(wide)
    for seed in range(5):
        x = np.random.default_rng(seed).uniform(-1, 1, (wide.capacity // 3, width)).astype(np.float32)
        store.add("pairs", Examples(x, np.zeros(len(x), np.int32)), NOW_S)
    assert 0.7 < (folder.path / "examples.db").stat().st_size / wide.max_bytes < 1.4
    store.close()


@pytest.mark.parametrize(
    "wrong", [{"max_rows": 0}, {"max_bytes": PAIRS.row_bytes - 1}, {"time_to_live_s": 0.0}, {"name": "Pairs!"}]
)
def test_a_declaration_that_holds_nothing_is_a_mistake_of_the_app(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"name|quota|time_to_live"):
        replace(PAIRS, **wrong)  # type: ignore[arg-type]


def test_a_duplicate_is_not_added_again_until_it_is_gone(store: ExampleStore) -> None:
    added = store.add("pairs", some(3), NOW_S)
    assert store.add("pairs", Examples(*_joined(some(3), some(2, seed=1))), NOW_S).duplicates == 3
    assert store.delete("pairs", added.ids[:1]) == 1
    assert store.add("pairs", some(3), NOW_S).duplicates == 2
    twice = Examples(*_joined(some(1, seed=9), some(1, seed=9)))
    assert store.add("pairs", twice, NOW_S).duplicates == 1


def test_without_dedupe_an_example_is_kept_as_often_as_it_comes(store: ExampleStore) -> None:
    store.declare(replace(PAIRS, name="repeated", dedupe=False))
    for _again in range(2):
        assert store.add("repeated", some(3), NOW_S).duplicates == 0
    assert store.statistics("repeated", NOW_S).count == 6


def test_statistics_count_what_can_be_read(store: ExampleStore) -> None:
    store.add("pairs", some(10), NOW_S)
    store.add("pairs", some(10, seed=1), NOW_S + 60)
    found = store.statistics("pairs", NOW_S + 100)
    labels = np.concatenate([some(10).y, some(10, seed=1).y]).tolist()
    assert found.count == 20
    assert found.classes == {label: labels.count(label) for label in set(labels)}
    assert (found.oldest_age_s, found.newest_age_s) == (100.0, 40.0)
    empty = store.statistics("pairs", NOW_S + 30 * DAY_S)
    assert (empty.count, empty.classes, empty.oldest_age_s, empty.newest_age_s) == (0, {}, None, None)


def test_only_examples_of_the_asked_age_are_eligible(store: ExampleStore) -> None:
    store.add("pairs", some(10), NOW_S)
    store.add("pairs", some(5, seed=1), NOW_S + 1800)
    assert store.eligible("pairs", 15, None, NOW_S + 1800).enough
    young = store.eligible("pairs", 6, 900.0, NOW_S + 1800)
    assert (young.count, young.enough) == (5, False)
    assert len(store.batches(store.snapshot("pairs", 900.0, NOW_S + 1800))) == 5


def test_a_collection_that_was_not_declared_is_refused_by_name(store: ExampleStore) -> None:
    for ask in (
        lambda: store.add("others", some(1), NOW_S),
        lambda: store.statistics("others", NOW_S),
        lambda: store.eligible("others", 1, None, NOW_S),
        lambda: store.snapshot("others", None, NOW_S),
    ):
        with pytest.raises(UnknownCollection, match="others"):
            ask()


def test_another_schema_is_refused_unless_the_app_gives_up_the_old_examples(store: ExampleStore) -> None:
    store.add("pairs", some(5), NOW_S)
    snapshot = store.snapshot("pairs", None, NOW_S)
    wider = replace(PAIRS, features=replace(PAIRS.features, high=2.0))
    with pytest.raises(SchemaChanged):
        store.declare(wider)
    assert same(everything(store), some(5))
    store.declare(wider, drop_other_schema=True)
    assert store.statistics("pairs", NOW_S).count == 0
    with pytest.raises(NotFound):
        store.batches(snapshot)
    assert min(store.add("pairs", some(1), NOW_S).ids) > 5


def test_a_snapshot_keeps_its_order_and_length_through_additions_and_restarts(folder: StateFolder) -> None:
    store = open_pairs(folder)
    store.add("pairs", some(10), NOW_S)
    snapshot = store.snapshot("pairs", None, NOW_S)
    store.add("pairs", some(3, seed=1), NOW_S)
    store.close()
    again = open_pairs(folder)
    batches = again.batches(snapshot)
    order = np.array([7, 0, 9, 3, 3])
    assert len(batches) == 10
    assert same(batches.take(order), some(10).take(order))
    again.close()


def test_a_deleted_example_is_not_in_any_batch(store: ExampleStore) -> None:
    added = store.add("pairs", some(6), NOW_S)
    batches = store.batches(store.snapshot("pairs", None, NOW_S))
    store.delete("pairs", [added.ids[1], added.ids[4]])
    assert len(batches) == 6
    assert same(batches.take(np.array([4, 5, 1, 0])), some(6).take(np.array([5, 0])))
    nothing = batches.take(np.array([1, 4]))
    assert len(nothing) == 0
    assert nothing.x.shape == (0, WIDTH)


def test_only_the_snapshots_that_are_wanted_are_kept(store: ExampleStore) -> None:
    store.add("pairs", some(2), NOW_S)
    one, other = (store.snapshot("pairs", None, NOW_S) for _which in range(2))
    store.keep_snapshots(one)
    assert len(store.batches(one)) == 2
    with pytest.raises(NotFound):
        store.batches(other)


def test_a_batch_of_more_examples_than_sqlite_takes_in_a_question_is_read(folder: StateFolder) -> None:
    store = open_pairs(folder)
    store.declare(replace(PAIRS, max_rows=1200))
    store.add("pairs", some(1200), NOW_S)
    assert same(everything(store), some(1200))
    store.close()


def test_printing_shows_no_data(store: ExampleStore) -> None:
    store.add("pairs", some(2), NOW_S)
    assert repr(store.batches(store.snapshot("pairs", None, NOW_S))) == f"StoredExamples(2 of ({WIDTH},))"


def test_what_is_past_its_time_is_not_read_and_then_deleted(store: ExampleStore) -> None:
    store.declare(replace(PAIRS, time_to_live_s=1800.0))
    store.add("pairs", some(5), NOW_S)
    assert store.expire(NOW_S + 1799) == 0
    batches = store.batches(store.snapshot("pairs", None, NOW_S + 1799))
    assert not store.eligible("pairs", 1, None, NOW_S + 1800).enough
    assert store.expire(NOW_S + 1800) == 5
    assert len(batches.take(np.arange(5))) == 0


def test_a_clock_a_day_ahead_for_a_while_deletes_nothing(store: ExampleStore) -> None:
    store.declare(replace(PAIRS, time_to_live_s=12 * HOUR_S))
    store.add("pairs", some(5), NOW_S)
    for wrong_s in (DAY_S, DAY_S + 600):
        assert store.expire(NOW_S + wrong_s) == 0
        assert store.statistics("pairs", NOW_S + wrong_s).count == 0
    store.add("pairs", some(1, seed=1), NOW_S + DAY_S + 700)
    assert store.expire(NOW_S + 900) == 0
    assert store.statistics("pairs", NOW_S + 900).count == 6
    assert store.statistics("pairs", NOW_S + 900).oldest_age_s == 900
    assert store.statistics("pairs", NOW_S + 900).newest_age_s == 0


def test_a_device_that_was_off_for_a_day_deletes_what_grew_old_within_an_hour(store: ExampleStore) -> None:
    store.declare(replace(PAIRS, time_to_live_s=12 * HOUR_S))
    store.add("pairs", some(5), NOW_S)
    gone = [store.expire(NOW_S + DAY_S + minutes * 60) for minutes in (0, 15, 30, 45, 60)]
    assert gone == [0, 0, 0, 0, 5]


def test_a_clock_a_day_back_neither_revives_nor_deletes(store: ExampleStore) -> None:
    store.declare(replace(PAIRS, time_to_live_s=1800.0))
    store.declare(replace(PAIRS, name="kept"))
    store.add("pairs", some(3), NOW_S)
    store.add("kept", some(4), NOW_S)
    store.add("pairs", some(2, seed=1), NOW_S + 1700)
    assert store.expire(NOW_S + 1800) == 3
    assert store.expire(NOW_S + 1800 - DAY_S) == 0
    assert same(everything(store, now_s=NOW_S + 1801 - DAY_S), some(2, seed=1))
    assert store.statistics("kept", NOW_S + 1801 - DAY_S).count == 4
    assert store.expire(NOW_S + 3600 - DAY_S) == 2


def test_a_phone_that_wakes_in_1970_keeps_its_examples(store: ExampleStore) -> None:
    store.add("pairs", some(5), NOW_S)
    store.expire(NOW_S)
    store.add("pairs", some(1, seed=1), 100.0)
    assert store.expire(200.0) == 0
    assert store.expire(NOW_S + 600) == 0
    assert store.expire(NOW_S + 600 + HOUR_S) == 0
    assert store.statistics("pairs", NOW_S + 600 + HOUR_S).count == 6


def test_a_collection_that_the_app_forgot_still_ages_and_can_be_deleted(folder: StateFolder) -> None:
    store = open_pairs(folder)
    store.add("pairs", some(5), NOW_S)
    store.close()
    later = open_store(folder, key=key, now_s=NOW_S)
    assert later.collections() == ("pairs",)
    for hours in range(7 * 24):
        assert later.expire(NOW_S + hours * HOUR_S) == 0
    assert later.expire(NOW_S + 7 * DAY_S) == 5
    later.delete_collection("pairs")
    assert later.collections() == ()
    later.close()


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
    found = store._read("pairs", list(range(1, 1000)))
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
