"""Operators see who harmed groups, and may let a device in again; nobody sums securely where nobody certifies."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from sqlmodel import select

from coordinator.core.rounds import GroupPhase
from coordinator.core.secure_groups import FELL_SILENT
from coordinator.services.faults import is_quarantined, record_fault
from coordinator.store.tables import Group, Round
from tests.coordinator.asking import refusal
from tests.coordinator.secure import SIX, STEPS, in_database, secure_plan, secure_round
from tests.coordinator.test_secure_hostile import finish, other_seed, shared
from tests.programme import POPULATION, Clock, Home, copy_home, open_home

KEPT_OUT = f"/populations/{POPULATION}/quarantines"


def test_operators_see_who_is_kept_out_with_the_evidence_and_let_it_in_again(home: Home) -> None:
    phones = shared(home, other_seed)
    finish(home, phones, STEPS[2:])
    liar = phones[0].device_id
    (found,) = home.operator("GET", KEPT_OUT).raise_for_status().json()
    assert (found["device"], found["because"]) == (liar, "inconsistent-shares")
    (fault,) = found["faults"]
    assert (fault["task"], fault["round"], fault["fault"]) == ("words", 1, "inconsistent-shares")
    assert len(bytes.fromhex(fault["evidence"]["seed_digest"])) == 32
    released = home.operator("DELETE", f"{KEPT_OUT}/{liar}").raise_for_status().json()
    assert released["until"] == home.clock.at.isoformat().replace("+00:00", "Z")
    assert home.operator("DELETE", f"{KEPT_OUT}/{liar}").json() == released, "again changes nothing"
    assert home.operator("GET", KEPT_OUT).json() == []
    assert not in_database(home, lambda session: is_quarantined(session, liar, home.clock.at))


def test_only_what_is_there_is_let_in(home: Home) -> None:
    phones = secure_round(home, SIX)
    assert home.operator("GET", KEPT_OUT).json() == []
    assert refusal(home.operator("DELETE", f"{KEPT_OUT}/{phones[0].device_id}")) == "not-found"
    assert refusal(home.operator("DELETE", f"{KEPT_OUT}/{'00' * 16}")) == "not-found"
    assert refusal(home.operator("GET", "/populations/nobody/quarantines")) == "not-found"


def test_what_led_to_a_quarantine_that_is_over_counts_no_more(home: Home) -> None:
    device = secure_round(home, SIX)[0].device_id
    assert [silent(home, device) for _group in range(3)] == [False, False, True]
    home.operator("DELETE", f"{KEPT_OUT}/{device}").raise_for_status()
    home.clock.forward(1)
    assert [silent(home, device) for _group in range(3)] == [False, False, True]


def silent(home: Home, device: str) -> bool:
    """A group came to nothing for want of a device. Whether it is kept out now."""
    round_id = the_round(home)
    with home.app.state.parts.database.writing() as session:
        number = 1 + len(session.exec(select(Group)).all())
        group = Group(id=secrets.token_hex(16), round_id=round_id, number=number, phase=GroupPhase.ABORTED)
        session.add(group)
        session.flush()
        record_fault(session, group, device, FELL_SILENT, home.clock.at)
        return is_quarantined(session, device, home.clock.at)


def the_round(home: Home) -> str:
    return in_database(home, lambda session: session.exec(select(Round.id)).one())


@pytest.mark.parametrize("late", [False, True])
def test_without_an_authority_no_secure_task_is_approved_nor_started(
    made: tuple[Path, str], tmp_path: Path, clock: Clock, late: bool
) -> None:
    folder = copy_home(made[0], tmp_path / "home")
    authority = folder / "authority.key"
    raw = authority.read_text()
    if not late:
        authority.unlink()
    with open_home(folder, clock, made[1]) as home:
        order = home.order(secure_plan(), checkpoint_sha256=home.publish())
        home.operator("POST", "/tasks", json=order).raise_for_status()
        approved = home.operator("POST", "/tasks/words/approve")
        assert late or refusal(approved) == "no-authority"
        plain = home.order(name="plain", checkpoint_sha256=order["checkpoint_sha256"])
        home.start_order(plain)
    authority.unlink(missing_ok=True)
    with open_home(folder, clock, made[1]) as home:
        started = home.operator("POST", "/tasks/words/start")
        assert refusal(started) == "no-authority"
        assert home.operator("GET", "/tasks/words").json()["state"] == ("approved" if late else "draft")
    authority.write_text(raw)
    with open_home(folder, clock, made[1]) as home:
        home.operator("POST", "/tasks/words/approve").raise_for_status()
        home.operator("POST", "/tasks/words/start").raise_for_status()
