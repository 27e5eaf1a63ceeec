"""Simulated phones keep what a plan binds them to: limits of participation, and the norm of the round."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from device_sim.behaviour import Behaviour
from device_sim.datasets import Dataset
from device_sim.fleet import Fleet, FleetConfig, Phone
from edge_runtime.examples import Examples
from edge_runtime.protocol.bundle import Bundle
from edge_runtime.protocol.checkpoint import Checkpoint
from edge_runtime.protocol.claims import AdaptiveNorm, Privacy
from edge_runtime.protocol.counted import open_sum
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.report import lanes_of_report
from edge_runtime.session.visit import Work
from edge_runtime.training import Trained
from tests.programme import BUNDLE_SHA256, FIRST_WEIGHTS, MANIFEST, PLAN, ROOTS, TENANT, replace

VALUES = MANIFEST.shared_parameters
LENGTH = 3.0
ONE = Examples(np.zeros((1, 2), np.float32), np.zeros(1, np.float32))


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """Phones that are always well, and whose training comes to a delta of one length."""
    config = FleetConfig(coordinator="http://nowhere", roots=ROOTS, tenant=TENANT, population="p", seed=1)
    dataset = Dataset(
        name="none",
        title="None",
        source="made up",
        features=MANIFEST.features,
        class_names=("0",),
        training=(ONE,),
        held_out=(ONE,),
    )
    monkeypatch.setattr("device_sim.fleet.behaviour", lambda _rng: Behaviour(None, False, 0.0))
    monkeypatch.setattr("device_sim.fleet.runtime_name", lambda: "none")
    fleet = Fleet(config, dataset, lambda _event: None)
    delta = np.full(VALUES, LENGTH / VALUES**0.5, np.float32)
    monkeypatch.setattr(fleet, "_train", lambda _phone, _work: Trained(delta, 1, 1.0, 1.0))
    return fleet


def given(fleet: Fleet, phone: Phone, plan: Plan, round_: int, norm: float | None = None) -> bytes | Outcome:
    work = Work(
        participation=f"{round_:032x}",
        round=round_,
        plan=plan,
        bundle=Bundle(BUNDLE_SHA256, MANIFEST, b""),
        checkpoint=Checkpoint("0" * 64, BUNDLE_SHA256, 0, FIRST_WEIGHTS),
        plan_sha256="5" * 64,
        clipping_norm=norm,
    )
    return fleet._trainer(phone, [])(work)


def test_a_simulated_phone_is_in_no_more_and_no_closer_rounds_than_its_plan_says(fleet: Fleet) -> None:
    (phone,) = fleet._training
    plan = replace(PLAN, version=5, separation=3, most_participations=2)
    found: list[Any] = [given(fleet, phone, plan, round_) for round_ in (1, 2, 3, 4, 9)]
    early, spent = Outcome.PARTICIPATED_RECENTLY, Outcome.PARTICIPATIONS_SPENT
    assert [one if isinstance(one, Outcome) else "report" for one in found] == ["report", early, early, "report", spent]


def test_without_limits_a_simulated_phone_remembers_nothing(fleet: Fleet) -> None:
    (phone,) = fleet._training
    assert all(isinstance(given(fleet, phone, PLAN, round_), bytes) for round_ in (1, 1, 2))
    assert phone.past == ()


@pytest.mark.parametrize(("norm", "above"), [(0.5, -0.5), (9.0, 0.5)])
def test_a_simulated_phone_clips_to_the_norm_of_its_round(fleet: Fleet, norm: float, above: float) -> None:
    (phone,) = fleet._training
    adaptive = AdaptiveNorm(quantile=0.5, smallest=0.01, largest=50.0, rate=0.2, count_noise=3.0)
    plan = replace(PLAN, version=5, privacy=Privacy.CENTRAL, noise_multiplier=1.0, adaptive=adaptive)
    report = given(fleet, phone, plan, 1, norm)
    assert isinstance(report, bytes)
    codec = plan.lanes()
    lanes = codec.unpack(lanes_of_report(report, f"{1:032x}", codec, VALUES + 1), VALUES + 1)
    found = open_sum(plan, lanes, VALUES, norm)
    assert np.linalg.norm(found.delta) == pytest.approx(min(norm, LENGTH), rel=1e-4)
    assert found.above == pytest.approx(above, abs=1e-6)
