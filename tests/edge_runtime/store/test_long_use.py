"""A thousand starts of the app, and many threads at once: nothing grows, nothing is lost."""

from __future__ import annotations

import gc
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge_runtime.example_store import ExampleStore, open_store
from edge_runtime.journal import Journal, Progress, open_folder, open_journal
from edge_runtime.journal import state as now_is
from edge_runtime.journal.state import Visited
from edge_runtime.protocol.checkin import Assignment
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.report import Receipt
from edge_runtime.schedule import Day
from tests.edge_runtime.store.journals import Numbers, key
from tests.edge_runtime.store.pairs import PAIRS, some
from tests.edge_runtime.store.test_participation import HERE, NOW_S

SESSIONS = 1000
WARM = 200
"""Past the length of every list that is kept: 50 visits, 32 ends, 14 days, 100 examples."""


def session(path: Path, number: int) -> None:
    """Start, take an example, and end; every fifth time take part in a round from assignment to receipt."""
    now_s = NOW_S + number * 900.0
    with open_folder(path) as folder:
        store = open_store(folder, key=key, now_s=now_s)
        journal = open_journal(folder, key=key, now_s=now_s)
        store.declare(PAIRS)
        store.add("pairs", some(1, seed=number), now_s)
        store.expire(now_s)
        if number % 5 == 0:
            _take_part(store, journal, number, now_s)
        journal.update(
            lambda state: now_is.visited(
                now_is.spent(state, Day(date=f"day {number // 96}", seconds=1.0)),
                Visited(at_s=now_s, reason="no-task"),
                60.0,
            )
        )
        store.keep_snapshots()
        store.close()


def _take_part(store: ExampleStore, journal: Journal, number: int, now_s: float) -> None:
    snapshot = store.snapshot("pairs", None, now_s)
    here: Assignment = replace(HERE, participation=f"{number:032x}")
    journal.update(lambda state: now_is.assigned(state, here, "pop", now_s))
    batch = store.batches(snapshot).take(np.zeros(4, np.int64))
    progress = Progress(
        epoch=0,
        step=1,
        order_seed=number,
        rng=b"{}",
        snapshot=snapshot,
        weights=batch.x.reshape(-1),
        slots=np.zeros(3, np.float32),
    )
    journal.save(progress)
    journal.seal(b"report")
    sha256 = digest(journal.report_to_send()).hex()
    receipt = Receipt(version=1, participation=here.participation, report_sha256=sha256, retry_after_s=1.0)
    journal.update(lambda state: now_is.received(state, receipt, now_s))


def handles() -> int:
    return len(os.listdir("/proc/self/fd"))


def sizes(path: Path) -> dict[str, int]:
    return {found.name: found.stat().st_size for found in path.iterdir()}


def memory_bytes() -> int:
    """Resident now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a_thousand_sessions_leave_no_more_than_the_first_ones(tmp_path: Path) -> None:
    for number in range(WARM):
        session(tmp_path, number)
    gc.collect()
    open_before, before = handles(), sizes(tmp_path)
    blocks_before, memory_before = sys.getallocatedblocks(), memory_bytes()
    for number in range(WARM, SESSIONS):
        session(tmp_path, number)
    gc.collect()
    assert handles() == open_before
    assert sizes(tmp_path).keys() == before.keys()
    assert sum(sizes(tmp_path).values()) < sum(before.values()) + 8192
    assert sys.getallocatedblocks() - blocks_before < SESSIONS  # not even one object a session
    assert memory_bytes() - memory_before < 2 << 20


def test_threads_that_use_a_store_and_a_journal_at_once_lose_nothing(tmp_path: Path) -> None:
    failures: list[BaseException] = []
    with open_folder(tmp_path) as folder:
        store, journal = (
            open_store(folder, key=None, now_s=NOW_S),
            open_journal(folder, key=None, now_s=NOW_S, witness=Numbers()),
        )
        store.declare(replace(PAIRS, max_rows=1000))

        def work(thread: int) -> None:
            try:
                for number in range(20):
                    store.add("pairs", some(1, seed=100 * thread + number), NOW_S)
                    store.batches(store.snapshot("pairs", None, NOW_S)).take(np.array([0]))
                    journal.update(lambda state: now_is.spent(state, Day(date="today", transferred_bytes=1)))
            except BaseException as problem:
                failures.append(problem)

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert store.statistics("pairs", NOW_S).count == 120
        store.close()
        usage = now_is.used(open_journal(folder, key=None, now_s=NOW_S).state, NOW_S)
        assert usage.days == (Day(date="today", transferred_bytes=120),)
