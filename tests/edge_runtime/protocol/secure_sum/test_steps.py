"""Hostile coordinators and hostile members: what a device refuses at each step, and who is named for what."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
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
from edge_runtime.protocol.secure_sum import boxes, field, mailbox, messages, opening, participant
from edge_runtime.protocol.secure_sum.boxes import BOX_BYTES, Pair, Route, WrongPair, open_box, seal
from edge_runtime.protocol.secure_sum.field import PRIME
from edge_runtime.protocol.secure_sum.mailbox import Blame, Fault
from edge_runtime.protocol.secure_sum.members import Members, encode_members
from edge_runtime.protocol.secure_sum.messages import Complaints, Confirmations, Delivery, Survivors, Unmasking
from edge_runtime.protocol.secure_sum.participant import Seat, seed_digest
from tests.edge_runtime.protocol.secure_sum.groups import (
    GROUP,
    Party,
    Play,
    cut,
    deal,
    party,
    plain_sum,
    terms_of,
    vectors_of,
)

SIZE = 6
elements = st.integers(0, PRIME - 1)
ROUTE = Route(digest(b"context"), 1, 2)
PAIR = Pair(3, 4, bytes(range(16)))


def members(*positions: int) -> bytes:
    return encode_members(positions, SIZE)


def made() -> Party:
    return party(terms_of(SIZE), SIZE)


def played() -> Play:
    play = Play.shared(made(), range(SIZE))
    play.receive()
    return play


def delivered(to: int = 0) -> tuple[Seat, Pair, Delivery]:
    play = played()
    seat = play.party.seats[to]
    return seat, play.pairs[to][to], mailbox.delivery(play.party.agreement, to, play.dealt)


# --- step 1: boxes


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


@pytest.mark.parametrize(
    ("parts", "refusal"),
    [
        ({"about": members(0)}, ContradictedGroup),
        ({"about": members(1), "unsigned": members(1)}, ContradictedGroup),
        ({"box_keys": bytes(64)}, Malformed),
        ({"about": b"\xff"}, Malformed),
        ({"group": "00" * 16}, ContradictedGroup),
    ],
)
def test_complaints_that_make_no_sense_are_refused(parts: dict[str, Any], refusal: type[Refusal]) -> None:
    play = played()
    said = Complaints(version=1, group=GROUP, about=members(1), box_keys=bytes(32), unsigned=members())
    with pytest.raises(refusal):
        mailbox.judged(play.party.agreement, 0, replace(said, **parts), play.dealt)


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


# --- step 3: who is left


def survivors(*positions: int, group: str = GROUP) -> Survivors:
    return Survivors(version=1, group=group, masked=members(*positions))


@pytest.mark.parametrize(
    ("shown", "refusal"),
    [
        (survivors(1, 2, 3, 4), ContradictedGroup),
        (survivors(0, 1, 2), TooFewSurvivors),
        (survivors(0), TooFewSurvivors),
        (survivors(0, 1, 2, 3, 5), ContradictedGroup),
        (survivors(0, 1, 2, 3, group="00" * 16), ContradictedGroup),
        (replace(survivors(0, 1, 2, 3), masked=b"\xff"), Malformed),
        (replace(survivors(0, 1, 2, 3), masked=b""), Malformed),
    ],
)
def test_survivors_that_cannot_be_are_not_confirmed(shown: Survivors, refusal: type[Refusal]) -> None:
    play = Play.shared(made(), range(5))  # 5 never shared
    play.receive()
    with pytest.raises(refusal):
        participant.confirm(play.party.seats[0], play.party.devices[0].key, play.received[0], shown)


# --- step 4: one share of each


def confirmations_of(play: Play, signers: Members, masked: Members) -> Confirmations:
    signed = participant.confirmed_digest(play.party.agreement, masked)
    return mailbox.confirmations(
        play.party.agreement, {member: play.party.devices[member].key.sign(signed) for member in signers}
    )


EVERYBODY = frozenset(range(SIZE))
FIVE = EVERYBODY - {5}


@pytest.mark.parametrize(
    ("signers", "masked", "refusal"),
    [
        (frozenset({0, 1, 2}), FIVE, TooFewSurvivors),
        (frozenset(), FIVE, TooFewSurvivors),
        (EVERYBODY, FIVE, ContradictedGroup),  # somebody who is gone confirmed
        (FIVE, EVERYBODY, ContradictedGroup),  # they signed another set than this device
        (FIVE, EVERYBODY - {4}, ContradictedGroup),
    ],
)
def test_nothing_is_revealed_unless_enough_confirmed_the_same_set(
    signers: Members, masked: Members, refusal: type[Refusal]
) -> None:
    play = played()
    mine = play.confirm(0, FIVE)
    with pytest.raises(refusal):
        participant.unmask(play.party.seats[0], play.received[0], mine, confirmations_of(play, signers, masked))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda one: replace(one, signatures=one.signatures[64:] + one.signatures[:64]),
        lambda one: replace(one, signatures=bytes(len(one.signatures))),
        lambda one: replace(one, group="00" * 16),
        lambda one: replace(one, signatures=one.signatures + bytes(64)),
        lambda one: replace(one, confirmed=b"\xff"),
    ],
)
def test_confirmations_that_do_not_hold_reveal_nothing(spoil: Callable[[Confirmations], Confirmations]) -> None:
    play = played()
    mine = play.confirm(0, FIVE)
    with pytest.raises((ContradictedGroup, Malformed)):
        participant.unmask(play.party.seats[0], play.received[0], mine, spoil(confirmations_of(play, FIVE, FIVE)))


@given(masked=st.frozensets(st.integers(0, SIZE - 1), min_size=4), me=st.integers(0, SIZE - 1))
@settings(max_examples=40, deadline=None)
def test_no_device_reveals_both_secrets_of_anybody(masked: Members, me: int) -> None:
    """Alive and gone follow from two sets, so that no message can list a member as both."""
    play = played()
    masked |= {me}
    message = participant.unmask(
        play.party.seats[me], play.received[me], play.confirm(me, masked), confirmations_of(play, masked, masked)
    )
    given_ = opening.revealed(play.party.agreement, me, message, sharers=EVERYBODY, masked=masked)
    assert given_.seeds.keys() == masked
    assert given_.keys.keys() == EVERYBODY - masked
    sent = message.seeds + message.keys
    for dealer, pair in play.received[me].pairs.items():
        assert (pair.reveal_seed() in sent) == (dealer in masked)
        assert (pair.reveal_key() in sent) == (dealer not in masked)


def test_two_views_of_the_survivors_never_open_both_secrets() -> None:
    """A coordinator that shows member 5 as alive to some and gone to others gets t confirmations from one side only."""
    play, opened = played(), 0
    for split in range(1, SIZE):
        for shown, side in ((EVERYBODY, frozenset(range(split))), (FIVE, frozenset(range(split, 5)))):
            if not side:
                continue
            me = min(side)
            try:
                participant.unmask(
                    play.party.seats[me],
                    play.received[me],
                    play.confirm(me, shown),
                    confirmations_of(play, side, shown),
                )
                opened += 1
            except TooFewSurvivors:
                assert len(side) < play.party.agreement.threshold
    assert opened > 0


def test_a_device_that_counts_no_confirmations_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant: the check left out."""
    monkeypatch.setattr(participant, "_check_confirmations", lambda *_all: None)
    with pytest.raises(pytest.fail.Exception):
        test_nothing_is_revealed_unless_enough_confirmed_the_same_set(frozenset(), FIVE, TooFewSurvivors)


def test_a_confirmation_is_of_one_survivor_one_set_and_one_group() -> None:
    play = played()
    agreement, mine = play.party.agreement, play.confirm(0, FIVE)
    mailbox.check_confirmation(agreement, 0, FIVE, mine.message)
    for signer, masked in ((1, FIVE), (0, EVERYBODY), (5, FIVE)):
        with pytest.raises(ContradictedGroup):
            mailbox.check_confirmation(agreement, signer, masked, mine.message)
    with pytest.raises(ContradictedGroup):
        mailbox.check_confirmation(agreement, 0, FIVE, replace(mine.message, group="00" * 16))


# --- opening


def recovered(play: Play, masked: Members, spoil: Callable[[int, Unmasking], Unmasking]) -> opening.Recovery:
    agreement, found = play.party.agreement, {}
    confirmations = confirmations_of(play, masked, masked)
    for member in sorted(masked):
        seat, received = play.party.seats[member], play.received[member]
        message = spoil(member, participant.unmask(seat, received, play.confirm(member, masked), confirmations))
        found[member] = opening.revealed(agreement, member, message, sharers=frozenset(play.dealt), masked=masked)
    return opening.recover(agreement, play.dealt, masked, found)


def flipped(raw: bytes, place: int) -> bytes:
    return raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]


@pytest.mark.parametrize("part", ["seeds", "keys"])
@pytest.mark.parametrize("place", [0, 32, 33, 48])
def test_a_forged_share_costs_who_sent_it_and_not_the_group(part: str, place: int) -> None:
    play = played()
    dealer = 0 if part == "seeds" else 5
    group, vectors = play.party, vectors_of(play.party)

    def forge(member: int, message: Unmasking) -> Unmasking:
        forged: dict[str, Any] = {part: flipped(getattr(message, part), place)}
        return replace(message, **forged) if member == 2 else message

    recovery = recovered(play, FIVE, forge)
    assert recovery.blamed == (Blame(2, Fault.FORGED_SHARE, dealer),)
    total = play.total(play.mask(member, vectors[member]) for member in FIVE)
    opening.open_sum(group.agreement, total, recovery)
    assert cut(group, total) == plain_sum(group, vectors, FIVE)


def test_too_many_forged_shares_abort_the_group_and_name_who_forged() -> None:
    play = played()

    def forge(member: int, message: Unmasking) -> Unmasking:
        return replace(message, seeds=flipped(message.seeds, 0)) if member < 3 else message

    with pytest.raises(opening.NotOpened, match="right shares of member 0") as refused:
        recovered(play, EVERYBODY, forge)
    assert [one.member for one in refused.value.blamed] == [0, 1, 2]
    assert refused.value.code == "too-few-survivors"


def dealt_wrongly(play: Play, dealer: int, change: Callable[[Pair], Pair]) -> None:
    """Let a dealer deal holder 0 a share off the polynomial, promised and signed as if it were right."""
    pair = change(play.pairs[dealer][0])
    seat, dealt = play.party.seats[dealer], play.dealt[dealer]
    route = seat.route(dealer=dealer, holder=0)
    box, promise = seal(seat.box_key(dealer=dealer, holder=0), route, pair), pair.promise(route)
    signature = play.party.devices[dealer].key.sign(boxes.signed_digest(route, box, promise))
    play.dealt[dealer] = replace(
        dealt, boxes={**dealt.boxes, 0: box}, promises={**dealt.promises, 0: promise},
        signatures={**dealt.signatures, 0: signature},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("dealer", "change"),
    [
        (1, lambda pair: replace(pair, seed_share=(pair.seed_share + 1) % PRIME)),
        (5, lambda pair: replace(pair, key_share=(pair.key_share + 8) % PRIME)),
        (1, lambda pair: replace(pair, seed_share=(pair.seed_share + PRIME // 2) % PRIME)),
    ],
)
def test_a_dealer_of_inconsistent_shares_is_named(dealer: int, change: Callable[[Pair], Pair]) -> None:
    play = Play.shared(made(), range(SIZE))
    dealt_wrongly(play, dealer, change)
    play.receive()
    with pytest.raises(opening.NotOpened) as refused:
        recovered(play, FIVE, lambda _member, message: message)
    assert refused.value.blamed == (Blame(dealer, Fault.INCONSISTENT_SHARES, dealer),)


def test_a_wrong_seed_digest_is_its_dealers_fault() -> None:
    play = played()
    play.dealt[3] = replace(play.dealt[3], seed_digest=seed_digest(play.party.agreement, bytes(32)))
    with pytest.raises(opening.NotOpened) as refused:
        recovered(play, FIVE, lambda _member, message: message)
    assert refused.value.blamed == (Blame(3, Fault.INCONSISTENT_SHARES, 3),)


def test_an_opening_that_checks_no_secret_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant: rebuilt secrets are taken as they are."""
    monkeypatch.setattr(opening._Rebuilding, "_blame_dealer", lambda *_all: None)
    with pytest.raises(pytest.fail.Exception):
        test_a_wrong_seed_digest_is_its_dealers_fault()


def test_an_opening_that_checks_no_share_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant: shares are used without their promise."""
    monkeypatch.setattr(opening, "revealed_seed", lambda raw, _route, _promise: field.decode(raw[:33]))
    with pytest.raises((AssertionError, opening.NotOpened)):
        test_a_forged_share_costs_who_sent_it_and_not_the_group("seeds", 0)


@pytest.mark.parametrize(
    ("parts", "refusal"),
    [
        ({"seeds": b""}, Malformed),
        ({"seeds": bytes(49 * 6)}, Malformed),
        ({"keys": bytes(49 * 2)}, Malformed),
        ({"keys": b"", "seeds": bytes(49 * 6)}, Malformed),  # a member listed as alive that is gone
        ({"lacking": b"\xff"}, Malformed),
        ({"lacking": members(0)}, Malformed),
        ({"group": "00" * 16}, ContradictedGroup),
    ],
)
def test_shares_that_were_not_asked_for_are_refused(parts: dict[str, Any], refusal: type[Refusal]) -> None:
    play = played()
    message = participant.unmask(
        play.party.seats[1], play.received[1], play.confirm(1, FIVE), confirmations_of(play, FIVE, FIVE)
    )
    take = play.party.agreement, 1
    opening.revealed(*take, message, sharers=EVERYBODY, masked=FIVE)
    with pytest.raises(refusal):
        opening.revealed(*take, replace(message, **parts), sharers=EVERYBODY, masked=FIVE)


def test_who_is_gone_reveals_nothing_that_counts() -> None:
    play = played()
    message = participant.unmask(
        play.party.seats[1], play.received[1], play.confirm(1, FIVE), confirmations_of(play, FIVE, FIVE)
    )
    with pytest.raises(ContradictedGroup, match="did not survive"):
        opening.revealed(play.party.agreement, 5, message, sharers=EVERYBODY, masked=FIVE)


def test_nobody_lacks_the_share_of_one_who_dealt_none() -> None:
    play = Play.shared(made(), FIVE)
    play.receive()
    message = Unmasking(version=1, group=GROUP, lacking=members(5), seeds=b"", keys=b"")
    with pytest.raises(ContradictedGroup, match="dealt it none"):
        opening.revealed(play.party.agreement, 1, message, sharers=FIVE, masked=FIVE)


def test_a_sum_is_never_opened_for_fewer_than_the_quorum_or_for_strangers() -> None:
    play = played()
    with pytest.raises(opening.NotOpened, match="3 reports"):
        opening.recover(play.party.agreement, play.dealt, frozenset({0, 1, 2}), {})
    with pytest.raises(ContradictedGroup):
        opening.recover(play.party.agreement, {0: play.dealt[0]}, FIVE, {})
    with pytest.raises(opening.NotOpened, match="0 right shares"):
        opening.recover(play.party.agreement, play.dealt, FIVE, {})


def test_secrets_are_in_no_text() -> None:
    play = played()
    recovery = recovered(play, FIVE, lambda _member, message: message)
    pair = play.received[0].pairs[1]
    shown = repr(recovery) + repr(play.received[0]) + repr(pair) + repr(play.confirm(0, FIVE))
    seeds = [device.secrets.seed for device in play.party.devices]
    for canary in (*seeds, *(device.secrets.mask_key.raw for device in play.party.devices)):
        assert repr(canary)[2:-1] not in shown
        assert str(int.from_bytes(canary, "little")) not in shown
    assert str(pair.seed_share) not in shown
    assert str(pair.key_share) not in shown
    bad = replace(play.received[0], bad_boxes={1: digest(b"a box key")})
    assert repr(digest(b"a box key"))[2:-1] not in repr(bad)
    revelation = opening.Revelation({1: pair.reveal_seed()}, {2: pair.reveal_key()})
    assert repr(pair.salt)[2:-1] not in repr(revelation) + shown


# --- messages

HEAD = {"version": 1, "group": GROUP}
MESSAGES: list[tuple[type[Any], dict[str, Any]]] = [
    (messages.Joining, {"entry": bytes(240)}),
    (messages.Roster, {"entries": bytes(480)}),
    (messages.Shares, {"seed_digest": bytes(32), "boxes": b"", "promises": b"", "signatures": b""}),
    (messages.Delivery, {"sharers": b"", "boxes": b"", "promises": b"", "signatures": b""}),
    (messages.Complaints, {"about": b"", "box_keys": bytes(32), "unsigned": b""}),
    (messages.Survivors, {"masked": b"\1"}),
    (messages.Confirmation, {"signature": bytes(64)}),
    (messages.Confirmations, {"confirmed": b"", "signatures": bytes(128)}),
    (messages.Unmasking, {"lacking": b"", "seeds": b"", "keys": b""}),
]


@pytest.mark.parametrize(("kind", "parts"), MESSAGES, ids=[kind.__name__ for kind, _parts in MESSAGES])
def test_a_message_is_read_as_it_was_written_and_of_one_version(kind: type[Any], parts: dict[str, Any]) -> None:
    message = kind(**HEAD, **parts)
    raw = wire.encode(message)
    assert wire.decode(kind, raw) == message
    for wrong in (raw.replace(b'"version":1', b'"version":2'), raw.replace(GROUP.encode(), b"x")):
        with pytest.raises(Refusal):
            wire.decode(kind, wrong)


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        (messages.Joining, {"entry": bytes(239)}),
        (messages.Roster, {"entries": bytes(241)}),
        (messages.Shares, {"seed_digest": bytes(31), "boxes": b"", "promises": b"", "signatures": b""}),
        (messages.Complaints, {"about": b"", "box_keys": bytes(33), "unsigned": b""}),
        (messages.Confirmation, {"signature": bytes(63)}),
        (messages.Confirmations, {"confirmed": b"", "signatures": bytes(65)}),
    ],
)
def test_a_message_of_another_length_is_malformed(kind: type[Any], parts: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        kind(**HEAD, **parts)


def test_a_roster_is_read_as_its_entries() -> None:
    entries = made().agreement.roster
    message = messages.Roster(version=1, group=GROUP, entries=b"".join(one.raw for one in entries))
    assert message.members() == entries
    joining = participant.joining(entries[0], GROUP)
    assert joining.entry == entries[0].raw


def test_the_largest_messages_fit() -> None:
    """1,000 members of degree 194, and 200 on a complete graph: below the limit of a control message."""
    for count in (199, 194):
        parts = {"boxes": bytes(98 * count), "promises": bytes(64 * count), "signatures": bytes(64 * count)}
        assert len(wire.encode(messages.Delivery(version=1, group=GROUP, sharers=bytes(125), **parts))) < 1 << 16
    roster = messages.Roster(version=1, group=GROUP, entries=bytes(240 * 1000))
    assert len(wire.encode(roster)) < wire.MESSAGE_LIMIT_BYTES


@given(raw=st.binary(max_size=300), member=st.integers(0, SIZE - 1))
@settings(max_examples=150, deadline=None)
def test_any_bytes_in_any_message_are_refused_by_name(raw: bytes, member: int) -> None:
    """Whatever a peer puts into the packed parts: a refusal or a right answer, never another error."""
    play = played()
    agreement, seat = play.party.agreement, play.party.seats[member]
    head: dict[str, Any] = {"version": 1, "group": GROUP}
    confirmed = play.confirm(member, EVERYBODY)

    def unmasked() -> None:
        message = Unmasking(**head, lacking=raw[:1], seeds=raw, keys=raw)
        opening.revealed(agreement, member, message, sharers=EVERYBODY, masked=EVERYBODY)

    calls: list[Callable[[], object]] = [
        lambda: messages.Roster(**head, entries=raw).members(),
        lambda: mailbox.taken(
            agreement, member, messages.Shares(**head, seed_digest=raw[:32], boxes=raw, promises=raw, signatures=raw)
        ),
        lambda: participant.receive(
            seat, play.pairs[member][member], Delivery(**head, sharers=raw[:1], boxes=raw, promises=raw, signatures=raw)
        ),
        lambda: mailbox.judged(
            agreement, member, Complaints(**head, about=raw[:1], box_keys=raw[:32], unsigned=raw[1:2]), play.dealt
        ),
        lambda: participant.confirm(
            seat, play.party.devices[member].key, play.received[member], Survivors(**head, masked=raw[:1])
        ),
        lambda: participant.unmask(
            seat, play.received[member], confirmed, Confirmations(**head, confirmed=raw[:1], signatures=raw)
        ),
        unmasked,
        lambda: wire.decode(Delivery, raw),
    ]
    for call in calls:
        with contextlib.suppress(Refusal):
            call()


subsets = st.frozensets(st.integers(0, SIZE - 1))


@given(sharers=subsets, masked=subsets, signers=subsets, other=subsets)
@settings(max_examples=200, deadline=None)
def test_no_sequence_of_messages_makes_a_device_reveal_below_its_floor(
    sharers: Members, masked: Members, signers: Members, other: Members
) -> None:
    """A hostile coordinator shows any sets and any true signatures, of this set or of another."""
    play = played()
    agreement, seat = play.party.agreement, play.party.seats[0]
    dealers = {dealer: play.dealt[dealer] for dealer in sharers}
    shown = Survivors(version=1, group=GROUP, masked=encode_members(masked, SIZE))
    try:
        received = participant.receive(seat, play.pairs[0][0], mailbox.delivery(agreement, 0, dealers))
        mine = participant.confirm(seat, play.party.devices[0].key, received, shown)
        message = participant.unmask(seat, received, mine, confirmations_of(play, signers, other))
    except Refusal:
        return
    assert 0 in masked <= sharers
    assert len(masked) >= agreement.terms.survivors
    assert signers <= masked == other
    assert len(signers) >= agreement.threshold
    assert len(message.seeds) + len(message.keys) == 49 * len(sharers)


def test_true_sets_are_revealed_for() -> None:
    """So that the property above is not about nothing."""
    play = played()
    message = participant.unmask(
        play.party.seats[0], play.received[0], play.confirm(0, FIVE), confirmations_of(play, FIVE, FIVE)
    )
    assert (len(message.seeds), len(message.keys)) == (49 * 5, 49)


@pytest.mark.parametrize("changes", [{"round": 4}, {"checkpoint_sha256": "44" * 32}, {"parameters": 6}])
def test_confirmations_of_another_context_count_for_nothing(changes: dict[str, Any]) -> None:
    """The same members, the same keys, the same group id: only what was agreed differs."""
    play, other = played(), party(replace(terms_of(SIZE), **changes), SIZE)
    assert other.agreement.roster == play.party.agreement.roster
    signed = participant.confirmed_digest(other.agreement, FIVE)
    forged = mailbox.confirmations(
        play.party.agreement, {member: play.party.devices[member].key.sign(signed) for member in FIVE}
    )
    with pytest.raises(ContradictedGroup, match="did not confirm"):
        participant.unmask(play.party.seats[0], play.received[0], play.confirm(0, FIVE), forged)


def test_boxes_of_another_context_do_not_open() -> None:
    """A coordinator that replays the boxes of an earlier round gets no complaint with a key either."""
    other = Play.shared(party(replace(terms_of(SIZE), round=4), SIZE), range(SIZE))
    seat, own, _delivery = delivered()
    received = participant.receive(seat, own, mailbox.delivery(other.party.agreement, 0, other.dealt))
    assert received.unsigned == EVERYBODY - {0}
    assert not received.bad_boxes


def test_a_holder_that_lacks_every_share_is_taken_at_its_word() -> None:
    play = played()
    message = Unmasking(version=1, group=GROUP, lacking=members(*range(SIZE)), seeds=b"", keys=b"")
    found = opening.revealed(play.party.agreement, 1, message, sharers=EVERYBODY, masked=FIVE)
    assert (found.seeds, found.keys) == ({}, {})
