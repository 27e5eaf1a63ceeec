"""How simulated phones behave, drawn from a seed: the same seed, phone and round behave the same on any machine.

Rates follow production systems: 6 to 10 % of participants drop out; some are slow. Source: Bonawitz et al. 2019,
https://arxiv.org/abs/1902.01046.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from edge_runtime.protocol.reasons import Outcome

DROPOUT_SHARE: Final = 0.08
SILENT_SHARE: Final = 0.25
"""Of the dropouts: the system kills the app, and nobody is told."""
STRAGGLER_SHARE: Final = 0.05
STRAGGLE_S: Final = (0.1, 0.5)
"""How much longer a straggler takes, in seconds: minutes of a real phone, at the pace of a demo."""

INTERRUPTIONS: Final = (
    Outcome.IN_USE,
    Outcome.NOT_CHARGING,
    Outcome.BATTERY_LOW,
    Outcome.NETWORK_METERED,
    Outcome.OVERHEATED,
)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What happens to one participation.

    Attributes:
        dropout: The outcome the phone sends instead of a report, if it drops out and can say so.
        silent: It drops out without a word.
        straggle_s: How much longer it takes, in seconds.
    """

    dropout: Outcome | None
    silent: bool
    straggle_s: float


def generator(seed: int, *path: int) -> np.random.Generator:
    """A random generator of its own for one purpose: independent of every other path, the same on every run."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=path))


def behaviour(rng: np.random.Generator) -> Behaviour:
    """Draw what happens to one participation."""
    dropout, silent, slow = rng.random(3) < (DROPOUT_SHARE, SILENT_SHARE, STRAGGLER_SHARE)
    reason = INTERRUPTIONS[int(rng.integers(len(INTERRUPTIONS)))]
    straggle_s = float(rng.uniform(*STRAGGLE_S))
    return Behaviour(
        dropout=reason if dropout and not silent else None,
        silent=bool(dropout and silent),
        straggle_s=straggle_s if slow and not dropout else 0.0,
    )
