"""The coordinator keeps the contract that the one for an app's own tests keeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_runtime.protocol.bundle import encode_bundle
from edge_runtime.protocol.checkpoint import encode_checkpoint
from edge_runtime.protocol.keys import digest
from tests.contracts.participations import PARAMETERS, Participant, ReportsContract, reports_of
from tests.coordinator.asking import assigned
from tests.programme import PLAN, POPULATION, TENANT_KEY, Home, manifest

LONG = manifest(PARAMETERS + 2)
"""Its personal bias of 2 is not reported."""
BUNDLE = encode_bundle(LONG, b"not a graph that any interpreter could run", TENANT_KEY)
SHA256 = digest(BUNDLE).hex()
CHECKPOINT = encode_checkpoint(np.zeros(LONG.parameters, np.float32), SHA256, 0, TENANT_KEY)


class TestCoordinator(ReportsContract):
    @pytest.fixture
    def participant(self, home: Home) -> Participant:
        home.operator("PUT", f"/populations/{POPULATION}").raise_for_status()
        home.operator("PUT", f"/bundles/{SHA256}", content=BUNDLE).raise_for_status()
        checkpoint = home.operator("POST", f"/bundles/{SHA256}/checkpoints", content=CHECKPOINT).json()["sha256"]
        plan = replace(PLAN, bundle_sha256=SHA256, min_reports=1, goal=1)
        home.start_order(home.order(plan, checkpoint_sha256=checkpoint, pool_size=1))
        home.look()
        phone = home.phone(0)
        (assignment,) = assigned(home, [phone])
        report, other = reports_of(assignment.participation, plan, LONG.shared_parameters)
        return Participant(phone.driver, assignment.participation, report, other, home.phone(9).driver)
