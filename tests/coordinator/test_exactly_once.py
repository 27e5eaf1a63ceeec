"""A report is counted at most once, and never lost after its receipt, whatever dies, repeats or goes missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlmodel import col, delete, select

from coordinator.core.rounds import GroupPhase
from coordinator.services import reports, rounds
from coordinator.store.blobs import BlobKind
from coordinator.store.tables import Group, Report
from edge_runtime.protocol.plan import Close
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.secure_sum.lanes import sum_lanes
from tests.coordinator.histories import PHONES, SEAMS_OF_A_STEP, History, die_at_every_point, one_round, play

_TEMPLATE: list[tuple[Path, str]] = []
"""Hypothesis makes its machines itself: the folder to copy is put here for them."""


@pytest.fixture(autouse=True)
def _template(made: tuple[Path, str]) -> Iterator[None]:
    _TEMPLATE.append(made)
    yield
    _TEMPLATE.clear()


phones = st.integers(0, PHONES - 1)
crashes = st.one_of(st.just(1 << 30), st.integers(0, SEAMS_OF_A_STEP))
hearing = st.booleans()


class OneTask(RuleBasedStateMachine):
    """Anything that may happen to one task, in any order."""

    @initialize(close=st.sampled_from(Close))
    def begin(self, close: Close) -> None:
        self.history = History(*_TEMPLATE[0], close)
        for number in range(PHONES - 1):
            self.history.check_in(number, anew=False)
        self.history.look()

    @rule(number=phones, anew=st.sampled_from([False, False, False, True]), points=crashes, heard=hearing)
    def check_in(self, number: int, anew: bool, points: int, heard: bool) -> None:
        self.history.check_in(number, anew=anew, points=points, heard=heard)

    @rule(number=phones, points=crashes, heard=hearing, value=st.sampled_from([1.0, 1.0, 0.5]))
    def report(self, number: int, points: int, heard: bool, value: float) -> None:
        self.history.report(number, points=points, heard=heard, value=value)

    @rule(which=st.integers(0, 50), resigned=st.booleans(), points=crashes)
    def replay(self, which: int, resigned: bool, points: int) -> None:
        self.history.replay(which, resigned=resigned, points=points)

    @rule(number=phones, points=crashes)
    def give_up(self, number: int, points: int) -> None:
        self.history.give_up(number, points=points)

    @rule(points=crashes)
    def look(self, points: int) -> None:
        self.history.look(points)

    @rule()
    def restart(self) -> None:
        self.history.restart()

    @rule(seconds=st.sampled_from([1, 30, 120, 700]))
    def let_time_pass(self, seconds: float) -> None:
        self.history.let_time_pass(seconds)

    @invariant()
    def nothing_is_lost_or_counted_twice(self) -> None:
        if hasattr(self, "history"):
            self.history.check()

    def teardown(self) -> None:
        if hasattr(self, "history"):
            try:
                self.history.settle()
            finally:
                self.history.close()


def test_whatever_happens_to_one_task_loses_nothing_and_counts_nothing_twice() -> None:
    """Many more histories: `python -m tests.coordinator.histories --count 10000`."""
    few = settings(max_examples=2, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(OneTask, settings=few)


@pytest.mark.parametrize("seed", range(2))
def test_a_random_history_loses_nothing_and_counts_nothing_twice(made: tuple[Path, str], seed: int) -> None:
    history = play(*made, seed)
    assert history.sent, "something happened"


def test_the_worker_may_die_at_any_point_of_adding_up(made: tuple[Path, str]) -> None:
    """At every eighth point here, and at each of them in the long form."""
    assert die_at_every_point(*made, every=8) >= 24


def test_counting_a_report_twice_is_caught(made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def all_of_the_group(session: Any, blobs: Any, tenant: str, group_id: str, chunk: int) -> bytes:
        everything = select(Report.sha256).where(Report.group_id == group_id)
        bodies = [blobs.get(tenant, BlobKind.REPORT, sha256) for sha256 in session.exec(everything).all()]
        total = sum_lanes(np.frombuffer(body, "<u4", offset=32) for body in bodies)
        return b"".join([bytes(16), chunk.to_bytes(4, "little"), total.tobytes()])

    monkeypatch.setattr(rounds, "add_chunk", all_of_the_group)
    with pytest.raises(AssertionError, match="counted twice"):
        one_round(*made)


def test_forgetting_a_report_is_caught(made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def only_full_chunks(session: Any, group_id: str, chunk_reports: int) -> bool:
        waiting = select(Report).where(Report.group_id == group_id, Report.chunk == None)  # noqa: E711
        return len(session.exec(waiting).all()) >= chunk_reports

    def closed(session: Any, group_id: str) -> bool:
        return bool(session.get_one(Group, group_id).phase == GroupPhase.ADDING)

    monkeypatch.setattr(rounds, "wants_chunk", only_full_chunks)
    monkeypatch.setattr(rounds, "is_added_up", closed)
    with pytest.raises(AssertionError, match="acknowledged and lost"):
        one_round(*made)


def test_a_receipt_before_the_report_is_durable_is_caught(
    made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = reports.record_report

    def forgetful(session: Any, *arguments: Any) -> Any:
        receipt = right(session, *arguments)
        session.flush()
        if len(session.exec(select(Report)).all()) == 3:
            session.exec(delete(Report).where(col(Report.participation_id) == arguments[1]))
        return receipt

    monkeypatch.setattr(reports, "record_report", forgetful)
    with pytest.raises(AssertionError, match="acknowledged and lost"):
        one_round(*made)


def test_taking_other_bytes_under_the_same_id_is_caught(
    made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that never finds a report already held records it again."""
    monkeypatch.setattr(reports, "check_acceptable", lambda *_arguments: None)
    history = History(*made, Close.ALL_RESOLVED)
    try:
        for number in range(3):
            history.check_in(number, anew=False)
        history.look()
        history.check_in(0, anew=False)
        history.report(0)
        with pytest.raises(AssertionError):
            history.report(0)
    finally:
        history.close()


def test_giving_up_is_counted_as_such(made: tuple[Path, str]) -> None:
    history = History(*made, Close.ALL_RESOLVED)
    try:
        for number in range(3):
            history.check_in(number, anew=False)
        history.look()
        for number in range(3):
            history.check_in(number, anew=False)
        history.report(0)
        history.report(1)
        history.give_up(2)
        history.settle()
        assert history.home.rounds()[0]["outcomes"] == {Outcome.BATTERY_LOW: 1}
    finally:
        history.close()
