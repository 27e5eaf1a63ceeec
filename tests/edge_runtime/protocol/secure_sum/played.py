"""A group of six, of whom five survive: what the tests of the steps have in common."""

from __future__ import annotations

from hypothesis import strategies as st

from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.secure_sum import mailbox, participant
from edge_runtime.protocol.secure_sum.boxes import Pair, Route
from edge_runtime.protocol.secure_sum.field import PRIME
from edge_runtime.protocol.secure_sum.members import Members, encode_members
from edge_runtime.protocol.secure_sum.messages import Confirmations, Delivery
from edge_runtime.protocol.secure_sum.participant import Seat
from tests.edge_runtime.protocol.secure_sum.groups import (
    Party,
    Play,
    party,
    terms_of,
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


def confirmations_of(play: Play, signers: Members, masked: Members) -> Confirmations:
    signed = participant.confirmed_digest(play.party.agreement, masked)
    return mailbox.confirmations(
        play.party.agreement, {member: play.party.devices[member].key.sign(signed) for member in signers}
    )


EVERYBODY = frozenset(range(SIZE))
FIVE = EVERYBODY - {5}
