"""Evaluating tasks: devices report what they measured, the sum becomes means, and nothing changes the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.protocol.checkin import Assignment
from edge_runtime.protocol.measures import decode_measures, encode_measures
from edge_runtime.protocol.plan import Kind, MetricRange
from tests.coordinator.asking import assigned, refusal, report_of, send_report
from tests.coordinator.running import begun, reported, rounds_of, task_of
from tests.programme import PLAN, TASK, Home, Phone, one_hot, replace

CORRECT = MetricRange(name="correct", low=0.0, high=1.0)
LOSS = MetricRange(name="loss", low=0.0, high=8.0)
MEASURE = replace(
    PLAN, version=3, kind=Kind.EVALUATE, metrics=(CORRECT, LOSS), max_examples=64, clipping_norm=2.0, min_reports=2
)
STEP = 1e-5
"""Of the lanes: rounding moves a mean by less."""


def measured(home: Home, phone: Phone, assignment: Assignment, correct: float, loss: float, examples: int) -> None:
    values = encode_measures(MEASURE, {"correct": correct, "loss": loss}, examples)
    answer = send_report(home, phone, assignment, report_of(phone, assignment, values))
    assert answer.status_code == 200, answer.text


def order_of(home: Home, **settings: Any) -> dict[str, Any]:
    plan = settings.pop("plan", MEASURE)
    given_settings = {"kind": "evaluate", "rounds": 1, "name": "watch", **settings}
    return home.order(plan, checkpoint_sha256=home.publish(), **given_settings)


def test_means_are_over_the_examples_of_everyone_and_the_model_stays(home: Home) -> None:
    home.start_order(order_of(home))
    home.look()
    phones = [home.phone(number) for number in range(4)]
    found = [(0.5, 2.0, 32), (1.0, 1.0, 64), (0.0, 8.0, 16), (0.25, 4.0, 200)]
    before = task_of(home, "watch")["checkpoint_sha256"]
    for phone, assignment, one in zip(phones, assigned(home, phones), found, strict=True):
        measured(home, phone, assignment, *one)
    home.look()
    (round_,) = rounds_of(home, "watch")
    assert (round_["phase"], round_["reports"], round_["result_sha256"]) == ("committed", 4, None)
    weights = np.asarray([32, 64, 16, 64])  # nobody weighs more than 64 examples
    correct, loss = (weights @ np.asarray([one[place] for one in found]) / weights.sum() for place in (0, 1))
    assert round_["metrics"] == {"correct": pytest.approx(correct, abs=STEP), "loss": pytest.approx(loss, abs=8 * STEP)}
    task = task_of(home, "watch")
    assert (task["checkpoint_sha256"], task["state"]) == (before, "completed")


def test_a_report_of_another_length_is_refused(home: Home) -> None:
    home.start_order(order_of(home))
    home.look()
    phones = [home.phone(number) for number in range(4)]
    assignments = assigned(home, phones)
    wrong = report_of(phones[0], assignments[0], one_hot(0))
    assert refusal(send_report(home, phones[0], assignments[0], wrong)) == "report-length"


def test_a_task_that_evaluates_another_measures_its_newest_model(home: Home) -> None:
    home.start_task(replace(PLAN, goal=1, min_reports=1), pool_size=1, rounds=1, priority=5)
    trainer = home.phone(9)
    (assignment,) = begun(home, [trainer], "train")
    reported(home, trainer, assignment, one_hot(0))
    home.look()
    home.start_order(order_of(home, evaluates=TASK))
    home.look()
    assert rounds_of(home, "watch")[0]["checkpoint_sha256"] == task_of(home, TASK)["checkpoint_sha256"]
    assert rounds_of(home, "watch")[0]["model_version"] == 1


def test_a_task_stops_when_another_has_measured_enough(home: Home) -> None:
    """The training task trains on until two rounds of measuring in a row found a loss of at most 1."""
    home.start_order(order_of(home, plan=replace(MEASURE, goal=1, min_reports=1), pool_size=1, rounds=10, priority=9))
    target = {"task": "watch", "metric": "loss", "at_most": 1.0, "rounds": 2}
    plan = replace(PLAN, goal=1, min_reports=1)
    trains = home.order(plan, checkpoint_sha256=home.publish(), pool_size=1, stop={"metric": target})
    home.start_order(trains)
    home.look()
    for number, loss in enumerate([0.5, 2.0, 0.5]):
        phone = home.phone(number)
        (assignment,) = begun(home, [phone], str(number))
        assert assignment is not None
        measured(home, phone, assignment, 1.0, loss, 8)
        home.look()
        assert task_of(home, TASK)["state"] == "active"
    home.operator("POST", "/tasks/watch/pause").raise_for_status()
    trainer = home.phone(8)
    (assignment,) = begun(home, [trainer], "train")
    reported(home, trainer, assignment, one_hot(0))
    home.look()
    assert task_of(home, TASK)["state"] == "active", "one round of two"
    home.operator("POST", "/tasks/watch/resume").raise_for_status()
    home.look()
    phone = home.phone(3)
    (assignment,) = begun(home, [phone], "last")
    assert assignment is not None
    measured(home, phone, assignment, 1.0, 0.25, 8)
    home.look()
    home.operator("POST", "/tasks/watch/pause").raise_for_status()
    trainer = home.phone(7)
    (assignment,) = begun(home, [trainer], "train")
    reported(home, trainer, assignment, one_hot(0))
    home.look()
    found = task_of(home, TASK)
    assert (found["state"], found["ended_because"]) == ("completed", "metric-reached")


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"kind": "train"}, "malformed"),
        ({"mode": "buffered"}, "malformed"),
        ({"evaluates": "nobody"}, "not-found"),
        ({"plan": replace(MEASURE, metrics=(MetricRange(name="beauty", low=0.0, high=1.0),))}, "invalid-plan"),
        ({"plan": PLAN}, "malformed"),
    ],
)
def test_what_does_not_fit_an_evaluation_is_refused(home: Home, changed: dict[str, Any], code: str) -> None:
    assert refusal(home.operator("POST", "/tasks", json=order_of(home, **changed))) == code


numbers = st.floats(allow_nan=True, allow_infinity=True)
fair = st.tuples(st.floats(0, 1), st.floats(0, 8), st.integers(1, 64))


@given(others=st.lists(fair, min_size=1, max_size=6), one=st.tuples(numbers, numbers, st.integers(1, 10**6)))
def test_one_participant_moves_a_mean_by_a_bounded_step(others: list[Any], one: tuple[float, float, int]) -> None:
    """By at most (high - low) * N / W, whatever it measured: N examples at most, W those of everyone."""

    def total(reports: list[Any]) -> tuple[float, dict[str, float]]:
        encoded = [encode_measures(MEASURE, {"correct": a, "loss": b}, n).astype(np.float64) for a, b, n in reports]
        return decode_measures(MEASURE, np.sum(encoded, axis=0))

    _weight, before = total(others)
    everyone, after = total([*others, one])
    for metric in MEASURE.metrics:
        share = min(64, one[2]) / everyone
        assert abs(after[metric.name] - before[metric.name]) <= (metric.high - metric.low) * share * (1 + 1e-5) + 1e-5


@given(one=st.tuples(numbers, numbers, st.integers(1, 10**6)))
def test_what_is_reported_lies_within_the_clipping_norm(one: tuple[float, float, int]) -> None:
    values = encode_measures(MEASURE, {"correct": one[0], "loss": one[1]}, one[2])
    assert ((values >= 0) & (values <= 1)).all()
    assert np.linalg.norm(values) <= MEASURE.clipping_norm


def test_without_examples_there_is_no_mean() -> None:
    assert decode_measures(MEASURE, np.zeros(3)) == (0.0, {})
