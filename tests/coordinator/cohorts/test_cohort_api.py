"""Cohorts as operators save, look at and delete them; what a population declares; and whom a rule reaches."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from coordinator.api.operator.cohorts import EXAMPLE
from coordinator.services import cohorts
from coordinator.store.tables import Device, Population, Tenant
from tests.coordinator.asking import refusal
from tests.programme import POPULATION, TENANT, Home, Phone

HERE = f"/populations/{POPULATION}"
DECLARED: dict[str, Any] = {
    "model_family": "next-word",
    "example_schema": {
        "features": {"shape": [4], "dtype": "float32", "low": 0.0, "high": 1.0},
        "labels": {"shape": [], "dtype": "int32", "low": 0.0, "high": 1.0},
    },
    "attributes": {
        "beta": {"type": "boolean"},
        "language": {"type": "text", "values": ["de", "en"]},
        "ram_gb": {"type": "integer", "at_least": 0, "at_most": 64},
    },
}
ANDROID = {"version": 1, "where": {"platform": ["android"]}}
IOS = {"version": 1, "where": {"platform": ["ios"]}}


@pytest.fixture
def home(home: Home) -> Home:
    """A coordinator whose population declares attributes."""
    home.operator("PUT", HERE, json=DECLARED).raise_for_status()
    return home


def put(home: Home, rule: Any, name: str = "spring", **headers: str) -> httpx.Response:
    tags = {key.replace("_", "-"): value for key, value in headers.items()}
    authorisation = {"authorization": f"Bearer {home.token}"}
    return home.request("PUT", f"/v1/operator{HERE}/cohorts/{name}", json=rule, headers={**authorisation, **tags})


def delete(home: Home, name: str = "spring", **headers: str) -> httpx.Response:
    tags = {key.replace("_", "-"): value for key, value in headers.items()}
    authorisation = {"authorization": f"Bearer {home.token}"}
    return home.request("DELETE", f"/v1/operator{HERE}/cohorts/{name}", headers={**authorisation, **tags})


def get(home: Home, name: str = "spring") -> httpx.Response:
    return home.operator("GET", f"{HERE}/cohorts/{name}")


# --- saving -------------------------------------------------------------------------------------------------------


def test_a_cohort_is_shown_as_it_was_saved(home: Home) -> None:
    saved = put(home, EXAMPLE).raise_for_status()
    assert saved.json() == get(home).raise_for_status().json()
    assert saved.headers["etag"] == get(home).headers["etag"]
    assert saved.json()["rule"] == EXAMPLE
    assert (saved.json()["name"], saved.json()["population"], saved.json()["version"]) == ("spring", POPULATION, 1)


def test_the_same_rule_again_changes_nothing(home: Home) -> None:
    first = put(home, {"version": 1, "where": {"platform": ["b", "a"]}})
    again = put(home, {"where": {"platform": ["a", "b", "a"]}, "include": [], "version": 1})
    assert again.json() == first.json()
    assert again.headers["etag"] == first.headers["etag"]
    assert put(home, ANDROID, "other").json()["version"] == 1


def test_another_rule_replaces_only_the_one_that_was_seen(home: Home) -> None:
    seen = put(home, ANDROID).headers["etag"]
    assert refusal(put(home, IOS)) == "conflict"
    replaced = put(home, IOS, if_match=seen).raise_for_status()
    assert replaced.json()["version"] == 2
    assert refusal(put(home, EXAMPLE, if_match=seen)) == "precondition-failed"
    assert put(home, IOS, if_match=seen).json() == replaced.json(), "what is there already was done before"
    assert put(home, EXAMPLE, if_match="*").json()["version"] == 3
    for tag in ("v3", '"3"', 'W/"v3-000000000000"', '"v3-zz"'):
        assert refusal(put(home, IOS, if_match=tag)) == "precondition-failed"


def test_a_new_cohort_replaces_none(home: Home) -> None:
    assert put(home, ANDROID, if_none_match="*").json()["version"] == 1
    assert refusal(put(home, ANDROID, if_none_match="*")) == "precondition-failed"
    assert refusal(put(home, ANDROID, if_none_match='"v1"')) == "malformed"
    assert refusal(put(home, ANDROID, if_none_match="*", if_match="*")) == "malformed"


def test_a_replacement_makes_no_cohort(home: Home) -> None:
    assert refusal(put(home, ANDROID, if_match="*")) == "precondition-failed"
    tag = put(home, ANDROID).headers["etag"]
    assert refusal(put(home, ANDROID, "autumn", if_match=tag)) == "precondition-failed"
    assert refusal(get(home, "autumn")) == "not-found"


def test_a_tag_of_a_deleted_cohort_is_worth_nothing(home: Home) -> None:
    tag = put(home, ANDROID).headers["etag"]
    delete(home).raise_for_status()
    put(home, IOS).raise_for_status()
    assert refusal(put(home, EXAMPLE, if_match=tag)) == "precondition-failed"


@pytest.mark.parametrize("name", ["Spring", "-", "a" * 65, "%C3%A9"])
def test_a_cohort_has_a_name(home: Home, name: str) -> None:
    assert refusal(put(home, ANDROID, name)) == "malformed"


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ({"version": 1, "where": {"attribute": {"name": "ram", "below": 1}}}, "declares no attribute 'ram'"),
        ({"version": 1, "where": {"not": {"attribute": {"name": "beta", "in": ["1"]}}}}, "rule.where.not.attribute: "),
        ({"version": 1, "where": {"platform": []}}, "rule.where.platform: "),
        ([], "rule: "),
    ],
)
def test_a_rule_that_cannot_be_is_neither_saved_nor_estimated(home: Home, rule: Any, sentence: str) -> None:
    for answer in (put(home, rule), home.operator("POST", f"{HERE}/reach", json=rule)):
        assert refusal(answer) == "malformed"
        assert sentence in answer.json()["detail"]
    assert refusal(get(home)) == "not-found"


def test_a_body_that_is_not_json_is_refused(home: Home) -> None:
    for body in (b"", b"{", b"\xff", b"[" * 100_000):
        assert refusal(home.operator("PUT", f"{HERE}/cohorts/spring", content=body)) == "malformed"


def test_a_request_that_comes_again_gets_its_answer_again(home: Home) -> None:
    first = put(home, ANDROID, idempotency_key="one", if_none_match="*")
    assert put(home, ANDROID, idempotency_key="one", if_none_match="*").content == first.content


def test_cohorts_are_listed_by_name_in_pages(home: Home) -> None:
    for name in ("c", "a", "b"):
        put(home, ANDROID, name).raise_for_status()
    page = home.operator("GET", f"{HERE}/cohorts?limit=2")
    assert [one["name"] for one in page.json()] == ["a", "b"]
    following = page.links["next"]["url"].removeprefix("/v1/operator")
    assert [one["name"] for one in home.operator("GET", following).json()] == ["c"]
    assert refusal(home.operator("GET", "/populations/elsewhere/cohorts")) == "not-found"


def test_a_population_has_so_many_cohorts_and_no_more(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohorts, "MOST_COHORTS", 2)
    tags = [put(home, ANDROID, name).headers["etag"] for name in ("a", "b")]
    assert refusal(put(home, ANDROID, "c")) == "conflict"
    put(home, IOS, "b", if_match=tags[1]).raise_for_status()


# --- deleting -----------------------------------------------------------------------------------------------------


def test_a_cohort_is_deleted_once(home: Home) -> None:
    put(home, ANDROID)
    assert refusal(delete(home, if_match='"v9-000000000000"')) == "precondition-failed"
    assert delete(home).status_code == 204
    assert refusal(delete(home)) == "not-found"
    assert refusal(get(home)) == "not-found"


@pytest.mark.parametrize("state", ["draft", "approved", "active", "paused"])
def test_a_cohort_stays_while_a_task_addresses_it(home: Home, state: str) -> None:
    put(home, ANDROID)
    put(home, ANDROID, "other")
    order = home.order(checkpoint_sha256=home.publish(), cohort="spring")
    home.operator("POST", "/tasks", json=order).raise_for_status()
    steps = {"draft": [], "approved": ["approve"], "active": ["approve", "start"]}
    for step in steps.get(state, ["approve", "start", "pause"]):
        home.operator("POST", f"/tasks/{order['name']}/{step}").raise_for_status()
    refused = delete(home)
    assert refusal(refused) == "conflict"
    assert "the task 'words' addresses the cohort" in refused.json()["detail"]
    delete(home, "other").raise_for_status()
    home.operator("POST", f"/tasks/{order['name']}/cancel").raise_for_status()
    delete(home).raise_for_status()


# --- what a population declares -----------------------------------------------------------------------------------


def test_a_population_shows_what_it_declares(home: Home) -> None:
    view = home.operator("GET", HERE)
    assert {name: view.json()[name] for name in DECLARED} == DECLARED
    tag = view.headers["etag"]
    home.operator("PUT", HERE, json=DECLARED).raise_for_status()
    home.operator("PUT", HERE).raise_for_status()
    again = home.operator("GET", HERE)
    assert again.json() == view.json(), "the same again, or nothing, changes nothing"
    assert again.headers["etag"] == tag
    home.operator("PUT", HERE, json={"model_family": "other"}).raise_for_status()
    changed = home.operator("GET", HERE)
    assert changed.json()["attributes"] is None
    assert changed.headers["etag"] != tag


def test_a_declaration_is_for_the_version_that_was_seen(home: Home) -> None:
    headers = {"authorization": f"Bearer {home.token}", "if-match": '"v1"'}
    answer = home.request("PUT", f"/v1/operator{HERE}", json={"model_family": "other"}, headers=headers)
    assert refusal(answer) == "precondition-failed"


@pytest.mark.parametrize(
    "body",
    [
        {"attributes": {"Beta": {"type": "boolean"}}},
        {"attributes": {"beta": {"type": "float"}}},
        {"attributes": []},
        {"model_family": "Next word"},
        {"model_family": 1},
        {"example_schema": {}},
        {"example_schema": {"features": 1, "labels": 2}},
        {"example_schema": {**DECLARED["example_schema"], "more": 1}},
        {"unknown": 1},
    ],
    ids=json.dumps,
)
def test_a_wrong_declaration_is_refused_and_makes_nothing(home: Home, body: dict[str, Any]) -> None:
    for name in (POPULATION, "fresh"):
        assert refusal(home.operator("PUT", f"/populations/{name}", json=body)) == "malformed"
    assert refusal(home.operator("GET", "/populations/fresh")) == "not-found"


def test_what_a_cohort_asks_for_stays_declared(home: Home) -> None:
    put(home, {"version": 1, "where": {"not": {"attribute": {"name": "language", "in": ["de"]}}}}).raise_for_status()
    for attributes in ({}, {"language": {"type": "boolean"}}, {"language": {"type": "text", "values": ["en"]}}):
        answer = home.operator("PUT", HERE, json={**DECLARED, "attributes": attributes})
        assert refusal(answer) == "conflict"
        assert "the cohort 'spring' needs what you leave out" in answer.json()["detail"]
    delete(home)
    home.operator("PUT", HERE, json={**DECLARED, "attributes": {}}).raise_for_status()


# --- reach --------------------------------------------------------------------------------------------------------


def test_a_reach_is_known_before_and_after_saving(home: Home) -> None:
    phones: list[Phone] = [home.phone(number) for number in range(4)]
    with home.app.state.parts.database.writing() as session:
        for number, phone in enumerate(phones):
            device = session.get_one(Device, phone.driver.device_id)
            device.platform = "android" if number < 3 else "ios"
            device.seen_at = home.clock() if number == 0 else None
    before = home.operator("POST", f"{HERE}/reach", json=ANDROID).raise_for_status().json()
    assert before == {
        "devices": 4,
        "matching": 3,
        "seen_this_week": 1,
        "check_ins_per_hour": 1.0,
        "sampled": None,
        "margin": 0,
    }
    put(home, ANDROID)
    assert home.operator("GET", f"{HERE}/cohorts/spring/reach").json() == before
    assert refusal(home.operator("GET", f"{HERE}/cohorts/autumn/reach")) == "not-found"
    assert home.operator("GET", f"{HERE}/cohorts").json()[0]["name"] == "spring"


def test_the_example_of_the_api_is_a_rule(home: Home) -> None:
    described = home.request("GET", "/v1/openapi.json").json()["paths"]
    path = "/v1/operator/populations/{population}/cohorts/{cohort}"
    shown = described[path]["put"]["requestBody"]["content"]["application/json"]["example"]
    put(home, shown).raise_for_status()
    with home.app.state.parts.database.reading() as session:
        tenant = session.get_one(Tenant, TENANT)
        assert cohorts.cohort_named(session, tenant, POPULATION, "spring").version == 1
        assert session.get_one(Population, (TENANT, POPULATION)).attributes == DECLARED["attributes"]
