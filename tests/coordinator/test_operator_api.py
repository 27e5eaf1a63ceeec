"""What operators may do, and that nothing of it crosses from one tenant to another."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest

from coordinator.core.task_settings import changes
from coordinator.services import catalogue
from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import encode_bundle
from edge_runtime.protocol.checkpoint import MODEL_VERSION_LIMIT, encode_checkpoint
from edge_runtime.protocol.keys import Domain, SigningKey, digest, sign_document
from edge_runtime.protocol.policy import Policy
from tests.coordinator.asking import assigned, refusal, send_report
from tests.programme import (
    BUNDLE,
    BUNDLE_SHA256,
    CHECKPOINT,
    FIRST_WEIGHTS,
    MANIFEST,
    PLAN,
    POPULATION,
    START,
    TENANT,
    TENANT_KEY,
    Home,
    replace,
)

OTHER_KEY = SigningKey(digest(b"tenant key of another tenant"))
STRANGER = SigningKey(digest(b"nobody's key"))
GRAPH = b"not a graph that any interpreter could run"


def endpoints(home: Home) -> list[tuple[str, str]]:
    """Every operator endpoint of the OpenAPI description."""
    described = home.request("GET", "/v1/openapi.json").raise_for_status().json()["paths"]
    found = [
        (method.upper(), path.removeprefix("/v1/operator"))
        for path, methods in described.items()
        if path.startswith("/v1/operator")
        for method in methods
    ]
    assert len(found) >= 9
    return found


def other_token(home: Home) -> str:
    """A second tenant, with nothing but a token."""
    with home.app.state.parts.database.writing() as session:
        catalogue.create_tenant(session, "globex", OTHER_KEY.public, START)
        session.flush()
        return catalogue.issue_token(session, "globex", START)


def as_other(home: Home, token: str, method: str, path: str, **kwargs: Any) -> httpx.Response:
    return home.request(method, f"/v1/operator{path}", headers={"authorization": f"Bearer {token}"}, **kwargs)


# --- who asks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer ewop_wrong"},
        {"authorization": "Basic ewop_wrong"},
        {"authorization": "Bearer " + "x" * 10_000},
        {"authorization": b"Bearer \xff\xfe"},
    ],
    ids=str,
)
def test_no_operator_endpoint_answers_without_a_valid_token(home: Home, headers: Any) -> None:
    for method, path in endpoints(home):
        answer = home.request(method, f"/v1/operator{path}", headers=headers, content=b"{")
        assert refusal(answer) == "operator-unauthorised", f"{method} {path}"
        assert answer.headers["www-authenticate"] == "Bearer"


def test_a_token_is_kept_as_a_digest_alone(home: Home) -> None:
    database = home.app.state.parts.database
    with database.reading() as session:
        dump = "\n".join(session.connection().connection.driver_connection.iterdump())
    assert "operator_tokens" in dump
    assert home.token not in dump
    assert home.token.removeprefix("ewop_") not in dump


def test_a_body_is_not_read_before_the_token(home: Home) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield bytes(1 << 16)

    for method, path in endpoints(home):
        if method != "GET":
            answer = home.request(method, f"/v1/operator{path}", content=endless())
            assert refusal(answer) == "operator-unauthorised"
    assert sent <= 2 * len(endpoints(home))


def test_nothing_crosses_tenants(home: Home) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(4)]
    for phone, assignment in zip(phones, assigned(home, phones), strict=True):
        send_report(home, phone, assignment)
    home.look()
    token = other_token(home)
    task = home.task()
    ours = {task["checkpoint_sha256"], BUNDLE_SHA256, task["weights_sha256"], home.rounds()[0]["checkpoint_sha256"]}
    order = {**home.order(), "checkpoint_sha256": task["checkpoint_sha256"]}
    bodies: dict[str, Any] = {
        "/bundles/{sha256}": {"content": BUNDLE},
        "/bundles/{sha256}/checkpoints": {"content": CHECKPOINT},
        "/tasks": {"json": order},
        "/tasks/{name}": {"json": {"priority": 1}},
        "/tasks/{name}/clone": {"json": {"name": "theirs"}},
        "/populations/{name}/policy": {"content": wire.encode(Policy())},
        "/populations/{name}/switch": {"json": {"off": True}},
    }
    population = home.operator("GET", f"/populations/{POPULATION}").json()
    release = {"checkpoint_sha256": task["checkpoint_sha256"], "share": 1}
    home.operator("POST", f"/populations/{POPULATION}/releases", json=release).raise_for_status()
    bodies |= {
        "/populations/{population}/privacy/budgets/{opponent}": {"json": {"rho": 1.0}},
        "/populations/{population}/releases": {"json": release},
        "/populations/{population}/releases/{number}/share": {"json": {"share": 0.5}},
        "/populations/{population}/cohorts/{cohort}": {"json": {"version": 1, "where": {"and": []}}},
        "/populations/{population}/reach": {"json": {"version": 1, "where": {"and": []}}},
    }
    home.operator("PUT", f"/populations/{POPULATION}/cohorts/some", json={"version": 1, "where": {"or": []}})
    device = home.operator("GET", f"/populations/{POPULATION}/devices").json()[0]["id"]
    for method, path in endpoints(home):
        if path == "/privacy/plan":
            continue  # arithmetic alone, of what the caller says
        for address in sorted(ours):
            named = {"name": POPULATION if path.startswith("/populations") else "words", "population": POPULATION}
            if (method, path) == ("PUT", "/populations/{name}"):
                named["name"] = "theirs"
            filled = path.format_map(
                {**named, "sha256": address, "number": 1, "device": device, "cohort": "some", "opponent": "coordinator"}
            )
            answer = as_other(home, token, method, filled, **bodies.get(path, {}))
            if (method, path) == ("PUT", "/populations/{name}"):
                assert answer.status_code == 204
                continue
            if "{" not in path and method == "GET":
                found = {one["name"] for one in answer.raise_for_status().json()}
                assert found <= {"theirs"}, "a list has what is one's own"
                continue
            assert refusal(answer) in ("not-found", "digest-mismatch", "untrusted-document"), f"{method} {path}"
    assert home.task() == task, "and nothing of it changed ours"
    assert home.operator("GET", f"/populations/{POPULATION}").json() == population


def test_two_tenants_may_use_the_same_names(home: Home) -> None:
    home.start_task()
    token = other_token(home)
    manifest = replace(MANIFEST, name="theirs")
    bundle = encode_bundle(manifest, GRAPH, OTHER_KEY)
    address = digest(bundle).hex()
    as_other(home, token, "PUT", f"/populations/{POPULATION}").raise_for_status()
    as_other(home, token, "PUT", f"/bundles/{address}", content=bundle).raise_for_status()
    checkpoint = encode_checkpoint(FIRST_WEIGHTS, address, 0, OTHER_KEY)
    first = as_other(home, token, "POST", f"/bundles/{address}/checkpoints", content=checkpoint).json()["sha256"]
    plan = wire.encode(replace(PLAN, tenant="globex", bundle_sha256=address))
    signature = sign_document(OTHER_KEY, Domain.PLAN, digest(plan))
    order = home.order() | {
        "plan": base64.b64encode(plan).decode(),
        "plan_signature": base64.b64encode(signature).decode(),
        "checkpoint_sha256": first,
    }
    assert as_other(home, token, "POST", "/tasks", json=order).raise_for_status().json()["bundle_sha256"] == address
    assert home.task()["bundle_sha256"] == BUNDLE_SHA256
    as_other(home, token, "POST", "/tasks/words/cancel").raise_for_status()
    assert home.task()["state"] == "active"


# --- bundles and checkpoints --------------------------------------------------------------------------------------


def test_what_was_brought_may_be_brought_again(home: Home) -> None:
    first = home.publish()
    assert home.publish() == first
    view = home.operator("GET", f"/checkpoints/{first}").json()
    assert view == {
        "sha256": first,
        "bundle_sha256": BUNDLE_SHA256,
        "model_version": 0,
        "weights_sha256": digest(FIRST_WEIGHTS.tobytes()).hex(),
        "created_at": "2026-01-05T12:00:00Z",
    }


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (BUNDLE[:-1], "digest-mismatch"),
        (BUNDLE + b"\0", "digest-mismatch"),
        (BUNDLE[:50] + b"?" + BUNDLE[51:], "digest-mismatch"),
        (b"", "digest-mismatch"),
    ],
)
def test_a_tampered_bundle_is_refused(home: Home, content: bytes, code: str) -> None:
    assert refusal(home.operator("PUT", f"/bundles/{BUNDLE_SHA256}", content=content)) == code


def test_a_bundle_signed_by_a_stranger_is_refused(home: Home) -> None:
    bundle = encode_bundle(MANIFEST, GRAPH, STRANGER)
    assert refusal(home.operator("PUT", f"/bundles/{digest(bundle).hex()}", content=bundle)) == "untrusted-document"


def test_what_is_not_a_bundle_is_refused(home: Home) -> None:
    body = b"x" * 100
    signed = body + sign_document(TENANT_KEY, Domain.BUNDLE, digest(body))
    assert refusal(home.operator("PUT", f"/bundles/{digest(signed).hex()}", content=signed)) == "malformed-bundle"


def checkpoint(weights: Any = FIRST_WEIGHTS, bundle: str = BUNDLE_SHA256, key: SigningKey = TENANT_KEY) -> bytes:
    return encode_checkpoint(weights, bundle, 0, key)


def with_version(version: int) -> bytes:
    body = bytearray(CHECKPOINT[:-64])
    body[40:48] = version.to_bytes(8, "little")
    return bytes(body) + sign_document(TENANT_KEY, Domain.CHECKPOINT, digest(bytes(body)))


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (CHECKPOINT[:-1], "untrusted-document"),
        (CHECKPOINT[:60] + b"?" + CHECKPOINT[61:], "untrusted-document"),
        (b"", "malformed-checkpoint"),
        (checkpoint(key=STRANGER), "untrusted-document"),
        (checkpoint(bundle="0" * 64), "wrong-checkpoint"),
        (checkpoint(np.zeros(MANIFEST.parameters + 1, np.float32)), "wrong-checkpoint"),
        (with_version(MODEL_VERSION_LIMIT), "malformed-checkpoint"),
        (with_version(2**64 - 1), "malformed-checkpoint"),
    ],
)
def test_a_wrong_checkpoint_is_refused(home: Home, content: bytes, code: str) -> None:
    home.publish()
    answer = home.operator("POST", f"/bundles/{BUNDLE_SHA256}/checkpoints", content=content)
    assert refusal(answer) == code


def test_a_checkpoint_before_its_bundle_is_not_found(home: Home) -> None:
    answer = home.operator("POST", f"/bundles/{BUNDLE_SHA256}/checkpoints", content=CHECKPOINT)
    assert refusal(answer) == "not-found"


@pytest.mark.parametrize("address", ["0" * 64, "x", "..", "%2e%2e", "A" * 64])
def test_what_is_not_there_is_not_found(home: Home, address: str) -> None:
    for path in (f"/checkpoints/{address}", f"/checkpoints/{address}/content"):
        assert refusal(home.operator("GET", path)) == "not-found"
    for path in (f"/tasks/{address}", f"/tasks/{address}/rounds"):
        assert refusal(home.operator("GET", path)) == "not-found"
    assert refusal(home.operator("POST", f"/tasks/{address}/cancel")) == "not-found"


# --- tasks --------------------------------------------------------------------------------------------------------


def order_of(home: Home, **changes: Any) -> dict[str, Any]:
    order = {**home.order(), "checkpoint_sha256": home.publish(), **changes}
    return {**order, "settings": {**home.order()["settings"], **changes.get("settings", {})}}


def signed_plan(key: SigningKey = TENANT_KEY, **changes: object) -> dict[str, str]:
    """Plan and signature of an order; the plan may be one that no `Plan` could be."""
    raw = json.dumps({**json.loads(wire.encode(PLAN)), **changes}, sort_keys=True, separators=(",", ":")).encode()
    return {
        "plan": base64.b64encode(raw).decode(),
        "plan_signature": base64.b64encode(sign_document(key, Domain.PLAN, digest(raw))).decode(),
    }


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"epochs": 0}, "invalid-plan"),
        ({"learning_rate": -0.1}, "invalid-plan"),
        ({"learning_rate": 0.0}, "invalid-plan"),
        ({"clipping_norm": 0.0}, "invalid-plan"),
        ({"lane_bits": 16}, "invalid-plan"),
        ({"version": 99}, "unsupported-version"),
        ({"epochs": "1"}, "malformed"),
        ({"more": 1}, "malformed"),
        ({"tenant": "globex"}, "conflict"),
        ({"population": "elsewhere"}, "not-found"),
        ({"bundle_sha256": "0" * 64}, "not-found"),
    ],
    ids=str,
)
def test_a_plan_that_asks_for_the_impossible_is_refused(home: Home, changes: dict[str, Any], code: str) -> None:
    answer = home.operator("POST", "/tasks", json=order_of(home, **signed_plan(**changes)))
    assert refusal(answer) == code


def test_a_plan_signed_by_another_key_is_refused(home: Home) -> None:
    answer = home.operator("POST", "/tasks", json=order_of(home, **signed_plan(key=STRANGER)))
    assert refusal(answer) == "untrusted-document"


@pytest.mark.parametrize(
    "changes",
    [
        {"plan": "%"},
        {"plan": ""},
        {"plan_signature": "AAAA"},
        {"plan_signature": "ä"},
        {"name": "Words"},
        {"name": ""},
        {"name": "../words"},
        {"name": "\ud800"},
        {"settings": {"stop": {"rounds": 0}}},
        {"settings": {"stop": {"rounds": 1.5}}},
        {"settings": {"stop": {"rounds": 10**30}}},
        {"settings": {"over_selection": 0.9}},
        {"settings": {"pool_size": 0}},
        {"settings": {"pool_size": 1}},
        {"settings": {"selecting_deadline_s": 0}},
        {"settings": {"reporting_deadline_s": 1e300}},
        {"settings": {"server_optimiser": {"learning_rate": -1}}},
        {"seed": "00"},
        {"unknown": 1},
        {"settings": {"unknown": 1}},
        {"settings": {"version": 2}},
        {"settings": {"time_zone": "Mars/Olympus"}},
        {"settings": {"windows": [{"days": [7], "from_minute": 0, "to_minute": 60}]}},
        {"settings": {"stop": {"at": "2026-07-01T00:00:00"}}},
        {"settings": {"rounds_at_once": 2}},
        {"settings": {"evaluates": "words"}},
    ],
    ids=ascii,
)
def test_an_order_out_of_range_is_refused_by_name(home: Home, changes: dict[str, Any]) -> None:
    body = json.dumps(order_of(home, **changes)).encode()
    assert refusal(home.operator("POST", "/tasks", content=body)) in ("malformed", "untrusted-document")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b'{"name":NaN}', b"[" * 100_000])
def test_what_is_not_an_order_is_malformed(home: Home, body: bytes) -> None:
    answer = home.operator("POST", "/tasks", content=body)
    assert (refusal(answer), answer.status_code) == ("malformed", 422)


def test_an_order_of_a_megabyte_is_too_large(home: Home) -> None:
    assert refusal(home.operator("POST", "/tasks", content=b" " * ((1 << 20) + 1))) == "body-too-large"


def test_a_task_ordered_again_is_the_same_task(home: Home) -> None:
    order = order_of(home)
    answers = {home.operator("POST", "/tasks", json=order).raise_for_status().content for _again in range(3)}
    assert len(answers) == 1
    unseeded = {key: value for key, value in order.items() if key != "seed"}
    assert home.operator("POST", "/tasks", json=unseeded).content in answers


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {"stop": {"rounds": 3}}},
        {"settings": {"over_selection": 2.0}},
        {"settings": {"pool_size": 5}},
        {"settings": {"selecting_deadline_s": 101.0}},
        {"settings": {"reporting_deadline_s": 101.0}},
        {"settings": {"server_optimiser": {"learning_rate": 0.5}}},
        {"settings": {"retry_rejected_s": 11.0}},
        {"settings": {"retry_reported_s": 11.0}},
        {"seed": "11" * 32},
        signed_plan(epochs=2),
    ],
    ids=ascii,
)
def test_another_task_under_the_same_name_is_a_conflict(home: Home, changes: dict[str, Any]) -> None:
    order = order_of(home)
    home.operator("POST", "/tasks", json=order).raise_for_status()
    assert refusal(home.operator("POST", "/tasks", json=order_of(home, **changes))) == "conflict"
    assert home.task()["rounds_wanted"] == 2


def test_a_cancelled_task_abandons_its_round_and_stays_cancelled(home: Home) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(4)]
    (assignment, *_others) = assigned(home, phones)
    send_report(home, phones[0], assignment)
    for _again in range(2):
        assert home.operator("POST", "/tasks/words/cancel").json()["state"] == "cancelled"
    home.look()
    (found,) = home.rounds()
    assert (found["phase"], found["abandonment"], found["reports"]) == ("abandoned", "task-cancelled", 1)
    assert home.task()["model_version"] == 0


def test_a_completed_task_cannot_be_cancelled(home: Home) -> None:
    home.start_task(replace(PLAN, goal=1, min_reports=1), pool_size=1, rounds=1)
    phone = home.phone(0)
    (assignment,) = assigned(home, [phone])
    send_report(home, phone, assignment)
    home.look()
    assert home.task()["state"] == "completed"
    assert refusal(home.operator("POST", "/tasks/words/cancel")) == "conflict"


def test_rounds_are_listed_after_a_number(home: Home) -> None:
    home.start_task()
    home.clock.forward(101)
    home.look()
    assert [one["number"] for one in home.rounds()] == [1, 2]
    assert [one["number"] for one in home.operator("GET", "/tasks/words/rounds?after=1").json()] == [2]
    assert home.operator("GET", "/tasks/words/rounds?after=2").json() == []


@pytest.mark.parametrize("after", ["-1", "x", "1.5", str(1 << 63), "9" * 40])
def test_a_number_that_is_none_is_malformed(home: Home, after: str) -> None:
    home.start_task()
    answer = home.operator("GET", f"/tasks/words/rounds?after={after}")
    assert (refusal(answer), answer.status_code) == ("malformed", 422)


@pytest.mark.parametrize("name", ["A", "a" * 65, "%00", "%ff", "a%0a", ".hidden"])
def test_a_population_needs_a_name(home: Home, name: str) -> None:
    assert refusal(home.operator("PUT", f"/populations/{name}")) == "malformed"


# --- the rest -----------------------------------------------------------------------------------------------------


def test_an_unknown_path_and_a_wrong_method_are_problems(home: Home) -> None:
    assert refusal(home.request("GET", "/v1/nothing")) == "not-found"
    answer = home.request("DELETE", "/v1/operator/tasks/words")
    assert (refusal(answer), answer.status_code) == ("malformed", 405)
    assert "GET" in answer.headers["allow"]


def test_the_description_names_every_field_of_an_order(home: Home) -> None:
    described = home.request("GET", "/v1/openapi.json").json()
    body = described["paths"]["/v1/operator/tasks"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    described = described["components"]["schemas"]
    assert set(described[body["$ref"].rpartition("/")[2]]["properties"]) == set(home.order())
    settings = described["TaskSettings"]["properties"]
    assert set(settings) >= set(home.order()["settings"])
    assert settings["pool_size"]["description"] == "Devices that check in before a round chooses"
    said: dict[str, str] = {}

    def gather(fields: dict[str, Any], prefix: str) -> None:
        for name, field in fields.items():
            refs = [one["$ref"] for one in [field, *field.get("anyOf", [])] if "$ref" in one]
            below = described[refs[0].rpartition("/")[2]] if refs else {}
            if any("x-changes" in one for one in below.get("properties", {}).values()):
                gather(below["properties"], f"{prefix}{name}.")
            elif name != "version":  # of the message
                said[prefix + name] = field["x-changes"]

    gather(settings, "")
    assert said == {name: str(when) for name, when in changes().items()}, "every field says when it may change"


def test_health_is_answered_without_a_token(home: Home) -> None:
    assert home.request("GET", "/healthz").json() == {"status": "ok"}


def test_a_population_may_work_for_several_tasks(home: Home) -> None:
    home.start_task()
    second = home.order(checkpoint_sha256=home.publish(), name="other")
    assert home.start_order(second)["state"] == "active"
    home.look()
    assert home.operator("GET", "/tasks/other/rounds").json()[0]["phase"] == "selecting"
    assert home.rounds()[0]["phase"] == "selecting"


def test_a_plan_whose_batch_the_graph_cannot_hold_is_refused(home: Home) -> None:
    order = home.order(replace(PLAN, batch_size=MANIFEST.batch_size + 1), checkpoint_sha256=home.publish())
    assert refusal(home.operator("POST", "/tasks", json=order)) == "invalid-plan"


def test_revoked_tokens_open_nothing(home: Home) -> None:
    with home.app.state.parts.database.writing() as session:
        catalogue.revoke_tokens(session, TENANT)
        fresh = catalogue.issue_token(session, TENANT, home.clock())
    assert refusal(home.operator("GET", "/tasks/words")) == "operator-unauthorised"
    home.token = fresh
    assert refusal(home.operator("GET", "/tasks/words")) == "not-found"
