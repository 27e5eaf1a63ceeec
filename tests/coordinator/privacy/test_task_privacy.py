"""A task says what hides its participants, and what that costs: as the ledger will charge it, and no less."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.core.privacy.plans import correlated_rho_until
from coordinator.store.privacy_tables import LedgerRow
from edge_runtime.protocol.plan import Plan, Privacy
from tests.coordinator.privacy.spending import (
    CENTRAL,
    DELTA,
    FEW,
    WHOSE,
    distributed_plan,
    entries_of,
    in_a_round,
    members,
    ordered,
    put_budget,
    statement_of,
)
from tests.coordinator.privacy.test_spending import epsilon_of, played
from tests.programme import PLAN, Home, replace

LOCAL = replace(PLAN, version=5, privacy=Privacy.LOCAL, noise_multiplier=3.0)
CORRELATED = replace(CENTRAL, privacy=Privacy.CORRELATED, separation=3)


def draft(home: Home, plan: Plan, name: str = "words", **more: Any) -> dict[str, Any]:
    order = home.order(plan, checkpoint_sha256=home.publish(), name=name, pool_size=16, **more)
    found: dict[str, Any] = home.operator("POST", "/tasks", json=order).raise_for_status().json()
    return found


def costs_of(task: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["opponent"]: one for one in task["privacy"]["costs"]}


def test_what_a_task_says_is_what_its_rounds_are_charged_and_its_statement_states(home: Home) -> None:
    enrolled = members(home, FEW)
    put_budget(home, epsilon=50).raise_for_status()
    ordered(home, rounds=2)
    said = costs_of(home.task())
    home.look()
    for number in (1, 2):
        played(home, in_a_round(home, enrolled, f"round {number}"))
    charged = next(one for one in entries_of(home) if one["kind"] == "charged")
    for figure in statement_of(home)["figures"]:
        one = said[figure["opponent"]]
        assert one["protects"]
        assert one["target_delta"] == figure["target_delta"] == DELTA
        assert one["epsilon_a_round"] == pytest.approx(epsilon_of(charged[f"rho_{figure['opponent']}"]), rel=1e-5)
        assert one["epsilon_in_all"] == pytest.approx(figure["epsilon"], rel=1e-9)


def test_a_task_that_claims_nothing_says_so_and_reads_no_ledger(home: Home) -> None:
    found = draft(home, PLAN)
    nothing: dict[str, Any] = {"mode": "none", "noise_multiplier": None, "example_noise_multiplier": None, "costs": []}
    assert found["privacy"] == nothing


def test_without_a_budget_there_is_a_mode_and_no_figure(home: Home) -> None:
    found = draft(home, CENTRAL)["privacy"]
    assert (found["mode"], found["noise_multiplier"], found["costs"]) == ("central", 2.0, [])


def test_a_mode_that_leaves_devices_open_to_an_opponent_says_no_figure_against_it(home: Home) -> None:
    put_budget(home, "recipients", epsilon=8).raise_for_status()
    said = costs_of(draft(home, CENTRAL, rounds=3))
    assert not said["coordinator"]["protects"]
    assert said["coordinator"]["epsilon_a_round"] is None
    one = said["recipients"]["epsilon_a_round"]
    assert said["recipients"]["protects"]
    assert one < said["recipients"]["epsilon_in_all"] < 3 * one


def test_limits_of_participation_hold_in_what_all_rounds_cost(home: Home) -> None:
    put_budget(home, "recipients", epsilon=8).raise_for_status()
    often = costs_of(draft(home, CENTRAL, rounds=6))["recipients"]
    seldom = costs_of(draft(home, replace(CENTRAL, separation=3), "seldom", rounds=6))["recipients"]
    twice = costs_of(draft(home, CENTRAL, "twice", rounds=2))["recipients"]
    assert seldom["epsilon_in_all"] == pytest.approx(twice["epsilon_in_all"])
    assert seldom["epsilon_in_all"] < often["epsilon_in_all"]


def test_correlated_noise_costs_what_its_matrix_says_and_a_list_looks_for_none(home: Home) -> None:
    put_budget(home, "recipients", epsilon=8).raise_for_status()
    alone = costs_of(draft(home, CORRELATED, rounds=6))["recipients"]
    assert alone["epsilon_in_all"] == pytest.approx(epsilon_of(correlated_rho_until(CORRELATED, 12, 6, 6)), rel=1e-5)
    assert alone["epsilon_a_round"] == pytest.approx(epsilon_of(correlated_rho_until(CORRELATED, 12, 6, 1)), rel=1e-5)
    (listed,) = home.operator("GET", "/tasks").json()
    assert costs_of(listed)["recipients"] == {**alone, "epsilon_in_all": None}


def test_a_task_without_a_number_of_rounds_has_a_figure_of_one_alone(home: Home) -> None:
    put_budget(home, epsilon=8).raise_for_status()
    one = costs_of(draft(home, LOCAL, rounds=None))["coordinator"]
    assert (one["epsilon_a_round"] > 0, one["epsilon_in_all"]) == (True, None)


@pytest.mark.parametrize(
    ("plan", "noise", "says"),
    [(LOCAL, 0.5, None), (LOCAL, 0.05, "ε = 2"), (CENTRAL, 0.05, "ε = 2"), (CENTRAL, 1e-6, "no bound on ε")],
)
def test_noise_that_promises_next_to_nothing_is_warned_of(
    home: Home, plan: Plan, noise: float, says: str | None
) -> None:
    """z = .5 costs ε = 8.4 a round; z = .05 more than 200."""
    put_budget(home, "recipients", epsilon=8).raise_for_status()
    weak = [one for one in draft(home, replace(plan, noise_multiplier=noise))["warnings"] if "next to nothing" in one]
    assert len(weak) == (says is not None)
    assert all(one.startswith(str(says)) for one in weak)


def test_a_budget_that_changes_changes_the_tag_of_a_task_and_no_version(home: Home) -> None:
    put_budget(home, epsilon=8).raise_for_status()
    draft(home, distributed_plan(FEW))
    before = home.operator("GET", "/tasks/words").headers["etag"]
    assert home.operator("GET", "/tasks/words", headers={"if-none-match": before}).status_code == 304
    put_budget(home, epsilon=8, target_delta=1e-4).raise_for_status()
    assert home.operator("GET", "/tasks/words", headers={"if-none-match": before}).status_code == 200
    paused = home.operator("POST", "/tasks/words/cancel", headers={"if-match": before})
    assert paused.status_code == 200, "nobody changed the task"


def test_a_task_of_a_damaged_ledger_can_still_be_looked_at_and_ended(home: Home) -> None:
    put_budget(home, epsilon=8).raise_for_status()
    draft(home, LOCAL)
    with home.app.state.parts.database.writing() as session:
        row = session.get_one(LedgerRow, WHOSE)
        row.count += 1
        session.add(row)
    assert home.task()["privacy"]["costs"] == []
    assert home.operator("POST", "/tasks/words/cancel").status_code == 200
