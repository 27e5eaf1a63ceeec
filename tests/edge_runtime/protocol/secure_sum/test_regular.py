"""Steps on a regular graph: only neighbours hold shares, and only neighbours count."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from edge_runtime.protocol.errors import ContradictedGroup, Malformed, TooFewSurvivors
from edge_runtime.protocol.secure_sum import mailbox, opening, participant
from edge_runtime.protocol.secure_sum.messages import Unmasking
from tests.edge_runtime.protocol.secure_sum.groups import Play, small_regular
from tests.edge_runtime.protocol.secure_sum.played import PAIR, confirmations_of


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    made = small_regular(monkeypatch)
    play = Play.shared(made, made.everybody)
    play.receive()
    return play


def around(play: Play) -> tuple[list[int], list[int]]:
    """The neighbours of member 0, and those who are not, without itself."""
    near = play.party.agreement.graph.neighbours(0)
    return sorted(near), sorted(play.party.everybody - near - {0})


def unmasked(play: Play, signers: Iterable[int]) -> Unmasking:
    everybody, seat = play.party.everybody, play.party.seats[0]
    said = confirmations_of(play, frozenset(signers), everybody)
    return participant.unmask(seat, play.received[0], play.confirm(0, everybody), said)


def test_only_confirmations_of_neighbours_count(play: Play) -> None:
    """Else a coordinator shows a device the signatures of others, and each of its neighbours another set."""
    near, far = around(play)
    assert (len(near), len(far)) == (8, 7)
    with pytest.raises(TooFewSurvivors, match="4 confirmations count where 5"):
        unmasked(play, [0, *near[:4], *far])
    assert len(unmasked(play, near[:5]).seeds) == 8 * 49


def test_a_confirmation_that_does_not_count_is_checked_all_the_same(play: Play) -> None:
    near, far = around(play)
    everybody, seat = play.party.everybody, play.party.seats[0]
    said = confirmations_of(play, frozenset([*near, far[0]]), everybody)
    place = 64 * sorted([*near, far[0]]).index(far[0])
    forged = replace(said, signatures=said.signatures[:place] + bytes(64) + said.signatures[place + 64 :])
    with pytest.raises(ContradictedGroup, match=f"member {far[0]} did not confirm"):
        participant.unmask(seat, play.received[0], play.confirm(0, everybody), forged)


def test_a_member_stops_when_fewer_than_t_neighbours_are_left(play: Play) -> None:
    near, far = around(play)
    assert play.confirm(0, frozenset([0, *near[:5], *far])).masked == {0, *near[:5], *far}
    with pytest.raises(TooFewSurvivors, match="fewer than 5 neighbours"):
        play.confirm(0, frozenset([0, *near[:4], *far]))


def test_a_device_holds_nothing_of_its_own_secrets(play: Play) -> None:
    delivery = mailbox.delivery(play.party.agreement, 0, play.dealt)
    assert 0 not in play.received[0].pairs
    with pytest.raises(ValueError, match="and on no other"):
        participant.receive(play.party.seats[0], PAIR, delivery)


def test_a_holder_reveals_the_shares_of_its_neighbours_and_of_nobody_else(play: Play) -> None:
    near, far = around(play)
    everybody, agreement = play.party.everybody, play.party.agreement
    message = unmasked(play, near)
    given = opening.revealed(agreement, 0, message, sharers=everybody, masked=everybody)
    assert sorted(given.seeds) == near
    longer = replace(message, seeds=message.seeds + bytes(49))
    with pytest.raises(Malformed, match="seeds has 441 bytes where 392"):
        opening.revealed(agreement, 0, longer, sharers=everybody, masked=everybody)
    lacking = replace(message, lacking=(1 << far[0]).to_bytes(2, "little"))
    with pytest.raises(ContradictedGroup, match="dealt it none"):
        opening.revealed(agreement, 0, lacking, sharers=everybody, masked=everybody)


def test_masks_are_shared_with_neighbours_who_shared(play: Play) -> None:
    near, _far = around(play)
    streams = participant.mask_streams(play.party.seats[0], play.party.everybody - {near[0]})
    agreement, mine = play.party.agreement, play.party.devices[0].secrets
    expected = [participant.pair_stream(agreement, mine.mask_key, of=0, peer=peer) for peer in near[1:]]
    assert streams == [participant.own_stream(agreement, mine.seed), *expected]
