"""An app's own unit test: its runtime takes part in a round, without a network and without an interpreter."""

from pathlib import Path

import numpy as np

from edge_runtime import Collection, Conditions, Examples, Floors, Happened, Installation, Policy, Runtime
from edge_runtime.conditions.fixed import FixedSource
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.testing import ROOTS, FakeCoordinator, LinearEngine


def test_a_round_at_night_and_none_by_day(tmp_path: Path) -> None:
    coordinator = FakeCoordinator()
    pairs = Collection(
        name="pairs",
        features=coordinator.manifest.features,
        labels=coordinator.manifest.labels,
        max_rows=100,
        max_bytes=1_000_000,
        time_to_live_s=None,
        dedupe=False,
    )
    phone = FixedSource()
    with Runtime(
        tmp_path / "state",
        coordinator,
        Installation("acme", "keyboard", "my-app", "1.0", "test"),
        ROOTS,
        source=phone,
        key=lambda: bytes(32),
        floors=Floors(limits=Policy(first_run_delay_s=0.0, min_interval_s=0.0)),
        engine=LinearEngine(),
    ) as runtime:
        runtime.declare(pairs)
        runtime.add("pairs", Examples(np.ones((8, 3), np.float32), np.zeros(8, np.float32)))

        coordinator.assign(epochs=2)
        assert runtime.run_slice(deadline_s=600).happened is Happened.REPORTED
        assert len(coordinator.reports) == 1

        phone.conditions = Conditions(in_use=True)
        assert runtime.run_slice(deadline_s=600).reason == Outcome.IN_USE
        assert runtime.why().history[-1].reason == "in-use"

        coordinator.switch_off()
        assert runtime.opt_out()
    assert not (tmp_path / "state").exists()
