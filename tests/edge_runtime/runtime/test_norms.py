"""A whole device under a plan whose clipping norm adapts: the norm is the signed header's, in whatever process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge_runtime import Happened
from edge_runtime.conditions.fixed import IDEAL
from edge_runtime.privacy import private_report
from edge_runtime.protocol.claims import AdaptiveNorm, Privacy
from edge_runtime.protocol.counted import Opened, open_sum
from edge_runtime.protocol.errors import NonFiniteTraining
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.report import REPORT_HEADER, lanes_of_report
from tests.edge_runtime.runtime.bench import Bench
from tests.edge_runtime.runtime.halls import Hall

GROUP = "ab" * 16
ADAPTIVE = AdaptiveNorm(quantile=0.5, smallest=1e-4, largest=50.0, rate=0.2, count_noise=3.0)
CENTRAL: dict[str, Any] = {"privacy": Privacy.CENTRAL, "noise_multiplier": 1.0, "adaptive": ADAPTIVE}


def opened(home: Bench, plan: Plan, norm: float) -> Opened:
    """What the one report that came says."""
    ((participation, report),) = home.coordinator.reports.items()
    values = home.coordinator.manifest.shared_parameters
    codec, count = plan.lanes(), values + 1
    return open_sum(plan, codec.unpack(lanes_of_report(report, participation, codec, count), count), values, norm)


@pytest.mark.parametrize(("norm", "above"), [(1e-3, -0.5), (50.0, 0.5)])
def test_a_delta_is_held_to_the_norm_of_its_round_and_counted(home: Bench, norm: float, above: float) -> None:
    home.coordinator.clipping_norm = norm
    plan = home.coordinator.assign(**CENTRAL)
    with home.runtime() as runtime:
        assert runtime.run_slice(600).happened is Happened.REPORTED
    found = opened(home, plan, norm)
    length = float(np.linalg.norm(found.delta))
    assert found.above == pytest.approx(above, abs=1e-6)
    assert length == pytest.approx(norm, rel=1e-3) if above < 0 else 0.01 < length < norm


def test_the_norm_is_asked_for_once_and_outlives_the_process(home: Bench) -> None:
    """Between two slices the coordinator would name another one; the device keeps what it was told."""

    def stopped(step: int) -> None:
        home.clock.forward(0.6)
        if step == 2:
            home.source.conditions = replace(IDEAL, in_use=True)

    home.engine.at_step, home.coordinator.clipping_norm = stopped, 1e-3
    plan = home.coordinator.assign(**CENTRAL)
    with home.runtime() as runtime:
        assert runtime.run_slice(600).happened is Happened.INTERRUPTED
    home.source.conditions, home.coordinator.clipping_norm = IDEAL, 40.0
    with home.runtime(examples=0) as runtime:
        assert runtime.run_slice(600).happened is Happened.REPORTED
    assert np.linalg.norm(opened(home, plan, 1e-3).delta) == pytest.approx(1e-3, rel=1e-3)
    assert len([path for _method, path in home.coordinator.asked if path.endswith("/round")]) == 1


def test_a_plan_that_limits_and_adapts_has_both_from_one_header(home: Bench) -> None:
    home.coordinator.clipping_norm = 1e-3
    plan = home.coordinator.assign(**CENTRAL, separation=3)
    with home.runtime() as runtime:
        assert runtime.run_slice(600).happened is Happened.REPORTED
        assert [taken.round for taken in runtime._device.state.taken] == [1]
    assert np.linalg.norm(opened(home, plan, 1e-3).delta) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("norm", [1e-5, 51.0])
def test_a_norm_beyond_the_plans_bounds_is_refused_before_training(home: Bench, norm: float) -> None:
    home.coordinator.clipping_norm = norm
    home.coordinator.assign(**CENTRAL)
    with home.runtime() as runtime:
        end = runtime.run_slice(600)
    assert (end.happened, end.reason) == (Happened.GAVE_UP, Outcome.PLAN_REFUSED)
    assert home.engine.steps == 0
    assert not home.coordinator.reports


def test_without_adaptation_no_other_norm_is_taken(home: Bench) -> None:
    home.coordinator.clipping_norm = 9.0
    home.coordinator.assign(separation=2)
    with home.runtime() as runtime:
        assert runtime.run_slice(600).reason is Outcome.PLAN_REFUSED


# --- in a group --------------------------------------------------------------------------------------------------

DISTRIBUTED: dict[str, Any] = {**CENTRAL, "privacy": Privacy.DISTRIBUTED}


def test_a_group_sums_at_the_norm_of_its_round(home: Bench) -> None:
    hall = Hall(home)
    home.coordinator.clipping_norm = 2.5
    hall.assign(**DISTRIBUTED)
    hall.appoint(group=GROUP)
    with hall.runtime() as runtime:
        assert runtime.run_slice(600).happened is Happened.REPORTED


def test_a_device_whose_group_has_another_norm_is_in_no_sum(home: Bench) -> None:
    hall = Hall(home)
    home.coordinator.clipping_norm = 2.5
    hall.assign(**DISTRIBUTED)
    hall.appoint(group=GROUP)  # the others are told this one
    home.coordinator.clipping_norm = 7.0
    with hall.runtime() as runtime:
        end = runtime.run_slice(600)
    assert end.happened is not Happened.REPORTED


def test_a_training_that_is_not_finite_gives_zeros_and_counts_neither_way(
    home: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise of the coordinator: what the device gave is in its report as it is, before it is masked."""

    def breaks(_step: int) -> None:
        raise NonFiniteTraining("the loss is not a number")

    made: list[bytes] = []

    def kept(*args: Any, **kwargs: Any) -> bytes:
        made.append(private_report(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr("edge_runtime.runs.private_report", kept)
    hall, home.engine.at_step = Hall(home), breaks
    plan = hall.assign(**CENTRAL)
    hall.appoint(group=GROUP)
    with hall.runtime() as runtime:
        assert runtime.run_slice(600).happened is Happened.REPORTED
    assert any("contributes zeros" in line for line in home.said)
    codec, count = plan.lanes(), home.coordinator.manifest.shared_parameters + 1
    lanes = codec.unpack(memoryview(made[0])[REPORT_HEADER.size :], count)
    assert len(made) == 1
    assert not lanes.any()
