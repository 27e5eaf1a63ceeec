"""Generated histories of an example store against a plain list: crashes, full disks, clocks that are set back."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from edge_runtime.example_store import Collection, open_store
from edge_runtime.examples import Examples
from edge_runtime.journal import AppKey, open_folder
from edge_runtime.protocol.bundle import Schema
from edge_runtime.protocol.errors import DeviceStorageFull, NotFound
from tests.edge_runtime.store.journals import key
from tests.edge_runtime.store.kills import MEMORY

WIDTH = 300
LIVES_S = {"kept": None, "short": 3600.0}
NAMES = st.sampled_from(sorted(LIVES_S))
VALUES = st.lists(st.integers(0, 30), max_size=8)


def collection(name: str, max_rows: int) -> Collection:
    return Collection(
        name=name,
        features=Schema(shape=(WIDTH,), dtype="float32", low=0, high=100),
        labels=Schema(shape=(), dtype="int32", low=0, high=2),
        max_rows=max_rows,
        max_bytes=1 << 20,
        time_to_live_s=LIVES_S[name],
        dedupe=name == "kept",
    )


def of(values: list[int]) -> Examples:
    x = np.repeat(np.array(values, np.float32)[:, None], WIDTH, axis=1)
    return Examples(x.reshape(len(values), WIDTH), np.array(values, np.int32) % 3)


class Histories(RuleBasedStateMachine):
    """The model: for each collection a list of (id, value, time added); one clock that is never set back."""

    def app_key(self) -> AppKey | None:
        return None

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.TemporaryDirectory(prefix="store-", dir=MEMORY if MEMORY.is_dir() else None)
        self.folder = open_folder(Path(self.place.name))
        self.wall_s = self.time_s = 1_800_000_000.0
        self.store = open_store(self.folder, key=self.app_key(), now_s=self.wall_s)
        self.quota = dict.fromkeys(LIVES_S, 10)
        self.rows: dict[str, list[tuple[int, int, float]]] = {name: [] for name in LIVES_S}
        self.snapshots: dict[str, tuple[str, list[int]]] = {}
        self.used: set[int] = set()

    def teardown(self) -> None:
        self.store.close()
        self.folder.close()
        self.place.cleanup()

    @initialize()
    def declare_all(self) -> None:
        for name, max_rows in self.quota.items():
            self.store.declare(collection(name, max_rows))

    def alive(self, name: str) -> list[tuple[int, int, float]]:
        life_s = LIVES_S[name]
        return [row for row in self.rows[name] if life_s is None or row[2] > self.time_s - life_s]

    @rule(step_s=st.floats(0, 1800))
    def time_passes(self, step_s: float) -> None:
        self.wall_s += step_s
        self.time_s += step_s
        self.expire()

    @rule(back_s=st.floats(1, 86_400))
    def the_clock_is_set_back(self, back_s: float) -> None:
        self.wall_s -= back_s
        self.expire()

    def expire(self) -> None:
        before = sum(map(len, self.rows.values()))
        self.rows = {name: self.alive(name) for name in self.rows}
        assert self.store.expire(self.wall_s) == before - sum(map(len, self.rows.values()))

    @rule(name=NAMES, values=VALUES, full=st.booleans())
    def add(self, name: str, values: list[int], full: bool) -> None:
        connection = self.store._connection
        if full:
            connection.execute(f"PRAGMA max_page_count={connection.execute('PRAGMA page_count').fetchone()[0]}")
        try:
            added = self.store.add(name, of(values), self.wall_s)
        except DeviceStorageFull:
            assert full
        else:
            held = {value for _row, value, _at in self.rows[name]} if name == "kept" else set()
            fresh = []
            for value in values:
                if value not in held:
                    fresh.append(value)
                    held |= {value} if name == "kept" else set()
            # a value may come back after the same batch pushed it out; then it is no duplicate
            if len(self.rows[name]) + len(fresh) <= self.quota[name]:
                assert added.duplicates == len(values) - len(fresh)
                assert added.evicted == 0
                self.rows[name] += [(row, value, self.time_s) for row, value in zip(added.ids, fresh, strict=True)]
            else:
                self.rows[name] = self.refilled(name, values, set(added.ids))
            assert not set(added.ids) & self.used
            self.used |= set(added.ids)
        finally:
            connection.execute("PRAGMA max_page_count=1000000")

    def refilled(self, name: str, values: list[int], ids: set[int]) -> list[tuple[int, int, float]]:
        """One at a time, the oldest going first; ids of those that stayed are handed out in order."""
        line: list[tuple[int | None, int, float]] = list(self.rows[name])
        for value in values:
            if name == "kept" and value in {held for _row, held, _at in line}:
                continue
            line = [*line, (None, value, self.time_s)][-self.quota[name] :]
        left = iter(sorted(ids))
        filled = [(next(left) if row is None else row, value, at) for row, value, at in line]
        assert next(left, None) is None
        return filled

    @rule(name=NAMES, max_rows=st.integers(1, 12))
    def another_quota(self, name: str, max_rows: int) -> None:
        self.quota[name] = max_rows
        self.store.declare(collection(name, max_rows))
        self.rows[name] = self.rows[name][-max_rows:]

    @rule(name=NAMES, data=st.data())
    def delete(self, name: str, data: st.DataObject) -> None:
        ids = [row for row, _value, _at in self.rows[name]]
        chosen = data.draw(st.sets(st.sampled_from(ids))) if ids else set()
        assert self.store.delete(name, [*chosen, 10**9]) == len(chosen)
        self.rows[name] = [row for row in self.rows[name] if row[0] not in chosen]

    @rule(name=NAMES)
    def delete_collection(self, name: str) -> None:
        self.store.delete_collection(name)
        self.rows[name] = []
        self.snapshots = {key: held for key, held in self.snapshots.items() if held[0] != name}
        self.store.declare(collection(name, self.quota[name]))

    @rule(name=NAMES)
    def snapshot(self, name: str) -> None:
        found = self.store.snapshot(name, None, self.wall_s)
        self.snapshots[found] = name, [row for row, _value, _at in self.alive(name)]

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        for snapshot, (name, ids) in self.snapshots.items():
            batches = self.store.batches(snapshot)
            assert len(batches) == len(ids)
            order = data.draw(st.permutations(range(len(ids))))
            there = {row: value for row, value, _at in self.rows[name]}
            expected = [there[ids[position]] for position in order if ids[position] in there]
            found = batches.take(np.array(order, np.int64))
            assert found.x[:, 0].tolist() == expected
            assert found.y.tolist() == [value % 3 for value in expected]

    @rule()
    def forget_snapshots(self) -> None:
        kept = sorted(self.snapshots)[:1]
        self.store.keep_snapshots(*kept)
        for snapshot in set(self.snapshots) - set(kept):
            try:
                self.store.batches(snapshot)
            except NotFound:
                del self.snapshots[snapshot]
        assert sorted(self.snapshots) == kept

    @rule(halfway=st.booleans())
    def the_process_ends(self, halfway: bool) -> None:
        if halfway:
            self.store._connection.execute("BEGIN IMMEDIATE")
            self.store._connection.execute("DELETE FROM examples")
        self.store.close()
        self.folder.close()
        self.folder = open_folder(Path(self.place.name))
        self.store = open_store(self.folder, key=self.app_key(), now_s=self.wall_s)
        assert not self.store.found_damaged
        self.declare_all()

    @invariant()
    def the_store_counts_what_the_model_holds(self) -> None:
        for name in self.rows:
            if name in self.store._declared:
                values = [value % 3 for _row, value, _at in self.alive(name)]
                found = self.store.statistics(name, self.wall_s)
                assert found.count == len(values) == self.store.eligible(name, 0, None, self.wall_s).count
                assert found.classes == {label: values.count(label) for label in set(values)}


class SealedHistories(Histories):
    def app_key(self) -> AppKey | None:
        return key


LENGTHS = settings(max_examples=25, stateful_step_count=25, deadline=None)


def test_a_store_in_the_clear_does_what_a_list_does() -> None:
    run_state_machine_as_test(Histories, settings=LENGTHS)


def test_a_sealed_store_does_what_a_list_does() -> None:
    run_state_machine_as_test(SealedHistories, settings=LENGTHS)
