"""Steps that hide each example of this device: gradients clipped one by one, and noise on their sum (DP-SGD).

`apply` takes any sum of gradients off the weights. Called on zeros with a rate and a count of 1, it hands the sum over:
its digits behind a grid are dropped, discrete Gaussian noise is added, and the step is taken from there. So the noise
is that of an integer sampler and a cryptographic source, and nothing behind the grid names what it hides.

With K steps of the grid to the clipping norm and d weights, one example that is zeroed out moves the rounded sum by at
most K + √d steps; the noise has z times that: each step costs ρ = 1/2z², and an example is in one step of an epoch.
What float32 rounds while gradients are added up is not counted in.

Sources: https://arxiv.org/abs/1607.00133, algorithm 1; https://arxiv.org/abs/2004.00010 (the discrete Gaussian).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from edge_runtime.examples import Examples
from edge_runtime.model import Model
from edge_runtime.protocol.bundle import Manifest
from edge_runtime.protocol.checkpoint import Weights
from edge_runtime.protocol.errors import InvalidPlan, NonFiniteTraining
from edge_runtime.protocol.noise import DiscreteGaussian, NoiseSource
from edge_runtime.protocol.plan import Plan

FINEST_GRID: Final = 1 << 20
"""Steps to the clipping norm, at most."""
_MOST_NOISE: Final = float(1 << 25)
"""Steps of a standard deviation, at most; the sampler has as many again in hand."""
_FLOAT_ROOM: Final = 1 + 1e-6
"""What float32 may leave of a gradient above its norm."""


@dataclass(frozen=True, slots=True)
class HiddenSteps:
    """How one plan steps over examples that it hides.

    Args:
        norm: Largest L2 norm of one example's gradient.
        multiplier: Standard deviation of a step's noise over what one example can move, z.
        expected: What a sum of gradients is divided by, whoever is in the batch.
    """

    norm: float
    multiplier: float
    expected: int

    @classmethod
    def of(cls, plan: Plan) -> HiddenSteps:
        """Those of a plan.

        Raises:
            InvalidPlan: It hides no examples.
        """
        if plan.example_clipping_norm is None:
            raise InvalidPlan("the plan hides no examples")
        return cls(plan.example_clipping_norm, plan.example_noise_multiplier, plan.batch_size)

    def grid(self, parameters: int) -> tuple[float, float]:
        """The length of one step of the grid, and the noise's standard deviation in such steps.

        Raises:
            InvalidPlan: So much noise fits no grid.
        """
        finest = min(FINEST_GRID, 2 ** math.floor(math.log2(_MOST_NOISE / self.multiplier)))
        sigma = self.multiplier * (finest * _FLOAT_ROOM + math.sqrt(parameters))
        DiscreteGaussian(sigma)
        return self.norm / finest, sigma

    def take(
        self, model: Model, examples: Examples, rate: float, seeds: Sequence[int], source: NoiseSource
    ) -> float | None:
        """Take one step; the mean loss before it, or None of an empty batch, whose step is noise alone.

        The optimiser is plain gradient descent, whatever the bundle's is.

        Args:
            examples: Of the batch; at most `expected` of them.
            rate: The learning rate.
            seeds: One for each example, as in `Model.train_step`.
            source: Fresh for each run.

        Raises:
            InvalidExamples, InterpreterFailed: As the model says.
            InvalidPlan: The graph has no private steps.
            NonFiniteTraining: A gradient is not finite.
        """
        loss = model.evaluate(examples).loss if len(examples) else None
        before = model.get_weights()
        for row, seed in enumerate(seeds):
            found = model.accumulate(examples.x[row : row + 1], examples.y[row : row + 1], self.norm, seed)
            if not math.isfinite(found):
                raise NonFiniteTraining("the gradient of an example is not finite")
        learned = _learned(model.manifest)
        noised = self._noised(_sum_of(model, before, learned), source)
        after = before.copy()
        after[learned] = before[learned] - (rate / self.expected) * noised
        model.set_weights(after)
        return loss

    def _noised(self, total: npt.NDArray[np.float64], source: NoiseSource) -> npt.NDArray[np.float64]:
        """The sum on its grid, with noise."""
        step, sigma = self.grid(total.size)
        found: npt.NDArray[np.float64] = (
            np.rint(total / step) + DiscreteGaussian(sigma).draw(total.size, source)
        ) * step
        return found


def _learned(manifest: Manifest) -> npt.NDArray[np.bool_]:
    """For each weight, whether steps change it; shape ``(manifest.parameters,)``."""
    return np.repeat([one.trainable for one in manifest.tensors], [one.size for one in manifest.tensors])


def _sum_of(model: Model, weights: Weights, learned: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """The sum of what was accumulated, which the model forgets; its weights are to be set anew."""
    model.set_weights(np.where(learned, np.float32(0), weights))
    model.apply(1.0, 1.0)
    total: npt.NDArray[np.float64] = -model.get_weights()[learned].astype(np.float64)
    if not np.isfinite(total).all():
        raise NonFiniteTraining("the gradients of a batch are not finite")
    return total
