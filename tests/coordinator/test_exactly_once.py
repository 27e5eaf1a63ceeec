"""A report is counted at most once, and never lost after its receipt, whatever dies, repeats or goes missing.

Longer: `python -m tests.coordinator.histories --count 10000`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
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

from coordinator.core.aggregation import buffered_sum
from coordinator.core.rounds import GroupPhase
from coordinator.services import reports, sums, updates
from coordinator.store.blobs import BlobKind
from coordinator.store.tables import Group, Report
from edge_runtime.protocol.plan import Close
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.secure_sum.lanes import sum_lanes
from tests.coordinator.histories import (
    PHONES,
    SEAMS_OF_A_STEP,
    History,
    Job,
    die_at_every_point,
    forget_beginnings,
    one_round,
    play,
)

_TEMPLATE: list[tuple[Path, str]] = []
"""Hypothesis makes its machines itself: the folder to copy is put here for them."""


@pytest.fixture(autouse=True)
def _template(made: tuple[Path, str]) -> Iterator[None]:
    _TEMPLATE.append(made)
    yield
    _TEMPLATE.clear()


@pytest.fixture(autouse=True, scope="module")
def _beginnings(made: tuple[Path, str]) -> Iterator[None]:
    yield
    forget_beginnings()


phones = st.integers(0, PHONES - 1)
crashes = st.one_of(st.just(1 << 30), st.integers(0, SEAMS_OF_A_STEP))
hearing = st.booleans()


PROGRAMMES = [
    (Job("words"),),
    (Job("words", Close.GOAL, group_size=1),),
    (Job("words", buffered=True),),
    (Job("words"), Job("other", Close.GOAL, buffered=True, group_size=1)),
]


class Tasks(RuleBasedStateMachine):
    """Anything that may happen to one task or two, in any order."""

    @initialize(jobs=st.sampled_from(PROGRAMMES))
    def begin(self, jobs: tuple[Job, ...]) -> None:
        self.history = History(*_TEMPLATE[0], jobs)
        for number in range(PHONES - 1):
            self.history.check_in(number, anew=False)
        self.history.look()

    @rule(number=phones, anew=st.sampled_from([False, False, False, True]), points=crashes, heard=hearing)
    def check_in(self, number: int, anew: bool, points: int, heard: bool) -> None:
        self.history.check_in(number, anew=anew, points=points, heard=heard)

    @rule(number=phones, points=crashes, heard=hearing, seed=st.sampled_from([0, 0, 1]))
    def report(self, number: int, points: int, heard: bool, seed: int) -> None:
        self.history.report(number, points=points, heard=heard, seed=seed)

    @rule(which=st.integers(0, 1), what=st.sampled_from(["pause", "resume", "resume"]), points=crashes)
    def operate(self, which: int, what: str, points: int) -> None:
        self.history.operate(which, what, points)

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


def test_whatever_happens_to_tasks_loses_nothing_and_counts_nothing_twice() -> None:
    """Many more histories: `python -m tests.coordinator.histories --count 10000`."""
    few = settings(max_examples=2, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Tasks, settings=few)


@pytest.mark.parametrize("first", range(0, 200, 40))
def test_random_histories_lose_nothing_and_count_nothing_twice(made: tuple[Path, str], kind: str, first: int) -> None:
    """Of one task or two, synchronous and buffered, in one group or in several."""
    told = crashes = 0
    for seed in range(first, first + (40 if kind == "sqlite" else 8)):
        history = play(*made, seed, steps=14)
        told += sum(len(phones) for phones in history.acknowledged.values())
        crashes += history.crashes
    if kind == "sqlite":  # PostgreSQL's are the first of them
        assert told
        assert crashes


@pytest.mark.parametrize("job", [Job("words"), Job("words", group_size=1), Job("words", buffered=True)])
def test_the_worker_may_die_at_any_point_of_adding_up(made: tuple[Path, str], job: Job) -> None:
    """At every sixteenth point here, and at each of them in the long form."""
    assert die_at_every_point(*made, every=16, job=job) >= 24


def test_counting_a_report_twice_is_caught(made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def all_of_the_group(session: Any, blobs: Any, tenant: str, group_id: str, chunk: int, _codec: Any) -> bytes:
        everything = select(Report.sha256).where(Report.group_id == group_id)
        bodies = [blobs.get(tenant, BlobKind.REPORT, sha256) for sha256 in session.exec(everything).all()]
        total = sum_lanes(np.frombuffer(body, "<u4", offset=32) for body in bodies)
        return b"".join([bytes(16), chunk.to_bytes(4, "little"), total.tobytes()])

    monkeypatch.setattr(sums, "add_chunk", all_of_the_group)
    with pytest.raises(AssertionError, match="counted twice"):
        one_round(*made)


def test_forgetting_a_report_is_caught(made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def only_full_chunks(session: Any, group_id: str, chunk_reports: int) -> bool:
        waiting = select(Report).where(Report.group_id == group_id, Report.chunk == None)  # noqa: E711
        return len(session.exec(waiting).all()) >= chunk_reports

    def closed(session: Any, round_id: str) -> bool:
        phases = session.exec(select(Group.phase).where(Group.round_id == round_id)).all()
        return set(phases) == {GroupPhase.ADDING}

    monkeypatch.setattr(sums, "wants_chunk", only_full_chunks)
    monkeypatch.setattr(updates, "is_added_up", closed)
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


def test_a_sum_that_is_applied_and_stays_in_the_buffer_is_caught(
    made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = updates.compute_update

    def forgetting_one(*arguments: Any) -> Any:
        update = right(*arguments)
        return replace(update, rounds=update.rounds[1:], groups=update.groups[1:])

    monkeypatch.setattr(updates, "compute_update", forgetting_one)
    with pytest.raises(AssertionError, match="counted twice"):
        one_round(*made, job=Job("words", buffered=True))


def test_a_stale_sum_of_full_weight_is_caught(made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    right = buffered_sum

    def wave(history: History, *numbers: int) -> None:
        for number in numbers:
            history.check_in(number, anew=True)
        history.look()
        for number in numbers:
            history.check_in(number, anew=False)

    def one_is_late() -> None:
        """Phones 0 and 1 report when the model has moved on; two more make up the next update with them."""
        history = History(*made, [Job("words", buffered=True)])
        try:
            wave(history, 0, 1)
            for numbers in ((2, 3), (2, 3), (0, 1), (2, 3)):
                if 2 in numbers:
                    wave(history, *numbers)
                for number in numbers:
                    history.report(number)
                history.look()
            assert [one["model_version"] for one in history.home.rounds()][:4] == [0, 0, 0, 1]
            assert history.home.task()["model_version"] == 2
            history.check()
        finally:
            history.close()

    one_is_late()
    monkeypatch.setattr(updates, "buffered_sum", lambda held, _exponent: right(held, 0.0))
    with pytest.raises(AssertionError, match="counted twice"):
        one_is_late()


def test_taking_other_bytes_under_the_same_id_is_caught(
    made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that never finds a report already held records it again."""
    monkeypatch.setattr(reports, "check_acceptable", lambda *_arguments: None)
    history = History(*made)
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
    history = History(*made)
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
