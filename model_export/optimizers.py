"""The device's optimisers: one step from weights, gradients and slots to new weights and new slots.

Slots are the optimiser's memory. They begin a round at zero, and travel in a savepoint with the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf

from edge_runtime.protocol.bundle import Role, Tensor
from model_export.spec import Adam, Sgd

STEP_SLOT = "adam_step"


@dataclass(frozen=True, slots=True, eq=False)
class Stepped:
    """New weights and new slots, each in the order they were given."""

    weights: list[tf.Tensor]
    slots: list[tf.Tensor]


def name_of(optimizer: Sgd | Adam) -> str:
    if isinstance(optimizer, Adam):
        return "adam"
    return "momentum" if optimizer.momentum else "sgd"


def folds_rate(optimizer: Sgd | Adam) -> bool:
    """Whether the learning rate may be multiplied into the gradient of the loss, and a step is one subtraction."""
    return isinstance(optimizer, Sgd) and not optimizer.momentum


def slots_of(optimizer: Sgd | Adam, learned: Sequence[Tensor]) -> list[Tensor]:
    """The slots that an optimiser keeps for these weights."""

    def beside(prefix: str) -> list[Tensor]:
        return [
            Tensor(name=f"{prefix}_{one.name}", shape=one.shape, trainable=False, role=Role.BASE) for one in learned
        ]

    if isinstance(optimizer, Adam):
        return [*beside("adam_m"), *beside("adam_v"), _slot(STEP_SLOT, ())]
    return beside("momentum") if optimizer.momentum else []


def _slot(name: str, shape: tuple[int, ...]) -> Tensor:
    return Tensor(name=name, shape=shape, trainable=False, role=Role.PERSONAL)


def step(
    optimizer: Sgd | Adam,
    weights: Sequence[tf.Tensor],
    gradients: Sequence[tf.Tensor],
    slots: Sequence[tf.Tensor],
    rate: tf.Tensor,
) -> Stepped:
    """One step; for plain SGD the gradients hold the learning rate already."""
    if isinstance(optimizer, Adam):
        return _adam(optimizer, weights, gradients, slots, rate)
    if not optimizer.momentum:
        return Stepped([w - g for w, g in zip(weights, gradients, strict=True)], [])
    moved = [optimizer.momentum * m + g for m, g in zip(slots, gradients, strict=True)]
    return Stepped([w - rate * m for w, m in zip(weights, moved, strict=True)], moved)


def _adam(
    optimizer: Adam,
    weights: Sequence[tf.Tensor],
    gradients: Sequence[tf.Tensor],
    slots: Sequence[tf.Tensor],
    rate: tf.Tensor,
) -> Stepped:
    """m ← β₁ m + (1 - β₁) g, v ← β₂ v + (1 - β₂) g², w ← w - lr √(1 - β₂ᵗ) / (1 - β₁ᵗ) · m / (√v + ε)."""
    count = len(weights)
    first, second, steps = slots[:count], slots[count : 2 * count], slots[-1] + 1.0
    beta_1, beta_2 = optimizer.beta_1, optimizer.beta_2
    scale = rate * tf.sqrt(1.0 - tf.pow(beta_2, steps)) / (1.0 - tf.pow(beta_1, steps))
    m = [beta_1 * old + (1.0 - beta_1) * g for old, g in zip(first, gradients, strict=True)]
    v = [beta_2 * old + (1.0 - beta_2) * (g * g) for old, g in zip(second, gradients, strict=True)]
    moved = [w - scale * one / (tf.sqrt(two) + optimizer.epsilon) for w, one, two in zip(weights, m, v, strict=True)]
    return Stepped(moved, [*m, *v, steps])
