"""Every kind of task sums securely: one that measures finds the plain means, a buffered one makes the plain update."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from edge_runtime.protocol.group import Step
from edge_runtime.protocol.measures import encode_measures
from edge_runtime.protocol.plan import Summing
from edge_runtime.protocol.secure_sum.lanes import LaneVector
from tests.coordinator.asking import assigned
from tests.coordinator.running import rounds_of, task_of
from tests.coordinator.secure import (
    SIX,
    STEPS,
    SecurePhone,
    certified,
    groups_of,
    meet,
    plain_sum,
    play,
    secure_plan,
    secure_round,
    sums_seen,
)
from tests.coordinator.secure_stories import end_step
from tests.coordinator.test_evaluating import MEASURE
from tests.coordinator.test_round import weights_of
from tests.programme import FIRST_WEIGHTS, MANIFEST, Home, replace

SECURE = secure_plan(SIX)
_OF_SUMMING = (
    "version",
    "summing",
    "privacy",
    "lane_bits",
    "max_participants",
    "expected_participants",
    "goal",
    "min_reports",
    "fewest_members",
    "survivors",
    "corrupt_permille",
)
MEASURE_SECURELY = replace(MEASURE, **{name: getattr(SECURE, name) for name in _OF_SUMMING})
FOUND = [(0.5, 2.0, 32), (1.0, 1.0, 64), (0.0, 8.0, 16), (0.25, 4.0, 200), (0.75, 0.5, 8), (0.125, 3.0, 64)]


@dataclass
class Measuring(SecurePhone):
    """Reports what it measured: the share that was correct, the loss, and of how many examples."""

    found: tuple[float, float, int] = (0.0, 0.0, 1)

    def lanes(self) -> LaneVector:
        correct, loss, examples = self.found
        values = encode_measures(self.plan, {"correct": correct, "loss": loss}, examples)
        return self.plan.lanes().encode(values, np.random.default_rng(self.phone.number))


def test_a_task_that_measures_finds_the_means_of_all_and_sees_nobody_s(home: Home) -> None:
    assert MEASURE_SECURELY.summing is Summing.SECURE
    order = home.order(MEASURE_SECURELY, checkpoint_sha256=home.publish(), name="watch", kind="evaluate", rounds=1,
                       pool_size=SIX)  # fmt: skip
    home.start_order(order)
    home.look()
    devices = [home.phone(number) for number in range(SIX)]
    certificates = [certified(device) for device in devices]
    values = MEASURE_SECURELY.values(MANIFEST.shared_parameters)
    phones: list[SecurePhone] = [
        Measuring(device, home, assignment, certificate, values, task="watch", found=found)
        for device, assignment, certificate, found in zip(
            devices, assigned(home, devices), certificates, FOUND, strict=True
        )
    ]
    meet(home, phones)
    for phone in phones:
        phone.task = "watch"
    with sums_seen(home) as sums:
        for step in STEPS:
            for phone in phones if step is Step.JOIN else phones[1:]:
                phone.take(step)
            end_step(home, step)
    assert (groups_of(home)[0].phase, sums) == ("summed", [plain_sum(phones[1:])])
    (round_,) = rounds_of(home, "watch")
    assert (round_["phase"], round_["reports"], round_["result_sha256"]) == ("committed", SIX - 1, None)
    weights = np.asarray([min(found[2], 64) for found in FOUND[1:]])
    correct, loss = (weights @ np.asarray([one[place] for one in FOUND[1:]]) / weights.sum() for place in (0, 1))
    assert round_["metrics"] == {"correct": pytest.approx(correct, abs=1e-3), "loss": pytest.approx(loss, abs=1e-2)}
    assert task_of(home, "watch")["model_version"] == 0


def test_a_buffered_task_updates_by_the_mean_of_what_was_opened(home: Home) -> None:
    phones = secure_round(home, SIX, SECURE, mode="buffered", rounds_at_once=2, rounds=100)
    meet(home, phones)
    with sums_seen(home) as sums:
        play(home, phones, lambda _step: phones)
    assert sums == [plain_sum(phones)]
    task = home.task()
    assert task["model_version"] == 1
    moved = weights_of(home, task["checkpoint_sha256"]) - FIRST_WEIGHTS
    lanes = np.array(plain_sum(phones)[:-4], np.float64)
    assert np.allclose(moved[2:], lanes / SECURE.lanes().scale / SIX, atol=1e-6)
