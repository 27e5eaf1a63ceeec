"""A plan, run over local examples. Pure apart from the model: no clock and no I/O come in except as arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edge_runtime.examples import Examples, check_examples
from edge_runtime.model import Model
from edge_runtime.protocol.bundle import SEED_LIMIT
from edge_runtime.protocol.checkpoint import Weights
from edge_runtime.protocol.errors import InvalidExamples, InvalidPlan, NonFiniteTraining
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.secure_sum.lanes import Delta


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


def never() -> Outcome | None:
    """Stop for no reason."""
    return None


def train(
    model: Model,
    weights: Weights,
    plan: Plan,
    examples: Examples,
    rng: np.random.Generator,
    *,
    stop: Callable[[], Outcome | None] = never,
) -> Trained:
    """Run `plan.epochs` passes over the examples from these weights, each in a fresh order drawn from `rng`.

    The optimiser starts as one that has taken no step.

    Guarantee: the same bundle, runtime, weights, plan, examples and state of `rng` give the same bits.

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
    model.set_weights(weights)
    model.set_slots(np.zeros(model.manifest.slot_values, np.float32))
    model.begin_round()
    losses: list[float] = []
    for _epoch in range(plan.epochs):
        order = rng.permutation(len(examples))
        for begin in range(0, len(examples), plan.batch_size):
            if outcome := stop():
                raise Interrupted(outcome)
            batch = examples.take(order[begin : begin + plan.batch_size])
            seed = int(rng.integers(SEED_LIMIT)) if model.manifest.seeded else 0
            loss = model.train_step(batch.x, batch.y, plan.learning_rate, plan.proximal_mu, seed)
            if not math.isfinite(loss):
                raise NonFiniteTraining(f"the loss of step {len(losses) + 1} is not finite")
            losses.append(loss)
    return Trained(model.delta(), len(losses), losses[0], losses[-1])


def _check_plan(plan: Plan, model: Model, examples: Examples) -> None:
    manifest = model.manifest
    if plan.bundle_sha256 != model.bundle.sha256:
        raise InvalidPlan("the plan is for another bundle")
    if plan.batch_size > manifest.batch_size:
        raise InvalidPlan(f"batches of {plan.batch_size} do not fit a graph for {manifest.batch_size}")
    check_examples(examples, manifest)
    if len(examples) < plan.min_examples:
        raise InvalidExamples(f"{len(examples)} examples where the plan wants {plan.min_examples}")
