"""Several workers on one database: each step is written once, and one that overslept writes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sqlalchemy import event
from sqlmodel import select

from coordinator.services import sums, updates
from coordinator.store.leases import LeaseRow
from coordinator.worker import Worker
from tests.coordinator.asking import assigned, send_report
from tests.coordinator.running import begun, reported, rounds_of, task_of, weights_of
from tests.programme import FIRST_WEIGHTS, PLAN, TASK, Home, one_hot, replace

LEASE_S = 15.0


def another_worker(home: Home) -> Worker:
    parts = home.app.state.parts
    return Worker(parts.database, parts.blobs, parts.key, 0.01, 2, lease_s=LEASE_S)


def all_reported(home: Home) -> None:
    home.start_task(rounds=1)
    phones = [home.phone(number) for number in range(4)]
    for phone, assignment in zip(phones, assigned(home, phones), strict=True):
        send_report(home, phone, assignment)


def check_once(home: Home) -> None:
    (found,) = rounds_of(home, TASK)
    assert (found["phase"], found["reports"], task_of(home, TASK)["model_version"]) == ("committed", 4, 1)
    moved = (weights_of(home, found["result_sha256"]) - FIRST_WEIGHTS)[2:] * PLAN.expected_participants
    assert np.allclose(moved, sum(one_hot(number) for number in range(4)), atol=1e-5)


def test_rounds_that_rest_are_looked_at_in_one_view(home: Home) -> None:
    """A look comes ten times a second, and hardly ever is there anything to move."""
    first = home.publish()
    for name in ("one", "two", "three"):
        home.start_order(home.order(name=name, checkpoint_sha256=first))
    home.look()
    began: list[str] = []
    engine = home.app.state.parts.database.engine

    def note(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        began.append(statement)

    home.app.state.worker.look()
    event.listen(engine, "before_cursor_execute", note)
    assert not home.app.state.worker.look()
    event.remove(engine, "before_cursor_execute", note)
    selects = [one for one in began if one.startswith("SELECT")]
    assert len([one for one in began if "BEGIN" in one]) <= 1
    assert len(selects) <= 5 + 2 * 3, "a few, and the task and the pool of each round"


def test_two_workers_in_turn_add_up_each_report_once(home: Home) -> None:
    workers = [another_worker(home), another_worker(home)]
    all_reported(home)
    for look in range(30):
        workers[look % 2].look()
    check_once(home)


def test_a_worker_that_overslept_its_lease_writes_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first computes an update, its lease runs out, and the second makes the whole update."""
    first, second = another_worker(home), another_worker(home)
    all_reported(home)
    right = updates.compute_update
    slept: list[bool] = []

    def oversleep(*arguments: Any) -> Any:
        update = right(*arguments)
        if not slept:
            slept.append(True)
            home.clock.forward(LEASE_S + 1)
            second.settle()
            check_once(home)
        return update

    monkeypatch.setattr(updates, "compute_update", oversleep)
    first.settle()
    assert slept
    check_once(home)


def test_what_one_worker_holds_another_leaves_alone(home: Home, kind: str) -> None:
    """On SQLite, where one worker is enough, nothing is held."""
    first, second = another_worker(home), another_worker(home)
    all_reported(home)
    assert first.look()
    assert second.look() is (kind == "sqlite")
    home.clock.forward(LEASE_S + 1)
    assert second.look()


def test_a_worker_that_stops_gives_back_what_it_holds(home: Home, kind: str) -> None:
    worker = another_worker(home)
    all_reported(home)
    assert worker.look()
    worker.start()
    worker.stop()
    worker.stop()
    with home.app.state.parts.database.reading() as session:
        rows = session.exec(select(LeaseRow).where(LeaseRow.kind == "task")).all()
        assert [row.holder for row in rows] == ([None] if kind == "postgresql" else [])
    home.look()
    check_once(home)


def test_one_look_adds_one_chunk_of_a_round_so_that_no_sum_holds_up_another(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tasks with two full chunks each: after every look both are as far."""
    plan = replace(PLAN, goal=4, min_reports=4)
    sha256 = home.publish()
    names = ("one", "two")
    work = []
    for place, name in enumerate(names):
        home.start_order(home.order(plan, name=name, checkpoint_sha256=sha256, rounds=1, priority=place))
        home.look()
        phones = [home.phone(4 * place + number) for number in range(4)]
        work += list(zip(phones, begun(home, phones, name), strict=True))
    for phone, assignment in work:
        reported(home, phone, assignment, one_hot(phone.number))
    added: list[str] = []
    right = sums.add_chunk

    def counted(session: Any, blobs: Any, tenant: str, group_id: str, chunk: int, codec: sums.Codec) -> bytes:
        added.append(group_id)
        return right(session, blobs, tenant, group_id, chunk, codec)

    monkeypatch.setattr(sums, "add_chunk", counted)
    worker = another_worker(home)
    most = 0
    while worker.look():
        counts = [added.count(group_id) for group_id in set(added)]
        assert len(counts) in (0, 2)
        assert not counts or max(counts) - min(counts) == 0
        most = max([most, *counts])
    assert most == 2
    assert {task_of(home, name)["state"] for name in names} == {"completed"}
