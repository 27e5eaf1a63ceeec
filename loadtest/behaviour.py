"""What a made-up phone does between two requests: it trains without an interpreter, drops out, and waits."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from edge_runtime.driver import Unreachable
from edge_runtime.privacy import layer_sizes, private_report
from edge_runtime.protocol.errors import Refusal, Retry
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.session.visit import VisitEnd, Work

TRAINING_S: Final = (120.0, 180.0)
"""A phone trains between so many seconds: the 2 to 3 minutes of the protocol's figures."""

TRANSIENT_BACK_OFF_S: Final = 900.0
PERMANENT_BACK_OFF_S: Final = 14_400.0
BACK_OFF_SPREAD: Final = 0.2

DROPOUTS: Final = (Outcome.IN_USE, Outcome.NOT_CHARGING, Outcome.NETWORK_METERED, Outcome.OVERHEATED)
"""How an owner, a charger, a network and the sun end a training."""

REFUSED_BY_THE_PHONE: Final = frozenset(
    {
        Outcome.BUNDLE_REFUSED,
        Outcome.CHECKPOINT_REFUSED,
        Outcome.PLAN_REFUSED,
        Outcome.INTERPRETER_FAILED,
        Outcome.NON_FINITE_TRAINING,
        Outcome.EXAMPLES_REFUSED,
    }
)
"""Outcomes that this training never makes: the phone did not believe, or could not use, what it was served."""


def made_up_report(work: Work, rng: np.random.Generator, dropout_share: float) -> bytes | Outcome:
    """Make a plausible report with the real codec, or drop out with a probability of `dropout_share`.

    The delta is Gaussian; its L2 norm lies evenly between half and one and a half clipping norms, so that half of the
    reports are clipped.
    """
    if rng.random() < dropout_share:
        return DROPOUTS[int(rng.integers(len(DROPOUTS)))]
    parameters = work.bundle.manifest.shared_parameters
    norm = (work.clipping_norm or work.plan.clipping_norm) * rng.uniform(0.5, 1.5)
    delta = rng.standard_normal(parameters, dtype=np.float32) * np.float32(norm / math.sqrt(parameters))
    layers = layer_sizes(work.bundle.manifest)
    return private_report(work.participation, delta, work.plan, rng, layers, clipping_norm=work.clipping_norm)


def training_s(rng: np.random.Generator) -> float:
    """How long a phone would have trained, in seconds."""
    return float(rng.uniform(*TRAINING_S))


def wait_after(end: VisitEnd, rng: np.random.Generator) -> float:
    """An instant drawn evenly from a retry window, in seconds from now."""
    return end.after_s + float(rng.random()) * end.spread_s


def back_off(problem: Refusal | Unreachable, rng: np.random.Generator) -> float:
    """How long a phone stays away after a visit that failed, in seconds.

    What the refusal asks for; else 15 min after a transient failure and 4 h after a permanent one, each ± 20 %.
    """
    if isinstance(problem, Refusal) and problem.retry_after_s is not None:
        return problem.retry_after_s
    permanent = isinstance(problem, Refusal) and problem.retry is Retry.NEVER
    middle = PERMANENT_BACK_OFF_S if permanent else TRANSIENT_BACK_OFF_S
    return middle * float(rng.uniform(1 - BACK_OFF_SPREAD, 1 + BACK_OFF_SPREAD))
