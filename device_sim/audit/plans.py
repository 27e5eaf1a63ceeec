"""An audit of a plan: canaries go through the very code that phones and the coordinator run, and an attacker guesses.

Each canary is a device whose trained delta is four clipping norms long, in a direction of its own. By a fair coin it
takes part, in each round that its limits allow. Whatever lies between that delta and what the opponent sees is the
product's own code: limits, clipping, lanes, the device's noise, the sum, the coordinator's noise.

*Whom it plays.* Against distributed and local noise the opponent is the coordinator, and a canary that stays out gives
zeros; each group has no more honest members than the plan promises, m - A, and those who are corrupt add no noise.
Against central and correlated noise the opponent gets the model, and a canary that stays out sends nothing.

*Examples.* A plan that claims nothing about devices and hides the examples on them is audited with canaries that are
examples of one phone, which stay out by giving zeros; `examples` says what of that is real.

Noise is drawn from the system's random source, as on phones: a seed fixes the coins and the rounding, and not the
noise. Masks are left out: they cancel exactly, which other tests show.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, cast

import numpy as np
import numpy.typing as npt

from coordinator.core.privacy.central import SEED_BYTES
from coordinator.core.privacy.conversions import rho_to_epsilon
from coordinator.core.privacy.folding import folded
from coordinator.core.privacy.gaussian import exact_epsilon
from coordinator.core.privacy.participation import most_participations
from coordinator.core.privacy.plans import OF_THE_COORDINATOR, correlated_rho_until, cost_of, factor_of, sum_noise
from coordinator.core.privacy.statement import PROTECTS, Mode, Opponent
from coordinator.core.privacy.zcdp import example_rho
from device_sim.audit.attacks import Scores, Verdict, audited
from device_sim.audit.examples import released
from edge_runtime.limits import Past, barred, gave
from edge_runtime.privacy import private_report
from edge_runtime.protocol import wire
from edge_runtime.protocol.counted import open_sum
from edge_runtime.protocol.errors import InvalidPlan
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.noise import NoiseSource
from edge_runtime.protocol.plan import Plan, Privacy
from edge_runtime.protocol.report import lanes_of_report
from edge_runtime.protocol.secure_sum.lanes import add_into

Values = npt.NDArray[np.float64]

TRAINED_NORM: Final = 4.0
"""Of a canary's delta before clipping, in clipping norms."""
FEWEST_CANARIES: Final = 100
BETWEEN_ROUNDS_S: Final = 366 * 86_400.0
"""By a device's clock: no separation by time is longer, so that rounds alone decide."""
_PARTICIPATION: Final = "0" * 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What is audited, and how.

    Args:
        plan: Of the task; one that clips by layers is audited by its whole norm, which bounds the same.
        rounds: Of the task.
        target_delta: δ of the claim.
        canaries: More find smaller faults; 10,000 find half the noise at ε = 2.4.
        seed: Of coins and rounding.

    Raises:
        InvalidPlan: The plan claims nothing, or a number is out of range.
    """

    plan: Plan
    rounds: int = 6
    target_delta: float = 1e-5
    canaries: int = 10_000
    seed: int = 1

    def __post_init__(self) -> None:
        if self.plan.privacy is Privacy.NONE and self.plan.example_clipping_norm is None:
            raise InvalidPlan("the plan claims nothing, about devices or examples: there is nothing to audit")
        if self.rounds < 1 or self.canaries < FEWEST_CANARIES:
            raise InvalidPlan(f"an audit has 1 round or more, and {FEWEST_CANARIES} canaries or more")
        if not 0 < self.target_delta < 1:
            raise InvalidPlan("target_delta is between 0 and 1; 1e-5 is usual for an audit")

    @property
    def mode(self) -> Mode:
        if self.plan.privacy is Privacy.NONE:
            return Mode.EXAMPLE_LEVEL
        return Mode(self.plan.privacy.value)

    @property
    def multiplier(self) -> float:
        """The noise multiplier of what is claimed, z."""
        of_examples = self.mode is Mode.EXAMPLE_LEVEL
        return self.plan.example_noise_multiplier if of_examples else self.plan.noise_multiplier

    @property
    def opponent(self) -> Opponent:
        """The strongest that the mode protects from."""
        return Opponent.COORDINATOR if Opponent.COORDINATOR in PROTECTS[self.mode] else Opponent.RECIPIENTS

    @property
    def together(self) -> int:
        """Canaries whose reports are summed together; each has a value of its own."""
        if self.mode is Mode.LOCAL:
            return 1
        if self.mode is Mode.EXAMPLE_LEVEL:
            return self.canaries
        of_group = self.plan.honest_survivors() if self.mode is Mode.DISTRIBUTED else self.plan.max_participants
        return min(of_group, self.canaries)

    @property
    def not_attacked(self) -> str | None:
        """What the claim pays for and no attacker looks at here, in a sentence; None where that is nothing."""
        if self.plan.adaptive is None:
            return None
        share = (self.multiplier / self.plan.adaptive.count_multiplier) ** 2
        return (
            f"The counts of the norm that adapts are not attacked: {share:.1%} of the claimed ρ is theirs, and their "
            "noise is held by tests of its law alone."
        )

    @property
    def audited_plan(self) -> Plan:
        """The plan, with a delta that is clipped as a whole."""
        return replace(self.plan, layer_shares=())


@dataclass(frozen=True, slots=True)
class Ran:
    """What the opponent saw.

    Attributes:
        releases: In clipping norms, shape ``(rounds, canaries)``: a canary's own value in each round's sum.
        included: The coins.
        gave: The rounds in which a canary whose coin says so took part, counted from 0.
    """

    releases: Values
    included: npt.NDArray[np.bool_]
    gave: tuple[int, ...]


def claim_of(audit: Audit) -> float:
    """ε that the coordinator's accounting claims of the task, for a device that is in as many rounds as it may be."""
    plan, delta = audit.audited_plan, audit.target_delta
    if audit.mode is Mode.CORRELATED:
        rho = correlated_rho_until(plan, audit.together, audit.rounds, audit.rounds)
    elif audit.mode is Mode.EXAMPLE_LEVEL:
        times = most_participations(audit.rounds, plan.separation, plan.most_participations)
        rho = example_rho(plan.example_noise_multiplier, plan.epochs, times)
    else:
        cost = cost_of(plan, audit.together + plan.counts)
        of_round = cost.coordinator if audit.opponent is Opponent.COORDINATOR else cost.recipients
        rho = (of_round or 0.0) * most_participations(audit.rounds, plan.separation, plan.most_participations)
    return exact_epsilon(math.sqrt(2 * rho), delta) if audit.mode in OF_THE_COORDINATOR else rho_to_epsilon(rho, delta)


def ran(audit: Audit, progress: Callable[[int], None] = lambda _canaries: None) -> Ran:
    """Put all canaries through all rounds.

    Args:
        progress: Told how many canaries are done.
    """
    rng = np.random.default_rng(audit.seed)
    included = rng.integers(0, 2, audit.canaries).astype(np.bool_)
    if audit.mode is Mode.EXAMPLE_LEVEL:
        return _phone(audit, included, progress)
    releases = np.empty((audit.rounds, audit.canaries))
    given: set[int] = set()
    for begin in range(0, audit.canaries, audit.together):
        here = slice(begin, min(begin + audit.together, audit.canaries))
        releases[:, here], rounds = _group(audit, included[here], rng)
        given |= rounds
        progress(here.stop)
    return Ran(releases, included, tuple(sorted(given)))


def judged(audit: Audit, run: Ran) -> Verdict:
    """Hold the claim against what was seen."""
    return audited(scores_of(audit, run), run.included, claim_of(audit), audit.target_delta)


def scores_of(audit: Audit, run: Ran) -> dict[str, Scores]:
    """What each attack makes of the releases: higher where a canary looks as if it took part."""
    seen, rounds = run.releases, np.arange(audit.rounds)
    if audit.mode is Mode.CORRELATED:
        column = factor_of(audit.rounds, audit.plan.separation).column(audit.rounds)
        lags = rounds[:, None] - rounds[None, :]
        whitening = np.where(lags >= 0, column[np.abs(lags)], 0.0)
    else:
        whitening = np.eye(audit.rounds)
    signal = np.isin(rounds, run.gave).astype(np.float64)
    attacks = {"rounds of the canaries": _matched(whitening, seen, signal)}
    if audit.rounds > 1:
        attacks["every round"] = _matched(whitening, seen, np.ones(audit.rounds))
        attacks["two rounds that share noise"] = seen[run.gave[0]] - seen[(run.gave[0] + 1) % audit.rounds]
    return attacks


def _matched(whitening: Values, seen: Values, signal: Values) -> Scores:
    """Look along what a canary gave, once the noise of rounds is independent."""
    along = whitening @ signal
    found: Scores = along @ (whitening @ seen) / math.sqrt(float(along @ along))
    return found


def _phone(audit: Audit, included: npt.NDArray[np.bool_], progress: Callable[[int], None]) -> Ran:
    """One phone whose examples are canaries; in rounds that its limits do not allow, it gives nothing."""
    plan, past = audit.plan, cast(Past, ())
    sha256 = digest(wire.encode(plan)).hex()
    releases, rounds = np.zeros((audit.rounds, included.size)), []
    for round_ in range(1, audit.rounds + 1):
        if barred(past, plan, sha256, round_, round_ * BETWEEN_ROUNDS_S) is None:
            past = gave(past, sha256, round_, round_ * BETWEEN_ROUNDS_S) if plan.limited else past
            length = TRAINED_NORM * (plan.example_clipping_norm or 0.0)
            releases[round_ - 1] = released(plan, included, length)
            rounds.append(round_ - 1)
        progress(included.size * round_ // audit.rounds)
    return Ran(releases, included, tuple(rounds))


def _group(audit: Audit, included: npt.NDArray[np.bool_], rng: np.random.Generator) -> tuple[Values, set[int]]:
    """Canaries that are summed together, in all rounds: what is released of each, and the rounds in which they were."""
    plan, values = audit.audited_plan, audit.together
    sha256 = digest(wire.encode(plan)).hex()
    pasts: list[Past] = [()] * included.size
    releases, rounds = np.empty((audit.rounds, included.size)), set()
    hide = _coordinator_noise(audit)
    for round_ in range(1, audit.rounds + 1):
        at_s, reports = round_ * BETWEEN_ROUNDS_S, []
        for member in range(included.size):
            there = barred(pasts[member], plan, sha256, round_, at_s) is None
            if there:
                pasts[member] = gave(pasts[member], sha256, round_, at_s) if plan.limited else ()
                rounds.add(round_ - 1)
            delta = np.zeros(values, np.float32)
            if there and included[member]:
                delta[member] = TRAINED_NORM * plan.clipping_norm
            elif audit.mode in OF_THE_COORDINATOR:
                continue  # it sends nothing; elsewhere it, or another in its place, gives zeros
            report = private_report(_PARTICIPATION, delta, plan, rng, clipping_norm=plan.clipping_norm)
            reports.append(report)
        releases[round_ - 1] = hide(round_, _summed(plan, reports, values))[: included.size]
    return releases / plan.clipping_norm, rounds


def _summed(plan: Plan, reports: list[bytes], values: int) -> Values:
    """The opened sum of deltas, as the coordinator has it before its own noise."""
    codec, lanes = plan.lanes(), values + plan.counts
    total = np.zeros(codec.count(lanes), np.uint32)
    for report in reports:
        add_into(total, codec.unpack(lanes_of_report(report, _PARTICIPATION, codec, lanes), lanes))
    opened = open_sum(plan, total, values).delta
    return folded(opened, codec) if plan.folds else opened


def _coordinator_noise(audit: Audit) -> Callable[[int, Values], Values]:
    """From a round and its sum to what is released of it."""
    plan, values = audit.audited_plan, audit.together
    if audit.mode not in OF_THE_COORDINATOR:
        return lambda _round, total: total
    noise, seeds = sum_noise(plan, values), NoiseSource.fresh()

    def seed() -> bytes:
        return seeds.words(SEED_BYTES // 8).tobytes()

    if audit.mode is Mode.CENTRAL:
        return lambda _round, total: noise.hidden(total, noise.drawn(values, seed()))
    factor = factor_of(audit.rounds, plan.separation)
    buffers = factor.begin(values)

    def correlated(round_: int, total: Values) -> Values:
        nonlocal buffers
        fresh = noise.drawn(values, seed(), str(round_).encode()).astype(np.float64)
        added, buffers = factor.step(buffers, fresh)
        return noise.hidden(total, added)

    return correlated
