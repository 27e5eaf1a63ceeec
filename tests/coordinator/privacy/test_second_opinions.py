"""Opacus beside every claim where it applies, and a refusal where both disagree."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Final

import pytest

from coordinator.accounting import OpacusRdp, PldAccountant
from coordinator.core.privacy.events import ConcentratedEvent, Event, GaussianEvent, SkellamEvent
from coordinator.core.privacy.opinions import LEAST_COMPARED, Opinion, agreed, difference
from coordinator.core.privacy.rdp import RdpAccountant
from coordinator.core.privacy.refusals import NotCovered, OpinionsDiffer
from coordinator.core.privacy.zcdp import ZcdpAccountant
from tests.coordinator.privacy.second_opinions import CASES, CONCENTRATED, DELTA, LITTLE

PRV, RDP = 0, 1
REFERENCES: Final = {"reference": (2.135, 2.437), "long reference": (6.918, 7.414)}


@pytest.fixture(scope="module")
def opacus() -> dict[str, list[float]]:
    command = [sys.executable, "-W", "error", "-m", "tests.coordinator.privacy.second_opinions"]
    found: dict[str, list[float]] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


@pytest.mark.parametrize("case", REFERENCES)
def test_opacus_says_what_the_design_has(case: str, opacus: dict[str, list[float]]) -> None:
    assert opacus[case] == pytest.approx(REFERENCES[case], rel=0.001)


@pytest.mark.parametrize("case", CASES)
def test_prv_agrees_with_the_claims_of_central_noise(case: str, opacus: dict[str, list[float]]) -> None:
    claim = Opinion("pld", PldAccountant().epsilon(CASES[case], DELTA), DELTA)
    assert agreed(claim, Opinion("prv", opacus[case][PRV], DELTA)) is claim


@pytest.mark.parametrize("case", CASES)
def test_renyi_accountants_agree(case: str, opacus: dict[str, list[float]]) -> None:
    claim = Opinion("rdp", RdpAccountant().epsilon(CASES[case], DELTA), DELTA)
    assert difference(claim, Opinion("opacus", opacus[case][RDP], DELTA)) < 0.005
    assert agreed(claim, Opinion("opacus", opacus[case][RDP], DELTA)) is claim


def test_opacus_converts_rho_as_we_do(opacus: dict[str, list[float]]) -> None:
    for rho, second in zip(CONCENTRATED, opacus["concentrated"], strict=True):
        claim = Opinion("zcdp", ZcdpAccountant().epsilon([ConcentratedEvent(rho)], DELTA), DELTA)
        assert agreed(claim, Opinion("opacus", second, DELTA)) is claim


def test_little_privacy_loss_is_no_dispute_though_opacus_orders_end(opacus: dict[str, list[float]]) -> None:
    """Opacus says 6 % more at ρ = 1e-7, many times as much at 1e-9, and less than nothing where ε is 0."""
    far = []
    for (rho, delta), second in zip(LITTLE, opacus["little"], strict=True):
        claim = Opinion("zcdp", ZcdpAccountant().epsilon([ConcentratedEvent(rho)], delta), delta)
        assert agreed(claim, Opinion("opacus", second, delta)) is claim
        far += [second > 1.02 * claim.epsilon or second < claim.epsilon]
    assert far == [True, True, False, False, True]


@pytest.mark.parametrize(("claim", "second", "apart"), [(0.01, 0.0, 0.0), (0.01, 0.0102, 0.02), (0.0101, 0.01, 0.01)])
def test_above_a_hundredth_accountants_are_compared(claim: float, second: float, apart: float) -> None:
    assert difference(Opinion("ours", claim, DELTA), Opinion("theirs", second, DELTA)) == pytest.approx(apart)


@pytest.mark.parametrize(("claim", "second"), [(0.0001, 0.0101), (0.0101, 0.0), (0.009, 0.0103), (0.0, -1.0)])
def test_an_opinion_above_a_hundredth_does_not_agree_with_much_less(claim: float, second: float) -> None:
    with pytest.raises(OpinionsDiffer):
        agreed(Opinion("ours", claim, DELTA), Opinion("theirs", second, DELTA))
    assert LEAST_COMPARED == 0.01


@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])
def test_no_figure_agrees_with_none(wrong: float) -> None:
    for claim, second in ((wrong, 0.001), (0.001, wrong), (wrong, wrong)):
        assert difference(Opinion("ours", claim, DELTA), Opinion("theirs", second, DELTA)) == math.inf


def test_a_claim_is_recorded_beside_its_second_opinion(opacus: dict[str, list[float]]) -> None:
    assert opacus["claims"] == pytest.approx([4.887, 4.897, 5.222, 5.222], rel=0.001)


@pytest.mark.parametrize("second", [2.06, 1.93, math.inf, math.nan, 0.0])
def test_a_second_opinion_that_differs_refuses_the_release(second: float) -> None:
    with pytest.raises(OpinionsDiffer, match="2 %"):
        agreed(Opinion("pld", 2.0, DELTA), Opinion("prv", second, DELTA))


def test_opinions_about_different_deltas_do_not_agree() -> None:
    with pytest.raises(OpinionsDiffer):
        agreed(Opinion("pld", 2.0, 1e-6), Opinion("prv", 2.0, 1e-5))


@pytest.mark.parametrize("events", [[ConcentratedEvent(1.0)], [SkellamEvent(4.0, 1.0, 1.0)], []])
def test_pld_is_not_asked_what_it_does_not_know(events: list[Event]) -> None:
    with pytest.raises(NotCovered, match="Gaussian"):
        PldAccountant().epsilon(events, DELTA)


def test_zcdp_is_not_asked_about_sampling() -> None:
    with pytest.raises(NotCovered):
        ZcdpAccountant().epsilon([GaussianEvent(1.0, 0.01)], DELTA)


def test_opacus_answers_with_epsilon_only() -> None:
    with pytest.raises(NotCovered):
        OpacusRdp().delta([GaussianEvent(1.0)], 1.0)
