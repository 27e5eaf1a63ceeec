"""A demo's training once more without noise, HTTP or groups, to see what the noise cost: what one process can add up.

Selection, behaviour, order of examples and clipping are those of the fleet, from the same seed. Sums are of floats, so
weights are near those of a fleet without noise, and not the same bits.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from coordinator.core.selection import ranked, round_seed, wanted
from device_sim.behaviour import behaviour, generator
from device_sim.datasets import Dataset
from device_sim.fleet import BEHAVIOUR, ORDER, phone_key
from device_sim.programme import OVER_SELECTION, TENANT
from edge_runtime.model import Model
from edge_runtime.privacy import clip
from edge_runtime.protocol.checkpoint import Weights
from edge_runtime.protocol.keys import device_id
from edge_runtime.protocol.plan import Plan, Summing
from edge_runtime.training import train


def task_seed(seed: int) -> bytes:
    """The seed of a demo's task: 32 bytes."""
    return hashlib.sha256(f"edgewise/demo/{seed}".encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What is replayed.

    Attributes:
        rounds: Rounds to commit; one in which too few report is left out, as the coordinator abandons it.
    """

    dataset: Dataset
    plan: Plan
    rounds: int
    server_learning_rate: float
    seed: int

    def weights(self, model: Model, weights: Weights) -> Weights:
        """The weights after all rounds.

        Args:
            model: Of the plan's bundle.
            weights: The first ones.
        """
        shared = np.concatenate([np.arange(part.start, part.stop) for part in model.bundle.manifest.shared_slices()])
        committed, number = 0, 0
        while committed < self.rounds:
            number += 1
            working = [phone for phone in self._chosen(number) if self._reports(phone, number)]
            if len(working) < self.plan.min_reports:
                continue
            total = np.zeros(shared.size)
            for phone in working:
                order = generator(self.seed, ORDER, phone, number)
                trained = train(model, weights, self.plan, self.dataset.training[phone], order)
                total += clip(trained.delta, self.plan.clipping_norm)
            moved = weights.astype(np.float64)
            moved[shared] += self.server_learning_rate * total / self._divisor(len(working))
            weights = moved.astype(np.float32)
            committed += 1
        return weights

    def _chosen(self, number: int) -> list[int]:
        keys = (phone_key(self.seed, phone).public for phone in range(len(self.dataset.training)))
        phones = {device_id(TENANT, key): phone for phone, key in enumerate(keys)}
        most = wanted(self.plan.goal, OVER_SELECTION, self.plan.max_participants)
        if self.plan.summing is Summing.SECURE:
            most *= max(1, len(phones) // most)
        return [phones[device] for device in ranked(round_seed(task_seed(self.seed), number), phones)[:most]]

    def _reports(self, phone: int, number: int) -> bool:
        happens = behaviour(generator(self.seed, BEHAVIOUR, phone, number))
        return happens.dropout is None and not happens.silent

    def _divisor(self, reports: int) -> int:
        groups = -(-reports // self.plan.max_participants) if self.plan.summing is Summing.SECURE else 1
        return self.plan.expected_participants * groups
