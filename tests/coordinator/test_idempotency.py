"""Every change that the API describes may be asked for again: the list of them is read from the description itself."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlmodel import SQLModel, select

from coordinator.services import idempotency
from coordinator.store import group_tables, tables
from coordinator.store.group_tables import Quarantine
from edge_runtime.protocol import wire
from edge_runtime.protocol.policy import Policy
from tests.coordinator.asking import refusal
from tests.programme import BUNDLE, BUNDLE_SHA256, CHECKPOINT, POPULATION, TASK, TENANT, Home

OPERATOR = "/v1/operator"
RULE = {"version": 1, "where": {"and": []}}
OTHER_RULE = {"version": 1, "where": {"or": []}}

Call = tuple[str, str, Mapping[str, Any], Mapping[str, Any]]
"""Method, path as it is described, what fills it, and the body."""


def calls(home: Home) -> list[Call]:
    """One request for each change, each of which does something, in an order in which all are possible."""
    checkpoint = home.publish()
    at = {"population": POPULATION}
    for name in ("drafted", "approved", "running", "cloned"):
        home.operator("POST", "/tasks", json=home.order(name=name, checkpoint_sha256=checkpoint)).raise_for_status()
    home.operator("POST", "/tasks/approved/approve").raise_for_status()
    for step in ("approve", "start"):
        home.operator("POST", f"/tasks/running/{step}").raise_for_status()
    home.phone(0)
    device = home.operator("GET", f"/populations/{POPULATION}/devices").json()[0]["id"]
    with home.app.state.parts.database.writing() as session:
        until = home.clock.at + timedelta(days=7)
        session.add(Quarantine(device_id=device, tenant=TENANT, because="share-wrong", at=home.clock.at, until=until))
    release = {"checkpoint_sha256": checkpoint, "share": 1.0}
    return [
        ("put", "/populations/{name}", {"name": "another"}, {}),
        ("put", "/populations/{name}/policy", {"name": POPULATION}, {"content": wire.encode(Policy())}),
        ("put", "/populations/{name}/switch", {"name": POPULATION}, {"json": {"off": False}}),
        ("put", "/populations/{population}/cohorts/{cohort}", {**at, "cohort": "some"}, {"json": RULE}),
        ("post", "/populations/{population}/reach", at, {"json": RULE}),
        ("delete", "/populations/{population}/cohorts/{cohort}", {**at, "cohort": "some"}, {}),
        ("put", "/bundles/{sha256}", {"sha256": BUNDLE_SHA256}, {"content": BUNDLE}),
        ("post", "/bundles/{sha256}/checkpoints", {"sha256": BUNDLE_SHA256}, {"content": CHECKPOINT}),
        ("post", "/tasks", {}, {"json": home.order(name=TASK, checkpoint_sha256=checkpoint)}),
        ("patch", "/tasks/{name}", {"name": "drafted"}, {"json": {"priority": 3}}),
        ("post", "/tasks/{name}/clone", {"name": "cloned"}, {"json": {"name": "clone"}}),
        ("post", "/tasks/{name}/approve", {"name": "drafted"}, {}),
        ("post", "/tasks/{name}/start", {"name": "approved"}, {}),
        ("post", "/tasks/{name}/pause", {"name": "running"}, {}),
        ("post", "/tasks/{name}/resume", {"name": "running"}, {}),
        ("post", "/tasks/{name}/cancel", {"name": "running"}, {}),
        ("post", "/populations/{population}/releases", at, {"json": release}),
        ("put", "/populations/{population}/releases/{number}/share", {**at, "number": 1}, {"json": {"share": 0.5}}),
        ("post", "/populations/{population}/releases/{number}/withdraw", {**at, "number": 1}, {}),
        ("delete", "/populations/{population}/quarantines/{device}", {**at, "device": device}, {}),
        ("delete", "/populations/{population}/devices/{device}", {**at, "device": device}, {}),
    ]


ABOUT_PRIVACY = {
    ("put", "/populations/{population}/privacy/budgets/{opponent}"),
    ("post", "/populations/{population}/privacy/claims"),
    ("post", "/privacy/plan"),
}
"""Ledgers only ever grow, and a plan is arithmetic: tests/coordinator/privacy asks for them again."""


def ask(home: Home, call: Call, key: str, *, other: bool = False) -> httpx.Response:
    """Ask for a change under a key, or for another one."""
    method, template, named, body = call
    path = template.format_map(named) + ("?other=1" if other else "")
    return home.operator(method.upper(), path, headers={"idempotency-key": key}, **body)


def rows(home: Home) -> dict[str, list[str]]:
    """Everything in the database but the answers that are kept."""
    named = {**vars(tables), **vars(group_tables)}
    kinds = [one for one in named.values() if isinstance(one, type) and hasattr(one, "__table__")]
    with home.app.state.parts.database.reading() as session:
        return {
            kind.__name__: sorted(repr(row.model_dump()) for row in session.exec(select(kind)).all())
            for kind in kinds
            if issubclass(kind, SQLModel) and kind is not tables.Idempotency
        }


def test_every_change_asked_for_again_is_answered_the_same_and_done_once(home: Home) -> None:
    described = {
        (method, path.removeprefix(OPERATOR))
        for path, methods in home.request("GET", "/v1/openapi.json").json()["paths"].items()
        for method in methods
        if path.startswith(OPERATOR) and method != "get"
    }
    found = calls(home)
    assert {call[:2] for call in found} == described - ABOUT_PRIVACY
    for number, call in enumerate(found):
        key = f"change-{number}"
        first = ask(home, call, key)
        assert first.status_code in (200, 204), (call, first.text)
        after = rows(home)
        home.clock.forward(7)
        again = ask(home, call, key)
        assert (again.status_code, again.content) == (first.status_code, first.content), call
        assert again.headers.get("etag") == first.headers.get("etag"), call
        assert refusal(ask(home, call, key, other=True)) == "conflict", call
        assert rows(home) == after, call


def test_a_coordinator_that_forgets_its_answers_is_caught(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "answered", lambda *_key: None)
    with pytest.raises(AssertionError):
        test_every_change_asked_for_again_is_answered_the_same_and_done_once(home)


def test_twins_in_flight_make_one_draft_and_hear_the_same(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are on their way before either is answered."""
    order = home.order(seed=None, checkpoint_sha256=home.publish())
    meeting = threading.Barrier(2, timeout=20)
    answered = idempotency.answered
    seen = threading.local()

    def both_here(*arguments: Any) -> Any:
        if not getattr(seen, "once", False):
            seen.once = True
            meeting.wait()
        return answered(*arguments)

    monkeypatch.setattr(idempotency, "answered", both_here)

    def post(_twin: int) -> httpx.Response:
        return home.operator("POST", "/tasks", json=order, headers={"idempotency-key": "twins"})

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(post, range(2))
    assert first.status_code == second.status_code == 200
    assert first.content == second.content
    assert len(home.operator("GET", "/tasks").json()) == 1


def test_every_list_that_can_grow_comes_in_pages(home: Home) -> None:
    lists = {}
    for path, methods in home.request("GET", "/v1/openapi.json").json()["paths"].items():
        answer = methods.get("get", {}).get("responses", {}).get("200", {}).get("content", {})
        if answer.get("application/json", {}).get("schema", {}).get("type") == "array":
            lists[path.removeprefix(OPERATOR)] = {one["name"] for one in methods["get"].get("parameters", [])}
    assert len(lists) >= 8
    without = {path for path, names in lists.items() if not {"limit", "cursor"} <= names}
    assert {path for path in without if "/privacy/" not in path} == set()
