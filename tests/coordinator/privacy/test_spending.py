"""Rounds and the ledger, on both databases: reserved before they begin, charged before they are opened, once."""

from __future__ import annotations

from typing import Any

import mpmath
import pytest

from tests.coordinator.privacy.oracle import least_over_orders
from tests.coordinator.privacy.spending import (
    DELTA,
    NOISE,
    budget_of,
    distributed_plan,
    entries_of,
    in_a_round,
    kinds_of,
    members,
    put_budget,
    statement_of,
)
from tests.coordinator.secure import SIX, STEPS, SecurePhone, groups_of, meet
from tests.programme import Home


def ordered(home: Home, **more: Any) -> None:
    home.start_order(home.order(distributed_plan(), checkpoint_sha256=home.publish(), pool_size=SIX, rounds=9, **more))
    home.look()


def played(home: Home, phones: list[SecurePhone]) -> None:
    meet(home, phones)
    for step in STEPS:
        for phone in phones:
            phone.take(step)
        home.look()


def epsilon_of(rho: float) -> float:
    """By the definition of the conversion, with 50 digits."""

    def converted(order: mpmath.mpf) -> mpmath.mpf:
        rest = mpmath.log(1 / (order * DELTA)) + (order - 1) * mpmath.log(1 - 1 / order)
        return rho * order + rest / (order - 1)

    return least_over_orders(converted)


def test_a_secure_round_is_reserved_charged_and_stated_and_the_budget_stops_the_task(home: Home) -> None:
    """ρ of a round is 1/2z² and what rounding adds; the budget is enough for two."""
    enrolled = members(home)
    put_budget(home, rho=2.2 / (2 * NOISE**2)).raise_for_status()
    ordered(home)
    for number in (1, 2):
        phones = in_a_round(home, enrolled, f"round {number}")
        assert kinds_of(home)[-1] == "reserved"
        assert budget_of(home)["spent"] == pytest.approx((number - 1) / (2 * NOISE**2), rel=1e-3)
        played(home, phones)
        home.clock.forward(100)
        home.look()
    assert [one["kind"] for one in entries_of(home)] == ["budget", "task", *["reserved", "charged"] * 2]
    assert (home.task()["state"], home.task()["ended_because"]) == ("completed", "budget-spent")
    assert home.task()["rounds_committed"] == 2
    said = statement_of(home)
    against = {one["opponent"]: one for one in said["figures"]}
    assert said["rounds"] == 2
    assert set(against) == {"coordinator", "recipients"}
    for one in against.values():
        assert one["epsilon"] == pytest.approx(epsilon_of(2 / (2 * NOISE**2)), rel=1e-3)
        assert one["target_delta"] == DELTA
        assert (one["unit"], one["adjacency"]) == ("one installation of the app", "one gives zeros instead")
        assert one["assumptions"]
        assert "ε = " in one["sentence"]
    assert groups_of(home)[0].phase == "summed"
