"""A plan, run over local examples. Pure apart from the model: no clock and no I/O come in except as arguments.

A run is a walk over steps: each has an epoch and a number within it, both counted from 0. `train` walks it at once;
`resume` walks it in slices, each from the savepoint that the one before left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edge_runtime.examples import Examples, check_examples, check_features
from edge_runtime.journal.participation import Progress, rng_from, rng_state
from edge_runtime.model import Evaluation, Model
from edge_runtime.protocol.bundle import SEED_LIMIT
from edge_runtime.protocol.checkpoint import Weights
from edge_runtime.protocol.errors import InvalidExamples, InvalidPlan, NonFiniteTraining
from edge_runtime.protocol.measures import encode_measures
from edge_runtime.protocol.plan import Kind, Plan
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.secure_sum.lanes import Delta

Rows = npt.NDArray[np.int64]
Stop = Callable[[], Outcome | None]
"""Asked before every step; an outcome ends the training, or this slice of it."""


class Batches(Protocol):
    """Where examples come from: `Examples` in memory, or a snapshot of the example store."""

    def __len__(self) -> int:
        """How many there are, the same all along."""

    def take(self, indices: Rows) -> Examples:
        """The examples at these positions; those that are gone since are left out."""


class Interrupted(Exception):
    """Training was stopped between two steps; `outcome` says why."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run of a plan left behind.

    Attributes:
        delta: Trained minus received weights over the shared tensors: float32, finite, not yet clipped.
        steps: Steps taken.
        loss_first: Mean loss of the first batch before its step, in nats.
        loss_last: The same of the last batch.
    """

    delta: Delta
    steps: int
    loss_first: float
    loss_last: float


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """What a run in slices left behind at its end.

    Attributes:
        delta: As in `Trained`.
        weights: All of them as they were trained, the personal ones too: float32, shape ``(manifest.parameters,)``.
        steps: Of the last slice.
        before, after: How well received and trained weights do on the local examples, if the plan asks for it.
    """

    delta: Delta
    weights: Weights
    steps: int
    before: Evaluation | None = None
    after: Evaluation | None = None


def never() -> Outcome | None:
    """Stop for no reason."""
    return None


def not_due() -> bool:
    """No savepoint but that of the slice's end."""
    return False


def train(
    model: Model,
    weights: Weights,
    plan: Plan,
    examples: Examples,
    rng: np.random.Generator,
    *,
    stop: Stop = never,
) -> Trained:
    """Run a plan over the examples from these weights, each epoch in a fresh order drawn from `rng`.

    A plan that only measures takes no step: its delta is what `protocol.measures` makes of the numbers. The optimiser
    starts as one that has taken no step.

    Guarantee: the same bundle, runtime, weights, plan, examples and state of `rng` give the same bits, unless the plan
    hides examples: then each step has fresh noise.

    Args:
        model: Its weights are overwritten.
        weights: Float32, shape ``(manifest.parameters,)``.
        plan: For this model's bundle.
        examples: All are used; the last batch of an epoch may be shorter.
        rng: For the order of the examples and, if the bundle is seeded, one seed a step. For nothing else.
        stop: Asked before every step; an outcome ends the training.

    Raises:
        InvalidPlan: The plan is for another bundle, its batch is larger than the graph's, or it wants a FedProx term
            that the graph lacks.
        InvalidExamples: One does not fit the schema, or there are fewer than the plan wants.
        InvalidWeights: The weights do not fit the bundle.
        InterpreterFailed: The runtime gave up.
        NonFiniteTraining: A loss or the delta is not finite.
        Interrupted: `stop` named an outcome.
    """
    _check_plan(plan, model, examples)
    _begin(model, weights)
    if plan.kind is Kind.EVALUATE:
        found = _evaluate(model, examples, stop)
        return Trained(_measures(plan, found), 0, found.loss, found.loss)
    losses: list[float] = []
    for epoch, _step, rows in _walk(plan, len(examples), lambda _epoch: rng.permutation(len(examples))):
        if outcome := stop():
            raise Interrupted(outcome)
        loss = _take_step(model, plan, examples, rng, epoch, rows)
        losses += [] if loss is None else [loss]
    return Trained(model.delta(), len(losses), losses[0], losses[-1])


def resume(
    model: Model,
    received: Weights,
    plan: Plan,
    examples: Batches,
    progress: Progress,
    *,
    save: Callable[[Progress], None],
    stop: Stop = never,
    due: Callable[[], bool] = not_due,
    overwrite: bool = False,
) -> Finished:
    """Go on with a run from a savepoint, to its end or until it is stopped.

    A plan that only measures takes no step and keeps no savepoint: stopped, it measures anew.

    Guarantee: however often and wherever a run is stopped and taken up again from what was saved last, by whatever
    process, its weights are bit for bit those of the run that was never stopped, as long as no example was deleted and
    the plan does not hide examples: a step that is taken again then has other noise, and the one before it is gone.
    The order of an epoch depends on ``progress.order_seed`` and the epoch alone; a batch of which nothing is left is
    skipped, and changes no other one.

    Args:
        model: Its weights are overwritten.
        received: What the run began from, and `delta` and the FedProx term refer to.
        plan: For this model's bundle.
        examples: Those of the run's snapshot; one batch is in memory at a time.
        progress: Where to go on; `beginning` makes the first.
        save: Keeps a savepoint; called when `due` says so, and before the slice is stopped.
        stop: Asked before every step.
        due: Whether it is time for a savepoint; asked before every step but the first.
        overwrite: Whether the vectors that were passed in may be written over where they are needed no more: what is
            saved and returned then lies in their memory, and holds until the next savepoint.

    Raises:
        Interrupted: `stop` named an outcome; what was reached was saved.
        InvalidPlan, InvalidExamples, InvalidWeights, InterpreterFailed, NonFiniteTraining: As `train`.
    """
    _check_plan(plan, model, examples)
    _begin(model, received)
    if plan.kind is Kind.EVALUATE:
        return Finished(_measures(plan, _evaluate(model, examples, stop)), received, 0)
    model.set_weights(progress.weights)
    model.set_slots(progress.slots)
    rng = rng_from(progress.rng)
    needed = plan.evaluates and np.may_share_memory(progress.weights, received)
    room = progress.weights if overwrite and not needed else None

    def saved(epoch: int, step: int) -> None:
        weights, slots = model.get_weights(room), model.get_slots()
        save(replace(progress, epoch=epoch, step=step, rng=rng_state(rng), weights=weights, slots=slots))

    taken = 0
    order = _orders(progress.order_seed, len(examples))
    walk = _walk(plan, len(examples), order, progress.epoch, progress.step)
    for number, (epoch, step, rows) in enumerate(walk):
        outcome = stop()
        if number and (outcome or due()):
            saved(epoch, step)
        if outcome:
            raise Interrupted(outcome)
        taken += _take_step(model, plan, examples, rng, epoch, rows) is not None
    if not taken and (progress.epoch, progress.step) == (0, 0):
        raise InvalidExamples("none of the examples is left")
    finished = Finished(model.delta(), model.get_weights(room), taken)
    if not plan.evaluates:
        return finished
    try:
        return _evaluated(finished, model, received, examples, stop)
    except Interrupted:
        model.set_weights(finished.weights)
        saved(plan.epochs, 0)
        raise


def beginning(model: Model, weights: Weights, snapshot: str, order_seed: int, rng: np.random.Generator) -> Progress:
    """The savepoint before the first step: an optimiser that has taken none.

    Args:
        weights: What training begins from.
        snapshot: Of the examples.
        order_seed: 0 to 2^63 - 1; the orders of all epochs come from it.
        rng: PCG64; seeds of dropout come from it.
    """
    slots = np.zeros(model.manifest.slot_values, np.float32)
    return Progress(
        epoch=0,
        step=0,
        order_seed=order_seed,
        rng=rng_state(rng),
        snapshot=snapshot,
        weights=weights,
        slots=slots,
    )


def _walk(
    plan: Plan, count: int, order_of: Callable[[int], Rows], epoch: int = 0, step: int = 0
) -> Iterator[tuple[int, int, Rows]]:
    """Every step from one on: its epoch, its number, and the positions of its examples. An order is asked for once."""
    per_epoch = -(-count // plan.batch_size)
    last = plan.epochs * per_epoch if plan.max_steps is None else plan.max_steps
    for current in range(epoch, plan.epochs):
        first = step if current == epoch else 0
        if first < per_epoch and current * per_epoch + first < last:
            order = order_of(current)
            for number in range(first, min(per_epoch, last - current * per_epoch)):
                yield current, number, order[number * plan.batch_size : (number + 1) * plan.batch_size]


def _orders(seed: int, count: int) -> Callable[[int], Rows]:
    return lambda epoch: np.random.default_rng([seed, epoch]).permutation(count)


def _begin(model: Model, weights: Weights) -> None:
    model.set_weights(weights)
    model.set_slots(np.zeros(model.manifest.slot_values, np.float32))
    model.begin_round()


def _take_step(
    model: Model, plan: Plan, examples: Batches, rng: np.random.Generator, epoch: int, rows: Rows
) -> float | None:
    """Take one step and return its loss; None for a batch of which nothing is left. The seed is drawn in any case."""
    batch = examples.take(rows)
    if plan.example_clipping_norm is not None:
        return _take_hidden_step(model, plan, batch, rng, epoch)
    seed = int(rng.integers(SEED_LIMIT)) if model.manifest.seeded else 0
    if not len(batch):
        return None
    if not isinstance(examples, Examples):
        check_features(batch.x, model.manifest)  # the step checks the labels
    loss = model.train_step(batch.x, batch.y, plan.learning_rate_in(epoch), plan.proximal_mu, seed)
    if not math.isfinite(loss):
        raise NonFiniteTraining(f"a loss of epoch {epoch + 1} is not finite")
    return loss


def _take_hidden_step(model: Model, plan: Plan, batch: Examples, rng: np.random.Generator, epoch: int) -> float | None:
    """As `_take_step`, hiding each example; an empty batch is a step too: whether it was empty is nobody's business."""
    from edge_runtime.private_steps import HiddenSteps  # and the sampler: most plans hide no examples
    from edge_runtime.protocol.noise import NoiseSource

    seeds = rng.integers(SEED_LIMIT, size=len(batch)).tolist() if model.manifest.seeded else [0] * len(batch)
    loss = HiddenSteps.of(plan).take(model, batch, plan.learning_rate_in(epoch), seeds, NoiseSource.fresh())
    if loss is not None and not math.isfinite(loss):
        raise NonFiniteTraining(f"a loss of epoch {epoch + 1} is not finite")
    return loss


def _evaluated(finished: Finished, model: Model, received: Weights, examples: Batches, stop: Stop) -> Finished:
    after = _evaluate(model, examples, stop)
    model.set_weights(received)
    return replace(finished, before=_evaluate(model, examples, stop), after=after)


def _evaluate(model: Model, examples: Batches, stop: Stop) -> Evaluation:
    """As `Model.evaluate`, one batch in memory at a time; may be stopped between two."""
    found: list[Evaluation] = []
    for begin in range(0, len(examples), model.manifest.batch_size):
        if outcome := stop():
            raise Interrupted(outcome)
        batch = examples.take(np.arange(begin, min(len(examples), begin + model.manifest.batch_size)))
        found += [model.evaluate(batch)] if len(batch) else []
    count = sum(one.count for one in found)
    if not count:
        raise InvalidExamples("none of the examples is left")
    means = {name: sum(one.metrics[name] * one.count for one in found) / count for name in model.manifest.metrics}
    return Evaluation(sum(one.loss * one.count for one in found) / count, means, count)


def _measures(plan: Plan, found: Evaluation) -> Delta:
    return encode_measures(plan, {"loss": found.loss, **found.metrics}, found.count)


def _check_plan(plan: Plan, model: Model, examples: Batches) -> None:
    manifest = model.manifest
    if plan.bundle_sha256 != model.bundle.sha256:
        raise InvalidPlan("the plan is for another bundle")
    if plan.batch_size > manifest.batch_size:
        raise InvalidPlan(f"batches of {plan.batch_size} do not fit a graph for {manifest.batch_size}")
    shared = sum(tensor.shared for tensor in manifest.tensors)
    if plan.layer_shares and len(plan.layer_shares) != shared:
        raise InvalidPlan(f"the plan has layer_shares for {len(plan.layer_shares)} tensors; the bundle shares {shared}")
    if plan.example_clipping_norm is not None and not manifest.hides_examples:
        raise InvalidPlan("the plan hides examples, and the bundle was exported without private steps")
    if isinstance(examples, Examples):
        check_examples(examples, manifest)
    if len(examples) < plan.min_examples:
        raise InvalidExamples(f"{len(examples)} examples where the plan wants {plan.min_examples}")
