"""Groups of pretended devices: everything that a device and the coordinator do in a group, step by step."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pytest

from edge_runtime.protocol.keys import SigningKey, digest
from edge_runtime.protocol.secure_sum import mailbox, opening, participant
from edge_runtime.protocol.secure_sum.boxes import Pair
from edge_runtime.protocol.secure_sum.lanes import Lanes, LaneVector
from edge_runtime.protocol.secure_sum.mailbox import Dealt
from edge_runtime.protocol.secure_sum.masks import keyed_randomness
from edge_runtime.protocol.secure_sum.members import Members, encode_members
from edge_runtime.protocol.secure_sum.messages import Confirmations, Survivors
from edge_runtime.protocol.secure_sum.opening import Recovery, Revelation
from edge_runtime.protocol.secure_sum.participant import Confirmed, Received, Seat, Secrets
from edge_runtime.protocol.secure_sum.roster import Entry, sign_certificate
from edge_runtime.protocol.secure_sum.thresholds import Sharing
from edge_runtime.protocol.secure_sum.transcript import Agreement, Terms, agree

AUTHORITY: Final = SigningKey(digest(b"enrolment authority of the tests"))
GROUP: Final = "ab" * 16


def lanes_of(bits: int = 24, most: int = 12, **more: Any) -> Lanes:
    seed = {"rotation_seed": bytes(range(32))} if bits < 24 else {}
    return Lanes(bits=bits, clipping_norm=1.0, max_participants=most, **(seed | more))


def terms_of(
    most: int = 12, *, parameters: int = 5, bits: int = 24, survivors: int | None = None, **more: Any
) -> Terms:
    """Terms for small groups: nobody corrupt, unless said otherwise."""
    fields: dict[str, Any] = {
            "tenant": "acme", "task": "words", "round": 3, "group": GROUP, "plan_sha256": "11" * 32,
            "bundle_sha256": "22" * 32, "checkpoint_sha256": "33" * 32, "fewest": 3, "survivors": most,
            "corrupt_permille": 0, "dropout_permille": 100, "lanes": lanes_of(bits, most), "parameters": parameters,
    }  # fmt: skip
    made = Terms(**(fields | more))
    return replace(made, survivors=made.fewest_to_open if survivors is None else survivors)


@dataclass(frozen=True)
class Device:
    """A device that asks to join: its identity, and what it drew for this group."""

    key: SigningKey
    secrets: Secrets
    entry: Entry


@functools.cache
def device(terms: Terms, number: int) -> Device:
    key = SigningKey(digest(b"device", number.to_bytes(4, "little")))
    certificate = sign_certificate(AUTHORITY, terms.tenant, key.public)
    secrets = Secrets.fresh(keyed_randomness(digest(b"secrets", number.to_bytes(4, "little"))))
    entry = secrets.entry(key, certificate, plan_sha256=terms.plan_sha256, group=terms.group)
    return Device(key, secrets, entry)


@dataclass(frozen=True)
class Party:
    """An agreed group with all its devices, in the order of the roster."""

    agreement: Agreement
    devices: tuple[Device, ...]
    seats: tuple[Seat, ...]

    @property
    def everybody(self) -> Members:
        return frozenset(range(self.agreement.size))


@functools.lru_cache(maxsize=64)
def party(terms: Terms, size: int) -> Party:
    devices = sorted(
        (device(terms, number) for number in range(size)), key=lambda one: one.entry.device_id(terms.tenant)
    )
    agreement = agree(terms, [one.entry for one in devices], AUTHORITY.public)
    seats = tuple(Seat(agreement, position, one.secrets) for position, one in enumerate(devices))
    return Party(agreement, tuple(devices), seats)


def small_regular(monkeypatch: pytest.MonkeyPatch) -> Party:
    """16 members of degree 8, t = 5: too small to be safe, and the arithmetic is the same."""
    monkeypatch.setattr("edge_runtime.protocol.secure_sum.transcript.sharing", lambda *_size, **_more: Sharing(8, 5))
    return party(terms_of(16, survivors=9, task="regular"), 16)


@dataclass
class Play:
    """A group at work. What is not spoilt by a test is done as an honest device and coordinator do it."""

    party: Party
    dealt: dict[int, Dealt]
    pairs: dict[int, Mapping[int, Pair]]
    received: dict[int, Received]

    @classmethod
    def shared(cls, party: Party, sharers: Iterable[int]) -> Play:
        """Step 1: these members share; each opens what the others dealt."""
        play = cls(party, {}, {}, {})
        for member in sorted(sharers):
            shares, play.pairs[member] = deal(party, member)
            play.dealt[member] = mailbox.taken(party.agreement, member, shares)
        return play

    def receive(self, members: Iterable[int] | None = None) -> None:
        for member in sorted(self.dealt if members is None else members):
            seat, delivery = self.party.seats[member], mailbox.delivery(self.party.agreement, member, self.dealt)
            self.received[member] = participant.receive(seat, self.pairs[member].get(member), delivery)

    def mask(self, member: int, lanes: LaneVector) -> bytes:
        return participant.mask(self.party.seats[member], self.received[member], lanes.copy())

    def total(self, packed: Iterable[bytes]) -> LaneVector:
        terms = self.party.agreement.terms
        total = np.zeros(terms.lanes.count(terms.parameters), np.uint32)
        for one in packed:
            total += terms.lanes.unpack(one, terms.parameters)
        return total

    def confirm(self, member: int, masked: Members) -> Confirmed:
        agreement = self.party.agreement
        message = Survivors(version=1, group=agreement.terms.group, masked=encode_members(masked, agreement.size))
        key = self.party.devices[member].key
        return participant.confirm(self.party.seats[member], key, self.received[member], message)

    def confirmations(self, confirmed: Mapping[int, Confirmed]) -> Confirmations:
        agreement = self.party.agreement
        for member, one in confirmed.items():
            mailbox.check_confirmation(agreement, member, one.masked, one.message)
        return mailbox.confirmations(agreement, {member: one.message.signature for member, one in confirmed.items()})

    def reveal(self, masked: Members, confirming: Iterable[int], revealing: Iterable[int]) -> dict[int, Revelation]:
        """Steps 3 and 4: these confirm, these reveal."""
        confirmed = {member: self.confirm(member, masked) for member in sorted(confirming)}
        message = self.confirmations(confirmed)
        revelations = {}
        for member in sorted(revealing):
            seat, received = self.party.seats[member], self.received[member]
            unmasking = participant.unmask(seat, received, confirmed[member], message)
            revelations[member] = opening.revealed(
                self.party.agreement, member, unmasking, sharers=frozenset(self.dealt), masked=masked
            )
        return revelations

    def recover(self, masked: Members, revelations: Mapping[int, Revelation]) -> Recovery:
        return opening.recover(self.party.agreement, self.dealt, masked, revelations)


@functools.lru_cache(maxsize=4096)
def deal(party: Party, member: int) -> Any:
    return participant.deal(party.seats[member], party.devices[member].key)


def run(
    party: Party, vectors: Mapping[int, LaneVector], *, sharers: Members, masked: Members,
    confirming: Members, revealing: Members,
) -> LaneVector:  # fmt: skip
    """A whole group, with these members still there at each step; the opened sum, modulo 2^32."""
    play = Play.shared(party, sharers)
    play.receive()
    total = play.total(play.mask(member, vectors[member]) for member in sorted(masked))
    revelations = play.reveal(masked, confirming, revealing)
    opening.open_sum(party.agreement, total, play.recover(masked, revelations))
    return total


def vectors_of(party: Party, seed: int = 0) -> dict[int, LaneVector]:
    """Any lanes of b bits, the four zeros included: the codec is another test's."""
    terms, rng = party.agreement.terms, np.random.default_rng(seed)
    count = terms.lanes.count(terms.parameters)
    return {
        member: rng.integers(0, 1 << terms.lanes.bits, count, dtype=np.uint64).astype(np.uint32)
        for member in party.everybody
    }


def plain_sum(party: Party, vectors: Mapping[int, LaneVector], members: Iterable[int]) -> list[int]:
    """What the sum must be: whole numbers of Python."""
    kept = [vectors[member].tolist() for member in sorted(members)]
    return [sum(lane) % (1 << party.agreement.terms.lanes.bits) for lane in zip(*kept, strict=True)]


def cut(party: Party, total: LaneVector) -> list[int]:
    """The lanes of a sum, b bits each."""
    return [lane % (1 << party.agreement.terms.lanes.bits) for lane in total.tolist()]


PUBLIC: Final = AUTHORITY.public
