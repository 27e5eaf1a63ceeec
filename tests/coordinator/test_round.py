"""A round from the first check-in to the next model version."""

from __future__ import annotations

import numpy as np

from edge_runtime.protocol.checkpoint import Weights, verify_checkpoint
from edge_runtime.protocol.reasons import Outcome, Wait
from tests.programme import BUNDLE_SHA256, COORDINATOR_KEY, FIRST_WEIGHTS, MANIFEST, Home, one_hot


def weights_of(home: Home, sha256: str) -> Weights:
    raw = home.operator("GET", f"/checkpoints/{sha256}/content").raise_for_status().content
    return verify_checkpoint(
        raw, sha256, COORDINATOR_KEY.public, bundle_sha256=BUNDLE_SHA256, parameters=MANIFEST.parameters
    ).weights


def test_two_rounds_add_each_report_once_and_end_the_task(home: Home) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(4)]
    for number in (1, 2):
        assert {phone.visit().reason for phone in phones} == {Wait.SELECTION_PENDING}
        home.look()
        for phone in phones:
            end = phone.visit()
            assert (end.reason, end.round) == (Wait.REPORTED, number)
        home.look()
        assert home.task()["model_version"] == number
    assert home.task()["state"] == "completed"
    assert [phone.visit().reason for phone in phones] == [Wait.NO_TASK] * 4
    moved = weights_of(home, home.task()["checkpoint_sha256"]) - FIRST_WEIGHTS
    expected = np.concatenate([np.zeros(2), sum(one_hot(n) for n in range(4)) * 2 / 4])
    assert np.allclose(moved, expected, atol=1e-6)


def test_a_round_closes_when_every_participant_reported_or_sent_an_outcome(home: Home) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(4)]
    for phone in phones:
        phone.visit()
    home.look()
    for phone in phones[:3]:
        phone.visit()
    home.look()
    assert home.rounds()[0]["phase"] == "reporting"
    assert phones[3].visit(lambda _work: Outcome.NOT_CHARGING).reason is Outcome.NOT_CHARGING
    home.look()
    first = home.rounds()[0]
    assert (first["phase"], first["reports"], first["outcomes"]) == ("committed", 3, {"not-charging": 1})
