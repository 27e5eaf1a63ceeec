"""Signed requests that share a transaction: each is done or refused as if it were alone, and once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest
from sqlmodel import Session, select

from coordinator.api.desk import Desk
from coordinator.services import device_calls
from coordinator.services.device_calls import Call, DeviceCalls
from coordinator.services.group_facts import MOST_GROUPS, Kept, for_ever
from coordinator.store.tables import Device, Nonce
from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import BadSignature, NotFound, ReplayedRequest, SwitchedOff, UnknownDevice
from edge_runtime.protocol.release import RELEASE_PATH, ReleaseQuery
from edge_runtime.protocol.signing import claimed
from tests.coordinator.asking import ask, refusal, signature
from tests.programme import POPULATION, Home, Phone, replace

PATH = "/v1/device/anything"
Act = Callable[[Session, Device, datetime], object]


@pytest.fixture
def phones(home: Home) -> list[Phone]:
    home.publish()
    return [home.phone(number) for number in range(4)]


def call(phone: Phone, act: Act, **more: Any) -> Call:
    return Call(claimed(signature(phone, "POST", PATH)), "POST", PATH, act, **more)


def names(label: str) -> Act:
    """Writes something that can be read back."""

    def act(session: Session, device: Device, _now: datetime) -> object:
        device.app_version = label
        session.add(device)
        return label

    return act


def refuses(label: str) -> Act:
    def act(session: Session, device: Device, now: datetime) -> object:
        names(label)(session, device, now)
        session.flush()
        raise NotFound("after it wrote")

    return act


def answered(home: Home, calls: Sequence[Call]) -> list[object]:
    parts = home.app.state.parts
    return DeviceCalls(parts.database, parts.now).answer(calls)


def versions(home: Home, phones: Sequence[Phone]) -> list[str]:
    with home.app.state.parts.database.reading() as session:
        return [session.get_one(Device, phone.driver.device_id).app_version for phone in phones]


def nonces(home: Home) -> int:
    with home.app.state.parts.database.reading() as session:
        return len(session.exec(select(Nonce)).all())


def test_a_refusal_undoes_its_own_act_alone_and_is_remembered(home: Home, phones: list[Phone]) -> None:
    calls = [call(phones[0], names("2.0")), call(phones[1], refuses("3.0")), call(phones[2], names("4.0"))]
    first, second, third = answered(home, calls)
    assert (first, type(second), third) == ("2.0", NotFound, "4.0")
    assert versions(home, phones) == ["2.0", "1.0", "4.0", "1.0"]
    assert [type(one) for one in answered(home, calls)] == [ReplayedRequest] * 3


def test_the_same_request_twice_in_one_batch_is_done_once(home: Home, phones: list[Phone]) -> None:
    done: list[str] = []

    def act(_session: Session, device: Device, _now: datetime) -> object:
        done.append(device.id)
        return None

    one = call(phones[0], act)
    first, second = answered(home, [one, one])
    assert (first, type(second), len(done)) == (None, ReplayedRequest, 1)


def test_later_calls_of_a_batch_see_what_earlier_ones_did(home: Home, phones: list[Phone]) -> None:
    def sees(session: Session, _device: Device, _now: datetime) -> object:
        return session.get_one(Device, phones[0].driver.device_id).app_version

    calls = [call(phones[1], sees), call(phones[0], names("2.0")), call(phones[1], sees)]
    assert answered(home, calls) == ["1.0", "2.0", "2.0"]


def test_who_is_not_proven_is_named_and_not_remembered(home: Home, phones: list[Phone]) -> None:
    before = nonces(home)
    claim = claimed(signature(phones[0], "POST", "/v1/device/something-else"))
    stranger = Call(claimed(signature(phones[1], "POST", PATH)), "POST", PATH, names("2.0"))
    unknown = Call(replace(stranger.claim, keyid="ff" * 16), "POST", PATH, names("2.0"))
    told = answered(home, [Call(claim, "POST", PATH, names("2.0")), unknown, call(phones[2], names("5.0"))])
    assert [type(one) for one in told] == [BadSignature, UnknownDevice, str]
    assert versions(home, phones) == ["1.0", "1.0", "5.0", "1.0"]
    assert nonces(home) == before + 1


def test_keys_are_kept_up_to_a_limit_and_nobody_is_unknown_for_it(
    home: Home, phones: list[Phone], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch in which some keys are kept and others are not comes when there are too many."""
    monkeypatch.setattr(device_calls, "MOST_KEYS", 1)
    parts = home.app.state.parts
    calls = DeviceCalls(parts.database, parts.now)
    for place in range(3):
        batch = [call(phone, names(f"{place}.0")) for phone in phones[: place + 2]]
        assert calls.answer(batch) == [f"{place}.0"] * len(batch)


def test_of_a_population_that_is_switched_off_only_those_who_leave_are_heard(home: Home, phones: list[Phone]) -> None:
    home.operator("PUT", f"/populations/{POPULATION}/switch", json={"off": True}).raise_for_status()
    told = answered(home, [call(phones[0], names("2.0")), call(phones[1], names("3.0"), leaving=True)])
    assert [type(one) for one in told] == [SwitchedOff, str]
    assert versions(home, phones)[:2] == ["1.0", "3.0"]


def test_a_bug_that_one_request_finds_is_not_the_others_problem(home: Home, phones: list[Phone]) -> None:
    def buggy(_session: Session, _device: Device, _now: datetime) -> object:
        raise ZeroDivisionError

    async def story() -> list[object]:
        parts = home.app.state.parts
        desk = Desk[Call, object](DeviceCalls(parts.database, parts.now).answer, 10)
        calls = [call(phones[0], names("2.0")), call(phones[1], buggy), call(phones[2], names("3.0"))]
        told = await asyncio.gather(*(desk.ask(one) for one in calls), return_exceptions=True)
        desk.close()
        return list(told)

    assert [type(one) for one in asyncio.run(story())] == [str, ZeroDivisionError, str]
    assert versions(home, phones) == ["2.0", "1.0", "3.0", "1.0"]


def test_looks_share_one_view_and_each_is_told_or_refused(home: Home, phones: list[Phone]) -> None:
    parts = home.app.state.parts

    def refused(_session: Session) -> object:
        raise NotFound("nothing there")

    def count(session: Session) -> object:
        return len(session.exec(select(Device)).all())

    first, second, third = DeviceCalls(parts.database, parts.now).look([count, refused, count])
    assert (first, type(second), third) == (len(phones), NotFound, len(phones))


def test_requests_that_come_together_share_a_transaction(
    home: Home, phones: list[Phone], monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go = threading.Event(), threading.Event()
    sizes: list[int] = []
    desk = home.app.state.parts.calls
    answer = desk._answer

    def counted(calls: Sequence[Call]) -> list[object]:
        sizes.append(len(calls))
        entered.set()
        assert go.wait(20)
        found: list[object] = answer(calls)
        return found

    monkeypatch.setattr(desk, "_answer", counted)
    query = wire.encode(ReleaseQuery(version=1, population=POPULATION, held_sha256=None))
    with ThreadPoolExecutor(len(phones)) as pool:
        first = pool.submit(ask, home, phones[0], "POST", RELEASE_PATH, query)
        assert entered.wait(20)
        others = [pool.submit(ask, home, phone, "POST", RELEASE_PATH, query) for phone in phones[1:]]
        for _look in range(2_000_000):
            if desk.waiting() == len(others):
                break
        go.set()
        told = [one.result(20).status_code for one in (first, *others)]
    assert sizes == [1, len(others)]
    assert told == [404] * len(phones), "there is no release"


def test_facts_of_the_groups_that_were_asked_for_last_are_kept_and_no_others(home: Home) -> None:
    kept, reads = Kept(), list[str]()

    def ask_for(group: str) -> None:
        def read() -> str:
            reads.append(group)
            return group

        with home.app.state.parts.database.reading() as session:
            kept.lend(session)
            assert for_ever(session, group, "name", read) == group

    for _again in range(2):
        for number in range(MOST_GROUPS):
            ask_for(str(number))
    assert reads == [str(number) for number in range(MOST_GROUPS)], "each was read once"
    ask_for("one more")
    ask_for("0")
    assert reads[MOST_GROUPS:] == ["one more", "0"]


def test_too_many_at_once_are_told_when_to_come_back(
    home: Home, phones: list[Phone], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = nonces(home)
    monkeypatch.setattr(Desk, "full", True)
    query = wire.encode(ReleaseQuery(version=1, population=POPULATION, held_sha256=None))
    answer = ask(home, phones[0], "POST", RELEASE_PATH, query)
    assert refusal(answer) == "unavailable"
    assert answer.json()["retry_after_s"] > 0
    assert nonces(home) == before
