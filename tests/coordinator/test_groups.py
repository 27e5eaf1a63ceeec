"""A round of several groups: each is summed alone, and one that fails costs only itself."""

from __future__ import annotations

import numpy as np
from sqlmodel import select

from coordinator.core.rounds import GroupPhase
from coordinator.store.blobs import BlobKind
from coordinator.store.tables import Group, PartialSum, Participation
from edge_runtime.protocol.checkin import Assignment
from edge_runtime.protocol.keys import digest
from tests.coordinator.asking import assigned, refusal, report_of, send_outcome, send_report
from tests.coordinator.running import rounds_of, weights_of
from tests.programme import FIRST_WEIGHTS, PLAN, TASK, TENANT, Home, Phone, one_hot, replace

SIX = replace(PLAN, goal=6, expected_participants=6, min_reports=3)


def three_pairs(home: Home) -> dict[int, list[tuple[Phone, Assignment]]]:
    """A round of six participants in groups of two: who is in which."""
    home.start_task(SIX, pool_size=6, group_size=2, rounds=1)
    phones = [home.phone(number) for number in range(6)]
    work = dict(
        zip((one.driver.device_id for one in phones), zip(phones, assigned(home, phones), strict=True), strict=True)
    )
    found: dict[int, list[tuple[Phone, Assignment]]] = {}
    with home.app.state.parts.database.reading() as session:
        for number, device in session.exec(
            select(Group.number, Participation.device_id).where(Participation.group_id == Group.id)
        ).all():
            found.setdefault(number, []).append(work[device])
    assert {number: len(members) for number, members in found.items()} == {1: 2, 2: 2, 3: 2}
    return found


def moved(home: Home) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    (found,) = rounds_of(home, TASK)
    assert found["phase"] == "committed"
    return (weights_of(home, found["result_sha256"]) - FIRST_WEIGHTS)[2:] * SIX.expected_participants


def test_the_sums_of_all_groups_are_in_one_update(home: Home) -> None:
    for members in three_pairs(home).values():
        for phone, assignment in members:
            send_report(home, phone, assignment)
    home.look()
    assert np.allclose(moved(home), sum(one_hot(number) for number in range(6)), atol=1e-5)
    with home.app.state.parts.database.reading() as session:
        sums = session.exec(select(PartialSum.group_id)).all()
        assert len(sums) == len(set(sums)) == 3, "each group was added up on its own"
        assert set(session.exec(select(Group.phase)).all()) == {GroupPhase.SUMMED}


def test_a_damaged_report_costs_only_its_own_group(home: Home) -> None:
    pairs = three_pairs(home)
    for members in pairs.values():
        for phone, assignment in members:
            send_report(home, phone, assignment)
    blobs = home.app.state.parts.blobs
    damaged = blobs.path(TENANT, BlobKind.REPORT, digest(report_of(*pairs[2][0])).hex())
    damaged.write_bytes(bytes(damaged.stat().st_size))
    home.look()
    survivors = [phone.number for number in (1, 3) for phone, _assignment in pairs[number]]
    assert np.allclose(moved(home), sum(one_hot(number) for number in survivors), atol=1e-5)
    (found,) = rounds_of(home, TASK)
    assert [group["phase"] for group in found["groups"]] == ["summed", "aborted", "summed"]
    assert [group["abandonment"] for group in found["groups"]] == [None, "storage-damaged", None]


def test_a_group_whose_devices_are_all_gone_costs_only_itself(home: Home) -> None:
    pairs = three_pairs(home)
    for number, members in pairs.items():
        for phone, assignment in members:
            if number == 3:
                send_outcome(home, phone, assignment)
            else:
                send_report(home, phone, assignment)
    home.look()
    assert np.count_nonzero(np.abs(moved(home)) > 0.5) == 4
    (found,) = rounds_of(home, TASK)
    assert [group["abandonment"] for group in found["groups"]] == [None, None, "too-few-reports"]


def test_a_group_that_fails_early_lets_its_devices_go_and_the_others_go_on(home: Home) -> None:
    """Chunks are of two: a group is added up as soon as both have reported."""
    pairs = three_pairs(home)
    blobs = home.app.state.parts.blobs
    phone, assignment = pairs[1][0]
    send_report(home, phone, assignment)
    damaged = blobs.path(TENANT, BlobKind.REPORT, digest(report_of(phone, assignment)).hex())
    damaged.write_bytes(b"")
    send_report(home, *pairs[1][1])
    home.look()
    (found,) = rounds_of(home, TASK)
    assert [group["phase"] for group in found["groups"]] == ["aborted", "reporting", "reporting"]
    for number in (2, 3):
        for member in pairs[number]:
            assert send_report(home, *member).status_code == 200
    home.look()
    assert np.count_nonzero(np.abs(moved(home)) > 0.5) == 4


def test_when_too_few_groups_are_left_the_round_is_abandoned_by_name(home: Home) -> None:
    pairs = three_pairs(home)
    for members in pairs.values():
        for phone, assignment in members:
            send_report(home, phone, assignment)
    blobs = home.app.state.parts.blobs
    for number in (1, 3):
        blobs.path(TENANT, BlobKind.REPORT, digest(report_of(*pairs[number][0])).hex()).write_bytes(b"")
    home.look()
    found = rounds_of(home, TASK)[0]
    assert (found["phase"], found["abandonment"]) == ("abandoned", "storage-damaged")
    late = send_report(home, *pairs[2][0], b"x" * len(report_of(*pairs[2][0])))
    assert refusal(late) != "internal"
