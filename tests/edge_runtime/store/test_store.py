"""The example store: what is declared, added, evicted, aged and read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_runtime.example_store import Collection, ExampleStore, open_store
from edge_runtime.examples import Examples
from edge_runtime.journal import AppKey, StateFolder
from edge_runtime.protocol.bundle import Schema
from edge_runtime.protocol.errors import (
    InvalidExamples,
    NotFound,
    SchemaChanged,
    UnknownCollection,
)
from tests.edge_runtime.store.journals import key
from tests.edge_runtime.store.pairs import (
    DAY_S,
    HOUR_S,
    KEYS,
    NOW_S,
    PAIRS,
    WIDTH,
    everything,
    joined,
    last_of,
    open_pairs,
    same,
    some,
)


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
    assert same(everything(store), Examples(*joined(last_of(some(90), 70), some(30, seed=1))))


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
    assert store.add("pairs", Examples(*joined(some(3), some(2, seed=1))), NOW_S).duplicates == 3
    assert store.delete("pairs", added.ids[:1]) == 1
    assert store.add("pairs", some(3), NOW_S).duplicates == 2
    twice = Examples(*joined(some(1, seed=9), some(1, seed=9)))
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
