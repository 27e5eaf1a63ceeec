"""A round from the first check-in to the next model version, and the ways in which it does not get there."""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlmodel import Session, SQLModel, create_engine, select

from coordinator.core.aggregation import apply_update
from coordinator.services import sums, updates
from coordinator.store.blobs import BlobKind, FolderBlobs
from coordinator.store.tables import Nonce, PartialSum, Report, Round
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import Assignment
from edge_runtime.protocol.checkpoint import Weights, verify_checkpoint
from edge_runtime.protocol.keys import Domain, digest, sign_document
from edge_runtime.protocol.plan import Close
from edge_runtime.protocol.reasons import Outcome, Wait
from edge_runtime.protocol.secure_sum.lanes import ZERO_LANES
from tests.coordinator.asking import assigned, check_in, refusal, report_of, send_outcome, send_report
from tests.programme import (
    BUNDLE_SHA256,
    COORDINATOR_KEY,
    FIRST_WEIGHTS,
    MANIFEST,
    PLAN,
    START,
    TENANT,
    TENANT_KEY,
    Clock,
    Home,
    Phone,
    copy_home,
    forget_home,
    one_hot,
    open_home,
    replace,
)


def weights_of(home: Home, sha256: str) -> Weights:
    raw = home.operator("GET", f"/checkpoints/{sha256}/content").raise_for_status().content
    return verify_checkpoint(
        raw, sha256, COORDINATOR_KEY.public, bundle_sha256=BUNDLE_SHA256, parameters=MANIFEST.parameters
    ).weights


def test_two_rounds_add_each_report_once_and_end_the_task(home: Home) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(4)]
    for number in (1, 2):
        assert {phone.visit().reason for phone in phones} == {Wait.SELECTION_PENDING}
        home.look()
        for phone in phones:
            end = phone.visit()
            assert (end.reason, end.round) == (Wait.REPORTED, number)
        home.look()
        assert home.task()["model_version"] == number
    assert home.task()["state"] == "completed"
    assert [phone.visit().reason for phone in phones] == [Wait.NO_TASK] * 4
    moved = weights_of(home, home.task()["checkpoint_sha256"]) - FIRST_WEIGHTS
    expected = np.concatenate([np.zeros(2), sum(one_hot(n) for n in range(4)) * 2 / 4])
    assert np.allclose(moved, expected, atol=1e-6)


def test_a_round_closes_when_every_participant_reported_or_sent_an_outcome(home: Home) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(4)]
    for phone in phones:
        phone.visit()
    home.look()
    for phone in phones[:3]:
        phone.visit()
    home.look()
    assert home.rounds()[0]["phase"] == "reporting"
    assert phones[3].visit(lambda _work: Outcome.NOT_CHARGING).reason is Outcome.NOT_CHARGING
    home.look()
    first = home.rounds()[0]
    assert (first["phase"], first["reports"], first["outcomes"]) == ("committed", 3, {"not-charging": 1})


def blobs_left(home: Home) -> list[str]:
    """Reports and partial sums on disk, with stray files."""
    folder = home.app.state.parts.blobs.path(TENANT, BlobKind.REPORT, "0" * 64).parent.parent
    kinds = (BlobKind.REPORT, BlobKind.PARTIAL_SUM)
    return [path.name for kind in kinds for path in (folder / kind).glob("*")]


def first_round(home: Home, count: int = 4, **order: Any) -> tuple[list[Phone], list[Assignment]]:
    """Phones with an assignment each, in the first round."""
    home.start_task(**order)
    phones = [home.phone(number) for number in range(count)]
    return phones, assigned(home, phones)


def test_a_round_with_silent_phones_goes_on_at_its_deadline(home: Home) -> None:
    phones, assignments = first_round(home)
    for number in (0, 1):
        send_report(home, phones[number], assignments[number])
    home.clock.forward(99)
    home.look()
    assert home.rounds()[0]["phase"] == "reporting"
    home.clock.forward(1)
    home.look()
    first, second = home.rounds()
    assert (first["phase"], first["reports"], first["outcomes"]) == ("committed", 2, {"deadline-passed": 2})
    assert (second["phase"], second["checkpoint_sha256"]) == ("selecting", first["result_sha256"])
    moved = weights_of(home, first["result_sha256"]) - FIRST_WEIGHTS
    assert np.allclose(moved, np.concatenate([[0, 0], (one_hot(0) + one_hot(1)) / 4]), atol=1e-6)


def test_too_few_devices_abandon_a_round_and_the_next_begins_with_the_same_checkpoint(home: Home) -> None:
    home.start_task()
    check_in(home, home.phone(0))
    home.clock.forward(100)
    home.look()
    first, second = home.rounds()
    assert (first["phase"], first["abandonment"], first["chosen"]) == ("abandoned", "too-few-devices", 0)
    assert (second["phase"], second["checkpoint_sha256"]) == ("selecting", first["checkpoint_sha256"])


def test_a_pool_that_is_not_full_at_the_deadline_is_enough_for_the_fewest_reports(home: Home) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(2)]
    for phone in phones:
        check_in(home, phone)
    home.look()
    assert home.rounds()[0]["phase"] == "selecting"
    home.clock.forward(100)
    home.look()
    assert (home.rounds()[0]["phase"], home.rounds()[0]["chosen"]) == ("training", 2)


def test_too_few_reports_abandon_a_round_and_the_next_begins_with_the_same_checkpoint(home: Home) -> None:
    phones, assignments = first_round(home)
    send_report(home, phones[0], assignments[0])
    home.clock.forward(100)
    home.look()
    first, second = home.rounds()
    assert (first["phase"], first["abandonment"], first["reports"]) == ("abandoned", "too-few-reports", 1)
    assert (second["number"], second["checkpoint_sha256"]) == (2, first["checkpoint_sha256"])
    assert home.task()["rounds_committed"] == 0
    home.clock.forward(60)
    home.look()
    assert blobs_left(home) == []


def test_a_round_without_any_report_is_never_a_zero_update(home: Home) -> None:
    phones, assignments = first_round(home)
    for phone, assignment in zip(phones, assignments, strict=True):
        send_outcome(home, phone, assignment)
    home.look()
    assert home.rounds()[0]["abandonment"] == "too-few-reports"
    assert home.task()["model_version"] == 0


def test_a_round_may_close_at_its_goal_without_waiting(home: Home) -> None:
    phones, assignments = first_round(home, plan=replace(PLAN, goal=2, close=Close.GOAL), over_selection=2.0)
    for number in (0, 1):
        send_report(home, phones[number], assignments[number])
    home.look()
    first = home.rounds()[0]
    assert (first["phase"], first["reports"], first["outcomes"]) == ("committed", 2, {"deadline-passed": 2})
    assert refusal(send_report(home, phones[2], assignments[2])) == "round-closed"


def test_a_round_that_waits_for_all_does_not_close_at_its_goal(home: Home) -> None:
    phones, assignments = first_round(home, plan=replace(PLAN, goal=2), over_selection=2.0)
    for number in (0, 1, 2):
        send_report(home, phones[number], assignments[number])
        home.look()
        assert home.rounds()[0]["phase"] == "reporting"
    send_report(home, phones[3], assignments[3])
    home.look()
    assert (home.rounds()[0]["phase"], home.rounds()[0]["reports"]) == ("committed", 4)


def test_the_same_seed_and_devices_choose_the_same_participants(made: tuple[Path, str], tmp_path: Path) -> None:
    chosen = []
    for run, order in enumerate([(0, 1, 2, 3, 4, 5), (5, 3, 1, 0, 2, 4)]):
        folder = copy_home(made[0], tmp_path / str(run))
        with open_home(folder, Clock(), made[1]) as home:
            home.start_task(replace(PLAN, goal=2), pool_size=6)
            for number in order:
                check_in(home, home.phone(number))
            home.look()
            chosen.append({n for n in order if check_in(home, home.phone(n), "later").assignment is not None})
        forget_home(folder)
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 2


def test_what_was_added_up_is_deleted(home: Home) -> None:
    phones, assignments = first_round(home)
    for phone, assignment in zip(phones, assignments, strict=True):
        send_report(home, phone, assignment)
    assert len(blobs_left(home)) == 4
    home.look()
    assert home.rounds()[0]["phase"] == "committed"
    assert blobs_left(home) == []


def test_full_chunks_are_added_up_while_reports_still_arrive(home: Home) -> None:
    phones, assignments = first_round(home)
    for number in range(3):
        send_report(home, phones[number], assignments[number])
        home.look()
    with home.app.state.parts.database.reading() as session:
        assert len(session.exec(select(PartialSum)).all()) == 1
        assert sorted(str(report.chunk) for report in session.exec(select(Report)).all()) == ["0", "0", "None"]
    send_report(home, phones[3], assignments[3])
    home.look()
    assert home.rounds()[0]["phase"] == "committed"


def test_equal_sums_of_two_tasks_do_not_share_a_blob(home: Home) -> None:
    """Two rounds whose lanes are all zero: the end of one leaves the other whole."""
    zero = np.zeros(MANIFEST.shared_parameters, np.float32)
    phones, assignments = first_round(home)
    for number in range(3):
        body = report_of(phones[number], assignments[number], zero)
        send_report(home, phones[number], assignments[number], body)
    home.look()
    home.operator("PUT", "/populations/second").raise_for_status()
    raw = wire.encode(replace(PLAN, population="second", goal=2, min_reports=2))
    signed = {
        "plan": base64.b64encode(raw).decode(),
        "plan_signature": base64.b64encode(sign_document(TENANT_KEY, Domain.PLAN, digest(raw))).decode(),
    }
    order = {**home.order(name="second", pool_size=2, checkpoint_sha256=home.publish()), **signed}
    home.start_order(order)
    home.look()
    others = [home.phone(number, population="second") for number in (7, 8)]
    for phone, assignment in zip(others, assigned(home, others, population="second"), strict=True):
        send_report(home, phone, assignment, report_of(phone, assignment, zero))
    home.look()
    assert home.operator("GET", "/tasks/second/rounds").json()[0]["phase"] == "committed"
    send_report(home, phones[3], assignments[3], report_of(phones[3], assignments[3], zero))
    home.look()
    assert home.rounds()[0]["phase"] == "committed"


def test_a_damaged_report_abandons_its_round_by_name_and_the_task_goes_on(home: Home) -> None:
    phones, assignments = first_round(home)
    for phone, assignment in zip(phones, assignments, strict=True):
        send_report(home, phone, assignment)
    blobs = home.app.state.parts.blobs
    damaged = blobs.path(TENANT, BlobKind.REPORT, digest(report_of(phones[2], assignments[2])).hex())
    damaged.write_bytes(bytes(damaged.stat().st_size))
    home.look()
    first, second = home.rounds()
    assert (first["phase"], first["abandonment"]) == ("abandoned", "storage-damaged")
    assert (second["phase"], second["checkpoint_sha256"]) == ("selecting", first["checkpoint_sha256"])


def _far_too_fast(apply: Callable[..., Weights], weights: Weights, update: Any, shared: Any) -> Weights:
    return apply(weights, update * 1e40, shared)


def test_an_update_that_is_not_finite_abandons_its_round_by_name(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    phones, assignments = first_round(home)
    for phone, assignment in zip(phones, assignments, strict=True):
        send_report(home, phone, assignment)
    monkeypatch.setattr(updates, "apply_update", functools.partial(_far_too_fast, apply_update))
    home.look()
    assert home.rounds()[0]["abandonment"] == "update-not-finite"
    assert home.task()["model_version"] == 0


@pytest.mark.parametrize("where", ["_add_up", "_to_add"])
def test_a_round_in_trouble_does_not_hold_up_another(home: Home, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    phones, assignments = first_round(home)
    for phone, assignment in zip(phones, assignments, strict=True):
        send_report(home, phone, assignment)
    home.operator("PUT", "/populations/other").raise_for_status()
    order = home.order(replace(PLAN, population="other"), name="second", checkpoint_sha256=home.publish())
    home.start_order(order)
    trouble = getattr(home.app.state.worker._rounds, where)

    def only_the_first(*asked: Any) -> Any:
        """To add up, or to say in the view of all rounds whether there is something to add."""
        (round_,) = (one for one in asked if isinstance(one, Round))
        if round_.number == 1 and round_.phase == "reporting":
            raise OSError("the disk sulks")
        return trouble(*asked)

    monkeypatch.setattr(home.app.state.worker._rounds, where, only_the_first)
    rung: list[bool] = []
    monkeypatch.setattr(home.app.state.worker, "_changed", lambda: rung.append(True))
    with pytest.raises(ExceptionGroup, match="some rounds could not be moved"):
        home.look()
    assert rung, "held check-ins hear of what did move"
    assert home.operator("GET", "/tasks/second/rounds").json()[0]["phase"] == "selecting"
    monkeypatch.undo()
    home.look()
    assert home.rounds()[0]["phase"] == "committed"


def test_a_full_disk_delays_a_round_and_loses_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    phones, assignments = first_round(home)
    for phone, assignment in zip(phones, assignments, strict=True):
        send_report(home, phone, assignment)

    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("coordinator.store.blobs._write_durably", full)
    with pytest.raises(ExceptionGroup):
        home.look()
    monkeypatch.undo()
    home.look()
    assert (home.rounds()[0]["phase"], home.rounds()[0]["reports"]) == ("committed", 4)


def test_cancelling_while_the_sum_is_made_commits_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    phones, assignments = first_round(home)
    for phone, assignment in zip(phones, assignments, strict=True):
        send_report(home, phone, assignment)
    real = updates.compute_update

    def cancel_meanwhile(*arguments: Any) -> Any:
        result = real(*arguments)
        home.operator("POST", "/tasks/words/cancel").raise_for_status()
        return result

    monkeypatch.setattr(updates, "compute_update", cancel_meanwhile)
    home.look()
    (found,) = home.rounds()
    assert (found["phase"], found["abandonment"], found["result_sha256"]) == ("abandoned", "task-cancelled", None)
    assert (home.task()["model_version"], home.task()["state"]) == (0, "cancelled")


def test_deadlines_move_by_the_time_the_coordinator_was_away(made: tuple[Path, str], folder: Path) -> None:
    clock = Clock()
    with open_home(folder, clock, made[1]) as home:
        phones, assignments = first_round(home)
        send_report(home, phones[0], assignments[0])
        clock.forward(40)
        home.look()
    clock.forward(10_000)
    with open_home(folder, clock, made[1]) as home:
        home.look()
        assert home.rounds()[0]["phase"] == "reporting"
        again = check_in(home, phones[1].moved(home)).assignment
        assert again is not None
        assert again.deadline_s == pytest.approx(60, abs=1)
        clock.forward(59)
        home.look()
        assert home.rounds()[0]["phase"] == "reporting"
        clock.forward(2)
        home.look()
        assert home.rounds()[0]["abandonment"] == "too-few-reports"


def test_a_clock_that_went_back_moves_no_deadline(made: tuple[Path, str], folder: Path) -> None:
    clock = Clock()
    with open_home(folder, clock, made[1]) as home:
        home.start_task()
    clock.forward(-500)
    with open_home(folder, clock, made[1]) as home, home.app.state.parts.database.reading() as session:
        assert session.exec(select(Round)).one().deadline_at == START + timedelta(seconds=100)


def test_nonces_are_forgotten_once_no_clock_would_take_them(home: Home) -> None:
    home.start_task()
    home.phone(0)

    def remembered() -> int:
        with home.app.state.parts.database.reading() as session:
            return len(session.exec(select(Nonce)).all())

    assert remembered() == 1
    home.clock.forward(602)
    home.look()
    assert remembered() == 1
    home.clock.forward(60)
    home.look()
    assert remembered() == 0


def test_memory_does_not_grow_with_the_reports(home: Home) -> None:
    """Adding up 32 reports takes no more memory at its peak than adding up 4."""
    blobs = home.app.state.parts.blobs
    lanes = np.ones(20_000, "<u4").tobytes()
    peaks = []
    for count in (4, 32):
        with chunk_of(blobs, lanes, count) as (session, group):
            tracemalloc.start()
            sums.add_chunk(session, blobs, TENANT, group, 0, sums.Codec(PLAN.lanes(), 20_000 - ZERO_LANES))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 50_000
    assert peaks[1] < 8 * len(lanes)


@contextlib.contextmanager
def chunk_of(blobs: FolderBlobs, lanes: bytes, count: int) -> Iterator[tuple[Session, str]]:
    """A chunk of reports in a database of its own, without the rounds around it."""
    group = digest(str(count).encode()).hex()[:32]
    memory = create_engine("sqlite://")
    SQLModel.metadata.create_all(memory)
    with Session(memory) as session:
        for number in range(count):
            raw = bytes(28) + number.to_bytes(4, "little") + lanes
            sha256 = blobs.put(TENANT, BlobKind.REPORT, raw)
            session.add(
                Report(
                    participation_id=f"{number:032x}",
                    group_id=group,
                    sha256=sha256,
                    body_bytes=len(raw),
                    chunk=0,
                    received_at=START,
                )
            )
        session.flush()
        yield session, group
    memory.dispose()
