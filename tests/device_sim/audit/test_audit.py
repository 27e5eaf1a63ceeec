"""The audit's bound stays below every right claim and finds every planted bug at a claim of ε = 2.4.

Keys are fixed, so that outcomes never change: a right mechanism is disproved under one key in twenty, at most.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pytest
from scipy import stats

from coordinator.core.privacy.gaussian import exact_epsilon, least_noise
from coordinator.core.privacy.statement import Mode
from device_sim.audit.attacks import audited, guessed
from device_sim.audit.bound import Guesses, epsilon_bound, p_value
from device_sim.audit.estimate import gaussian_estimate
from device_sim.audit.mechanisms import Bug, audit, released
from edge_runtime.protocol.keys import digest

MODES: Final = tuple(mode for mode in Mode if mode is not Mode.NONE)
CLAIM, DELTA, CANARIES = 2.4, 1e-5, 20_000


def by_definition(guesses: Guesses, epsilon: float, delta: float) -> float:
    """Theorem 5.2 of arXiv 2305.08846, term by term."""
    law = stats.binom(guesses.made, 1 / (1 + np.exp(-epsilon)))
    most = max(
        (float(law.cdf(guesses.right - 1) - law.cdf(guesses.right - 1 - i)) / i for i in range(1, guesses.right + 1)),
        default=0.0,
    )
    return min(1.0, float(law.sf(guesses.right - 1)) + 2 * guesses.canaries * delta * most)


@pytest.mark.parametrize(("made", "right"), [(400, 371), (100, 100), (50, 20), (10, 0), (800, 640)])
@pytest.mark.parametrize("epsilon", [0.0, 1.0, 4.0])
def test_the_p_value_is_the_theorems(made: int, right: int, epsilon: float) -> None:
    guesses = Guesses(20_000, made, right)
    assert p_value(guesses, epsilon, 1e-6) == pytest.approx(by_definition(guesses, epsilon, 1e-6), rel=1e-6, abs=1e-300)


def test_the_bound_is_where_the_p_value_meets_the_doubt() -> None:
    guesses = Guesses(10_000, 400, 380)
    bound = epsilon_bound(guesses, 1e-6)
    assert p_value(guesses, bound, 1e-6) <= 0.05 < p_value(guesses, bound * 1.01, 1e-6)
    assert epsilon_bound(Guesses(10_000, 400, 200), 1e-6) == 0.0
    assert epsilon_bound(guesses, 1e-4) < bound


def test_what_is_exactly_private_is_disproved_no_more_often_than_said() -> None:
    """Randomised response has ε = 1 for each coin: the bound is above 1 in at most 5 % of runs."""
    rng, made = np.random.default_rng(11), 300
    rights = rng.binomial(made, 1 / (1 + np.exp(-1.0)), 20_000)
    above = {int(right): epsilon_bound(Guesses(made, made, int(right)), 0.0) > 1 for right in np.unique(rights)}
    wrong = float(np.mean([above[int(right)] for right in rights]))
    assert 0.02 < wrong < 0.05


@pytest.mark.parametrize("mode", MODES)
def test_the_bound_stays_below_a_right_claim(mode: Mode) -> None:
    for number in range(5):
        verdict = audit(mode, CLAIM, DELTA, CANARIES, digest(b"right", bytes([number])))
        assert not verdict.disproved
        assert 0.8 < verdict.bound < CLAIM  # and it is not idle


@pytest.mark.parametrize("bug", Bug)
@pytest.mark.parametrize("mode", MODES)
def test_every_planted_bug_is_found_in_every_mode(mode: Mode, bug: Bug) -> None:
    verdict = audit(mode, CLAIM, DELTA, CANARIES, digest(b"planted"), bug)
    assert verdict.disproved
    assert "disproves the claim" in verdict.sentence()


def test_the_gaussian_estimate_finds_half_the_noise_with_a_thousand_canaries() -> None:
    noise = least_noise(CLAIM, DELTA)
    halved, right = (released(Mode.CENTRAL, noise, 1000, digest(b"few"), bug) for bug in (Bug.HALF_NOISE, None))
    assert gaussian_estimate(halved.releases[0], halved.included, DELTA).epsilon_low > CLAIM
    estimate = gaussian_estimate(right.releases[0], right.included, DELTA)
    assert estimate.epsilon_low < CLAIM
    assert estimate.epsilon == pytest.approx(exact_epsilon(estimate.mu, DELTA))


def test_noise_that_is_not_there_is_found_at_once() -> None:
    included = np.arange(2000) % 2 == 0
    verdict = audited({"plain": included.astype(np.float64)}, included, CLAIM, DELTA)
    assert verdict.disproved
    assert verdict.estimate.epsilon == float("inf")


def test_three_attacks_share_the_doubt_of_one() -> None:
    run = released(Mode.CENTRAL, least_noise(CLAIM, DELTA), CANARIES, digest(b"shared"))
    once, thrice = (
        audited({str(copy): run.releases[0] for copy in range(count)}, run.included, CLAIM, DELTA) for count in (1, 3)
    )
    assert thrice.bound == epsilon_bound(guessed(run.releases[0], run.included), DELTA, 1 - 0.05 / 3) < once.bound


def test_guesses_are_the_highest_and_the_lowest_scores() -> None:
    scores, included = np.arange(100.0), np.arange(100) >= 98
    assert guessed(scores, included) == Guesses(100, 4, 4)
    assert guessed(-scores, included) == Guesses(100, 4, 0)


def test_impossible_guesses_and_estimates_are_bugs() -> None:
    for wrong in ((10, 11, 5), (10, 5, 6), (0, 0, 0)):
        with pytest.raises(ValueError, match="guesses"):
            Guesses(*wrong)
    with pytest.raises(ValueError, match="two canaries"):
        gaussian_estimate(np.zeros(4), np.ones(4, bool), DELTA)
