"""What all operator calls share: idempotency keys, tags of versions, pages, request ids."""

from __future__ import annotations

import logging
import re
import threading

import pytest

from coordinator.store.tables import Idempotency
from edge_runtime.protocol import wire
from edge_runtime.protocol.policy import Policy
from tests.coordinator.asking import refusal
from tests.programme import POPULATION, Home

KEYED = {"idempotency-key": "order-1"}


def test_a_request_that_comes_again_under_its_key_gets_the_same_answer(home: Home) -> None:
    order = home.order(checkpoint_sha256=home.publish())
    first = home.operator("POST", "/tasks", json=order, headers=KEYED)
    home.operator("POST", "/tasks/words/approve").raise_for_status()
    again = home.operator("POST", "/tasks", json=order, headers=KEYED)
    assert (again.status_code, again.content, again.headers["etag"]) == (200, first.content, first.headers["etag"])
    assert again.json()["state"] == "draft", "as it was answered then"
    assert home.task()["state"] == "approved"


def test_another_request_under_a_used_key_is_refused_and_does_nothing(home: Home) -> None:
    checkpoint = home.publish()
    home.operator("POST", "/tasks", json=home.order(checkpoint_sha256=checkpoint), headers=KEYED).raise_for_status()
    other = home.order(checkpoint_sha256=checkpoint, name="others")
    assert refusal(home.operator("POST", "/tasks", json=other, headers=KEYED)) == "conflict"
    assert refusal(home.operator("POST", "/tasks/words/approve", headers=KEYED)) == "conflict"
    assert refusal(home.operator("GET", "/tasks/others")) == "not-found"
    assert home.task()["state"] == "draft"


def test_a_refusal_is_not_kept_under_its_key(home: Home) -> None:
    assert refusal(home.operator("POST", "/tasks/words/approve", headers=KEYED)) == "not-found"
    home.operator("POST", "/tasks", json=home.order(checkpoint_sha256=home.publish())).raise_for_status()
    assert home.operator("POST", "/tasks/words/approve", headers=KEYED).json()["state"] == "approved"


def test_twins_under_one_key_get_one_answer(home: Home) -> None:
    order = home.order(checkpoint_sha256=home.publish())
    answers: list[bytes] = []

    def ask() -> None:
        answers.append(home.operator("POST", "/tasks", json=order, headers=KEYED).raise_for_status().content)

    threads = [threading.Thread(target=ask) for _twin in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    assert len(set(answers)) == 1


@pytest.mark.parametrize("key", ["", "x" * 129, "a\tb"])
def test_what_is_no_key_is_malformed(home: Home, key: str) -> None:
    answer = home.operator("PUT", f"/populations/{POPULATION}", headers={"idempotency-key": key})
    assert refusal(answer) == "malformed"


def test_keys_of_two_days_ago_are_forgotten(home: Home) -> None:
    home.operator("PUT", f"/populations/{POPULATION}", headers=KEYED).raise_for_status()
    home.clock.forward(2 * 86_400)
    home.look()
    with home.app.state.parts.database.reading() as session:
        assert session.get(Idempotency, ("acme", KEYED["idempotency-key"])) is None


def test_an_object_that_did_not_change_is_not_sent_again(home: Home) -> None:
    home.operator("PUT", f"/populations/{POPULATION}").raise_for_status()
    first = home.operator("GET", f"/populations/{POPULATION}")
    held = {"if-none-match": first.headers["etag"]}
    again = home.operator("GET", f"/populations/{POPULATION}", headers=held)
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    home.operator("PUT", f"/populations/{POPULATION}/switch", json={"off": True}).raise_for_status()
    assert home.operator("GET", f"/populations/{POPULATION}", headers=held).json()["switched_off"]


def test_a_change_meant_for_another_version_is_refused(home: Home) -> None:
    home.operator("PUT", f"/populations/{POPULATION}").raise_for_status()
    tag = home.operator("GET", f"/populations/{POPULATION}").headers["etag"]
    path = f"/populations/{POPULATION}/policy"
    home.operator("PUT", path, content=wire.encode(Policy()), headers={"if-match": tag}).raise_for_status()
    late = home.operator("PUT", path, content=b"null", headers={"if-match": tag})
    assert (refusal(late), late.status_code) == ("precondition-failed", 412)
    assert home.operator("GET", f"/populations/{POPULATION}").json()["policy"] is not None
    home.operator("PUT", path, content=b"null", headers={"if-match": "*"}).raise_for_status()


@pytest.mark.parametrize("tag", ["", "1", '"1"', 'W/"v1"', '"v' + "9" * 40 + '"'])
def test_a_tag_that_was_never_given_out_is_refused(home: Home, tag: str) -> None:
    home.operator("PUT", f"/populations/{POPULATION}").raise_for_status()
    answer = home.operator("PUT", f"/populations/{POPULATION}/policy", content=b"null", headers={"if-match": tag})
    assert refusal(answer) == "precondition-failed"


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_pages_put_together_are_the_list(home: Home, limit: int) -> None:
    names = sorted(f"population-{number}" for number in range(7))
    for name in names:
        home.operator("PUT", f"/populations/{name}").raise_for_status()
    found: list[str] = []
    path: str | None = f"/populations?limit={limit}"
    while path is not None:
        answer = home.operator("GET", path).raise_for_status()
        assert 0 < len(answer.json()) <= limit
        found += [one["name"] for one in answer.json()]
        link = re.fullmatch(r'</v1/operator(.*)>; rel="next"', answer.headers.get("link", ""))
        path = link[1] if link else None
    assert found == names


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "cursor=" + "x" * 129])
def test_a_page_out_of_range_is_malformed(home: Home, query: str) -> None:
    assert refusal(home.operator("GET", f"/populations?{query}")) == "malformed"


@pytest.mark.parametrize("path", ["/tasks/words/rounds", "/bundles/{bundle}/checkpoints"])
def test_a_cursor_that_no_list_gave_out_is_malformed(home: Home, path: str) -> None:
    home.start_task()
    filled = path.replace("{bundle}", home.task()["bundle_sha256"])
    for cursor in ("x", "-1", "1.5", "9" * 30, "1." + "x" * 64):
        assert refusal(home.operator("GET", f"{filled}?cursor={cursor}")) == "malformed"


def test_tasks_are_listed_by_name_population_and_state(home: Home) -> None:
    checkpoint = home.publish()
    for name in ("b", "a", "c"):
        home.operator("POST", "/tasks", json=home.order(name=name, checkpoint_sha256=checkpoint)).raise_for_status()
    home.operator("POST", "/tasks/b/approve").raise_for_status()

    def listed(query: str) -> list[str]:
        return [one["name"] for one in home.operator("GET", f"/tasks{query}").raise_for_status().json()]

    assert listed("") == ["a", "b", "c"]
    assert listed("?state=approved") == ["b"]
    assert listed("?population=elsewhere") == []
    assert listed(f"?population={POPULATION}&state=draft&limit=1") == ["a"]
    assert refusal(home.operator("GET", "/tasks?state=asleep")) == "malformed"


def test_checkpoints_of_a_bundle_are_listed_newest_first(home: Home) -> None:
    home.start_task()
    bundle = home.task()["bundle_sha256"]
    (only,) = home.operator("GET", f"/bundles/{bundle}/checkpoints").json()
    assert only["sha256"] == home.task()["checkpoint_sha256"]
    assert refusal(home.operator("GET", f"/bundles/{'0' * 64}/checkpoints")) == "not-found"


def test_every_answer_names_its_request(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    given = home.request("GET", "/healthz", headers={"x-request-id": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"
    made = {home.request("GET", "/healthz", headers={"x-request-id": "no id"}).headers["x-request-id"] for _ in "ab"}
    assert len(made) == 2
    assert "no id" not in made
    with caplog.at_level(logging.INFO, logger="edgewise.access"):
        home.operator("GET", "/tasks?state=asleep", headers={"x-request-id": "mine-2"})
        home.request("GET", "/healthz")
    (line,) = caplog.records
    assert line.http["status"] == 422  # type: ignore[attr-defined]
    assert line.http["path"] == "/v1/operator/tasks"  # type: ignore[attr-defined]
