"""What privacy refuses over the API: each with a code, the reason, and the nearest valid choice."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from coordinator.api.problems import STATUSES
from coordinator.store.database import Database
from edge_runtime.protocol.errors import REFUSALS
from edge_runtime.protocol.plan import Plan, Privacy
from tests.coordinator.asking import refusal
from tests.coordinator.privacy.spending import (
    CENTRAL,
    DELTA,
    NOISE,
    PRIVACY,
    budget_of,
    distributed_plan,
    entries_of,
    put_budget,
)
from tests.programme import PLAN, POPULATION, TASK, Home, replace

DEVICES = 3


def problem(answer: Any, code: str) -> dict[str, Any]:
    """A refusal with this code that names the reason and the nearest valid choice; its detail is both."""
    found: dict[str, Any] = answer.json()
    assert (found["code"], answer.status_code, found["status"]) == (code, STATUSES[code], STATUSES[code]), found
    assert (found["title"], found["retry"]) == (REFUSALS[code].title, "never")
    assert answer.headers["content-type"] == "application/problem+json"
    assert found["detail"] == f"{found['reason']} {found['nearest']}"
    assert found["nearest"].endswith(".")
    return found


def populated(home: Home, devices: int = DEVICES) -> None:
    home.publish()
    for number in range(devices):
        home.phone(number)


def approved(home: Home, plan: Plan, **settings: Any) -> Any:
    """What approving a new task of this plan is answered."""
    order = home.order(plan, checkpoint_sha256=home.publish(), **settings)
    made = home.operator("POST", "/tasks", json=order)
    return made if made.status_code >= 400 else home.operator("POST", f"/tasks/{TASK}/approve")


@pytest.mark.parametrize("delta", [1 / DEVICES, 0.5, 0.999])
def test_a_target_delta_of_one_in_n_or_more_is_refused(home: Home, delta: float) -> None:
    populated(home)
    found = problem(put_budget(home, rho=1.0, target_delta=delta), "invalid-target-delta")
    assert f"{DEVICES**-1.1:.3g}" in found["nearest"]
    assert not entries_of(home)


@pytest.mark.parametrize(("smallest", "devices"), [(50, 50), (2, DEVICES)])
def test_the_default_target_delta_is_of_no_fewer_devices_than_a_claim_is_made_for(
    home: Home, smallest: int, devices: int
) -> None:
    """A budget that is set before phones enrol holds when a cohort of them has."""
    populated(home)
    home.app.state.parts = dataclasses.replace(home.app.state.parts, smallest_cohort=smallest)
    made = home.operator("PUT", f"{PRIVACY}/budgets/recipients", json={"rho": 1.0}).raise_for_status().json()
    assert made["target_delta"] == pytest.approx(devices**-1.1)


def test_a_target_delta_that_became_too_large_is_refused_when_a_task_is_approved(home: Home) -> None:
    populated(home, 2)
    put_budget(home, "recipients", rho=1.0, target_delta=0.3).raise_for_status()
    populated(home, 4)
    problem(approved(home, CENTRAL), "invalid-target-delta")


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({}, "invalid-budget"),
        ({"rho": 1.0, "epsilon": 1.0}, "invalid-budget"),
        ({"rho": 0.0}, "invalid-budget"),
        ({"epsilon": -1.0}, "invalid-budget"),
        ({"rho": 1.0, "target_delta": 0.0}, "invalid-budget"),
        ({"rho": 1.0, "target_delta": -0.1}, "invalid-budget"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(home: Home, wanted: dict[str, Any], code: str) -> None:
    populated(home)
    problem(put_budget(home, **wanted), code)


@pytest.mark.parametrize("norm", [0.0, -1.0])
def test_a_clipping_norm_that_bounds_nothing_is_refused(home: Home, norm: float) -> None:
    """In a plan before it can be signed, and in the planner with the nearest choice."""
    with pytest.raises(Exception, match="clipping_norm"):
        replace(CENTRAL, clipping_norm=norm)
    wish = {"population": 1000, "rounds": 10, "goal": 100, "parameters": 10, "epsilon_recipients": 1.0}
    found = home.operator("POST", "/privacy/plan", json={**wish, "clipping_norm": norm})
    assert "median" in problem(found, "invalid-clipping-norm")["nearest"]


@pytest.mark.parametrize(
    ("wish", "code", "nearest", "instead"),
    [
        ({"epsilon_coordinator": None}, "invalid-budget", "Give ε against one opponent", {"epsilon_coordinator": 8.0}),
        ({"mode": "central"}, "mode-not-given", "the distributed or the local mode", {"mode": "local"}),
        ({"mode": "none"}, "mode-not-given", "Choose distributed", {"mode": "distributed"}),
        ({"target_delta": 0.5}, "invalid-target-delta", "Take at most 0.000563", {"target_delta": 0.000563}),
        ({"separation": 40}, "invalid-limits", "a goal of at most 22", {"goal": 22}),
        ({"goal": 2000}, "invalid-limits", "a goal of at most 900", {"goal": 900}),
        ({"group_size": 2}, "mode-not-given", "Take 3 to 1,000", {"group_size": 3}),
        ({"survivor_share": 0.2}, "mode-not-given", "Take 56 to 100", {"survivor_share": 0.56}),
        ({"corrupt_share": 0.9}, "mode-not-given", "Take 96 to 100", {"survivor_share": 0.96}),
        ({"clipping_norm": -1.0}, "invalid-clipping-norm", "between 1e-09 and 1e+06", {"clipping_norm": 1e-9}),
    ],
)
def test_a_wish_that_makes_no_plan_is_refused_and_the_nearest_one_is_planned(
    home: Home, wish: dict[str, Any], code: str, nearest: str, instead: dict[str, Any]
) -> None:
    asked = {"population": 900, "rounds": 50, "goal": 100, "parameters": 300, "epsilon_coordinator": 8.0, **wish}
    assert nearest in problem(home.operator("POST", "/privacy/plan", json=asked), code)["nearest"]
    taken = home.operator("POST", "/privacy/plan", json={**asked, **instead})
    assert (taken.status_code, len(taken.json()["figures"])) == (200, 2), taken.text


@pytest.mark.parametrize("privacy", [one for one in Privacy if one is not Privacy.NONE])
def test_a_claim_without_noise_cannot_be_signed(privacy: Privacy) -> None:
    base = distributed_plan(separation=2)
    with pytest.raises(Exception, match="needs a noise_multiplier above 0"):
        replace(base, privacy=privacy, noise_multiplier=0.0)


def test_a_claim_without_a_budget_is_refused_when_it_is_approved(home: Home) -> None:
    populated(home)
    found = problem(approved(home, CENTRAL), "mode-not-given")
    assert "has no budget" in found["reason"]
    assert "privacy budget set" in found["nearest"]
    assert home.task()["state"] == "draft"


def test_a_mode_that_does_not_protect_from_whom_there_is_a_budget_against_is_refused(home: Home) -> None:
    populated(home)
    put_budget(home, "coordinator", rho=1.0).raise_for_status()
    assert "distributed or local" in problem(approved(home, CENTRAL), "mode-not-given")["nearest"]


def test_a_task_without_noise_is_refused_where_there_is_a_budget(home: Home) -> None:
    populated(home)
    put_budget(home, "recipients", rho=1.0).raise_for_status()
    assert "central" in problem(approved(home, PLAN), "mode-not-given")["nearest"]


def test_a_budget_is_refused_while_a_task_runs_that_would_not_keep_it(home: Home) -> None:
    home.start_task()
    found = problem(put_budget(home, rho=1.0), "mode-not-given")
    assert (TASK in found["reason"], found["nearest"]) == (True, "End it first.")


def test_distributed_noise_in_plain_sums_cannot_be_signed() -> None:
    with pytest.raises(Exception, match="sum securely, or choose local"):
        replace(CENTRAL, privacy=Privacy.DISTRIBUTED)


def test_a_cohort_below_the_minimum_is_refused(home: Home) -> None:
    populated(home)
    home.app.state.parts = replace(home.app.state.parts, smallest_cohort=64)
    put_budget(home, "recipients", rho=1.0).raise_for_status()
    found = problem(approved(home, CENTRAL), "cohort-too-small")
    assert (f"{DEVICES} devices" in found["reason"], "64" in found["nearest"]) == (True, True)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [({"mode": "buffered"}, "synchronous"), ({"rounds": None}, "stop.rounds")],
)
def test_correlated_noise_needs_rounds_one_after_another_and_so_many(
    home: Home, settings: dict[str, Any], wanted: str
) -> None:
    populated(home)
    put_budget(home, "recipients", rho=1.0).raise_for_status()
    plan = replace(CENTRAL, privacy=Privacy.CORRELATED, separation=2)
    assert wanted in problem(approved(home, plan, **settings), "mode-not-given")["nearest"]


def test_correlated_noise_keeps_the_rounds_it_was_planned_for(home: Home) -> None:
    populated(home)
    put_budget(home, "recipients", rho=9.0).raise_for_status()
    home.start_task(replace(CENTRAL, privacy=Privacy.CORRELATED, separation=2), rounds=4)
    answer = home.operator("PATCH", f"/tasks/{TASK}", json={"stop": {"rounds": 8}})
    assert "begin another" in problem(answer, "mode-not-given")["nearest"]
    home.operator("PATCH", f"/tasks/{TASK}", json={"priority": 3}).raise_for_status()


@pytest.mark.parametrize(
    ("change", "nearest"),
    [
        ({"noise_multiplier": NOISE / 2}, f"Keep at least {NOISE:g}"),
        ({"separation": 1}, "Keep the limits"),
        ({"most_participations": 9}, "Keep the limits"),
        ({"most_participations": None}, "Keep the limits"),
        ({"privacy": Privacy.LOCAL}, "End it and begin another task"),
    ],
)
def test_an_active_task_is_not_given_a_plan_that_promises_less(
    home: Home, change: dict[str, Any], nearest: str
) -> None:
    populated(home)
    put_budget(home, "recipients", rho=9.0).raise_for_status()
    plan = replace(CENTRAL, separation=3, most_participations=5)
    home.start_task(plan)
    order = home.order(replace(plan, **change), checkpoint_sha256=home.publish())
    assert nearest in problem(home.operator("POST", "/tasks", json=order), "noise-lowered")["nearest"]
    stronger = home.order(replace(plan, noise_multiplier=2 * NOISE), checkpoint_sha256=home.publish())
    assert refusal(home.operator("POST", "/tasks", json=stronger)) == "conflict"


def test_a_budget_may_be_raised_and_the_ledger_keeps_that_it_was(home: Home) -> None:
    populated(home)
    for rho in (0.5, 0.5, 0.75):
        put_budget(home, rho=rho).raise_for_status()
    assert [(one["kind"], one["rho"]) for one in entries_of(home)] == [("budget", 0.5), ("budget", 0.75)]
    assert budget_of(home)["rho"] == 0.75


def test_nothing_of_a_ledger_can_be_changed_over_the_api(home: Home) -> None:
    paths = home.request("GET", "/v1/openapi.json").raise_for_status().json()["paths"]
    found = {
        (path.rpartition("privacy")[2], method) for path, of in paths.items() if "privacy" in path for method in of
    }
    assert {method for path, method in found if "ledger" in path} == {"get"}
    assert not [path for path, method in found if method in ("delete", "patch")]


def test_a_budget_that_was_spent_is_not_lowered_below_it(home: Home) -> None:
    populated(home)
    put_budget(home, "recipients", rho=9.0).raise_for_status()
    home.start_task(CENTRAL, pool_size=DEVICES, reporting_deadline_s=50.0)
    from tests.coordinator.running import begun, reported
    from tests.programme import one_hot

    phones = [home.phone(number) for number in range(DEVICES)]
    for phone, assignment in zip(phones, begun(home, phones, "one"), strict=True):
        if assignment is not None:
            reported(home, phone, assignment, one_hot(phone.number))
    home.look()
    least = 1 / (2 * NOISE**2)
    found = problem(put_budget(home, "recipients", rho=least / 2), "invalid-budget")
    assert f"ρ ≥ {least:g}"[:6] in found["nearest"]
    problem(put_budget(home, "recipients", rho=9.0, target_delta=DELTA * 2), "ledger-closed")
    problem(put_budget(home, "coordinator", rho=9.0), "mode-not-given")
    home.operator("POST", f"/tasks/{TASK}/cancel").raise_for_status()
    found = problem(put_budget(home, "coordinator", rho=9.0), "ledger-closed")
    assert "without noise against the coordinator" in found["reason"]


@pytest.mark.parametrize("known", ["", "x", "1:", f"-1:{'0' * 64}", f"1:{'0' * 63}"])
def test_what_is_no_head_is_malformed(home: Home, known: str) -> None:
    populated(home)
    assert refusal(home.operator("GET", f"{PRIVACY}/ledger?known={known}")) == "malformed"
    assert refusal(home.operator("GET", f"{PRIVACY}/ledger?cursor=x")) == "malformed"


def test_what_nobody_knows_is_not_found(home: Home) -> None:
    populated(home)
    for path in ("budgets", "ledger", "statement", "claims"):
        assert refusal(home.operator("GET", f"/populations/nobody/privacy/{path}")) == "not-found"
    assert refusal(home.operator("GET", f"{PRIVACY}/statement?task=nothing")) == "not-found"
    assert (
        refusal(home.operator("PUT", "/populations/nobody/privacy/budgets/coordinator", json={"rho": 1})) == "not-found"
    )
    assert refusal(home.operator("PUT", f"{PRIVACY}/budgets/everybody", json={"rho": 1})) == "malformed"


def test_a_ledger_of_another_tenant_is_not_found(home: Home) -> None:
    populated(home)
    put_budget(home, rho=1.0).raise_for_status()
    from coordinator.services import catalogue
    from edge_runtime.protocol.keys import SigningKey, digest

    database: Database = home.app.state.parts.database
    with database.writing() as session:
        catalogue.create_tenant(session, "rival", SigningKey(digest(b"rival")).public, home.clock())
        session.flush()
        token = catalogue.issue_token(session, "rival", home.clock())
    headers = {"authorization": f"Bearer {token}"}
    for path in ("budgets", "ledger", "statement", "claims"):
        answer = home.request("GET", f"/v1/operator{PRIVACY}/{path}", headers=headers)
        assert refusal(answer) == "not-found"
    assert POPULATION not in str(home.request("GET", "/v1/operator/populations", headers=headers).json())


def test_a_running_task_is_not_narrowed_below_the_smallest_cohort(home: Home) -> None:
    home.publish()
    for number in range(2):
        home.phone(number)
    put_budget(home, "recipients", rho=9.0).raise_for_status()
    rule = {"version": 1, "where": {"or": []}}
    home.operator("PUT", f"/populations/{POPULATION}/cohorts/nobody", json=rule).raise_for_status()
    home.start_task(CENTRAL, pool_size=2, rounds=3)
    home.operator("POST", f"/tasks/{TASK}/pause").raise_for_status()
    home.operator("PATCH", f"/tasks/{TASK}", json={"cohort": "nobody"}).raise_for_status()
    problem(home.operator("POST", f"/tasks/{TASK}/resume"), "cohort-too-small")
