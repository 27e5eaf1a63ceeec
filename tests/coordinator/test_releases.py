"""Which model version a device uses for inference: canaries, roll-out, roll-back; and devices that operators erase."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlmodel import select

from coordinator.core.releases import PPM, Offer, offered, place_ppm
from coordinator.store.blobs import BlobKind
from coordinator.store.tables import Device, Nonce, Participation, Report
from edge_runtime.protocol.keys import digest
from edge_runtime.session.visit import current_release
from tests.coordinator.asking import assigned, check_in, refusal, send_report
from tests.programme import PLAN, POPULATION, Home, Phone, replace

KEY = bytes(range(32))
RELEASES = f"/populations/{POPULATION}/releases"
SHA = digest(b"a checkpoint").hex()
ids = st.integers(0, 2**128 - 1).map(lambda number: f"{number:032x}")


@given(ids, st.integers(1, PPM), st.integers(1, PPM))
def test_a_wider_share_keeps_whom_it_had(device: str, one: int, other: int) -> None:
    narrow, wide = sorted((one, other))
    if offered([Offer(1, SHA, narrow, False)], KEY, device):
        assert offered([Offer(1, SHA, wide, False)], KEY, device)


@given(ids, st.lists(st.tuples(st.integers(1, PPM), st.booleans()), max_size=6))
def test_the_newest_release_that_includes_a_device_and_stands_is_the_one(
    device: str, drawn: list[tuple[int, bool]]
) -> None:
    releases = [
        Offer(number, digest(bytes([number])).hex(), share, withdrawn)
        for number, (share, withdrawn) in enumerate(drawn, 1)
    ]
    expected = [
        one for one in releases if not one.withdrawn and place_ppm(KEY, one.checkpoint_sha256, device) < one.share_ppm
    ]
    assert offered(releases, KEY, device) == (expected[-1] if expected else None)


def test_shares_are_met_and_canaries_change_from_version_to_version() -> None:
    devices = [f"{number:032x}" for number in range(20_000)]
    first, second = (
        {device for device in devices if place_ppm(KEY, digest(name).hex(), device) < PPM // 10}
        for name in (b"first", b"second")
    )
    # Binomial(20000, .1): five standard deviations are 212. Both: Binomial(20000, .01), five are 70.
    assert abs(len(first) - 2000) < 212
    assert abs(len(second) - 2000) < 212
    assert abs(len(first & second) - 200) < 70


@pytest.fixture
def versions(home: Home) -> tuple[Home, list[Phone], str, str]:
    """Phones, and two model versions."""
    home.start_task(replace(PLAN, goal=1, min_reports=1), pool_size=4, rounds=1)
    phones = [home.phone(number) for number in range(4)]
    first = home.task()["checkpoint_sha256"]
    for phone in phones:
        check_in(home, phone)
    home.look()
    answers = [(phone, check_in(home, phone).assignment) for phone in phones]
    (chosen,) = [(phone, assignment) for phone, assignment in answers if assignment is not None]
    send_report(home, *chosen)
    home.look()
    return home, phones, first, home.task()["checkpoint_sha256"]


def release(home: Home, checkpoint: str, share: float) -> dict[str, Any]:
    answer = home.operator("POST", RELEASES, json={"checkpoint_sha256": checkpoint, "share": share})
    made: dict[str, Any] = answer.raise_for_status().json()
    return made


def used(phones: list[Phone]) -> list[str]:
    return [phone.driver.run(current_release(POPULATION, None)).checkpoint_sha256 for phone in phones]


def test_until_the_first_release_devices_use_the_newest_model(versions: tuple[Home, list[Phone], str, str]) -> None:
    _home, phones, _first, newest = versions
    assert used(phones) == [newest] * 4


def test_a_canary_reaches_its_share_and_the_rest_stays(versions: tuple[Home, list[Phone], str, str]) -> None:
    home, phones, first, newest = versions
    release(home, first, 1.0)
    assert used(phones) == [first] * 4
    canary = release(home, newest, 0.5)
    population = home.operator("GET", f"/populations/{POPULATION}/devices").json()
    assert len(population) == 4
    some = used(phones)
    assert set(some) <= {first, newest}
    home.operator("PUT", f"{RELEASES}/{canary['number']}/share", json={"share": 1.0}).raise_for_status()
    assert used(phones) == [newest] * 4
    for _again in range(2):
        home.operator("POST", f"{RELEASES}/{canary['number']}/withdraw").raise_for_status()
    assert used(phones) == [first] * 4
    listed = home.operator("GET", RELEASES).json()
    assert [(one["number"], one["withdrawn_at"] is None) for one in listed] == [(2, False), (1, True)]


def test_releases_are_listed_newest_first_in_pages(versions: tuple[Home, list[Phone], str, str]) -> None:
    home, _phones, first, _newest = versions
    for percent in range(1, 6):
        release(home, first, percent / 100)
    found, path = [], f"{RELEASES}?limit=2"
    while path:
        answer = home.operator("GET", path).raise_for_status()
        assert len(answer.json()) <= 2
        found += [one["number"] for one in answer.json()]
        path = answer.links["next"]["url"].removeprefix("/v1/operator") if "next" in answer.links else ""
    assert found == [5, 4, 3, 2, 1]
    for cursor in ("x", "-1", "1.5", "9" * 30, "²"):
        assert refusal(home.operator("GET", RELEASES, params={"cursor": cursor})) == "malformed"


def test_the_same_release_again_changes_nothing(versions: tuple[Home, list[Phone], str, str]) -> None:
    home, _phones, first, newest = versions
    assert release(home, first, 0.5) == release(home, first, 0.5)
    assert release(home, newest, 0.5)["number"] == 2
    assert release(home, first, 0.5)["number"] == 3, "back to an older version is a release of its own"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"share": 0}, "malformed"),
        ({"share": 1.1}, "malformed"),
        ({"share": "much"}, "malformed"),
        ({"checkpoint_sha256": "0" * 64}, "not-found"),
        ({"checkpoint_sha256": "\0"}, "not-found"),
        ({"more": 1}, "malformed"),
    ],
    ids=ascii,
)
def test_a_wrong_release_is_refused(home: Home, body: dict[str, Any], code: str) -> None:
    checkpoint = home.publish()
    answer = home.operator("POST", RELEASES, json={"checkpoint_sha256": checkpoint, "share": 0.5, **body})
    assert refusal(answer) == code
    assert refusal(home.operator("POST", f"{RELEASES}/1/withdraw")) == "not-found"
    assert refusal(home.operator("PUT", f"{RELEASES}/1/share", json={"share": 0.5})) == "not-found"


# --- devices ------------------------------------------------------------------------------------------------------


def test_devices_are_listed_and_looked_at(home: Home) -> None:
    home.start_task()
    for number in range(3):
        home.phone(number)
    listed = home.operator("GET", f"/populations/{POPULATION}/devices").json()
    assert len(listed) == 3
    one = home.operator("GET", f"/populations/{POPULATION}/devices/{listed[0]['id']}").json()
    assert one == listed[0]
    assert refusal(home.operator("GET", f"/populations/{POPULATION}/devices/{'0' * 32}")) == "not-found"


def test_an_erased_device_keeps_nothing_that_can_be_told_apart(home: Home) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(4)]
    assignments = assigned(home, phones)
    send_report(home, phones[0], assignments[0])
    database, blobs = home.app.state.parts.database, home.app.state.parts.blobs
    with database.reading() as session:
        report = session.exec(select(Report)).one()
        device = session.get_one(Participation, report.participation_id).device_id
    path = blobs.path("acme", BlobKind.REPORT, report.sha256)
    assert path.is_file()
    for _again in range(2):
        answer = home.operator("DELETE", f"/populations/{POPULATION}/devices/{device}").raise_for_status()
    assert answer.json()["left_at"] is not None
    assert not path.is_file()
    with database.reading() as session:
        row = session.get_one(Device, device)
        assert {row.app, row.app_version, row.platform} == {"left"}
        assert (row.region, row.hardware_class, row.attributes) == (None, None, None)
        assert session.exec(select(Report)).all() == []
        assert session.exec(select(Nonce).where(Nonce.device_id == device)).all() == []
    for phone, assignment in zip(phones[1:], assignments[1:], strict=True):
        send_report(home, phone, assignment)
    home.look()
    (found,) = [one for one in home.rounds() if one["number"] == 1]
    assert (found["phase"], found["reports"], found["outcomes"]) == ("committed", 3, {"opted-out": 1})
