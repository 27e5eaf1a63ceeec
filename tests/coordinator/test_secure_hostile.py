"""Devices that lie in a group: each is refused by name, or found out, and harms nobody else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlmodel import select

from coordinator.store.group_tables import FaultRow, Quarantine
from edge_runtime.protocol import wire
from edge_runtime.protocol.group import Step, step_path
from edge_runtime.protocol.keys import SigningKey, digest
from edge_runtime.protocol.reasons import Wait
from edge_runtime.protocol.secure_sum import participant
from edge_runtime.protocol.secure_sum.boxes import signed_digest
from edge_runtime.protocol.secure_sum.members import encode_members
from edge_runtime.protocol.secure_sum.messages import Complaints, Confirmation, Joining, Shares, Unmasking
from edge_runtime.protocol.secure_sum.roster import ENTRY_BYTES, Entry, sign_certificate
from tests.coordinator.asking import check_in, refusal
from tests.coordinator.secure import (
    SIX,
    STEPS,
    SecurePhone,
    end_phase,
    groups_of,
    in_database,
    meet,
    plain_sum,
    secure_round,
    sums_seen,
)
from tests.programme import TENANT, Home, replace


def entry_of(phone: SecurePhone) -> Entry:
    return Entry.from_raw(wire.decode(Joining, phone.joining()).entry)


def joining(phone: SecurePhone, entry: Entry, group: str = "") -> bytes:
    return wire.encode(Joining(version=1, group=group or phone.group, entry=entry.raw))


def spoilt_signature(phone: SecurePhone, _other: SecurePhone) -> bytes:
    return joining(phone, replace(entry_of(phone), signature=bytes(64)))


def own_certificate(phone: SecurePhone, _other: SecurePhone) -> bytes:
    forged = sign_certificate(SigningKey(digest(b"nobody")), TENANT, phone.phone.driver.key.public)
    return joining(phone, replace(entry_of(phone), certificate=forged))


def other_device(phone: SecurePhone, other: SecurePhone) -> bytes:
    return joining(phone, replace(entry_of(other), nonce=bytes(16)))


def low_order(phone: SecurePhone, _other: SecurePhone) -> bytes:
    assert phone.secrets is None or phone.secrets
    return joining(phone, replace(entry_of(phone), mask_key=bytes(32)))


def other_group(phone: SecurePhone, _other: SecurePhone) -> bytes:
    return joining(phone, entry_of(phone), "ab" * 16)


def not_json(_phone: SecurePhone, _other: SecurePhone) -> bytes:
    return b"\x00" * ENTRY_BYTES


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        (spoilt_signature, "invalid-roster"),
        (own_certificate, "invalid-roster"),
        (other_device, "invalid-roster"),
        (low_order, "invalid-roster"),
        (other_group, "contradicted-group"),
        (not_json, "malformed"),
    ],
)
def test_an_entry_that_is_not_right_is_refused_by_name(
    home: Home, lie: Callable[[SecurePhone, SecurePhone], bytes], code: str
) -> None:
    phones = secure_round(home)
    meet(home, phones)
    phones[1].take(Step.JOIN)
    assert refusal(phones[0].post(Step.JOIN, lie(phones[0], phones[1]))) == code
    assert phones[0].post(Step.JOIN).status_code == 200, "an honest entry is taken after it"


def test_a_key_is_used_in_one_group_alone(home: Home) -> None:
    """Two devices with one key; and one device with the keys of its group before."""
    phones = secure_round(home, SIX, reporting_deadline_s=1000.0)
    meet(home, phones)
    phones[1].take(Step.JOIN)
    mine, theirs = phones[0], phones[1]
    assert theirs.secrets is not None
    stolen = theirs.secrets.entry(
        mine.phone.driver.key, mine.certificate, plan_sha256=digest(mine.assignment.plan).hex(), group=mine.group
    )
    assert refusal(mine.post(Step.JOIN, joining(mine, stolen))) == "invalid-roster"
    home.clock.forward(120)
    home.look()
    before = theirs.secrets
    meet(home, phones)
    again = before.entry(
        theirs.phone.driver.key, theirs.certificate, plan_sha256=digest(theirs.assignment.plan).hex(),
        group=theirs.group,
    )  # fmt: skip
    assert refusal(theirs.post(Step.JOIN, joining(theirs, again))) == "invalid-roster"


def test_the_same_step_again_changes_nothing_and_another_under_its_name_is_refused(home: Home) -> None:
    phones = secure_round(home)
    meet(home, phones)
    first = phones[0].post(Step.JOIN)
    assert phones[0].post(Step.JOIN).content == first.content
    other = spoilt_signature(phones[0], phones[1])
    assert refusal(phones[0].post(Step.JOIN, other)) == "conflict"
    for phone in phones[1:]:
        phone.take(Step.JOIN)
    home.look()
    assert phones[0].post(Step.JOIN).content == first.content, "later too"
    shares = phones[0].post(Step.SHARES)
    assert phones[0].post(Step.SHARES).content == shares.content
    assert refusal(phones[0].post(Step.SHARES, b"{}")) == "conflict"


def test_steps_out_of_turn_and_steps_of_strangers_are_refused(home: Home) -> None:
    phones = secure_round(home, SIX)
    meet(home, phones)
    for step in STEPS[1:]:
        assert refusal(phones[0].post(step, b"{}")) == "step-not-allowed"
        assert refusal(phones[0].get(step)) == "step-not-allowed"
    assert refusal(phones[0].put_report(bytes(90))) in ("report-length", "malformed-report", "step-not-allowed")
    stranger = home.phone(77)
    path = step_path(phones[0].group, Step.JOIN)
    phones[5].phone, kept = stranger, phones[5].phone
    assert refusal(phones[5].ask("POST", path, phones[1].joining())) == "group-ended"
    assert refusal(phones[5].ask("GET", path)) == "group-ended"
    assert refusal(phones[5].say_trained()) == "unknown-participation"
    phones[5].phone = kept
    assert refusal(phones[0].ask("GET", path.replace("join", "dance"))) == "not-found"
    assert refusal(phones[0].ask("GET", step_path("ab" * 16, Step.JOIN))) == "group-ended"


def test_a_step_that_comes_late_is_refused_and_the_group_goes_on(home: Home) -> None:
    phones = secure_round(home, SIX)
    meet(home, phones)
    for phone in phones:
        phone.take(Step.JOIN)
    home.look()
    late = phones[0].shares()
    for phone in phones[1:]:
        phone.take(Step.SHARES)
    end_phase(home)
    assert groups_of(home)[0].phase == "masking"
    assert refusal(phones[0].post(Step.SHARES, late)) == "step-not-allowed"
    assert refusal(phones[0].get(Step.SHARES)) == "step-not-allowed"
    for phone in phones[1:]:
        phone.take(Step.MASKED)
    home.look()
    assert groups_of(home)[0].phase == "confirming"


def cut_boxes(message: Shares) -> Shares:
    return replace(message, boxes=message.boxes[:-1])


def cut_promises(message: Shares) -> Shares:
    return replace(message, promises=message.promises + bytes(64))


def of_another_group(message: Shares) -> Shares:
    return replace(message, group="ab" * 16)


@pytest.mark.parametrize(
    ("lie", "code"),
    [(cut_boxes, "malformed"), (cut_promises, "malformed"), (of_another_group, "contradicted-group")],
)
def test_shares_of_the_wrong_length_or_group_are_refused(
    home: Home, lie: Callable[[Shares], Shares], code: str
) -> None:
    phones = secure_round(home)
    meet(home, phones)
    for phone in phones:
        phone.take(Step.JOIN)
    home.look()
    message = wire.decode(Shares, phones[0].shares())
    assert refusal(phones[0].post(Step.SHARES, wire.encode(lie(message)))) == code
    assert phones[0].post(Step.SHARES).status_code == 200


def shared(home: Home, spoil: Callable[[SecurePhone, Shares], Shares] | None = None) -> list[SecurePhone]:
    """Six who shared; the first of them what `spoil` makes of it."""
    phones = secure_round(home, SIX)
    meet(home, phones)
    for phone in phones:
        phone.take(Step.JOIN)
    home.look()
    if spoil is not None:
        message = spoil(phones[0], wire.decode(Shares, phones[0].shares()))
        assert phones[0].post(Step.SHARES, wire.encode(message)).status_code == 200
    for phone in phones[0 if spoil is None else 1 :]:
        phone.take(Step.SHARES)
    home.look()
    return phones


def finish(home: Home, phones: list[SecurePhone], steps: tuple[Step, ...]) -> list[list[int]]:
    with sums_seen(home) as sums:
        for step in steps:
            for phone in phones:
                phone.take(step)
            home.look()
    return sums


def faults(home: Home) -> set[tuple[str, str, str]]:
    rows = in_database(home, lambda session: session.exec(select(FaultRow)).all())
    return {(row.device_id, row.fault, row.other_device_id) for row in rows}


def quarantined(home: Home) -> set[str]:
    return in_database(home, lambda session: set(session.exec(select(Quarantine.device_id)).all()))


def bad_boxes(phone: SecurePhone, message: Shares) -> Shares:
    """Boxes that hold rubbish, and are signed."""
    seat = phone.sit()
    others = [holder for holder in range(SIX) if holder != seat.position]
    boxes = [bytes(98) for _other in others]
    promises = [message.promises[64 * holder : 64 * holder + 64] for holder in range(SIX)]
    signatures = [
        phone.phone.driver.key.sign(
            signed_digest(seat.route(dealer=seat.position, holder=holder), box, promises[holder])
        )
        for holder, box in zip(others, boxes, strict=True)
    ]
    return replace(message, boxes=b"".join(boxes), signatures=b"".join(signatures))


def unsigned_boxes(_phone: SecurePhone, message: Shares) -> Shares:
    return replace(message, boxes=bytes(len(message.boxes)), signatures=bytes(len(message.signatures)))


def test_boxes_that_nobody_signed_are_the_dealers_fault_and_cost_the_group_nothing_but_the_dealer(home: Home) -> None:
    """The others complain; nobody can rebuild the liar's secrets, so the group with its report ends by name."""
    phones = shared(home, unsigned_boxes)
    liar = phones[0].device_id
    for phone in phones[1:]:
        phone.take(Step.MASKED)
    end_phase(home)
    assert {(device, fault) for device, fault, _other in faults(home)} == {(liar, "bad-box")}
    assert quarantined(home) == {liar}
    evidence = in_database(home, lambda session: session.exec(select(FaultRow)).all())[0].evidence
    assert set(json.loads(evidence)) == {"box", "promise", "signature", "box_key"}


def test_a_signed_box_that_does_not_open_is_disputed_and_the_group_goes_on(home: Home) -> None:
    phones = shared(home, bad_boxes)
    liar = phones[0].device_id
    for phone in phones[1:]:
        phone.take(Step.MASKED)
    assert {(device, fault) for device, fault, _other in faults(home)} == {(liar, "disputed-box")}
    assert groups_of(home)[0].phase == "masking"


def test_a_false_complaint_is_the_holders_fault(home: Home) -> None:
    phones = shared(home)
    liar, victim = phones[0], phones[1]
    liar.receive()
    position = victim.sit().position
    message = Complaints(
        version=1, group=liar.group, about=encode_members([], SIX), box_keys=b"",
        unsigned=encode_members([position], SIX),
    )  # fmt: skip
    assert liar.post(Step.MASKED, wire.encode(message)).status_code == 200
    assert faults(home) == {(liar.device_id, "false-complaint", victim.device_id)}
    liar.put_report()
    sums = []
    with sums_seen(home) as seen:
        for phone in phones[1:]:
            phone.take(Step.MASKED)
        home.look()
        sums = finish(home, phones, STEPS[3:]) or seen
    assert sums == [plain_sum(phones)], "the group completes with its report"
    assert quarantined(home) == {liar.device_id}
    assert groups_of(home)[0].phase == "summed"
    assert check_in(home, liar.phone, "later").retry is not None


def test_complaints_about_oneself_twice_or_with_wrong_lengths_are_refused(home: Home) -> None:
    phones = shared(home)
    one, me = phones[0], phones[0].sit().position
    nobody = encode_members([], SIX)

    def sent(**changes: Any) -> str:
        fields: dict[str, Any] = {"about": nobody, "box_keys": b"", "unsigned": nobody} | changes
        return refusal(one.post(Step.MASKED, wire.encode(Complaints(version=1, group=one.group, **fields))))

    other = encode_members([(me + 1) % SIX], SIX)
    assert sent(unsigned=encode_members([me], SIX)) == "contradicted-group"
    assert sent(about=other, box_keys=bytes(32), unsigned=other) == "contradicted-group"
    assert sent(about=other) == "malformed"
    assert sent(about=bytes(9)) == "malformed"


def test_another_report_than_the_first_is_refused_and_late_ones_too(home: Home) -> None:
    phones = shared(home)
    one = phones[0]
    one.take(Step.MASKED)
    other = one.lanes()
    other[0] += 1
    assert refusal(one.put_report(one.report(other))) == "conflicting-report"
    late = phones[1].report()
    for phone in phones[2:]:
        phone.take(Step.MASKED)
    end_phase(home)
    assert groups_of(home)[0].phase == "confirming"
    assert refusal(phones[1].put_report(late)) == "group-ended", "the group went on without it, and released it"
    with sums_seen(home) as sums:
        for step in STEPS[3:]:
            for phone in (one, *phones[2:]):
                phone.take(step)
            home.look()
    assert sums == [plain_sum([one, *phones[2:]])]


def test_a_confirmation_of_another_set_is_refused(home: Home) -> None:
    phones = shared(home)
    for phone in phones:
        phone.take(Step.MASKED)
    home.look()
    one = phones[0]
    one.receive()
    signature = one.phone.driver.key.sign(participant.confirmed_digest(one.sit().agreement, frozenset(range(SIX - 1))))
    message = Confirmation(version=1, group=one.group, signature=signature)
    assert refusal(one.post(Step.CONFIRMATION, wire.encode(message))) == "contradicted-group"
    assert one.post(Step.CONFIRMATION).status_code == 200


def test_a_forged_share_is_left_out_and_its_holder_is_named(home: Home) -> None:
    phones = shared(home)
    for step in (Step.MASKED, Step.CONFIRMATION):
        finish(home, phones, (step,))
    liar = phones[0]
    message = wire.decode(Unmasking, liar.unmasking())
    forged = bytes([message.seeds[0] ^ 1]) + message.seeds[1:]
    assert refusal(liar.post(Step.UNMASKING, wire.encode(replace(message, seeds=forged[:-1])))) == "malformed"
    assert liar.post(Step.UNMASKING, wire.encode(replace(message, seeds=forged))).status_code == 200
    with sums_seen(home) as sums:
        for phone in phones[1:]:
            phone.take(Step.UNMASKING)
        home.look()
    assert sums == [plain_sum(phones)]
    assert {(device, fault) for device, fault, _other in faults(home)} == {(liar.device_id, "forged-share")}
    assert quarantined(home) == {liar.device_id}


def other_seed(_phone: SecurePhone, message: Shares) -> Shares:
    return replace(message, seed_digest=digest(b"another seed"))


def test_a_dealer_of_inconsistent_shares_costs_its_group_the_round_and_is_named(home: Home) -> None:
    phones = shared(home, other_seed)
    assert finish(home, phones, STEPS[2:]) == []
    assert (groups_of(home)[0].phase, groups_of(home)[0].ended_because) == ("aborted", "inconsistent-shares")
    assert quarantined(home) == {phones[0].device_id}
    assert home.task()["model_version"] == 0


def test_a_device_in_quarantine_is_chosen_for_nothing(home: Home) -> None:
    phones = shared(home, other_seed)
    finish(home, phones, STEPS[2:])
    for phone in phones:
        assert check_in(home, phone.phone, "second").retry is not None
    home.clock.forward(100)
    home.look()
    chosen = [phone for phone in phones if check_in(home, phone.phone, "third").assignment is not None]
    assert phones[0] not in chosen
    assert chosen == phones[1:]
    assert check_in(home, phones[0].phone, "fourth").retry.reason in (Wait.NOT_SELECTED, Wait.ROUND_IN_PROGRESS)  # type: ignore[union-attr]


def test_a_phone_that_falls_silent_in_group_after_group_is_quarantined(home: Home) -> None:
    """It never lets a group end well; the third time it is kept out."""
    phones = secure_round(home, SIX, reporting_deadline_s=1000.0)
    silent = phones[:3]
    for _group in range(3):
        meet(home, phones)
        for phone in phones:
            phone.take(Step.JOIN)
        home.look()
        for phone in phones[3:]:
            phone.take(Step.SHARES)
        home.clock.forward(30)
        home.look()
    assert {group.ended_because for group in groups_of(home)} == {"too-few-shared"}
    assert quarantined(home) == {phone.device_id for phone in silent}
    assert home.rounds()[0]["outcomes"] == {"quarantined": 3, "deadline-passed": 3}
