"""Devices that leave, populations that are switched off, and policies that travel with answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlmodel import select

from coordinator.store.tables import Candidate, Device, Participation
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import CHECK_IN_PATH, CheckIn, CheckInAnswer
from edge_runtime.protocol.enrolment import DEVICE_PATH, ENROL_PATH, Enrol, Enrolled, Evidence
from edge_runtime.protocol.policy import Policy
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.release import RELEASE_PATH, ReleaseQuery
from edge_runtime.protocol.report import Costs, OutcomeNote, outcome_path, report_path
from tests.coordinator.asking import ask, assigned, check_in, offer, refusal, send_report
from tests.programme import PLAN, POPULATION, Home, Phone

POLICY = Policy(needs_charging=True, quiet_hours=(22, 23))


def leave(home: Home, phone: Phone) -> bytes:
    answer = ask(home, phone, "DELETE", DEVICE_PATH)
    assert answer.status_code == 200, answer.text
    return answer.content


def check_in_2(home: Home, phone: Phone) -> CheckInAnswer:
    message = replace(wire.decode(CheckIn, offer(phone)), version=2)
    answer = ask(home, phone, "POST", CHECK_IN_PATH, wire.encode(message))
    assert answer.status_code == 200, answer.text
    return wire.decode(CheckInAnswer, answer.content)


def enrol_again(home: Home, phone: Phone, version: int = 2) -> bytes:
    message = Enrol(
        version=version,
        tenant="acme",
        population=POPULATION,
        public_key=phone.driver.key.public.raw,
        app="app",
        app_version="1.0",
        platform="linux",
        evidence=Evidence.NONE,
    )
    return wire.encode(message)


def test_a_device_that_left_may_do_nothing_but_leave_again(home: Home) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(4)]
    mine, *_others = assigned(home, phones)
    phone = phones[0]
    first = leave(home, phone)
    asked = [
        ("POST", CHECK_IN_PATH, offer(phone, "later")),
        ("POST", RELEASE_PATH, wire.encode(ReleaseQuery(version=1, population=POPULATION, held_sha256=None))),
        ("PUT", report_path(mine.participation), b""),
        ("POST", outcome_path(mine.participation), wire.encode(OutcomeNote(version=1, reason=Outcome.IN_USE))),
        ("POST", ENROL_PATH, enrol_again(home, phone)),
    ]
    for method, path, body in asked:
        assert refusal(ask(home, phone, method, path, body)) == "device-left", path
    assert leave(home, phone) == first


def test_a_round_does_not_wait_for_a_device_that_left(home: Home) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(4)]
    for phone, assignment in zip(phones[1:], assigned(home, phones)[1:], strict=True):
        send_report(home, phone, assignment)
    home.look()
    assert home.rounds()[0]["phase"] == "reporting"
    leave(home, phones[0])
    home.look()
    (first, *_later) = home.rounds()
    assert (first["phase"], first["reports"], first["outcomes"]) == ("committed", 3, {"opted-out": 1})


def test_a_report_that_was_received_counts_though_its_device_left(home: Home) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(4)]
    for phone, assignment in zip(phones, assigned(home, phones), strict=True):
        send_report(home, phone, assignment)
        leave(home, phone)
    home.look()
    assert (home.rounds()[0]["phase"], home.rounds()[0]["reports"]) == ("committed", 4)


def test_a_candidate_that_left_is_not_chosen(home: Home) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(5)]
    for phone in phones[:3]:
        check_in(home, phone)
    leave(home, phones[0])
    for phone in phones[3:]:
        check_in(home, phone)
    home.look()
    with home.app.state.parts.database.reading() as session:
        left = phones[0].driver.device_id
        assert not [one for one in session.exec(select(Candidate)).all() if one.device_id == left]
        assert left not in {one.device_id for one in session.exec(select(Participation)).all()}


def test_of_a_device_that_left_no_more_is_kept_than_who_it_was(home: Home, phone: Phone) -> None:
    leave(home, phone)
    with home.app.state.parts.database.reading() as session:
        row = session.get_one(Device, phone.driver.device_id)
    assert (row.app, row.app_version, row.platform) == ("left", "left", "left")
    assert row.left_at == home.clock.at


def test_a_population_that_is_switched_off_hears_so_at_every_contact(home: Home) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(4)]
    mine, *_others = assigned(home, phones)
    assert home.operator("PUT", f"/populations/{POPULATION}/switch", json={"off": True}).json()["switched_off"] is True
    asked = [
        ("POST", CHECK_IN_PATH, offer(phones[0])),
        ("PUT", report_path(mine.participation), b""),
        ("POST", outcome_path(mine.participation), wire.encode(OutcomeNote(version=1, reason=Outcome.IN_USE))),
        ("POST", ENROL_PATH, enrol_again(home, phones[0])),
    ]
    for method, path, body in asked:
        assert refusal(ask(home, phones[0], method, path, body)) == "switched-off", path
    leave(home, phones[1])
    home.operator("PUT", f"/populations/{POPULATION}/switch", json={"off": False})
    again = check_in(home, phones[0]).assignment
    assert again is not None
    assert again.participation == mine.participation


@pytest.mark.parametrize("body", [b"", b"{}", b'{"off":1}', b'{"off":true,"on":false}', b"[]"])
def test_a_switch_is_thrown_by_a_word_and_not_by_chance(home: Home, body: bytes) -> None:
    home.publish()
    path = f"/populations/{POPULATION}/switch"
    assert refusal(home.operator("PUT", path, content=body)) == "malformed"
    assert home.operator("GET", f"/populations/{POPULATION}").json()["switched_off"] is False


def test_a_policy_travels_with_answers_of_version_2(home: Home, phone: Phone) -> None:
    path = f"/populations/{POPULATION}/policy"
    found = home.operator("PUT", path, content=wire.encode(POLICY)).json()["policy"]
    assert found["quiet_hours"] == [22, 23]
    assert check_in_2(home, phone).policy == POLICY
    assert check_in(home, phone, "another").version == 1
    answer = ask(home, phone, "POST", ENROL_PATH, enrol_again(home, phone))
    assert wire.decode(Enrolled, answer.content).policy == POLICY
    assert wire.decode(Enrolled, ask(home, phone, "POST", ENROL_PATH, enrol_again(home, phone, 1)).content).version == 1
    home.operator("PUT", path, content=b"null").raise_for_status()
    assert check_in_2(home, phone).policy is None


@pytest.mark.parametrize("body", [b"", b"{}", b'{"version":1}', wire.encode(POLICY).replace(b"22", b"24")])
def test_what_is_no_policy_is_refused(home: Home, phone: Phone, body: bytes) -> None:
    assert refusal(home.operator("PUT", f"/populations/{POPULATION}/policy", content=body)) == "malformed"
    assert check_in_2(home, phone).policy is None


def test_an_outcome_may_say_what_it_cost(home: Home) -> None:
    home.start_task(replace(PLAN, min_reports=1))
    phones = [home.phone(number) for number in range(4)]
    mine, *_others = assigned(home, phones)
    note = OutcomeNote(version=2, reason=Outcome.BATTERY_LOW, costs=Costs(seconds=64, bytes=1 << 40, battery_percent=2))
    assert ask(home, phones[0], "POST", outcome_path(mine.participation), wire.encode(note)).status_code == 200
    with home.app.state.parts.database.reading() as session:
        row = session.get_one(Participation, mine.participation)
    assert (row.outcome, row.cost_seconds, row.cost_bytes, row.cost_battery_percent) == ("battery-low", 64, 1 << 40, 2)
