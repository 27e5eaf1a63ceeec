"""A group from the device's side: sums are exact, whoever goes and whenever a process dies; nothing leaves twice."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from edge_runtime.protocol.errors import GroupEnded, InvalidGroup, LanesOutOfRange, StepNotAllowed, TooFewSurvivors
from edge_runtime.protocol.group import STEP_GRACE_S, Opened, Step
from edge_runtime.protocol.report import lanes_of_report
from edge_runtime.protocol.secure_sum.members import encode_members
from edge_runtime.protocol.secure_sum.messages import Delivery
from edge_runtime.protocol.secure_sum.transcript import Floors, Terms
from edge_runtime.session import Request
from edge_runtime.session.group import LONGEST_STEP_S, Quit
from edge_runtime.session.unkept import MemoryLedger
from tests.edge_runtime.protocol.secure_sum.groups import terms_of
from tests.edge_runtime.session.group_server import (
    GroupServer,
    Phone,
    lanes_of,
    opened_lanes,
    phone_of,
    phones_of,
    play,
    secrets_of,
    server_for,
    sum_of,
    with_checkpoint,
)

SIZE = 7
TERMS = terms_of(SIZE)
M = TERMS.survivors


def test_everybodys_sum_is_exact() -> None:
    phones = phones_of(TERMS, SIZE)
    server = server_for(TERMS, phones)
    ends = play(server, phones)
    assert all(isinstance(end, Opened) for end in ends.values())
    assert len(ends) == SIZE
    assert opened_lanes(server) == sum_of(TERMS, range(SIZE))


@pytest.mark.parametrize(("step", "count"), list(itertools.product(list(Step)[1:], range(1, SIZE))))
def test_whoever_goes_at_a_step_the_sum_is_exact_or_nothing_is_revealed(step: Step, count: int) -> None:
    phones = phones_of(TERMS, SIZE)
    server = server_for(TERMS, phones)
    ends = play(server, phones, {f"phone-{number}": step for number in range(count)})
    in_sum = range(SIZE) if step in (Step.CONFIRMATION, Step.UNMASKING) else range(count, SIZE)
    agreement = server.agreement
    assert agreement is not None
    least = agreement.threshold if step in (Step.CONFIRMATION, Step.UNMASKING) else agreement.quorum
    if SIZE - count >= least:
        assert opened_lanes(server) == sum_of(TERMS, in_sum)
        assert all(isinstance(end, Opened) for end in ends.values())
        return
    assert server.opened is None
    if step is not Step.UNMASKING:
        assert not server.revealed
    for end in ends.values():
        assert isinstance(end, Quit)
        assert not end.contradicted
        assert isinstance(end.refusal, GroupEnded | TooFewSurvivors)


def test_a_group_that_forms_without_a_late_device_ends_for_it() -> None:
    phones = phones_of(TERMS, SIZE)
    server = server_for(TERMS, phones[1:])
    play(server, phones[1:])
    late = play(server, phones[:1])["phone-0"]
    assert isinstance(late, Quit)
    assert not late.contradicted


def test_a_training_result_joins_another_group_with_fresh_keys_until_it_is_masked() -> None:
    terms = terms_of(SIZE)
    phones = phones_of(terms, SIZE)
    first = server_for(terms, phones)
    (end,) = play(first, phones, {phone.name: Step.SHARES for phone in phones[1:]}).values()
    assert isinstance(end, Quit)
    assert not end.contradicted
    other = terms_of(SIZE, group="cd" * 16)
    again = [moved(phone, other) for phone in phones]
    second = server_for(other, again)
    play(second, again)
    assert opened_lanes(second) == sum_of(other, range(SIZE))
    assert not {one.box_key for one in first.entries.values()} & {one.box_key for one in second.entries.values()}
    for phone in again:
        with pytest.raises(StepNotAllowed, match="made from this training result already"):
            moved(phone, terms_of(SIZE, group="ef" * 16)).ledger.lanes()


def moved(phone: Phone, terms: Terms) -> Phone:
    """The same training result in another group."""
    ledger = phone.ledger
    assert isinstance(ledger, MemoryLedger)
    fresh = phone_of(terms, int(phone.name.split("-")[1]), lanes_of(terms, 0))
    fresh.ledger = MemoryLedger(secrets=secrets_of(phone.name, fresh.member.terms.group), unmasked=ledger.unmasked)
    return fresh


def test_a_device_that_was_told_another_model_spoils_the_zero_lanes_and_learns_nothing_is_revealed_of_it() -> None:
    """Its context is another one: its boxes open for nobody, and nobody's for it."""
    phones = phones_of(TERMS, SIZE)
    phones[2] = with_checkpoint(phones[2], "44" * 32)
    server = server_for(TERMS, phones)
    ends = play(server, phones)
    if server.opened is not None:
        with pytest.raises(LanesOutOfRange):
            TERMS.lanes.open_sum(server.opened, TERMS.parameters)
    else:
        assert any(isinstance(end, Quit) for end in ends.values())


@pytest.mark.parametrize(
    "floors",
    [
        Floors(),
        Floors(smallest_group=4, fewest_survivors=2, least_corrupt_permille=0),
        Floors(smallest_group=2, fewest_survivors=M + 1, least_corrupt_permille=0),
        Floors(smallest_group=2, fewest_survivors=2, least_corrupt_permille=1),
        Floors(smallest_group=2, fewest_survivors=2, least_corrupt_permille=0, least_noise=0.1),
    ],
)
def test_below_a_floor_of_the_app_nothing_is_sent(floors: Floors) -> None:
    phone = phone_of(TERMS, 0, lanes_of(TERMS, 0), floors)
    with pytest.raises(StopIteration) as end:
        next(phone.session())
    assert isinstance(end.value.value, Quit)
    assert isinstance(end.value.value.refusal, InvalidGroup)


def test_a_box_that_was_spoilt_on_its_way_is_named_without_its_key_and_costs_the_group_nothing() -> None:
    phones = phones_of(TERMS, SIZE)
    server = Spoiling(TERMS, frozenset(phone.name for phone in phones))
    play(server, phones)
    assert opened_lanes(server) == sum_of(TERMS, range(SIZE))
    place = server.places["phone-0"]
    assert server.agreement is not None
    complaints = server.complaints[place]
    assert (complaints.box_keys, complaints.about) == (b"", encode_members([], SIZE))
    assert complaints.unsigned == encode_members([min({*range(SIZE)} - {place})], SIZE)


class Spoiling(GroupServer):
    """Changes a bit of the first box that phone 0 gets."""

    def told(self, device: str, step: Step) -> object:
        message = super().told(device, step)
        if device == "phone-0" and isinstance(message, Delivery):
            return replace(message, boxes=bytes([message.boxes[0] ^ 1]) + message.boxes[1:])
        return message


def test_what_leaves_is_masked() -> None:
    phones = phones_of(TERMS, SIZE)
    server = server_for(TERMS, phones)
    play(server, phones)
    for number, phone in enumerate(phones):
        report = server.reports[phone.name]
        packed = lanes_of_report(report, phone.member.participation, TERMS.lanes, TERMS.parameters)
        assert TERMS.lanes.unpack(packed, TERMS.parameters).tolist() != lanes_of(TERMS, number).tolist()


def test_every_request_of_a_group_is_tried_until_its_step_is_over() -> None:
    phones = phones_of(TERMS, SIZE)
    play(server_for(TERMS, phones), phones, {"phone-0": Step.UNMASKING})
    patience = {request.patience_s for phone in phones for request in phone.sent}
    assert patience == {LONGEST_STEP_S + STEP_GRACE_S, 30.0 + STEP_GRACE_S}  # 30 s, as the server said


# --- processes that die -----------------------------------------------------------------------------------------


class KilledError(BaseException):
    """The process ends here."""


class Mortal:
    """A ledger whose process dies just before, or just after, its nth write."""

    def __init__(self, within: MemoryLedger, nth: int, *, before: bool) -> None:
        self.within, self.left, self.before = within, nth, before

    def __getattr__(self, name: str) -> object:
        return getattr(self.within, name)

    def believe(self, step: Step, answer: bytes) -> None:
        self._write(lambda: self.within.believe(step, answer))

    def mask(self, report: bytes) -> None:
        self._write(lambda: self.within.mask(report))

    def _write(self, write: object) -> None:
        self.left -= 1
        if self.left == 0 and self.before:
            raise KilledError
        write()  # type: ignore[operator]
        if self.left == 0:
            raise KilledError


WRITES = 5
"""Four answers, and the masked report."""


@pytest.mark.parametrize(("nth", "before"), list(itertools.product(range(1, WRITES + 1), (True, False))))
def test_a_device_that_dies_at_a_write_goes_on_with_the_same_bytes(nth: int, before: bool) -> None:
    phones = phones_of(TERMS, SIZE)
    within = phones[0].ledger
    assert isinstance(within, MemoryLedger)
    phones[0].ledger = Mortal(within, nth, before=before)  # type: ignore[assignment]
    server = server_for(TERMS, phones)
    died = drive_with_death(server, phones, within)
    assert died == 1
    assert opened_lanes(server) == sum_of(TERMS, range(SIZE))


def drive_with_death(server: GroupServer, phones: list[Phone], within: MemoryLedger) -> int:
    """As `play`; whoever dies is started anew at once, with what it had written. The server compares all bodies."""
    died, sessions, requests = 0, {}, {}
    for phone in phones:
        sessions[phone.name] = phone.session()
        requests[phone.name] = next(sessions[phone.name])
    by_name = {phone.name: phone for phone in phones}
    while sessions:
        for name in list(sessions):
            try:
                requests[name] = sessions[name].send(server.answer(name, requests[name]))
            except StopIteration:
                del sessions[name]
            except KilledError:
                died += 1
                by_name[name].ledger = within
                sessions[name] = by_name[name].session()
                requests[name] = next(sessions[name])
    return died


@pytest.mark.parametrize("nth", range(1, 12))
@pytest.mark.parametrize("arrived", [True, False])
def test_a_device_that_dies_at_a_request_goes_on_with_the_same_bytes(nth: int, arrived: bool) -> None:
    phones = phones_of(TERMS, SIZE)
    server = server_for(TERMS, phones)
    sessions = {phone.name: phone.session() for phone in phones}
    requests: dict[str, Request] = {name: next(session) for name, session in sessions.items()}
    seen = 0
    while sessions:
        for name in list(sessions):
            if name == "phone-0" and (seen := seen + 1) == nth:
                if arrived:
                    server.answer(name, requests[name])
                sessions[name].close()
                sessions[name] = phones[0].session()
                requests[name] = next(sessions[name])
            try:
                requests[name] = sessions[name].send(server.answer(name, requests[name]))
            except StopIteration:
                del sessions[name]
    assert seen >= nth
    assert opened_lanes(server) == sum_of(TERMS, range(SIZE))
