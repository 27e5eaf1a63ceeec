"""Server optimisers against a slow one written from the paper; bit for bit, and the same after a restart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.core import optimisers
from coordinator.core.aggregation import apply_update, buffered_sum, staleness_weight
from coordinator.core.optimisers import OptimiserState
from coordinator.core.task_settings import Optimiser, ServerOptimiser
from edge_runtime.protocol.errors import DigestMismatch

TASK = "ab" * 16
SIZE = 5
finite = st.floats(-1e3, 1e3)
sums = st.lists(finite, min_size=SIZE, max_size=SIZE)


class Slow:
    """One value at a time, in plain Python. Source: https://arxiv.org/abs/2003.00295, algorithm 2."""

    def __init__(self, of: ServerOptimiser) -> None:
        self.of = of
        self.m = [0.0] * SIZE
        self.v = [of.tau**2] * SIZE

    def step(self, total: list[float], expected: int) -> list[float]:
        return [self._value(place, value, expected) for place, value in enumerate(total)]

    def _value(self, place: int, value: float, expected: int) -> float:
        of = self.of
        if of.name == "sgd":
            return value * (of.learning_rate / expected)
        d = value / expected
        if of.name == "momentum":
            self.m[place] = of.beta1 * self.m[place] + d
            return of.learning_rate * self.m[place]
        if of.name == "adagrad":
            self.v[place] = self.v[place] + d * d
            return of.learning_rate * d / (math.sqrt(self.v[place]) + of.tau)
        self.m[place] = of.beta1 * self.m[place] + (1 - of.beta1) * d
        if of.name == "adam":
            self.v[place] = of.beta2 * self.v[place] + (1 - of.beta2) * (d * d)
        else:
            sign = (self.v[place] > d * d) - (self.v[place] < d * d)
            self.v[place] = self.v[place] - (1 - of.beta2) * (d * d) * sign
        return of.learning_rate * self.m[place] / (math.sqrt(self.v[place]) + of.tau)


@settings(max_examples=50, deadline=None)
@given(
    name=st.sampled_from(Optimiser),
    totals=st.lists(sums, min_size=1, max_size=5),
    rate=st.floats(0.001, 2),
    beta1=st.floats(0, 0.99),
    beta2=st.floats(0, 0.999),
    expected=st.integers(1, 500),
)
def test_every_optimiser_does_what_the_slow_one_does_bit_for_bit(
    name: Optimiser, totals: list[list[float]], rate: float, beta1: float, beta2: float, expected: int
) -> None:
    of = ServerOptimiser(name=name, learning_rate=rate, beta1=beta1, beta2=beta2)
    slow, state = Slow(of), optimisers.begin(of, SIZE)
    for total in totals:
        raw = optimisers.encode_state(state, TASK)
        if raw is not None:  # as after a restart
            state = optimisers.decode_state(raw, TASK, of, SIZE)
        given_sum = np.asarray(total)
        update, state = optimisers.step(of, state, given_sum, expected)
        assert update.tolist() == slow.step(total, expected)
        assert given_sum.tolist() == total, "what is given is not changed"


def test_a_yogi_that_is_an_adam_would_be_caught() -> None:
    """The slow one tells them apart already at the second step."""
    yogi, adam = (ServerOptimiser(name=name) for name in (Optimiser.YOGI, Optimiser.ADAM))
    slow, state = Slow(yogi), optimisers.begin(adam, SIZE)
    first, second = [1.0] * SIZE, [0.1] * SIZE
    update, state = optimisers.step(adam, state, np.asarray(first), 1)
    slow.step(first, 1)
    update, state = optimisers.step(adam, state, np.asarray(second), 1)
    assert update.tolist() != slow.step(second, 1)


@given(total=sums, expected=st.integers(1, 500), rate=st.floats(0.001, 2))
def test_sgd_is_federated_averaging_with_a_fixed_denominator_bit_for_bit(
    total: list[float], expected: int, rate: float
) -> None:
    """As the first release computed it: the weights of finished tasks can be computed again."""
    weights = np.linspace(-1, 1, SIZE, dtype=np.float32)
    of = ServerOptimiser(learning_rate=rate)
    update, nothing = optimisers.step(of, optimisers.begin(of, SIZE), np.asarray(total), expected)
    first_release = (weights.astype(np.float64) + np.asarray(total) * (rate / expected)).astype(np.float32)
    assert apply_update(weights, update, [slice(0, SIZE)]).tobytes() == first_release.tobytes()
    assert optimisers.encode_state(nothing, TASK) is None, "sgd remembers nothing"


@pytest.mark.parametrize("name", [name for name in Optimiser if name is not Optimiser.SGD])
def test_a_state_of_another_task_optimiser_or_size_is_refused(name: Optimiser) -> None:
    of = ServerOptimiser(name=name)
    raw = optimisers.encode_state(optimisers.begin(of, SIZE), TASK)
    assert raw is not None
    first_only, both = ServerOptimiser(name=Optimiser.MOMENTUM), ServerOptimiser(name=Optimiser.ADAM)
    other = both if name is not Optimiser.ADAM and name is not Optimiser.YOGI else first_only
    wrong: list[tuple[bytes, str, ServerOptimiser, int]] = [
        (raw, "cd" * 16, of, SIZE),
        (raw, TASK, other, SIZE),
        (raw, TASK, of, SIZE + 1),
        (raw[:-1], TASK, of, SIZE),
        (raw + b"\0", TASK, of, SIZE),
        (b"", TASK, of, SIZE),
        (b"x" + raw[1:], TASK, of, SIZE),
    ]
    for given_raw, task, optimiser, size in wrong:
        with pytest.raises(DigestMismatch):
            optimisers.decode_state(given_raw, task, optimiser, size)


def test_a_state_of_another_optimiser_or_model_is_a_bug() -> None:
    adam = ServerOptimiser(name=Optimiser.ADAM)
    with pytest.raises(ValueError, match="not one of adam"):
        optimisers.step(adam, OptimiserState(), np.zeros(SIZE), 1)
    with pytest.raises(ValueError, match="another model"):
        optimisers.step(adam, optimisers.begin(adam, SIZE + 1), np.zeros(SIZE), 1)


@given(staleness=st.integers(0, 10_000), exponent=st.floats(0, 10))
def test_a_stale_sum_never_weighs_more_than_a_fresh_one(staleness: int, exponent: float) -> None:
    assert 0 <= staleness_weight(staleness + 1, exponent) <= staleness_weight(staleness, exponent) <= 1
    assert staleness_weight(0, exponent) == 1


vectors = st.lists(finite, min_size=SIZE, max_size=SIZE).map(np.asarray)


@given(held=st.lists(st.tuples(vectors, st.integers(0, 20)), min_size=1, max_size=4), exponent=st.floats(0, 2))
def test_the_buffer_is_a_weighted_sum_in_the_order_given(held: list[tuple[Any, int]], exponent: float) -> None:
    slow = [0.0] * SIZE
    for number, (values, staleness) in enumerate(held):
        for place in range(SIZE):
            weighted = float(values[place]) * (1 + staleness) ** -exponent
            slow[place] = weighted if number == 0 else slow[place] + weighted
    assert buffered_sum(held, exponent).tolist() == slow


@given(one=vectors, exponent=st.floats(0, 2))
def test_one_fresh_sum_comes_back_as_it_is(one: Any, exponent: float) -> None:
    assert buffered_sum([(one, 0)], exponent).tobytes() == one.tobytes()


def test_an_empty_buffer_and_a_sum_from_the_future_are_bugs() -> None:
    with pytest.raises(ValueError, match="nothing"):
        buffered_sum([], 0.5)
    with pytest.raises(ValueError, match="older"):
        staleness_weight(-1, 0.5)
