"""The noise law of every mode over six rounds, and bugs that can be planted in it.

Each canary is a device whose delta lies along a direction of its own, so that one number of a release speaks of one
canary alone. By a fair coin it takes part where the claim says a device may: in the first round, and with correlated
noise in the fourth round too. A mode's noise is drawn by the product's own sampler, on a grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from coordinator.core.privacy.blt import Blt, fitted
from coordinator.core.privacy.correlated import sensitivity
from coordinator.core.privacy.distributed import local_noise
from coordinator.core.privacy.gaussian import least_noise
from coordinator.core.privacy.statement import Mode
from device_sim.audit.attacks import Scores, Verdict, audited
from edge_runtime.protocol.noise import DiscreteGaussian, NoiseSource

ROUNDS: Final = 6
SEPARATION: Final = 3
GROUP, SURVIVORS, CORRUPT = 12, 10, 2
STEPS: Final = 4096.0
"""Steps of the grid to one clipping norm."""
UNCLIPPED: Final = 4.0
"""Norm of a canary's delta over the clipping norm."""


class Bug(StrEnum):
    """What can be wrong."""

    NO_CLIPPING = "no clipping"
    HALF_NOISE = "half the noise"
    DOUBLE_COUNT = "a double count"
    WRONG_SENSITIVITY = "a device in every round, booked for its share"
    NOISE_NOT_REFRESHED = "the same noise in every round"


@dataclass(frozen=True, slots=True)
class Run:
    """What one run released.

    Attributes:
        releases: Shape ``(rounds, canaries)``, in clipping norms.
        included: The coins.
    """

    releases: npt.NDArray[np.float64]
    included: npt.NDArray[np.bool_]


def factor() -> Blt:
    """The factor of the correlated mode."""
    return fitted(ROUNDS, SEPARATION, 2)


def released(mode: Mode, noise: float, canaries: int, key: bytes, bug: Bug | None = None) -> Run:
    """Run a mode.

    Args:
        noise: z: of one round; with correlated noise of each z_t, in sensitivities of all rounds.
        key: 32 bytes from which coins and noise are drawn.
    """
    source = NoiseSource(key)
    included = source.words(canaries) & np.uint64(1) == 1
    gave = np.zeros((ROUNDS, canaries))
    for round_ in range(ROUNDS) if bug is Bug.WRONG_SENSITIVITY else _rounds_of_a_device(mode):
        gave[round_] = included
    gave *= (UNCLIPPED if bug is Bug.NO_CLIPPING else 1.0) * (2.0 if bug is Bug.DOUBLE_COUNT else 1.0)
    halved = 0.5 if bug is Bug.HALF_NOISE else 1.0
    drawn = [_noise(mode, noise * halved, canaries, source) for _round in range(ROUNDS)]
    if bug is Bug.NOISE_NOT_REFRESHED:
        drawn = [drawn[0]] * ROUNDS
    fresh = np.array(drawn)
    if mode is Mode.CORRELATED:
        fresh = _correlated(fresh)
    return Run(gave + fresh, included)


def attacked(mode: Mode, run: Run, claimed: float, delta: float) -> Verdict:
    """Hold a claim against what a run released, by three attacks."""
    seen = run.releases
    attacks: dict[str, Scores] = {
        "rounds of the claim": _matched(mode, seen, _rounds_of_a_device(mode)),
        "every round": _matched(mode, seen, range(ROUNDS)),
        "two rounds that share noise": _difference(mode, seen),
    }
    return audited(attacks, run.included, claimed, delta)


def audit(mode: Mode, epsilon: float, delta: float, canaries: int, key: bytes, bug: Bug | None = None) -> Verdict:
    """Audit a mode whose noise is the least that keeps (ε, δ), with or without a bug."""
    noise = least_noise(epsilon, delta)
    if mode is Mode.CORRELATED:
        noise *= sensitivity(factor().column(ROUNDS), SEPARATION)
    return attacked(mode, released(mode, noise, canaries, key, bug), epsilon, delta)


def _rounds_of_a_device(mode: Mode) -> range:
    return range(0, ROUNDS, SEPARATION) if mode is Mode.CORRELATED else range(1)


def _noise(mode: Mode, noise: float, canaries: int, source: NoiseSource) -> npt.NDArray[np.float64]:
    """The noise of one round that the opponent does not know, in clipping norms."""
    if mode is Mode.DISTRIBUTED:
        each = DiscreteGaussian(local_noise(noise, STEPS, SURVIVORS, CORRUPT))
        # As few survivors as there may be; what the corrupt ones added is known and taken away.
        honest = [each.draw(canaries, source) for _device in range(SURVIVORS - CORRUPT)]
        together: npt.NDArray[np.float64] = np.sum(honest, axis=0) / STEPS
        return together
    return DiscreteGaussian(noise * STEPS).draw(canaries, source) / STEPS


def _correlated(fresh: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    buffers, made = factor().begin(fresh.shape[1]), []
    for row in fresh:
        noise, buffers = factor().step(buffers, row)
        made.append(noise)
    return np.array(made)


def _matched(mode: Mode, seen: npt.NDArray[np.float64], rounds: range) -> Scores:
    """The most telling score of a device in these rounds: make the noise independent, then look along what it gave."""
    gave = np.zeros(ROUNDS)
    gave[rounds] = 1.0
    if mode is Mode.CORRELATED:
        whitening = _toeplitz(factor().column(ROUNDS))
        seen, gave = whitening @ seen, whitening @ gave
    found: Scores = gave @ seen / math.sqrt(float(gave @ gave))
    return found


def _difference(mode: Mode, seen: npt.NDArray[np.float64]) -> Scores:
    """Two rounds, scaled so that noise that was never refreshed cancels; a device is in the first of them."""
    first, second = np.cumsum(factor().noise_column(ROUNDS))[:2] if mode is Mode.CORRELATED else (1.0, 1.0)
    found: Scores = seen[0] - seen[1] * first / second
    return found


def _toeplitz(column: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    size = range(column.size)
    return np.array([[column[row - at] if row >= at else 0.0 for at in size] for row in size])
