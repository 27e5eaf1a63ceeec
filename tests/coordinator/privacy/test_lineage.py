"""A release bears the figure of its own model: by the ledger to which all of its training was charged, or none."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.services import lineage, privacy_claims
from coordinator.store.tables import Tenant
from edge_runtime.protocol.checkpoint import encode_checkpoint
from edge_runtime.protocol.errors import NotFound
from edge_runtime.protocol.plan import Plan
from tests.coordinator.asking import assigned
from tests.coordinator.privacy.spending import CENTRAL, DELTA
from tests.coordinator.running import act, reported, task_of, weights_of
from tests.coordinator.secure import in_database
from tests.programme import BUNDLE_SHA256, PLAN, POPULATION, TENANT, TENANT_KEY, Home, Phone, one_hot, replace

NAKED = replace(PLAN, goal=1, min_reports=1, expected_participants=1)
PRIVATE = replace(CENTRAL, goal=1, expected_participants=1)
ELSEWHERE = "elsewhere"


def budgeted(home: Home, population: str = POPULATION) -> None:
    wanted = {"rho": 9.0, "target_delta": DELTA}
    path = f"/populations/{population}/privacy/budgets/recipients"
    home.operator("PUT", path, json=wanted).raise_for_status()


def peopled(home: Home, population: str = POPULATION) -> list[Phone]:
    """Two phones; the second only so that there is a cohort."""
    home.operator("PUT", f"/populations/{population}").raise_for_status()
    first = 0 if population == POPULATION else 2
    return [home.phone(first + number, population) for number in range(2)]


def trained(home: Home, phones: list[Phone], plan: Plan, name: str, checkpoint: str = "") -> str:
    """A task of one round, from a checkpoint or from one that nobody trained; the model that it made."""
    home.start_order(home.order(plan, name=name, checkpoint_sha256=checkpoint or home.publish(), pool_size=1, rounds=1))
    return one_round(home, phones, plan, name)


def one_round(home: Home, phones: list[Phone], plan: Plan, name: str) -> str:
    home.look()
    (assignment,) = assigned(home, phones[:1], plan.population)
    reported(home, phones[0], assignment, one_hot(len(name)))
    home.look()
    found = task_of(home, name)
    assert found["rounds_committed"] == 1
    made: str = found["checkpoint_sha256"]
    return made


def released(home: Home, model: str, population: str = POPULATION) -> Any:
    body = {"checkpoint_sha256": model, "share": 1.0}
    return home.operator("POST", f"/populations/{population}/releases", json=body)


def claimed(home: Home, population: str = POPULATION) -> list[tuple[str, int | None]]:
    """Against whom something is claimed, and for which release."""
    found = home.operator("GET", f"/populations/{population}/privacy/claims").raise_for_status().json()
    return [(one["opponent"], one["release"]) for one in found]


def refused(home: Home, model: str, task: str, population: str = POPULATION) -> None:
    answer = released(home, model, population)
    assert (answer.status_code, answer.json().get("code")) == (422, "not-covered")
    assert (
        f"The task '{task}' trained this model, or one that it began from, without a claim" in answer.json()["reason"]
    )
    assert "only tasks with a claim" in answer.json()["nearest"]
    assert home.operator("GET", f"/populations/{population}/releases").json() == []
    assert claimed(home, population) == []


@pytest.fixture
def phones(home: Home) -> list[Phone]:
    home.publish()
    return peopled(home)


def a_model_from_before_the_budget_bears_no_figure(home: Home, phones: list[Phone]) -> None:
    naked = trained(home, phones, NAKED, "before")
    budgeted(home)
    private = trained(home, phones, PRIVATE, "after")
    refused(home, naked, "before")
    released(home, private).raise_for_status()
    assert claimed(home) == [("recipients", 1)]


def test_a_model_that_was_trained_before_the_budget_is_not_released_with_the_ledgers_figure(
    home: Home, phones: list[Phone]
) -> None:
    a_model_from_before_the_budget_bears_no_figure(home, phones)


def test_a_release_that_asks_the_ledger_alone_is_caught(
    home: Home, phones: list[Phone], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(privacy_claims, "claimed_in", lambda *_arguments: [POPULATION])
    with pytest.raises(AssertionError):
        a_model_from_before_the_budget_bears_no_figure(home, phones)


def test_a_task_that_went_on_from_such_a_model_does_not_make_it_private(home: Home, phones: list[Phone]) -> None:
    naked = trained(home, phones, NAKED, "before")
    budgeted(home)
    private = trained(home, phones, PRIVATE, "after", naked)
    again = trained(home, phones, PRIVATE, "later", private)
    for model in (private, again):
        refused(home, model, "before")


def test_a_clone_from_the_newest_model_inherits(home: Home, phones: list[Phone]) -> None:
    trained(home, phones, NAKED, "before")
    home.operator("POST", "/tasks/before/clone", json={"name": "clone", "newest": True}).raise_for_status()
    for step in ("approve", "start"):
        act(home, step, "clone")
    model = one_round(home, phones, NAKED, "clone")
    makers = in_database(home, lambda session: [task.name for task in lineage.trainers(session, TENANT, model)])
    assert makers == ["clone", "before"]
    budgeted(home)
    refused(home, model, "clone")


def test_a_model_that_was_fetched_and_brought_back_is_the_same(home: Home, phones: list[Phone]) -> None:
    naked = trained(home, phones, NAKED, "before")
    budgeted(home)
    raw = encode_checkpoint(weights_of(home, naked), BUNDLE_SHA256, 0, TENANT_KEY)
    brought = home.operator("POST", f"/bundles/{BUNDLE_SHA256}/checkpoints", content=raw).raise_for_status().json()
    assert brought["sha256"] != naked
    refused(home, brought["sha256"], "before")


def test_a_model_that_nobody_trained_is_released_without_a_figure(home: Home, phones: list[Phone]) -> None:
    budgeted(home)
    trained(home, phones, PRIVATE, "words")
    released(home, home.publish()).raise_for_status()
    assert claimed(home) == []


def test_a_model_of_a_population_without_a_budget_is_released_without_a_figure(home: Home, phones: list[Phone]) -> None:
    naked = trained(home, phones, NAKED, "words")
    peopled(home, ELSEWHERE)
    budgeted(home, ELSEWHERE)
    for population in (POPULATION, ELSEWHERE):
        released(home, naked, population).raise_for_status()
        assert claimed(home, population) == []


def test_a_release_elsewhere_is_claimed_by_the_ledger_of_those_who_trained_it(home: Home, phones: list[Phone]) -> None:
    """In its list; the numbers of releases are each population's own."""
    budgeted(home)
    first = trained(home, phones, PRIVATE, "words")
    peopled(home, ELSEWHERE)
    assert released(home, first, ELSEWHERE).raise_for_status().json()["number"] == 1
    assert (claimed(home), claimed(home, ELSEWHERE)) == ([("recipients", None)], [])
    assert released(home, first).raise_for_status().json()["number"] == 1
    assert sorted(claimed(home), key=str) == [("recipients", 1), ("recipients", None)]


def test_a_release_elsewhere_is_refused_where_those_who_trained_it_have_a_budget(
    home: Home, phones: list[Phone]
) -> None:
    naked = trained(home, phones, NAKED, "before")
    budgeted(home)
    home.operator("PUT", f"/populations/{ELSEWHERE}").raise_for_status()
    refused(home, naked, "before", ELSEWHERE)


def test_a_model_that_two_populations_trained_is_claimed_for_both(home: Home, phones: list[Phone]) -> None:
    others = peopled(home, ELSEWHERE)
    for population in (POPULATION, ELSEWHERE):
        budgeted(home, population)
    first = trained(home, phones, PRIVATE, "words")
    both = trained(home, others, replace(PRIVATE, population=ELSEWHERE), "further", first)
    released(home, both, ELSEWHERE).raise_for_status()
    assert claimed(home, ELSEWHERE) == [("recipients", 1)]
    assert claimed(home) == [("recipients", None)]


def test_a_model_that_comes_while_another_is_judged_is_not_released_unjudged(home: Home) -> None:
    home.publish()
    database = home.app.state.parts.database
    tenant = in_database(home, lambda session: session.get_one(Tenant, TENANT))
    with pytest.raises(NotFound, match="no such checkpoint"):
        privacy_claims.judge_model(database, tenant, "0" * 64, lambda: None)
    assert released(home, "0" * 64).json()["code"] == "not-found"
