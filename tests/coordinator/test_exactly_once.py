"""A report is counted at most once, and never lost after its receipt, whatever dies, repeats or goes missing.

`test_exactly_once_bugs` plants what these are to catch. Longer: `python -m tests.coordinator.histories --count 10000`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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

from edge_runtime.protocol.plan import Close
from edge_runtime.protocol.reasons import Outcome
from tests.coordinator.histories import (
    PHONES,
    SEAMS_OF_A_STEP,
    History,
    Job,
    die_at_every_point,
    play,
)

pytestmark = pytest.mark.usefixtures("beginnings")

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
