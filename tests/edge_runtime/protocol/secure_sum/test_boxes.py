"""Step 1: shares travel in boxes that only their holder opens, and whoever spoils one is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import (
    BoxNotOpened,
    ContradictedGroup,
    Malformed,
    Refusal,
    TooFewSurvivors,
    WrongShare,
)
from edge_runtime.protocol.keys import SigningKey, digest
from edge_runtime.protocol.secure_sum import boxes, mailbox, opening, participant
from edge_runtime.protocol.secure_sum.boxes import BOX_BYTES, Pair, WrongPair, open_box, seal
from edge_runtime.protocol.secure_sum.mailbox import Blame, Fault
from edge_runtime.protocol.secure_sum.messages import Complaints, Delivery
from tests.edge_runtime.protocol.secure_sum.groups import (
    GROUP,
    Play,
    cut,
    deal,
    party,
    plain_sum,
    terms_of,
    vectors_of,
)
from tests.edge_runtime.protocol.secure_sum.played import (
    PAIR,
    ROUTE,
    SIZE,
    delivered,
    elements,
    made,
    members,
    played,
)


def test_a_box_opens_for_its_holder_and_nobody_else() -> None:
    key = digest(b"box key")
    box, promise = seal(key, ROUTE, PAIR), PAIR.promise(ROUTE)
    assert len(box) == BOX_BYTES == 98
    assert open_box(key, ROUTE, box, promise) == PAIR
    for wrong in (replace(ROUTE, dealer=3), replace(ROUTE, holder=3), replace(ROUTE, context=digest(b"other"))):
        with pytest.raises(BoxNotOpened):
            open_box(key, wrong, box, promise)
    with pytest.raises(BoxNotOpened):
        open_box(digest(b"another key"), ROUTE, box, promise)


@given(place=st.integers(0, BOX_BYTES - 1), bit=st.integers(0, 7))
def test_no_bit_of_a_box_can_be_changed(place: int, bit: int) -> None:
    raw = bytearray(seal(digest(b"k"), ROUTE, PAIR))
    raw[place] ^= 1 << bit
    with pytest.raises(BoxNotOpened):
        open_box(digest(b"k"), ROUTE, bytes(raw), PAIR.promise(ROUTE))


def test_a_box_with_other_shares_than_promised_is_its_dealers_fault() -> None:
    box = seal(digest(b"k"), ROUTE, PAIR)
    for other in (replace(PAIR, seed_share=9), replace(PAIR, key_share=9), replace(PAIR, salt=bytes(16))):
        with pytest.raises(WrongPair):
            open_box(digest(b"k"), ROUTE, box, other.promise(ROUTE))


def test_a_box_that_holds_no_element_is_its_dealers_fault() -> None:
    for inside in (b"\xff" * 82, bytes(81), bytes(83)):
        box = AESGCM(digest(b"k")).encrypt(bytes(12), inside, ROUTE.raw)
        with pytest.raises(WrongPair, match="no two shares"):
            open_box(digest(b"k"), ROUTE, box, bytes(64))


@given(seed_share=elements, key_share=elements, salt=st.binary(min_size=16, max_size=16))
def test_a_pair_is_read_as_it_was_written(seed_share: int, key_share: int, salt: bytes) -> None:
    pair = Pair(seed_share, key_share, salt)
    assert Pair.from_raw(pair.raw) == pair
    promise = pair.promise(ROUTE)
    assert boxes.revealed_seed(pair.reveal_seed(), ROUTE, promise) == seed_share
    assert boxes.revealed_key(pair.reveal_key(), ROUTE, promise) == key_share
    with pytest.raises(WrongShare):
        boxes.revealed_key(pair.reveal_key(), replace(ROUTE, holder=3), promise)
    if seed_share != key_share:
        with pytest.raises(WrongShare):
            boxes.revealed_key(pair.reveal_seed(), ROUTE, promise)  # one is never the other
    assert promise[:32] != promise[32:]


def test_dealing_again_gives_the_same_bytes() -> None:
    """A device that died before its boxes were stored sends none a second time under the same key."""
    group = made()
    again = participant.deal(group.seats[0], group.devices[0].key)
    assert wire.encode(again[0]) == wire.encode(deal(group, 0)[0])
    assert again[1] == deal(group, 0)[1]


def test_another_roster_gives_other_box_keys() -> None:
    """So a coordinator that shows two rosters never sees one key used twice."""
    one, other = made(), party(terms_of(SIZE + 1), SIZE + 1)
    mine = one.devices[0]
    place = [device.entry for device in other.devices].index(mine.entry)
    keys = {
        one.seats[0].box_key(dealer=0, holder=1),
        one.seats[0].box_key(dealer=1, holder=0),
        other.seats[place].box_key(dealer=place, holder=(place + 1) % 7),
    }
    assert len(keys) == 3


def test_a_device_never_forgets_its_own_pair() -> None:
    seat, _own, delivery = delivered()
    with pytest.raises(ValueError, match="own secrets"):
        participant.receive(seat, None, delivery)


def spoilt(delivery: Delivery, **parts: Any) -> Delivery:
    return replace(delivery, **parts)


DELIVERIES: dict[str, tuple[type[Refusal], Callable[[Delivery], Delivery]]] = {
    "another group": (ContradictedGroup, lambda one: replace(one, group="00" * 16)),
    "without this device": (ContradictedGroup, lambda one: spoilt(one, sharers=members(1, 2, 3, 4, 5))),
    "too few sharers": (TooFewSurvivors, lambda one: spoilt(one, sharers=members(0, 1, 2))),
    "nobody": (ContradictedGroup, lambda one: spoilt(one, sharers=members())),
    "strangers": (Malformed, lambda one: spoilt(one, sharers=b"\xff")),
    "a set of another length": (Malformed, lambda one: spoilt(one, sharers=one.sharers + b"\0")),
    "a box too few": (Malformed, lambda one: spoilt(one, boxes=one.boxes[98:])),
    "a box cut short": (Malformed, lambda one: spoilt(one, boxes=one.boxes[:-1])),
    "a promise too many": (Malformed, lambda one: spoilt(one, promises=one.promises + bytes(64))),
    "no signatures": (Malformed, lambda one: spoilt(one, signatures=b"")),
    "fewer sharers than boxes": (Malformed, lambda one: spoilt(one, sharers=members(0, 1, 2, 3, 4))),
}


@pytest.mark.parametrize(("part", "length"), [("boxes", 98), ("promises", 64), ("signatures", 64)])
def test_what_is_of_another_length_is_named(part: str, length: int) -> None:
    """On both ends: five others share with each of six; promises are six, one for the dealer itself."""
    seat, own, delivery = delivered()
    with pytest.raises(Malformed, match=f"^{part} has {4 * length} bytes where {5 * length} are expected"):
        participant.receive(seat, own, spoilt(delivery, **{part: bytes(4 * length)}))
    count = 6 if part == "promises" else 5
    shares = replace(deal(made(), 0)[0], **{part: bytes(7 * length)})
    with pytest.raises(Malformed, match=f"^{part} has {7 * length} bytes where {count * length} are expected"):
        mailbox.taken(made().agreement, 0, shares)


@pytest.mark.parametrize("what", DELIVERIES)
def test_a_delivery_that_contradicts_itself_is_refused(what: str) -> None:
    seat, own, delivery = delivered()
    refusal, spoil = DELIVERIES[what]
    with pytest.raises(refusal):
        participant.receive(seat, own, spoil(delivery))


def test_boxes_that_the_coordinator_spoils_are_shown_with_no_key() -> None:
    """Else it would spoil every box of one dealer, be shown the keys, and open what it had kept: both its secrets."""
    seat, own, delivery = delivered()
    for parts in (
        {"boxes": bytes([delivery.boxes[0] ^ 1]) + delivery.boxes[1:]},
        {"promises": bytes([delivery.promises[0] ^ 1]) + delivery.promises[1:]},
        {"boxes": delivery.boxes[98:] + delivery.boxes[:98]},
    ):
        received = participant.receive(seat, own, spoilt(delivery, **parts))
        assert received.unsigned
        assert not received.bad_boxes
        complaint = participant.complaints(seat, received)
        assert complaint.box_keys == b""


def bad_dealer(play: Play, dealer: int, holder: int, *, signed: bool, garbage: bool) -> None:
    """Let a dealer deal one holder a bad box."""
    seat, dealt = play.party.seats[dealer], play.dealt[dealer]
    route = seat.route(dealer=dealer, holder=holder)
    if garbage:
        box = bytes(98)
    else:
        box = seal(seat.box_key(dealer=dealer, holder=holder), route, replace(PAIR, salt=bytes(16)))
    key = play.party.devices[dealer].key if signed else SigningKey(digest(b"nobody"))
    signature = key.sign(boxes.signed_digest(route, box, dealt.promises[holder]))
    play.dealt[dealer] = replace(
        dealt, boxes={**dealt.boxes, holder: box}, signatures={**dealt.signatures, holder: signature}
    )


@pytest.mark.parametrize(
    ("signed", "garbage", "blame"),
    [
        (True, False, Blame(1, Fault.BAD_BOX, 0)),
        (True, True, Blame(1, Fault.DISPUTED_BOX, 0)),
        (False, False, Blame(1, Fault.BAD_BOX, 0)),
        (False, True, Blame(1, Fault.BAD_BOX, 0)),
    ],
)
def test_a_bad_box_costs_its_dealer_and_not_the_group(signed: bool, garbage: bool, blame: Blame) -> None:
    play = Play.shared(made(), range(SIZE))
    bad_dealer(play, 1, 0, signed=signed, garbage=garbage)
    play.receive()
    group = play.party
    complaint = participant.complaints(group.seats[0], play.received[0])
    assert mailbox.judged(group.agreement, 0, complaint, play.dealt) == [blame]
    everybody, vectors = group.everybody, vectors_of(group)
    total = play.total(play.mask(member, vectors[member]) for member in everybody)
    recovery = play.recover(everybody, play.reveal(everybody, everybody, everybody))
    opening.open_sum(group.agreement, total, recovery)
    assert cut(group, total) == plain_sum(group, vectors, everybody)


def test_faults_have_the_names_of_the_page() -> None:
    """They are in rows, in evidence and on the operator's screen."""
    assert [fault.value for fault in Fault] == [
        "bad-box", "false-complaint", "disputed-box", "forged-share", "inconsistent-shares",
    ]  # fmt: skip


def test_a_false_complaint_costs_who_made_it() -> None:
    play = played()
    agreement, seat = play.party.agreement, play.party.seats[0]
    key = seat.box_key(dealer=1, holder=0)
    said = Complaints(version=1, group=GROUP, about=members(1), box_keys=key, unsigned=members(2))
    assert mailbox.judged(agreement, 0, said, play.dealt) == [
        Blame(0, Fault.FALSE_COMPLAINT, 1),
        Blame(0, Fault.FALSE_COMPLAINT, 2),
    ]
    wrong_key = replace(said, box_keys=bytes(32), unsigned=members())
    assert mailbox.judged(agreement, 0, wrong_key, play.dealt) == [Blame(1, Fault.DISPUTED_BOX, 0)]


def test_complaints_about_everybody_show_a_key_for_each() -> None:
    """Every dealer's box is bad for member 0: keys are in the order of the dealers, and each opens its own box."""
    play = Play.shared(made(), range(SIZE))
    for dealer in range(1, SIZE):
        bad_dealer(play, dealer, 0, signed=dealer != 3, garbage=False)
    play.receive()
    seat, received = play.party.seats[0], play.received[0]
    complaint = participant.complaints(seat, received)
    assert (complaint.about, complaint.unsigned) == (members(1, 2, 4, 5), members(3))
    assert complaint.box_keys == b"".join(seat.box_key(dealer=dealer, holder=0) for dealer in (1, 2, 4, 5))
    blamed = mailbox.judged(play.party.agreement, 0, complaint, play.dealt)
    assert blamed == [Blame(dealer, Fault.BAD_BOX, 0) for dealer in range(1, SIZE)]


@pytest.mark.parametrize(
    ("parts", "refusal"),
    [
        ({"about": members(0)}, ContradictedGroup),
        ({"about": members(1), "unsigned": members(1)}, ContradictedGroup),
        ({"unsigned": members(0)}, ContradictedGroup),
        ({"box_keys": bytes(64)}, Malformed),
        ({"about": b"\xff"}, Malformed),
        ({"unsigned": b"\xff"}, Malformed),
        ({"group": "00" * 16}, ContradictedGroup),
    ],
)
def test_complaints_that_make_no_sense_are_refused(parts: dict[str, Any], refusal: type[Refusal]) -> None:
    play = played()
    said = Complaints(version=1, group=GROUP, about=members(1), box_keys=bytes(32), unsigned=members())
    with pytest.raises(refusal):
        mailbox.judged(play.party.agreement, 0, replace(said, **parts), play.dealt)


def test_keys_that_are_too_many_are_named() -> None:
    said = Complaints(version=1, group=GROUP, about=members(1), box_keys=bytes(64), unsigned=members())
    with pytest.raises(Malformed, match=r"^box_keys has 64 bytes where 32 are expected"):
        mailbox.judged(made().agreement, 0, said, played().dealt)


@pytest.mark.parametrize("part", ["boxes", "promises", "signatures"])
@pytest.mark.parametrize("by", [-1, 1, 98])
def test_shares_of_another_length_are_refused(part: str, by: int) -> None:
    group = made()
    shares = deal(group, 0)[0]
    raw = getattr(shares, part)
    wrong = replace(shares, **{part: raw[:by] if by < 0 else raw + bytes(by)})
    with pytest.raises(Malformed):
        mailbox.taken(group.agreement, 0, wrong)
    with pytest.raises(ContradictedGroup):
        mailbox.taken(group.agreement, 0, replace(shares, group="00" * 16))
