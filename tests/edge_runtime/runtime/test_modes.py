"""A whole device under plans of every privacy mode, in plain sums and in groups, and with layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_runtime import Happened
from edge_runtime.protocol.plan import Plan, Privacy
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.report import lanes_of_report
from tests.edge_runtime.runtime.bench import Bench
from tests.edge_runtime.runtime.halls import OF_THE_OTHERS, Hall

GROUP = "ab" * 16
MODES: dict[Privacy, dict[str, Any]] = {
    Privacy.NONE: {},
    Privacy.DISTRIBUTED: {"noise_multiplier": 50.0},
    Privacy.LOCAL: {"noise_multiplier": 50.0, "lane_bits": 24},
    Privacy.CENTRAL: {"noise_multiplier": 50.0},
    Privacy.CORRELATED: {"noise_multiplier": 50.0, "separation": 2},
}
NOISED = (Privacy.DISTRIBUTED, Privacy.LOCAL)
NORM = 10.0
"""Of the bench's plans."""


def delta_of(home: Bench, plan: Plan) -> Any:
    """What a plain report says, in units of the delta."""
    ((participation, report),) = home.coordinator.reports.items()
    codec, values = plan.lanes(), home.coordinator.manifest.shared_parameters
    return codec.open_sum(codec.unpack(lanes_of_report(report, participation, codec, values), values), values)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode is not Privacy.DISTRIBUTED])
def test_a_device_reports_plainly_in_every_mode_that_plain_sums_can_have(home: Bench, mode: Privacy) -> None:
    plan = home.coordinator.assign(privacy=mode, **MODES[mode])
    with home.runtime() as runtime:
        assert runtime.run_slice(600).happened is Happened.REPORTED
    length = float(np.linalg.norm(delta_of(home, plan)))
    assert (length > 3 * NORM) == (mode in NOISED), "noise of fifty norms, or none"


@pytest.mark.parametrize("mode", MODES)
def test_a_device_is_summed_in_groups_of_every_mode(home: Bench, mode: Privacy) -> None:
    hall = Hall(home)
    plan = hall.assign(privacy=mode, **MODES[mode])
    hall.appoint(group=GROUP)
    with hall.runtime() as runtime:
        assert runtime.run_slice(600).happened is Happened.REPORTED
    opened = hall.servers[GROUP].opened
    assert opened is not None
    opened[:-4] -= np.uint32(OF_THE_OTHERS)
    length = float(np.linalg.norm(plan.lanes().open_sum(opened)))
    assert (length > 3 * NORM) == (mode in NOISED)


def test_a_device_clips_by_the_layers_of_its_plan(home: Bench) -> None:
    norm = 1e-3  # far below what training changes
    plan = home.coordinator.assign(layer_shares=(3.0, 1.0), clipping_norm=norm)
    with home.runtime() as runtime:
        assert runtime.run_slice(600).happened is Happened.REPORTED
    delta = delta_of(home, plan)
    assert np.linalg.norm(delta[:3]) == pytest.approx(norm * 0.75**0.5, rel=1e-3)
    assert abs(delta[3]) == pytest.approx(norm * 0.5, rel=1e-3)


def test_layers_that_are_not_the_bundles_are_refused_before_a_step(home: Bench) -> None:
    home.coordinator.assign(layer_shares=(1.0, 1.0, 1.0))
    with home.runtime() as runtime:
        assert runtime.run_slice(600).reason == Outcome.PLAN_REFUSED
    assert home.engine.steps == 0
