"""Faults planted in the product's own code, for the audit to find."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Any, Final
from unittest.mock import patch

import numpy as np

import edge_runtime.privacy
from coordinator.core.privacy.central import SumNoise
from coordinator.core.privacy.gaussian import least_noise
from coordinator.core.privacy.statement import Mode
from device_sim.audit import plans
from device_sim.audit.attacks import Verdict
from device_sim.audit.configured import plan_of, plan_of_examples
from device_sim.audit.examples import Directions
from device_sim.audit.plans import Audit, claim_of, judged, ran
from edge_runtime.protocol.noise import DiscreteGaussian, NoiseSource
from edge_runtime.protocol.plan import Privacy
from edge_runtime.protocol.secure_sum.lanes import Lanes, LaneVector

CLAIM: Final = 2.4
DELTA: Final = 1e-5
GROUP, HONEST = 20, 14
"""16 of them are left, and two of those are corrupt."""
MODES: Final = tuple(mode for mode in Privacy if mode is not Privacy.NONE)


class Fault(StrEnum):
    NO_CLIPPING = "neither clipping nor the check of it"
    HALF_NOISE = "half the noise"
    DOUBLE_COUNT = "a report that is added twice"
    NO_LIMITS = "a device that ignores its limits"
    NOISE_NOT_REFRESHED = "the same noise in every round"


@contextlib.contextmanager
def drawn_from(name: str) -> Iterator[None]:
    """Noise that is the same in every run, and another one at every draw."""
    number = 0

    def fresh(*_randomness: Any) -> NoiseSource:
        nonlocal number
        number += 1
        return NoiseSource(hashlib.sha256(f"{name} {number}".encode()).digest())

    with patch.object(NoiseSource, "fresh", fresh):
        yield


Change = tuple[Any, str, Callable[..., Any]]


@contextlib.contextmanager
def planted(fault: Fault | None, faults: Mapping[Fault, Callable[[], list[Change]]] | None = None) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for of, name, instead in (faults or _PLANTED)[fault]() if fault else ():
            stack.enter_context(patch.object(of, name, instead))
        yield


def _no_clipping() -> list[Change]:
    def encode(self: Lanes, delta: Any, _rng: Any) -> LaneVector:
        lanes = np.zeros(self.count(delta.size), np.int32)
        lanes[: delta.size] = np.rint(delta * self.scale)
        return lanes.view(np.uint32)

    return [(edge_runtime.privacy, "clip", lambda delta, _norm: delta), (Lanes, "encode", encode)]


def _half_noise() -> list[Change]:
    whole = DiscreteGaussian._block
    return [(DiscreteGaussian, "_block", lambda self, *of: whole(DiscreteGaussian(self.sigma / 2), *of))]


def _double_count() -> list[Change]:
    def twice(total: LaneVector, lanes: LaneVector) -> None:
        total += np.uint32(2) * lanes

    return [(plans, "add_into", twice)]


def _no_limits() -> list[Change]:
    return [(plans, "barred", lambda *_asked: None)]


def _not_refreshed() -> list[Change]:
    drawn, reports = SumNoise.drawn, itertools.count()

    def fresh(*_randomness: Any) -> NoiseSource:
        return NoiseSource(hashlib.sha256(f"{next(reports) % HONEST}".encode()).digest())

    def stale(self: SumNoise, size: int, _seed: bytes, *_purpose: bytes) -> Any:
        return drawn(self, size, bytes(32))

    return [(NoiseSource, "fresh", fresh), (SumNoise, "drawn", stale)]


_PLANTED: Final[dict[Fault, Callable[[], list[Change]]]] = {
    Fault.NO_CLIPPING: _no_clipping,
    Fault.HALF_NOISE: _half_noise,
    Fault.DOUBLE_COUNT: _double_count,
    Fault.NO_LIMITS: _no_limits,
    Fault.NOISE_NOT_REFRESHED: _not_refreshed,
}


def _no_clipping_of_examples() -> list[Change]:
    clipped = Directions._accumulate
    return [(Directions, "_accumulate", lambda self, x, y, clip: clipped(self, x, y, 100 * clip))]


def _examples_twice() -> list[Change]:
    once = Directions._accumulate

    def twice(self: Directions, x: Any, y: Any, clip: Any) -> Any:
        once(self, x, y, clip)
        return once(self, x, y, clip)

    return [(Directions, "_accumulate", twice)]


OF_EXAMPLES: Final[dict[Fault, Callable[[], list[Change]]]] = {
    Fault.NO_CLIPPING: _no_clipping_of_examples,
    Fault.HALF_NOISE: _half_noise,
    Fault.DOUBLE_COUNT: _examples_twice,
    Fault.NO_LIMITS: _no_limits,
}
"""Noise that is the same in every step is none of them: an example gives the same in each, so it tells nothing more."""


def audit_of_examples(canaries: int = 10_000, rounds: int = 1) -> Audit:
    """Of steps that hide examples, at a claim of about 2.3 for two epochs."""
    plan = replace(plan_of_examples(2.7, separation=rounds), epochs=2)
    return Audit(plan=plan, rounds=rounds, canaries=canaries)


def audit_of(mode: Privacy, *, canaries: int = 10_000, rounds: int = 2, separation: int = 2) -> Audit:
    """Of a mode whose noise is about the least for a claim of 2.4: groups of 20, or sums of 200."""
    group, noise = GROUP if mode is Privacy.DISTRIBUTED else 200, least_noise(CLAIM, DELTA)
    while True:
        plan = plan_of(mode, noise, group=group, separation=separation)
        found = Audit(plan=plan, rounds=rounds, target_delta=DELTA, canaries=canaries)
        if claim_of(found) <= CLAIM:
            return found
        noise *= 1.02


def verdict_of(audit: Audit, name: str, fault: Fault | None = None) -> Verdict:
    """What the audit finds where this fault is planted; the same for the same name."""
    faults = OF_EXAMPLES if audit.mode is Mode.EXAMPLE_LEVEL else _PLANTED
    with drawn_from(name), planted(fault, faults):
        return judged(audit, ran(audit))
