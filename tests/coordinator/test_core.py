"""Decisions without storage: tables of transitions, closing, selection, averaging."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.core import optimisers
from coordinator.core.aggregation import apply_update
from coordinator.core.rounds import (
    FIRST_GROUP_PHASES,
    GROUP_STEPS,
    OPEN_PHASES,
    OPEN_STANDINGS,
    STEPS,
    UNENDED_PHASES,
    BadTransition,
    Event,
    GroupEvent,
    GroupPhase,
    Phase,
    Standing,
    Tally,
    Verdict,
    closing,
    group_sizes,
    step,
)
from coordinator.core.selection import ranked, round_seed, wanted
from coordinator.core.task_settings import ServerOptimiser
from coordinator.core.tasks import TASK_STEPS, TaskEvent, TaskState
from edge_runtime.protocol.errors import InvalidWeights
from edge_runtime.protocol.plan import Close

Table = Mapping[tuple[Any, Any], StrEnum]

ROUNDS = {
    "selecting": {
        "participants-chosen": "training",
        "too-few-devices": "abandoned",
        "task-paused": "abandoned",
        "task-completed": "abandoned",
        "task-cancelled": "abandoned",
    },
    "training": {
        "first-report": "reporting",
        "too-few-reports": "abandoned",
        "task-completed": "abandoned",
        "task-cancelled": "abandoned",
    },
    "reporting": {
        "sum-committed": "committed",
        "sum-buffered": "buffered",
        "too-few-reports": "abandoned",
        "task-completed": "abandoned",
        "task-cancelled": "abandoned",
        "sum-failed": "abandoned",
    },
    "buffered": {
        "sum-committed": "committed",
        "too-stale": "abandoned",
        "task-completed": "abandoned",
        "task-cancelled": "abandoned",
        "sum-failed": "abandoned",
    },
    "committed": {},
    "abandoned": {},
}
GROUPS = {
    "reporting": {"closed": "adding", "aborted": "aborted"},
    "adding": {"sum-taken": "summed", "aborted": "aborted"},
    "forming": {"roster-fixed": "sharing", "aborted": "aborted"},
    "sharing": {"sharers-fixed": "masking", "aborted": "aborted"},
    "masking": {"survivors-fixed": "confirming", "aborted": "aborted"},
    "confirming": {"confirmed": "unmasking", "aborted": "aborted"},
    "unmasking": {"sum-opened": "summed", "aborted": "aborted"},
    "summed": {"aborted": "aborted"},
    "aborted": {},
}
TASKS = {
    "draft": {"changed": "draft", "approved": "approved", "cancelled": "cancelled"},
    "approved": {"changed": "draft", "started": "active", "cancelled": "cancelled"},
    "active": {"changed": "active", "paused": "paused", "stopped": "completed", "cancelled": "cancelled"},
    "paused": {"changed": "paused", "resumed": "active", "stopped": "completed", "cancelled": "cancelled"},
    "completed": {},
    "cancelled": {},
}
MACHINES = [
    ("round", STEPS, Phase, Event, ROUNDS),
    ("group", GROUP_STEPS, GroupPhase, GroupEvent, GROUPS),
    ("task", TASK_STEPS, TaskState, TaskEvent, TASKS),
]


@pytest.mark.parametrize(
    ("table", "state", "event", "expected"),
    [
        pytest.param(table, state, event, expected[state].get(event), id=f"{name}-{state}-{event}")
        for name, table, states, events, expected in MACHINES
        for state, event in itertools.product(states, events)
    ],
)
def test_every_state_answers_every_event_as_written(
    table: Table, state: StrEnum, event: StrEnum, expected: str | None
) -> None:
    if expected is not None:
        assert step(table, state, event) == expected
    else:
        with pytest.raises(BadTransition):
            step(table, state, event)


@pytest.mark.parametrize(("table", "states"), [(table, states) for _name, table, states, _events, _all in MACHINES])
def test_every_state_can_be_reached_and_left_unless_it_is_an_end(table: Table, states: type[StrEnum]) -> None:
    first = set(FIRST_GROUP_PHASES) if states is GroupPhase else {next(iter(states))}
    reached, left = {*first, *table.values()}, {state for state, _event in table}
    assert reached == set(states)
    ends = set(states) - left
    assert ends
    assert ends <= set(table.values())


def test_open_means_that_something_may_still_happen() -> None:
    assert set(UNENDED_PHASES) == {state for state, _event in STEPS}
    assert set(OPEN_PHASES) == set(UNENDED_PHASES) - {Phase.BUFFERED}
    assert set(OPEN_STANDINGS) == {Standing.CHOSEN, Standing.ASSIGNED, Standing.TRAINED}


@given(participants=st.integers(1, 500), least=st.one_of(st.none(), st.integers(1, 600)))
def test_groups_have_the_size_asked_for_and_differ_by_one_at_most(participants: int, least: int | None) -> None:
    sizes = group_sizes(participants, least)
    assert sum(sizes) == participants
    assert max(sizes) - min(sizes) <= 1
    if least is None or participants < 2 * least:
        assert len(sizes) == 1
    else:
        assert min(sizes) >= least
        assert participants // (len(sizes) + 1) < least, "one group more would be too small"


SMALL = range(4)


@pytest.mark.parametrize("close", list(Close))
@pytest.mark.parametrize("deadline_passed", [False, True])
def test_closing_is_right_for_every_small_round(close: Close, deadline_passed: bool) -> None:
    looked = 0
    for chosen, reported, ended, goal in itertools.product(range(1, 5), SMALL, SMALL, range(1, 4)):
        for min_reports in range(1, goal + 1):
            if reported + ended > chosen:
                continue
            tally = Tally(chosen=chosen, reported=reported, ended=ended)
            found = closing(tally, close, goal, min_reports, deadline_passed=deadline_passed)
            waits = reported + ended < chosen and not deadline_passed and (close != "goal" or reported < goal)
            expected = None if waits else Verdict.ADD_UP if reported >= min_reports else Verdict.ABANDON
            assert found is expected, (tally, goal, min_reports)
            looked += 1
    assert looked > 50


def test_an_empty_round_is_never_an_update() -> None:
    for close in Close:
        tally = Tally(chosen=3, reported=0, ended=3)
        assert closing(tally, close, 1, 1, deadline_passed=True) is Verdict.ABANDON


ids = st.lists(st.binary(min_size=16, max_size=16).map(bytes.hex), unique=True, max_size=30)


@given(devices=ids, seed=st.binary(min_size=32, max_size=32), order=st.randoms(use_true_random=False))
def test_a_ranking_does_not_depend_on_the_order_of_check_ins(devices: list[str], seed: bytes, order: Any) -> None:
    shuffled = list(devices)
    order.shuffle(shuffled)
    assert ranked(seed, shuffled) == ranked(seed, devices)
    assert sorted(ranked(seed, devices)) == sorted(devices)


@given(devices=ids, seed=st.binary(min_size=32, max_size=32))
def test_a_device_more_does_not_change_how_the_others_stand(devices: list[str], seed: bytes) -> None:
    fewer = devices[1:]
    assert [device for device in ranked(seed, devices) if device in fewer] == ranked(seed, fewer)


def test_every_device_is_first_about_as_often() -> None:
    """2000 rounds of 20 devices: 100 each; chi-square with 19 degrees of freedom is below 43.8 with p = 0.999."""
    devices = [f"{number:032x}" for number in range(20)]
    first = Counter(ranked(round_seed(b"\1" * 32, number), devices)[0] for number in range(2000))
    assert sum((first[device] - 100) ** 2 / 100 for device in devices) < 43.8


def test_rounds_of_one_task_have_seeds_of_their_own() -> None:
    seeds = {round_seed(bytes([task]) * 32, number) for task in range(3) for number in range(100)}
    assert len(seeds) == 300


@pytest.mark.parametrize(
    ("goal", "over_selection", "most", "expected"),
    [(10, 1.3, 100, 13), (10, 1.0, 100, 10), (3, 1.3, 100, 4), (100, 1.3, 110, 110), (1, 10.0, 3, 3)],
)
def test_more_are_chosen_than_wanted_and_never_more_than_fit(
    goal: int, over_selection: float, most: int, expected: int
) -> None:
    assert wanted(goal, over_selection, most) == expected


SHARED = (slice(2, 5), slice(7, 9))
finite = st.floats(-1e3, 1e3, width=32)
vectors = st.lists(finite, min_size=10, max_size=10).map(lambda values: np.asarray(values, np.float32))
deltas = st.lists(finite, min_size=5, max_size=5).map(lambda values: np.asarray(values, np.float64))


def average(weights: Any, total: Any, participants: int = 4, rate: float = 1.0) -> Any:
    """Federated averaging: what a task does whose settings say nothing of its server optimiser."""
    sgd = ServerOptimiser(learning_rate=rate)
    update, _nothing = optimisers.step(sgd, optimisers.begin(sgd, total.size), total, participants)
    return apply_update(weights, update, SHARED)


@given(weights=vectors, total=deltas, one=deltas, participants=st.integers(1, 1000), rate=st.floats(0.01, 2))
def test_one_participant_moves_the_weights_by_a_bounded_step(
    weights: Any, total: Any, one: Any, participants: int, rate: float
) -> None:
    norm = max(1.0, float(np.linalg.norm(one)))
    clipped = one / norm  # a delta of norm at most 1
    moved = average(weights, total + clipped, participants, rate).astype(np.float64)
    moved -= average(weights, total, participants, rate)
    rounding = 1e-6 * (np.abs(weights).max() + np.abs(total).max() * rate / participants + 1)
    assert np.linalg.norm(moved) <= rate / participants + rounding


@given(weights=vectors, total=deltas)
def test_what_is_not_shared_is_not_touched(weights: Any, total: Any) -> None:
    before = weights.copy()
    after = average(weights, total)
    kept = [0, 1, 5, 6, 9]
    assert after[kept].tobytes() == before[kept].tobytes()
    assert weights.tobytes() == before.tobytes()
    assert after.dtype == np.float32


@given(total=deltas, come=st.integers(1, 4))
def test_the_denominator_is_fixed_whoever_came(total: Any, come: int) -> None:
    weights = np.zeros(10, np.float32)
    after = average(weights, total * come, participants=4)
    assert np.allclose(after[[2, 3, 4, 7, 8]], total * come / 4, rtol=1e-6, atol=1e-6)


def test_a_denominator_of_those_who_came_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = average

    def by_reports(weights: Any, total: Any, _participants: int, rate: float) -> Any:
        return real(weights, total, 1, rate)

    check = test_one_participant_moves_the_weights_by_a_bounded_step.hypothesis.inner_test  # type: ignore[attr-defined]
    monkeypatch.setitem(globals(), "average", by_reports)
    ones = np.asarray([1.0, 0, 0, 0, 0])
    with pytest.raises(AssertionError):
        check(weights=np.zeros(10, np.float32), total=ones, one=ones, participants=100, rate=1.0)


@pytest.mark.parametrize("size", [0, 4, 6])
def test_a_delta_that_does_not_fit_is_a_bug(size: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        average(np.zeros(10, np.float32), np.zeros(size))


@pytest.mark.parametrize("value", [1e40, -1e40, np.inf, np.nan])
def test_an_update_that_is_not_finite_is_refused(value: float) -> None:
    total = np.zeros(5)
    total[1] = value
    with pytest.raises(InvalidWeights):
        average(np.zeros(10, np.float32), total)
