"""What wakes the worker of an embedded coordinator: requests that moved something, and nothing else."""

from __future__ import annotations

import threading

import pytest

from coordinator.store.database import Database
from coordinator.worker import Worker
from tests.coordinator.asking import assigned, check_in, send_report
from tests.programme import Home

LONG_S = 60.0
WAIT_S = 30.0


class Looking(Worker):
    """Counts its looks and does nothing in them."""

    def __init__(self, home: Home, database: Database, interval_s: float) -> None:
        parts = home.app.state.parts
        super().__init__(database, parts.blobs, parts.key, interval_s, 16)
        self.looked = threading.Semaphore(0)

    def settle(self) -> None:
        self.looked.release()


@pytest.fixture
def hints(home: Home, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(home.app.state.worker, "hint", lambda: found.append("hint"))
    check_ins = home.app.state.check_ins
    monkeypatch.setattr(check_ins, "_moved", lambda: found.append("check-in"))
    return found


def test_a_hint_wakes_a_worker_that_would_rest_for_a_minute(home: Home) -> None:
    worker = Looking(home, home.app.state.parts.database, LONG_S)
    worker.start()
    try:
        for _hint in range(3):
            worker.hint()
            assert worker.looked.acquire(timeout=WAIT_S)
        assert not worker.looked.acquire(blocking=False)
    finally:
        worker.stop()


def test_without_a_hint_it_looks_all_the_same(home: Home) -> None:
    worker = Looking(home, home.app.state.parts.database, 0.01)
    worker.start()
    try:
        assert all(worker.looked.acquire(timeout=WAIT_S) for _look in range(3))
    finally:
        worker.stop()


def test_a_worker_that_rests_stops_at_once(home: Home) -> None:
    worker = Looking(home, home.app.state.parts.database, LONG_S)
    worker.start()
    worker.stop()


def test_requests_that_may_move_a_round_hint_and_those_that_only_look_do_not(home: Home, hints: list[str]) -> None:
    home.start_task(rounds=1)
    assert hints
    phones = [home.phone(number) for number in range(4)]
    hints.clear()
    assert home.operator("GET", "/tasks").is_success
    assert hints == []
    assignments = assigned(home, phones)
    assert "check-in" in hints
    hints.clear()
    send_report(home, phones[0], assignments[0])
    assert hints == ["hint"]


def test_a_check_in_that_changes_nothing_hints_at_nothing(home: Home, hints: list[str]) -> None:
    """A thousand a second that hear the same leave the worker alone."""
    home.start_task(rounds=1)
    phone = home.phone(0)
    home.look()
    check_in(home, phone)
    assert hints.count("check-in") == 1
    hints.clear()
    check_in(home, phone)
    assert hints == []
