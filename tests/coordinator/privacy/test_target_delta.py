"""A target delta is held against the devices that are enrolled now: what was small for a few is not for many."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.services import privacy_claims
from tests.coordinator.privacy.spending import CENTRAL, PRIVACY, put_budget, statement_of
from tests.coordinator.running import begun, reported
from tests.programme import POPULATION, Home, one_hot, replace

DELTA = 0.3
ALONE = replace(CENTRAL, goal=1, expected_participants=1)
WARNING = "δ is not below 1/N for the 4 devices that are enrolled now: set a smaller one. ε = "


def grown(home: Home, by: int = 2) -> str:
    """A budget for two devices, a committed round, and more devices since; the model."""
    home.publish()
    phones = [home.phone(number) for number in range(2)]
    put_budget(home, "recipients", rho=9.0, target_delta=DELTA).raise_for_status()
    plan = replace(ALONE, version=5, example_clipping_norm=1.0, example_noise_multiplier=0.5)
    home.start_task(plan, pool_size=1, rounds=1)
    (assignment,) = begun(home, phones[:1], "one")
    reported(home, phones[0], assignment, one_hot(0))
    home.look()
    for number in range(by):
        home.phone(2 + number)
    made: str = home.task()["checkpoint_sha256"]
    return made


def asked(home: Home, model: str) -> list[Any]:
    """What a release, and whoever claims, is answered."""
    body = {"checkpoint_sha256": model, "share": 1.0}
    return [
        home.operator("POST", f"{PRIVACY}/claims"),
        home.operator("POST", f"/populations/{POPULATION}/releases", json=body),
    ]


def nothing_is_claimed_at_a_target_delta_that_became_too_large(home: Home) -> None:
    for answer in asked(home, grown(home)):
        assert answer.status_code == 422
        found = answer.json()
        assert found["code"] == "invalid-target-delta"
        assert "one of 4 devices" in found["reason"]
        assert found["nearest"] == f"Take at most {4**-1.1:.3g}."
    assert home.operator("GET", f"{PRIVACY}/claims").json() == []


def test_nothing_is_claimed_at_a_target_delta_that_became_too_large(home: Home) -> None:
    nothing_is_claimed_at_a_target_delta_that_became_too_large(home)


def test_a_claim_that_counts_nobody_is_caught(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privacy_claims, "check_target_delta", lambda *_arguments: None)
    with pytest.raises(AssertionError):
        nothing_is_claimed_at_a_target_delta_that_became_too_large(home)


def test_a_smaller_one_is_taken_and_claimed(home: Home) -> None:
    model = grown(home)
    put_budget(home, "recipients", rho=9.0, target_delta=4**-1.1).raise_for_status()
    for answer in asked(home, model):
        answer.raise_for_status()


@pytest.mark.parametrize(("by", "warned"), [(1, False), (2, True)])
def test_a_statement_says_that_its_target_delta_became_too_large(home: Home, by: int, warned: bool) -> None:
    grown(home, by)
    said = statement_of(home)
    figures = {one["opponent"]: one["sentence"] for one in said["figures"]}
    assert figures["recipients"].startswith(WARNING if warned else "ε = ")
    assert figures["coordinator"].startswith("No protection")
    (example,) = said["examples"]
    assert example["figure"]["sentence"].startswith(WARNING if warned else "ε = ")
    assert statement_of(home, "?task=words")["figures"] == said["figures"]
