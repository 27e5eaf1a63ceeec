"""Hostile coordinators: what a device refuses before it confirms and before it reveals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.protocol.errors import (
    ContradictedGroup,
    Malformed,
    Refusal,
    TooFewSurvivors,
)
from edge_runtime.protocol.secure_sum import mailbox, opening, participant
from edge_runtime.protocol.secure_sum.members import Members, encode_members
from edge_runtime.protocol.secure_sum.messages import Confirmations, Survivors, Unmasking
from tests.edge_runtime.protocol.secure_sum.groups import (
    GROUP,
    Play,
    party,
    terms_of,
)
from tests.edge_runtime.protocol.secure_sum.played import (
    EVERYBODY,
    FIVE,
    SIZE,
    confirmations_of,
    delivered,
    made,
    members,
    played,
)


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
    with pytest.raises(ContradictedGroup, match="another group"):
        mailbox.check_confirmation(agreement, 0, FIVE, replace(mine.message, group="00" * 16))


def test_who_is_gone_confirms_nothing_with_its_own_signature_either() -> None:
    play = played()
    signed = play.party.devices[5].key.sign(participant.confirmed_digest(play.party.agreement, FIVE))
    message = replace(play.confirm(0, FIVE).message, signature=signed)
    with pytest.raises(ContradictedGroup, match="member 5 confirmed and did not survive"):
        mailbox.check_confirmation(play.party.agreement, 5, FIVE, message)


def test_signatures_that_are_too_many_are_named() -> None:
    play = played()
    said = confirmations_of(play, FIVE, FIVE)
    longer = replace(said, signatures=said.signatures + bytes(64))
    with pytest.raises(Malformed, match=r"^signatures has 384 bytes where 320 are expected"):
        participant.unmask(play.party.seats[0], play.received[0], play.confirm(0, FIVE), longer)


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
