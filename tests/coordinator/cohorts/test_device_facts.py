"""What is kept of what a check-in says, and what is dropped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coordinator.core.cohorts.declarations import read_declared
from coordinator.core.cohorts.evaluation import DeviceFacts
from coordinator.core.cohorts.versions import version_key
from coordinator.services.device_facts import changes, facts_in, facts_of
from coordinator.store.tables import Device
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import CheckIn, CheckInAnswer
from edge_runtime.protocol.keys import digest
from tests.coordinator.asking import ask, check_in, refusal
from tests.programme import PLAN, POPULATION, START, Home, Phone

DECLARED = read_declared(
    {
        "beta": {"type": "boolean"},
        "language": {"type": "text", "values": ["de", "en"]},
        "ram_gb": {"type": "integer", "at_least": 0, "at_most": 64},
    }
)
SAID = CheckIn(
    version=3,
    population="keyboard",
    visit="0" * 32,
    runtime="none",
    examples=1,
    app_version="2.4",
    platform="android",
    region="DE",
    hardware_class="high",
    attributes={"beta": True, "ram_gb": 8},
)


def row(**changed: Any) -> Device:
    said = {"app": "app", "app_version": "1.0", "app_version_key": version_key("1.0"), "platform": "linux", **changed}
    keys: dict[str, Any] = {"tenant": "acme", "population": "keyboard", "public_key": bytes(32), "evidence": "none"}
    return Device(id="0" * 32, enrolled_at=START, **keys, **said)


HELD = facts_in(row())


def test_a_check_in_says_everything_anew() -> None:
    heard = facts_of(SAID, HELD, DECLARED)
    assert (heard.unknown, heard.misfits) == (0, 0)
    assert changes(HELD, heard.facts) == {
        "app_version": "2.4",
        "app_version_key": version_key("2.4"),
        "platform": "android",
        "region": "DE",
        "hardware_class": "high",
        "attributes": {"beta": True, "ram_gb": 8},
    }
    silent = facts_of(replace(SAID, region=None, attributes={}), heard.facts, DECLARED).facts
    assert changes(heard.facts, silent) == {"region": None, "attributes": {}}


def test_what_is_said_again_changes_nothing() -> None:
    held = facts_of(SAID, HELD, DECLARED).facts
    assert facts_of(SAID, held, DECLARED).facts is held
    assert changes(held, held) == {}


@pytest.mark.parametrize("version", [1, 2])
def test_an_earlier_check_in_leaves_what_is_held(version: int) -> None:
    held = facts_of(SAID, HELD, DECLARED).facts
    before = CheckIn(version=version, population="keyboard", visit="0" * 32, runtime="none", examples=1)
    assert facts_of(before, held, DECLARED).facts is held


@pytest.mark.parametrize(
    ("attributes", "kept", "unknown", "misfits"),
    [
        ({"name": "Ada", "beta": True}, {"beta": True}, 1, 0),
        ({"beta": 1}, {}, 0, 1),
        ({"beta": "true"}, {}, 0, 1),
        ({"ram_gb": True}, {}, 0, 1),
        ({"ram_gb": "8"}, {}, 0, 1),
        ({"ram_gb": 65}, {}, 0, 1),
        ({"ram_gb": -1}, {}, 0, 1),
        ({"ram_gb": 0}, {"ram_gb": 0}, 0, 0),
        ({"language": "fr"}, {}, 0, 1),
        ({"language": True}, {}, 0, 1),
        ({"language": "de", "beta": False, "x": 1, "y": 2}, {"language": "de", "beta": False}, 2, 0),
    ],
)
def test_what_is_not_declared_is_dropped_and_counted(
    attributes: dict[str, Any], kept: dict[str, Any], unknown: int, misfits: int
) -> None:
    heard = facts_of(replace(SAID, attributes=attributes), HELD, DECLARED)
    assert (dict(heard.facts.attributes), heard.unknown, heard.misfits) == (kept, unknown, misfits)


def test_nothing_is_kept_where_nothing_is_declared() -> None:
    heard = facts_of(SAID, HELD, {})
    assert (dict(heard.facts.attributes), heard.unknown) == ({}, 2)


def test_true_replaces_one() -> None:
    held = replace(HELD, attributes={"n": 1})
    assert changes(held, replace(HELD, attributes={"n": True})) == {"attributes": {"n": True}}


def test_a_row_of_before_gets_the_order_of_its_version() -> None:
    held = facts_in(row(app_version="2.4", app_version_key="", platform="android"))
    same = replace(SAID, region=None, hardware_class=None, attributes={})
    assert changes(held, facts_of(same, held, DECLARED).facts) == {"app_version_key": version_key("2.4")}


@pytest.mark.parametrize("version", [1, 2])
def test_a_row_of_before_gets_the_order_of_its_version_from_a_check_in_that_says_nothing(version: int) -> None:
    before = facts_in(row(app_version="2.10", app_version_key=""))
    silent = CheckIn(version=version, population="keyboard", visit="0" * 32, runtime="none", examples=1)
    heard = facts_of(silent, before, DECLARED).facts
    assert changes(before, heard) == {"app_version_key": version_key("2.10")}
    unordered = facts_in(row(app_version="nightly", app_version_key=""))
    assert facts_of(silent, unordered, DECLARED).facts is unordered


def test_a_device_of_before_is_in_cohorts_by_app_version_after_its_next_check_in(home: Home) -> None:
    checkpoint, phone = home.publish(), home.phone(0)
    with home.app.state.parts.database.writing() as session:
        session.get_one(Device, phone.driver.device_id).app_version_key = ""
    rule = {"version": 1, "where": {"app_version": {"at_least": "1.0"}}}
    home.operator("PUT", f"/populations/{POPULATION}/cohorts/new", json=rule).raise_for_status()
    alone = replace(PLAN, goal=1, min_reports=1)
    home.start_order(home.order(alone, checkpoint_sha256=checkpoint, pool_size=1, cohort="new"))
    home.look()
    check_in(home, phone, "first")
    home.look()
    assert check_in(home, phone, "second").assignment is not None


def test_an_enrolled_device_has_the_order_of_its_version_until_it_leaves(home: Home) -> None:
    home.publish()
    phone = home.phone(0)
    database = home.app.state.parts.database
    with database.writing() as session:
        device = session.get_one(Device, phone.driver.device_id)
        assert device.app_version_key == version_key("1.0") != ""
        device.region, device.hardware_class, device.attributes = "DE", "high", {"beta": True}
    ask(home, phone, "DELETE", "/v1/device").raise_for_status()
    with database.reading() as session:
        left = facts_in(session.get_one(Device, phone.driver.device_id))
    assert (left.app_version_key, left.region, left.hardware_class, dict(left.attributes)) == ("", None, None, {})


def test_a_check_in_of_version_3_is_answered_in_its_version(home: Home) -> None:
    home.publish()
    phone = home.phone(0)
    answer = ask(home, phone, "POST", "/v1/device/check-in", wire.encode(SAID)).raise_for_status()
    assert answer.json()["version"] == 3
    unknown = wire.encode(SAID).replace(b'"version":3', b'"version":4')
    assert refusal(ask(home, phone, "POST", "/v1/device/check-in", unknown)) == "unsupported-version"


# --- over the wire ------------------------------------------------------------------------------------------------

ATTRIBUTES: dict[str, Any] = {
    "beta": {"type": "boolean"},
    "ram_gb": {"type": "integer", "at_least": 0, "at_most": 64},
}


def says(home: Home, phone: Phone, visit: str, **said: Any) -> CheckInAnswer:
    """A check-in of version 3 that changes what `SAID` says."""
    message = replace(SAID, visit=digest(visit.encode(), bytes([phone.number])).hex()[:32], **said)
    answer = ask(home, phone, "POST", "/v1/device/check-in", wire.encode(message)).raise_for_status()
    return wire.decode(CheckInAnswer, answer.content)


def kept(home: Home, phone: Phone) -> DeviceFacts:
    with home.app.state.parts.database.reading() as session:
        return facts_in(session.get_one(Device, phone.driver.device_id))


def test_a_check_in_puts_what_is_declared_into_the_devices_row(home: Home) -> None:
    home.publish()
    home.operator("PUT", f"/populations/{POPULATION}", json={"attributes": ATTRIBUTES}).raise_for_status()
    phone = home.phone(0)
    says(home, phone, "first", attributes={"beta": True, "ram_gb": 65, "owner": "Ada"})
    found = kept(home, phone)
    assert (found.platform, found.app_version_key, found.region) == ("android", version_key("2.4"), "DE")
    assert found.attributes == {"beta": True}
    says(home, phone, "second", app_version="2.5", region=None, attributes={"ram_gb": 8})
    found = kept(home, phone)
    assert (found.app_version_key, found.region, found.attributes) == (version_key("2.5"), None, {"ram_gb": 8})


def test_what_is_dropped_is_counted_once_for_each_visit_and_shown_to_whoever_watches(home: Home) -> None:
    """An app whose attributes nobody declared would otherwise never be in its cohort, and nobody would know why."""
    home.publish()
    home.operator("PUT", f"/populations/{POPULATION}", json={"attributes": ATTRIBUTES}).raise_for_status()
    phone = home.phone(0)
    says(home, phone, "right", attributes={"beta": True, "ram_gb": 8})
    says(home, phone, "wrong", attributes={"beta": "yes", "ram_gb": 65, "colour": "red"})
    says(home, phone, "wrong again", attributes={"colour": "red"})
    lines = home.request("GET", "/metrics").raise_for_status().text.splitlines()
    assert 'edgewise_attributes_dropped_total{why="undeclared"} 2.0' in lines
    assert 'edgewise_attributes_dropped_total{why="misfit"} 2.0' in lines


def test_a_task_takes_the_devices_of_its_cohort_and_no_others(home: Home) -> None:
    home.publish()
    home.operator("PUT", f"/populations/{POPULATION}", json={"attributes": ATTRIBUTES}).raise_for_status()
    rule = {
        "version": 1,
        "where": {
            "and": [
                {"app_version": {"at_least": "2.10"}},
                {"not": {"attribute": {"name": "beta", "is": True}}},
            ]
        },
    }
    home.operator("PUT", f"/populations/{POPULATION}/cohorts/new", json=rule).raise_for_status()
    home.start_task(replace(PLAN, goal=1, min_reports=1), pool_size=1, cohort="new")
    inside, older, beta = (home.phone(number) for number in range(3))
    for visit in ("first", "second"):
        assert says(home, older, visit, app_version="2.9", attributes={}).assignment is None
        assert says(home, beta, visit, app_version="2.10", attributes={"beta": True}).assignment is None
        home.look()
    says(home, inside, "first", app_version="2.10", attributes={})
    home.look()
    assert says(home, inside, "second", app_version="2.10", attributes={}).assignment is not None
