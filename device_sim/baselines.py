"""What the same model reaches without federation: each phone alone, and all data in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from device_sim.behaviour import generator
from device_sim.datasets import Dataset
from device_sim.fleet import pooled
from device_sim.history import Baselines
from device_sim.recipes import RECIPES
from device_sim.replay import Replay
from edge_runtime.examples import Examples
from edge_runtime.model import open_model
from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import Bundle, verify_bundle
from edge_runtime.protocol.checkpoint import Weights, verify_checkpoint
from edge_runtime.protocol.keys import PublicKey, digest
from edge_runtime.protocol.plan import Plan
from edge_runtime.training import train

_ALONE, _CENTRAL = 100, 101


def measure(
    dataset: Dataset,
    bundle: Bundle,
    weights: Weights,
    plan: Plan,
    *,
    epochs: int,
    seed: int,
    progress: Callable[[int], None],
) -> Baselines:
    """Train every device alone and once on all training examples together, from the same first weights.

    Args:
        plan: Batch size and learning rate are the federation's.
        epochs: Passes over the examples; the federation's rounds times its epochs, as if every device were chosen in
            every round, so that the baselines never get fewer.
        progress: Is told how many devices are done.
    """
    model = open_model(bundle)
    test = pooled(dataset.held_out)
    alone_plan = replace(plan, epochs=epochs, proximal_mu=0.0)

    def accuracy_of(examples: Examples, rng: np.random.Generator) -> float:
        trained = train(model, weights, alone_plan, examples, rng)
        model.set_weights(with_delta(weights, trained.delta, bundle))
        return model.evaluate(test).accuracy

    local = []
    for index, examples in enumerate(dataset.training):
        local.append(accuracy_of(examples, generator(seed, _ALONE, index)))
        progress(index + 1)
    central = accuracy_of(pooled(dataset.training), generator(seed, _CENTRAL))
    return Baselines(local=tuple(local), local_mean=float(np.mean(local)), central=central)


def measure_folder(
    folder: Path,
    tenant_key: PublicKey,
    dataset: Dataset,
    *,
    epochs: int,
    seed: int,
    replay_rounds: int | None,
    progress: Callable[[int], None],
) -> None:
    """Measure with the bundle, first checkpoint and plan of a demo's folder; writes `baselines.json` there.

    Args:
        replay_rounds: So many rounds are trained once more without noise; None for a plan that has none.

    Raises:
        Refusal: One of them is not what it should be.
    """
    raw = (folder / "bundle.ewb").read_bytes()
    bundle = verify_bundle(raw, digest(raw).hex(), tenant_key)
    first = (folder / "checkpoint.ewc").read_bytes()
    checkpoint = verify_checkpoint(
        first,
        digest(first).hex(),
        tenant_key,
        bundle_sha256=bundle.sha256,
        parameters=bundle.manifest.parameters,
    )
    plan = wire.decode(Plan, (folder / "plan.json").read_bytes())
    found = measure(dataset, bundle, checkpoint.weights, plan, epochs=epochs, seed=seed, progress=progress)
    if replay_rounds is not None:
        rate = RECIPES[dataset.name].server_learning_rate
        replay = Replay(dataset=dataset, plan=plan, rounds=replay_rounds, server_learning_rate=rate, seed=seed)
        found = replace(found, without_noise=accuracy_without_noise(replay, bundle, checkpoint.weights))
    (folder / "baselines.json").write_bytes(wire.encode(found))


def accuracy_without_noise(replay: Replay, bundle: Bundle, weights: Weights) -> float:
    """What the same training reaches on the held-out devices when nobody adds noise."""
    model = open_model(bundle)
    model.set_weights(replay.weights(model, weights))
    return model.evaluate(pooled(replay.dataset.held_out)).accuracy


def with_delta(weights: Weights, delta: Weights, bundle: Bundle) -> Weights:
    """Add a delta over the shared tensors to a weights vector."""
    trained = weights.copy()
    taken = 0
    for part in bundle.manifest.shared_slices():
        trained[part] += delta[taken : taken + part.stop - part.start]
        taken += part.stop - part.start
    return trained
