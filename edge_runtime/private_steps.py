"""Steps that hide each example of this device: gradients clipped one by one, and noise on their sum (DP-SGD).

`apply` takes any sum of gradients off the weights. Called on zeros with a rate and a count of 1, it hands the sum over:
its digits behind a grid are dropped, discrete Gaussian noise is added, and the step is taken from there. So the noise
is that of an integer sampler and a cryptographic source, and nothing behind the grid names what it hides.

With K steps of the grid to the clipping norm, d weights, and r for what float32 leaves above that norm, one example
that is zeroed out moves the rounded sum by at most r K + √d steps; the noise has z times that: each step costs
ρ = 1/2z², and an example is in one step of an epoch.

*The room r.* A sum of float32 that are not negative is at least (1 - u)^a of the exact one, u = 2^-24, with a the
longest chain of its additions, whatever their order. The graph adds a gradient's squares up side after side, then
tensor after tensor: the norm that it scales by is at least (1 - u)^((a + 1)/2) of the exact one, and root, quotient,
product and clipping norm are rounded as well. Then the graph adds up gradients, M at most: each addition rounds by u
times a sum of so many, in each of two sums that differ by an example, which is M (M + 1) u together.

Sources: https://arxiv.org/abs/1607.00133, algorithm 1; https://arxiv.org/abs/2004.00010 (the discrete Gaussian);
https://doi.org/10.1137/1.9780898718027, section 4.2 (sums of floating-point numbers).
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
from edge_runtime.protocol.bundle import Manifest, Tensor
from edge_runtime.protocol.checkpoint import Weights
from edge_runtime.protocol.errors import InvalidPlan, NonFiniteTraining
from edge_runtime.protocol.noise import DiscreteGaussian, NoiseSource
from edge_runtime.protocol.plan import Plan

FINEST_GRID: Final = 1 << 20
"""Steps to the clipping norm, at most."""
_MOST_NOISE: Final = float(1 << 25)
"""Steps of a standard deviation, at most; the sampler has as many again in hand."""
ADDED_UP: Final = 64
"""Gradients that float32 adds up, at most: then they are read, and added up in float64. M."""
_UNIT: Final = 2.0**-24
"""What one operation of float32 rounds, relative to its result, u."""
_OTHER_ROUNDINGS: Final = 16
"""Beside additions: fewer than 9 of the clipping; all of float64 are less than one."""


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

    def grid(self, learned: Sequence[Tensor]) -> tuple[float, float]:
        """The length of one step of the grid, and the noise's standard deviation in such steps.

        Args:
            learned: The tensors that steps change.

        Raises:
            InvalidPlan: So much noise fits no grid.
        """
        finest = min(FINEST_GRID, 2 ** math.floor(math.log2(_MOST_NOISE / self.multiplier)))
        sigma = self.multiplier * (finest * room(learned) + math.sqrt(sum(tensor.size for tensor in learned)))
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
        total = self._sum(model, examples, seeds, before)
        noised = self._noised(total, _learned(model.manifest), source)
        after, learned = before.copy(), _is_learned(model.manifest)
        after[learned] = before[learned] - (rate / self.expected) * noised
        model.set_weights(after)
        return loss

    def _sum(self, model: Model, examples: Examples, seeds: Sequence[int], weights: Weights) -> npt.NDArray[np.float64]:
        """The sum of the clipped gradients at some weights; those of the model are to be set anew."""
        learned = _is_learned(model.manifest)
        total = np.zeros(np.count_nonzero(learned))
        for begin in range(0, len(seeds), ADDED_UP):
            model.set_weights(weights)
            self._accumulate(model, examples, range(begin, min(begin + ADDED_UP, len(seeds))), seeds)
            total += _taken(model, weights, learned)
        return total

    def _accumulate(self, model: Model, examples: Examples, rows: range, seeds: Sequence[int]) -> None:
        for row in rows:
            found = model.accumulate(examples.x[row : row + 1], examples.y[row : row + 1], self.norm, seeds[row])
            if not math.isfinite(found):
                raise NonFiniteTraining("the gradient of an example is not finite")

    def _noised(
        self, total: npt.NDArray[np.float64], learned: Sequence[Tensor], source: NoiseSource
    ) -> npt.NDArray[np.float64]:
        """The sum on its grid, with noise."""
        step, sigma = self.grid(learned)
        found: npt.NDArray[np.float64] = (
            np.rint(total / step) + DiscreteGaussian(sigma).draw(total.size, source)
        ) * step
        return found


def room(learned: Sequence[Tensor]) -> float:
    """r: what one example adds to a sum of gradients over its clipping norm, at most, as float32 has it.

    Args:
        learned: The tensors that gradients are of.
    """
    chain = max(sum(side - 1 for side in tensor.shape) for tensor in learned) + len(learned) - 1
    return math.exp((chain / 2 + _OTHER_ROUNDINGS) * _UNIT) * (1 + ADDED_UP * (ADDED_UP + 1) * _UNIT)


def _learned(manifest: Manifest) -> tuple[Tensor, ...]:
    """The tensors that steps change."""
    return tuple(tensor for tensor in manifest.tensors if tensor.trainable)


def _is_learned(manifest: Manifest) -> npt.NDArray[np.bool_]:
    """For each weight, whether steps change it; shape ``(manifest.parameters,)``."""
    return np.repeat([one.trainable for one in manifest.tensors], [one.size for one in manifest.tensors])


def _taken(model: Model, weights: Weights, learned: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """The sum of what was accumulated, which the model forgets, and its weights with it."""
    model.set_weights(np.where(learned, np.float32(0), weights))
    model.apply(1.0, 1.0)
    total: npt.NDArray[np.float64] = -model.get_weights()[learned].astype(np.float64)
    if not np.isfinite(total).all():
        raise NonFiniteTraining("the gradients of a batch are not finite")
    return total
