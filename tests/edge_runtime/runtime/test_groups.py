"""Secure summing on a whole device: sealed, kept for its appointment, summed once, and nothing of it left behind."""

from __future__ import annotations

import base64
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edge_runtime import Happened
from edge_runtime.conditions.fixed import IDEAL
from edge_runtime.journal import Phase, State, open_folder, open_journal
from edge_runtime.journal.files import replace_file
from edge_runtime.journal.ledger import JournalLedger
from edge_runtime.journal.participation import Participation
from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import NonFiniteTraining, RoundClosed, StepNotAllowed, SwitchedOff
from edge_runtime.protocol.group import STEP_GRACE_S, Step
from edge_runtime.protocol.policy import Thermal
from edge_runtime.protocol.reasons import Blocker, Outcome
from edge_runtime.protocol.secure_sum.messages import Survivors
from edge_runtime.protocol.secure_sum.transcript import Floors as GroupFloors
from edge_runtime.session import Request, Response, Unreachable
from edge_runtime.session.group import LONGEST_STEP_S
from edge_runtime.testing import ROOTS
from tests.edge_runtime.runtime.bench import NOW, POLICY, Bench
from tests.edge_runtime.runtime.halls import DEVICE, FLOORS, OF_THE_OTHERS, Hall, Killed
from tests.edge_runtime.session.group_server import problem

GROUP = "ab" * 16
OTHER = "cd" * 16


@pytest.fixture
def hall(home: Bench) -> Hall:
    return Hall(home)


def state_of(hall: Hall) -> State:
    with open_folder(hall.home.path) as folder:
        return open_journal(folder, key=None, now_s=hall.home.clock.at.timestamp()).state


def held_by(hall: Hall) -> Participation:
    held = state_of(hall).participation
    assert held is not None
    return held


def summed(hall: Hall, group: str = GROUP) -> list[int]:
    """The opened sum without what the others gave, centred."""
    server = hall.servers[group]
    assert server.opened is not None
    bits = server.terms.lanes.bits
    total = server.opened.astype(np.int64)
    total[:-4] -= OF_THE_OTHERS
    return [((int(lane) + (1 << (bits - 1))) % (1 << bits)) - (1 << (bits - 1)) for lane in total]


def test_a_device_trains_joins_at_once_and_its_sum_is_exact(hall: Hall) -> None:
    hall.assign()
    hall.appoint(group=GROUP)
    with hall.runtime(key=None) as runtime:
        end = runtime.run_slice(600)
    assert (end.happened, end.reason, end.work_left, end.round) == (Happened.REPORTED, "reported", False, 1)
    assert any(summed(hall)[:-4])
    assert summed(hall)[-4:] == [0, 0, 0, 0]
    assert hall.home.coordinator.reports == {}


def test_what_was_trained_waits_sealed_for_its_appointment_in_a_later_slice(hall: Hall) -> None:
    hall.assign()
    hall.appoint(in_s=3600.0)
    hall.appoint(group=GROUP)
    with hall.runtime(key=None) as runtime:
        end = runtime.run_slice(600)
        assert (end.happened, end.reason, end.work_left) == (Happened.INTERRUPTED, Blocker.APPOINTMENT_AHEAD, True)
        assert end.come_back_s == pytest.approx(3600.0)
        why = runtime.why()
        assert (why.reason, why.phase) == (Blocker.APPOINTMENT_AHEAD, Phase.TRAINED)
        assert why.appointment_at_s == pytest.approx(NOW.timestamp() + 3600.0)
        early = runtime.run_slice(600)
        assert (early.happened, early.reason) == (Happened.BLOCKED, Blocker.APPOINTMENT_AHEAD)
        assert hall.trained == 1
    steps = hall.home.engine.steps
    kept = kept_lanes(hall)
    hall.home.clock.forward(3600.0)
    with hall.runtime(key=None) as runtime:
        assert runtime.run_slice(600).happened is Happened.REPORTED
    assert hall.home.engine.steps == steps, "it trains no second time"
    assert summed(hall) == kept


def kept_lanes(hall: Hall) -> list[int]:
    """What is sealed, read by the ledger, as signed numbers."""
    held = held_by(hall)
    assert held.grouping is not None
    with open_folder(hall.home.path) as folder:
        journal = open_journal(folder, key=None, now_s=hall.home.clock.at.timestamp())
        codec = hall.servers[GROUP].terms.lanes
        lanes = JournalLedger(journal, GROUP, codec).lanes()
    return [((int(lane) + (1 << 23)) % (1 << 24)) - (1 << 23) for lane in lanes]


def test_an_appointment_that_fits_the_slice_is_kept_in_it(hall: Hall) -> None:
    hall.assign()
    hall.appoint(in_s=120.0)
    hall.appoint(group=GROUP)
    with hall.runtime() as runtime:
        assert runtime.run_slice(600).happened is Happened.REPORTED
    assert hall.home.clock.at.timestamp() - NOW.timestamp() >= 120.0


def test_a_group_is_not_joined_with_less_than_300_s_left(hall: Hall) -> None:
    hall.assign()
    hall.appoint(group=GROUP)
    with hall.runtime() as runtime:
        end = runtime.run_slice(299)
        assert (end.happened, end.reason, end.work_left) == (Happened.INTERRUPTED, Blocker.APPOINTMENT_AHEAD, True)
        assert not hall.servers[GROUP].entries
        assert runtime.run_slice(301).happened is Happened.REPORTED


def test_an_appointment_that_was_missed_is_followed_by_another(hall: Hall) -> None:
    hall.assign()
    hall.appoint(in_s=3600.0)
    hall.appoint(in_s=7200.0)
    hall.appoint(group=GROUP)
    with hall.runtime() as runtime:
        runtime.run_slice(600)
        hall.home.clock.forward(30_000)
        assert runtime.run_slice(600).reason == Blocker.APPOINTMENT_AHEAD
        hall.home.clock.forward(7200)
        assert runtime.run_slice(600).happened is Happened.REPORTED
    assert hall.trained == 3


def test_what_is_never_summed_goes_at_the_deadline(hall: Hall) -> None:
    hall.assign(deadline_s=5000.0)
    hall.appoint(in_s=3600.0)
    with hall.runtime(key=None) as runtime:
        runtime.run_slice(600)
        hall.home.clock.forward(5000.0)
        runtime.run_slice(600)
    assert state_of(hall).participation is None
    assert not list(hall.home.path.glob("stored-*"))[1:], "only the personal weights are left"


def test_summing_needs_battery_and_network_and_no_training_conditions(hall: Hall) -> None:
    hall.assign()
    hall.appoint(in_s=3600.0)
    hall.appoint(group=GROUP)
    with hall.runtime() as runtime:
        runtime.run_slice(600)
        hall.home.clock.forward(3600.0)
        for blocked, reason in (
            ({"metered": True}, Blocker.NETWORK_METERED),
            ({"charging": False, "battery_level": 0.1}, Blocker.BATTERY_LOW),
            ({"online": False}, Blocker.NETWORK_LOST),
        ):
            hall.home.source.conditions = dataclasses.replace(IDEAL, **blocked)
            assert runtime.run_slice(600).reason == reason
        hall.home.source.conditions = dataclasses.replace(IDEAL, in_use=True, thermal=Thermal.SEVERE, power_saver=True)
        assert runtime.run_slice(600).happened is Happened.REPORTED


# --- refusals before anything is trained ------------------------------------------------------------------------


@pytest.mark.parametrize("lacks", ["authority", "certificate", "floors", "noise"])
def test_a_device_that_takes_no_part_in_such_groups_says_so_before_it_trains(hall: Hall, lacks: str) -> None:
    hall.assign(**({"version": 4, "noise_multiplier": 1e-9} if lacks == "noise" else {}))
    hall.appoint(group=GROUP)
    hall.certifies = lacks != "certificate"
    floors = dataclasses.replace(FLOORS, groups=GroupFloors()) if lacks == "floors" else FLOORS
    changes = {"roots": ROOTS} if lacks == "authority" else {}
    with hall.runtime(floors=floors, **changes) as runtime:
        end = runtime.run_slice(600)
    assert (end.happened, end.reason) == (Happened.GAVE_UP, Outcome.GROUP_REFUSED)
    assert hall.home.engine.steps == 0
    (note,) = hall.home.coordinator.outcomes.values()
    assert note.reason is Outcome.GROUP_REFUSED


def test_floors_that_the_app_does_not_name_are_the_protocols(hall: Hall) -> None:
    hall.assign()
    with hall.runtime(floors=dataclasses.replace(FLOORS, groups=None)) as runtime:
        assert runtime.run_slice(600).reason == Outcome.GROUP_REFUSED


def test_a_certificate_by_another_authority_is_none(hall: Hall) -> None:
    hall.assign()
    stranger = dataclasses.replace(ROOTS, authority=ROOTS.tenant)
    with hall.runtime(roots=stranger) as runtime:
        assert runtime.run_slice(600).reason == Outcome.GROUP_REFUSED


# --- what was trained is not finite -----------------------------------------------------------------------------


def test_what_is_not_finite_contributes_zeros_and_is_said(hall: Hall) -> None:
    def at_step(step: int) -> None:
        if step == 2:
            raise NonFiniteTraining("the loss is not a number")

    hall.home.engine.at_step = at_step
    hall.assign()
    hall.appoint(in_s=3600.0)
    hall.appoint(group=GROUP)
    with hall.runtime(key=None) as runtime:
        runtime.run_slice(600)
        assert runtime.why().zeroed == Outcome.NON_FINITE_TRAINING
        hall.home.clock.forward(3600.0)
        assert runtime.run_slice(600).happened is Happened.REPORTED
    assert not any(summed(hall))


# --- groups that come to nothing --------------------------------------------------------------------------------


def test_a_group_that_ended_before_masking_is_followed_by_another_with_fresh_keys(hall: Hall) -> None:
    hall.assign()
    hall.appoint(group=GROUP)
    hall.appoint(group=OTHER)
    hall.gone = {f"phone-{number}": Step.SHARES for number in (1, 2)}

    def back(request: Request, response: Response) -> Response:
        if OTHER in request.path:
            hall.gone = {}
        return response

    hall.changed = back
    with hall.runtime(key=None) as runtime:
        assert runtime.run_slice(600).happened is Happened.REPORTED
    assert hall.servers[GROUP].opened is None
    assert any(summed(hall, OTHER))
    entries = [server.entries[DEVICE] for server in hall.servers.values()]
    assert entries[0].mask_key != entries[1].mask_key


def test_a_group_that_came_to_nothing_after_masking_ends_the_participation(hall: Hall) -> None:
    hall.assign()
    hall.appoint(group=GROUP)
    hall.appoint(group=OTHER)
    hall.gone = {f"phone-{number}": Step.MASKED for number in (1, 2)}
    with hall.runtime(key=None) as runtime:
        end = runtime.run_slice(600)
    assert (end.happened, end.reason, end.work_left) == (Happened.GAVE_UP, Outcome.GROUP_ENDED, False)
    assert not hall.servers[OTHER].entries
    state = state_of(hall)
    assert (state.participation, state.ended[-1].outcome) == (None, Outcome.GROUP_ENDED)
    assert state.usage is not None
    assert state.usage.participations == 1


def test_a_group_that_it_has_left_is_not_joined_again(hall: Hall) -> None:
    hall.assign()
    hall.appoint(group=GROUP)
    hall.gone = {f"phone-{number}": Step.SHARES for number in (1, 2)}
    with hall.runtime() as runtime:
        end = runtime.run_slice(600)
    assert (end.happened, end.reason) == (Happened.INTERRUPTED, Blocker.APPOINTMENT_AHEAD)
    assert hall.trained > 2
    assert sum(request.path.endswith(Step.JOIN.value) and request.method == "POST" for request in hall.requests) == 1


def test_a_contradiction_ends_the_participation_for_ever(hall: Hall) -> None:
    hall.assign()
    hall.appoint(group=GROUP)

    def lies(request: Request, response: Response) -> Response:
        if request.method == "GET" and request.path.endswith(Step.MASKED.value):
            told = wire.decode(Survivors, response.body)
            return Response(200, wire.encode(dataclasses.replace(told, masked=b"\xff")))
        return response

    hall.changed = lies
    with hall.runtime(key=None) as runtime:
        end = runtime.run_slice(600)
        assert (end.happened, end.reason) == (Happened.GAVE_UP, Outcome.GROUP_REFUSED)
        sent = len(hall.requests)
        runtime.run_slice(600)
    assert len(hall.requests) == sent
    assert not any(request.path.endswith(Step.CONFIRMATION.value) for request in hall.requests)


# --- a coordinator that is away ---------------------------------------------------------------------------------


def test_within_a_group_a_device_tries_until_its_step_is_over_and_a_later_slice_goes_on(hall: Hall) -> None:
    hall.assign()
    hall.appoint(group=GROUP)
    away = [True]

    def silent(request: Request, response: Response) -> Response:
        if away[0] and request.path.endswith(Step.SHARES.value):
            raise Unreachable("down")
        return response

    hall.changed = silent
    began_s = hall.home.clock.running_s
    with hall.runtime(key=None) as runtime:
        end = runtime.run_slice(600)
        assert (end.happened, end.work_left) == (Happened.UNREACHABLE, True)
        assert hall.home.clock.running_s - began_s >= LONGEST_STEP_S + STEP_GRACE_S
        away[0] = False
        assert runtime.run_slice(600).happened is Happened.REPORTED
    assert summed(hall)[-4:] == [0, 0, 0, 0]


def test_a_slice_that_ends_within_a_group_is_gone_on_with(hall: Hall) -> None:
    hall.assign()
    hall.appoint(group=GROUP)

    def slow(request: Request, response: Response) -> Response:
        if request.path.endswith(Step.SHARES.value) and hall.home.clock.running_s < 1600:
            hall.home.clock.forward(700)
        return response

    hall.changed = slow
    with hall.runtime() as runtime:
        end = runtime.run_slice(600)
        assert (end.happened, end.reason, end.work_left) == (Happened.INTERRUPTED, Blocker.SLICE_ENDED, True)
        assert runtime.run_slice(600).happened is Happened.REPORTED


def test_a_round_that_closed_takes_what_was_trained_with_it(hall: Hall) -> None:
    hall.assign()
    hall.appoint(in_s=3600.0)
    hall.changed = lambda _request, _response: problem(RoundClosed("it met its goal"))
    with hall.runtime(key=None) as runtime:
        end = runtime.run_slice(600)
    assert (end.happened, end.reason, end.work_left) == (Happened.REFUSED, "round-closed", False)
    assert len(list(hall.home.path.glob("stored-*"))) == 1, "only the personal weights are left"


def test_the_kill_switch_drops_what_waits_for_a_group(hall: Hall) -> None:
    hall.assign()
    hall.appoint(in_s=3600.0)
    with hall.runtime(key=None) as runtime:
        runtime.run_slice(600)
        hall.home.clock.forward(3600.0)
        hall.changed = lambda _request, _response: problem(SwitchedOff("by its operator"))
        assert runtime.run_slice(600).happened is Happened.SWITCHED_OFF
    assert state_of(hall).participation is None


# --- processes that die, and what is left behind ----------------------------------------------------------------

REQUESTS = 12
"""From "trained" to the opened sum, with nobody gone."""


@pytest.mark.parametrize("nth", range(1, REQUESTS + 1))
@pytest.mark.parametrize("arrives", [True, False])
def test_a_process_that_dies_at_a_request_is_continued_by_the_next(hall: Hall, nth: int, arrives: bool) -> None:
    """The server compares the bytes of whatever is sent again."""
    hall.assign()
    hall.appoint(group=GROUP)
    hall.dies_at, hall.arrives = nth, arrives
    with pytest.raises(Killed), hall.runtime(key=None) as runtime:
        runtime.run_slice(600)
    steps = hall.home.engine.steps
    with hall.runtime(key=None) as runtime:
        assert runtime.run_slice(600).happened is Happened.REPORTED
    assert hall.home.engine.steps == steps
    assert any(summed(hall)[:-4])
    assert summed(hall)[-4:] == [0, 0, 0, 0]


def test_a_run_has_as_many_requests_as_the_test_above_kills(hall: Hall) -> None:
    hall.assign()
    hall.appoint(group=GROUP)
    with hall.runtime() as runtime:
        runtime.run_slice(600)
    assert len(hall.requests) == REQUESTS


def test_the_secrets_of_a_group_are_erased_with_its_end(hall: Hall) -> None:
    hall.assign()
    hall.appoint(group=GROUP)
    hall.dies_at = REQUESTS
    with pytest.raises(Killed), hall.runtime(key=None) as runtime:
        runtime.run_slice(600)
    grouping = held_by(hall).grouping
    assert grouping is not None
    assert grouping.membership is not None
    assert grouping.change is None, "what was trained went when it was masked"
    secrets = base64.b64encode(grouping.membership.secrets)
    assert secrets in everything(hall)
    assert secrets not in repr(grouping).encode()
    with hall.runtime(key=None) as runtime:
        runtime.run_slice(600)
    assert secrets not in everything(hall)
    assert len(list(hall.home.path.glob("stored-*"))) == 1, "only the personal weights are left"


def everything(hall: Hall) -> bytes:
    return b"".join(path.read_bytes() for path in hall.home.path.glob("journal*"))


def test_what_was_trained_cannot_be_read_again_once_it_is_masked(hall: Hall) -> None:
    hall.assign()
    hall.appoint(group=GROUP)
    hall.dies_at = REQUESTS
    with pytest.raises(Killed), hall.runtime(key=None) as runtime:
        runtime.run_slice(600)
    with open_folder(hall.home.path) as folder:
        journal = open_journal(folder, key=None, now_s=NOW.timestamp())
        ledger = JournalLedger(journal, GROUP, hall.servers[GROUP].terms.lanes)
        with pytest.raises(StepNotAllowed, match="already"):
            ledger.lanes()
        with pytest.raises(StepNotAllowed):
            ledger.mask(b"another")
        with pytest.raises(StepNotAllowed):
            ledger.believe(Step.MASKED, b"another")
        assert ledger.answer(Step.UNMASKING) is None
        assert ledger.report == hall.servers[GROUP].reports[DEVICE]


def test_a_damaged_change_is_given_up_and_not_trained_again(hall: Hall) -> None:
    hall.assign()
    hall.appoint(in_s=3600.0)
    hall.appoint(group=GROUP)
    with hall.runtime(key=None) as runtime:
        runtime.run_slice(600)
    grouping = held_by(hall).grouping
    assert grouping is not None
    assert grouping.change is not None
    (hall.home.path / f"stored-{grouping.change.sha256}").write_bytes(b"damaged")
    hall.home.clock.forward(3600.0)
    steps = hall.home.engine.steps
    with hall.runtime(key=None) as runtime:
        assert runtime.run_slice(600).reason == Outcome.PROCESS_KILLED
    assert hall.home.engine.steps == steps
    assert POLICY is FLOORS.limits


WRITES = 21
"""Of files, from "trained" to the end of the participation."""


@pytest.mark.parametrize("nth", range(1, WRITES + 1))
@pytest.mark.parametrize("before", [True, False])
def test_a_process_that_dies_at_a_write_is_continued_by_the_next(
    hall: Hall, nth: int, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server compares the bytes of what is sent again."""
    hall.assign()
    hall.appoint(group=GROUP)
    written = Writes(hall, nth, before=before)
    monkeypatch.setattr("edge_runtime.journal.journal.replace_file", written)
    monkeypatch.setattr("edge_runtime.journal.stored.replace_file", written)
    with pytest.raises(Killed), hall.runtime(key=None) as runtime:
        runtime.run_slice(600)
    steps = hall.home.engine.steps
    with hall.runtime(key=None) as runtime:
        runtime.run_slice(600)
    assert hall.home.engine.steps == steps
    assert state_of(hall).participation is None
    assert any(summed(hall)[:-4])


def test_a_run_has_as_many_writes_as_the_test_above_kills(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    hall.assign()
    hall.appoint(group=GROUP)
    written = Writes(hall, 0, before=True)
    monkeypatch.setattr("edge_runtime.journal.journal.replace_file", written)
    monkeypatch.setattr("edge_runtime.journal.stored.replace_file", written)
    with hall.runtime(key=None) as runtime:
        runtime.run_slice(600)
    assert written.count == WRITES


class Writes:
    """Writes files, and ends the process before or after the nth since the device has trained."""

    def __init__(self, hall: Hall, nth: int, *, before: bool) -> None:
        self.hall, self.nth, self.before, self.count = hall, nth, before, 0

    def __call__(self, path: Path, content: bytes | memoryview) -> None:
        self.count += self.hall.trained > 0
        dies = self.hall.trained > 0 and self.count == self.nth
        if dies and self.before:
            raise Killed
        replace_file(path, content)
        if dies:
            raise Killed
