"""A plan in slices: the same bits wherever it is interrupted, on every kind of model and on both interpreters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.examples import Examples
from edge_runtime.journal import Progress
from edge_runtime.protocol.errors import InvalidExamples, NonFiniteTraining
from edge_runtime.protocol.plan import Plan, RateStep
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.training import Batches, Finished, Interrupted, beginning, resume, train
from model_export.spec import Exported
from tests.edge_runtime.linear import BATCH, SLOTS, linear, targets
from tests.edge_runtime.test_model import Run, examples, run
from tests.edge_runtime.test_training import LINEAR_PLAN, LINEAR_WEIGHTS, first_weights, plan_for
from tests.workers import Workers

__all__ = ["run"]

COUNT = 7
STEPS = 6
"""Three epochs of a whole batch and a shorter one."""
HEAVY: dict[str, Any] = {"slots": SLOTS, "seeded": True, "proximal": True, "dynamic_batch": True}
DECAYED = replace(
    LINEAR_PLAN, proximal_mu=0.5, rate_steps=(RateStep(from_epoch=1, factor=0.5), RateStep(from_epoch=2, factor=2.0))
)


class Slices:
    """Runs a plan in slices; each has a new interpreter and knows nothing but the last savepoint."""

    def __init__(self, plan: Plan = DECAYED, local: Batches | None = None, **changes: Any) -> None:
        self.plan, self.changes = plan, changes or HEAVY
        self.local = local or targets(COUNT)
        self.saved: list[Progress] = []
        self.losses: list[int] = []

    def start(self) -> Progress:
        model, _asked = linear(**self.changes)
        return beginning(model, LINEAR_WEIGHTS, "s", 7, np.random.default_rng(7))

    def run(self, stops: Callable[[int], bool], due: Callable[[], bool] = lambda: False) -> Finished:
        """Stop before each step for which `stops` says so, once."""
        progress, asked, stopped = self.start(), 0, set()

        def stop() -> Outcome | None:
            nonlocal asked
            if stops(asked) and asked not in stopped:
                stopped.add(asked)
                return Outcome.IN_USE
            asked += 1
            return None

        while True:
            model, _asked = linear(**self.changes)
            before = len(self.saved)
            try:
                return resume(
                    model,
                    LINEAR_WEIGHTS,
                    self.plan,
                    self.local,
                    progress,
                    save=self.saved.append,
                    stop=stop,
                    due=due,
                )
            except Interrupted:
                progress = self.saved[-1] if len(self.saved) > before else progress


def bits(finished: Finished) -> tuple[bytes, bytes]:
    return finished.delta.tobytes(), finished.weights.tobytes()


@pytest.mark.parametrize("changes", [HEAVY, {"slots": SLOTS}, {"seeded": True}, {"dynamic_batch": True}], ids=str)
def test_interrupted_before_any_step_a_run_gives_the_same_bits(changes: dict[str, Any]) -> None:
    plan = DECAYED if "proximal" in changes else replace(DECAYED, proximal_mu=0.0)
    whole = bits(Slices(plan, **changes).run(lambda _step: False))
    for at in range(STEPS):
        assert bits(Slices(plan, **changes).run(lambda step, at=at: step == at)) == whole, at  # type: ignore[misc]
    assert bits(Slices(plan, **changes).run(lambda _step: True)) == whole


@settings(max_examples=50, deadline=None)
@given(at=st.sets(st.integers(0, 40)), count=st.integers(1, 13), steps=st.none() | st.integers(1, 12))
def test_any_plan_interrupted_anywhere_gives_the_same_bits(at: set[int], count: int, steps: int | None) -> None:
    plan = replace(DECAYED, version=2, max_steps=steps)
    whole = bits(Slices(plan, targets(count)).run(lambda _step: False))
    assert bits(Slices(plan, targets(count)).run(at.__contains__)) == whole


@pytest.mark.parametrize("name", ["mlp", "cnn", "heavy"])
def test_a_run_on_an_interpreter_gives_the_same_bits(
    run: Run, workers: Workers, exported: Callable[[str], Exported], name: str
) -> None:
    found = workers["tensorflow"].run("tests.exports:build_heavy") if name == "heavy" else exported(name)
    assert (bool(found.manifest.slots), found.manifest.seeded) == ((name == "heavy"),) * 2
    plan = plan_for(found, epochs=2, proximal_mu=0.1, rate_steps=(RateStep(from_epoch=1, factor=0.5),))
    stops = [set(), *({at} for at in range(6)), set(range(6))]
    whole, *others = run("in_slices", found, first_weights(found), plan, examples(13), stops)
    assert whole[2] == 1
    assert [slices for _delta, _weights, slices in others] == [2] * 6 + [7]
    assert {(delta, weights) for delta, weights, _slices in others} == {whole[:2]}


def test_a_savepoint_that_is_due_is_as_good_as_a_stop() -> None:
    slices = Slices()
    whole = bits(slices.run(lambda _step: False, due=lambda: True))
    assert [(one.epoch, one.step) for one in slices.saved] == [(0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    for progress in slices.saved:
        model, _asked = linear(**HEAVY)
        again = resume(model, LINEAR_WEIGHTS, DECAYED, targets(COUNT), progress, save=slices.saved.append)
        assert bits(again) == whole


def test_a_slice_that_was_stopped_at_once_saves_nothing_anew() -> None:
    slices = Slices()
    model, _asked = linear(**HEAVY)
    with pytest.raises(Interrupted):
        resume(
            model,
            LINEAR_WEIGHTS,
            DECAYED,
            targets(COUNT),
            slices.start(),
            save=slices.saved.append,
            stop=lambda: Outcome.IN_USE,
        )
    assert slices.saved == []


def test_the_learning_rate_follows_the_plan() -> None:
    model, asked = linear(**HEAVY)
    train(model, LINEAR_WEIGHTS, DECAYED, targets(COUNT), np.random.default_rng(3))
    rates = [float(inputs["lr"]) for inputs in asked.inputs_of("train")]
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.2, 0.2])


@pytest.mark.parametrize("most", [1, 2, 3, 6, 100])
def test_no_more_steps_are_taken_than_a_plan_allows(most: int) -> None:
    plan = replace(DECAYED, version=2, max_steps=most)
    for act in (
        lambda model: train(model, LINEAR_WEIGHTS, plan, targets(COUNT), np.random.default_rng(3)),
        lambda model: resume(model, LINEAR_WEIGHTS, plan, targets(COUNT), Slices().start(), save=lambda _one: None),
    ):
        model, asked = linear(**HEAVY)
        assert act(model).steps == min(most, STEPS) == len(asked.inputs_of("train"))


class Gone:
    """Examples of which some are gone since the snapshot was taken."""

    def __init__(self, gone: set[int]) -> None:
        self.gone = gone

    def __len__(self) -> int:
        return COUNT

    def take(self, indices: Any) -> Examples:
        return targets(COUNT).take(np.array([row for row in indices if row not in self.gone], np.int64))


@pytest.mark.parametrize("gone", [{0}, {1, 4}, {0, 1, 2, 3, 4, 5}])
def test_what_is_gone_is_skipped_and_changes_no_other_step(gone: set[int]) -> None:
    whole = bits(Slices(local=Gone(gone)).run(lambda _step: False))
    assert bits(Slices(local=Gone(gone)).run(lambda _step: True)) == whole
    model, asked = linear(**HEAVY)
    resume(model, LINEAR_WEIGHTS, DECAYED, Gone(gone), Slices().start(), save=lambda _one: None)
    full, asked_full = linear(**HEAVY)
    resume(full, LINEAR_WEIGHTS, DECAYED, targets(COUNT), Slices().start(), save=lambda _one: None)
    seeds = [int(inputs["seed"]) for inputs in asked_full.inputs_of("train")]
    assert [int(inputs["seed"]) for inputs in asked.inputs_of("train")] == [
        seed for seed in seeds if seed in {int(one["seed"]) for one in asked.inputs_of("train")}
    ]


def test_a_run_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(InvalidExamples, match="left"):
        Slices(local=Gone(set(range(COUNT)))).run(lambda _step: False)


def test_stored_examples_are_checked_as_they_are_read() -> None:
    class Poisoned(Gone):
        def take(self, indices: Any) -> Examples:
            found = targets(COUNT).take(indices)
            found.x[0, 0] = np.nan
            return found

    with pytest.raises(InvalidExamples, match="finite"):
        Slices(local=Poisoned(set())).run(lambda _step: False)


def test_a_loss_that_is_not_finite_ends_a_run() -> None:
    with pytest.raises(NonFiniteTraining), np.errstate(all="ignore"):
        Slices(replace(DECAYED, learning_rate=1000.0, epochs=60)).run(lambda _step: False)


def test_evaluation_before_and_after_changes_no_bit_and_may_be_interrupted() -> None:
    plan = replace(DECAYED, version=2, evaluates=True)
    whole = Slices().run(lambda _step: False)
    measured = Slices(plan).run(lambda _step: False)
    assert bits(measured) == bits(whole)
    assert measured.before is not None
    assert measured.after is not None
    assert measured.before.count == measured.after.count == COUNT
    assert measured.before.loss == pytest.approx(linear_loss(LINEAR_WEIGHTS))
    assert measured.after.loss == pytest.approx(linear_loss(measured.weights))
    for at in range(STEPS, STEPS + 4):
        again = Slices(plan).run(lambda step, at=at: step == at)  # type: ignore[misc]
        assert bits(again) == bits(whole)
        assert (again.before, again.after) == (measured.before, measured.after)


def linear_loss(weights: Any) -> float:
    model, _asked = linear()
    model.set_weights(weights)
    return model.evaluate(targets(COUNT)).loss


def test_a_batch_is_all_that_is_in_memory() -> None:
    taken: list[int] = []

    class Watched(Gone):
        def take(self, indices: Any) -> Examples:
            taken.append(len(indices))
            return super().take(indices)

    Slices(replace(DECAYED, version=2, evaluates=True), local=Watched(set())).run(lambda _step: False)
    assert max(taken) == BATCH


def test_vectors_are_written_over_only_where_that_is_allowed_and_the_result_is_the_same() -> None:
    whole = resume(
        linear(**HEAVY)[0], LINEAR_WEIGHTS, DECAYED, targets(COUNT), Slices().start(), save=lambda _one: None
    )
    given, start = LINEAR_WEIGHTS.copy(), Slices().start()
    mine = replace(start, weights=given)
    kept = resume(linear(**HEAVY)[0], given, DECAYED, targets(COUNT), mine, save=lambda _one: None)
    assert np.array_equal(given, LINEAR_WEIGHTS)
    over = resume(linear(**HEAVY)[0], given, DECAYED, targets(COUNT), mine, save=lambda _one: None, overwrite=True)
    assert np.shares_memory(over.weights, given)
    assert whole.weights.tobytes() == kept.weights.tobytes() == over.weights.tobytes()
    assert whole.delta.tobytes() == kept.delta.tobytes() == over.delta.tobytes()


def test_received_weights_that_are_evaluated_at_the_end_are_never_written_over() -> None:
    plan, given = replace(DECAYED, evaluates=True), LINEAR_WEIGHTS.copy()
    mine = replace(Slices().start(), weights=given)
    usual = resume(linear(**HEAVY)[0], LINEAR_WEIGHTS, plan, targets(COUNT), Slices().start(), save=lambda _one: None)
    over = resume(linear(**HEAVY)[0], given, plan, targets(COUNT), mine, save=lambda _one: None, overwrite=True)
    assert np.array_equal(given, LINEAR_WEIGHTS)
    assert (over.before, over.after) == (usual.before, usual.after)
