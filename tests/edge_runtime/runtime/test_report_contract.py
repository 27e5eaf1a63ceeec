"""The coordinator for an app's own tests takes reports as the real one does."""

from __future__ import annotations

import pytest

from edge_runtime.driver import Driver, Retries
from edge_runtime.protocol.checkin import CheckInAnswer
from edge_runtime.protocol.keys import SigningKey
from edge_runtime.session.enrol import Installation, enrol
from edge_runtime.session.visit import Offer, check_in
from edge_runtime.testing import FakeCoordinator, linear_manifest
from tests.contracts.participations import PARAMETERS, Participant, ReportsContract, reports_of

HERE = Installation("acme", "keyboard", "app", "1.0", "linux")


def enrolled(coordinator: FakeCoordinator, number: int) -> Driver:
    key = SigningKey(bytes([number]) * 32)
    driver = Driver(key, "acme", coordinator, Retries(tries=1), clock=lambda: 1000.0, sleep=lambda _seconds: None)
    driver.run(enrol(HERE, key.public))
    return driver


class TestFake(ReportsContract):
    @pytest.fixture
    def participant(self) -> Participant:
        coordinator = FakeCoordinator(manifest=linear_manifest(PARAMETERS - 1))
        driver = enrolled(coordinator, 1)
        plan = coordinator.assign(max_participants=16)
        offer = Offer(tenant="acme", population="keyboard", visit="a" * 32, runtime="none", examples=1)
        answer: CheckInAnswer = driver.run(check_in(offer))
        assert answer.assignment is not None
        report, other = reports_of(answer.assignment.participation, plan, PARAMETERS)
        return Participant(driver, answer.assignment.participation, report, other, enrolled(coordinator, 2))
