"""A device's side of each step: from what it knows and what it was told to what it sends. All checks, no memory.

Each step needs the value that the step before gave, so none can be left out. What no function can know, the caller
keeps on disk: that a step was taken, before its bytes leave, and that it is never taken twice with other sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from edge_runtime.protocol.errors import (
    BoxNotOpened,
    ContradictedGroup,
    Malformed,
    TooFewSurvivors,
    UntrustedDocument,
)
from edge_runtime.protocol.keys import SIGNATURE_BYTES, PublicKey, SigningKey
from edge_runtime.protocol.secure_sum import masks, shamir
from edge_runtime.protocol.secure_sum.boxes import (
    BOX_BYTES,
    PROMISE_BYTES,
    SALT_BYTES,
    Pair,
    Route,
    open_box,
    seal,
    signed_digest,
)
from edge_runtime.protocol.secure_sum.digests import Domain, hashed
from edge_runtime.protocol.secure_sum.lanes import LaneVector
from edge_runtime.protocol.secure_sum.masks import KEY_BYTES, AgreementKey, Stream, Use, derived
from edge_runtime.protocol.secure_sum.members import Members, decode_members, encode_members
from edge_runtime.protocol.secure_sum.messages import (
    Complaints,
    Confirmation,
    Confirmations,
    Delivery,
    Joining,
    Shares,
    Survivors,
    Unmasking,
    pieces,
)
from edge_runtime.protocol.secure_sum.roster import NONCE_BYTES, Entry, signed_entry
from edge_runtime.protocol.secure_sum.shamir import Randomness
from edge_runtime.protocol.secure_sum.transcript import Agreement

SECRETS_BYTES: Final = 4 * KEY_BYTES + NONCE_BYTES


@dataclass(frozen=True, slots=True)
class Secrets:
    """Everything that a device draws for one group, at once; every later step follows from it and what was agreed.

    So a step that is repeated after a crash gives the same bytes, and no box key ever seals two pairs.
    """

    box_key: AgreementKey
    mask_key: AgreementKey
    seed: bytes = field(repr=False)
    dealing: bytes = field(repr=False)
    nonce: bytes

    @classmethod
    def fresh(cls, randomness: Randomness) -> Secrets:
        """Draw secrets for one group from a cryptographic source, such as `os.urandom`."""
        return cls.from_raw(randomness(SECRETS_BYTES))

    @property
    def raw(self) -> bytes:
        """144 bytes, for the device's journal and nobody else."""
        return self.box_key.raw + self.mask_key.raw + self.seed + self.dealing + self.nonce

    @classmethod
    def from_raw(cls, raw: bytes) -> Secrets:
        """Read them again.

        Raises:
            Malformed: The bytes are not 144.
        """
        if len(raw) != SECRETS_BYTES:
            raise Malformed(f"the secrets of a group have {SECRETS_BYTES} bytes")
        parts = [raw[begin : begin + KEY_BYTES] for begin in range(0, SECRETS_BYTES, KEY_BYTES)]
        return cls(AgreementKey(parts[0]), AgreementKey(parts[1]), parts[2], parts[3], parts[4])

    def entry(self, device: SigningKey, certificate: bytes, *, plan_sha256: str, group: str) -> Entry:
        """Step 0: the entry by which the device joins one group."""
        return signed_entry(
            device,
            certificate,
            plan_sha256=plan_sha256,
            group=group,
            box_key=self.box_key.public,
            mask_key=self.mask_key.public,
            nonce=self.nonce,
        )


@dataclass(frozen=True, slots=True)
class Seat:
    """A device at its place in an agreed group: what `transcript.join` gave, and the secrets of that entry.

    Raises:
        ValueError: The secrets are not those of the entry at this position: a bug of the caller.
    """

    agreement: Agreement
    position: int
    secrets: Secrets

    def __post_init__(self) -> None:
        entry = self.agreement.roster[self.position]
        if (entry.box_key, entry.mask_key) != (self.secrets.box_key.public, self.secrets.mask_key.public):
            raise ValueError("the secrets are not those of the entry at this position")

    @property
    def neighbours(self) -> Members:
        return self.agreement.graph.neighbours(self.position)

    def route(self, *, dealer: int, holder: int) -> Route:
        return Route(self.agreement.context, dealer, holder)

    def box_key(self, *, dealer: int, holder: int) -> bytes:
        """The key of the one box from dealer to holder; one of them is this device."""
        peer = self.agreement.roster[holder if dealer == self.position else dealer].box_key
        return self.secrets.box_key.agree(peer, self.agreement.context, Use.BOX, dealer, holder)


@dataclass(frozen=True, slots=True)
class Received:
    """After step 1: who shared (U1), and what this device holds of them.

    Attributes:
        pairs: By dealer.
        bad_boxes: Keys of boxes that their dealers signed, and that are bad.
        unsigned: Dealers of boxes that are bad, and not signed by them.
    """

    sharers: Members
    pairs: Mapping[int, Pair]
    bad_boxes: Mapping[int, bytes] = field(repr=False)
    unsigned: Members


@dataclass(frozen=True, slots=True)
class Confirmed:
    """After step 3: the set that this device signed (U2), and the message that says so."""

    masked: Members
    message: Confirmation


def joining(entry: Entry, group: str) -> Joining:
    return Joining(version=1, group=group, entry=entry.raw)


def deal(seat: Seat, device: SigningKey) -> tuple[Shares, Mapping[int, Pair]]:
    """Step 1: share the seed and the mask key with every holder. The same seat gives the same bytes.

    Returns:
        The message, and the pair of each holder: a device keeps its own, if it is one.
    """
    agreement, secrets, me = seat.agreement, seat.secrets, seat.position
    holders = agreement.graph.holders(me)
    draw = masks.keyed_randomness(derived(secrets.dealing, agreement.context, Use.DEALING))
    points = [holder + 1 for holder in holders]
    seed_shares = shamir.split(secrets.seed, agreement.threshold, points, draw)
    key_shares = shamir.split(secrets.mask_key.raw, agreement.threshold, points, draw)
    pairs = {
        holder: Pair(seed_share, key_share, draw(SALT_BYTES))
        for holder, seed_share, key_share in zip(holders, seed_shares, key_shares, strict=True)
    }
    boxes, promises, signatures = [], [], []
    for holder, pair in pairs.items():
        route = seat.route(dealer=me, holder=holder)
        promises.append(pair.promise(route))
        if holder != me:
            boxes.append(seal(seat.box_key(dealer=me, holder=holder), route, pair))
            signatures.append(device.sign(signed_digest(route, boxes[-1], promises[-1])))
    message = Shares(
        version=1,
        group=agreement.terms.group,
        seed_digest=seed_digest(agreement, secrets.seed),
        boxes=b"".join(boxes),
        promises=b"".join(promises),
        signatures=b"".join(signatures),
    )
    return message, pairs


def seed_digest(agreement: Agreement, seed: bytes) -> bytes:
    """The commitment to the seed of a device's own mask, 32 bytes."""
    return hashed(Domain.SEED, seed, agreement.context)


def receive(seat: Seat, own: Pair | None, delivery: Delivery) -> Received:
    """Open the boxes of step 1. A box that is bad is named, and the device goes on.

    Guarantee: the key of a box is kept as evidence only if the dealer signed that very box. Else a coordinator could
    spoil boxes on their way, be shown their keys, and open what it had kept.

    Args:
        own: The device's pair of its own secrets, from `deal`; None on a regular graph.

    Raises:
        ValueError: The own pair is missing, or is there on a regular graph: a bug of the caller.
        ContradictedGroup: The delivery is of another group, or leaves this device out.
        TooFewSurvivors: Too few shared for this device's report to be hidden, or to be counted.
        Malformed: A length is wrong.
    """
    agreement, me = seat.agreement, seat.position
    if (own is None) == agreement.graph.complete:
        raise ValueError("a device holds a pair of its own secrets on a complete graph, and on no other")
    delivery.check_group(agreement.terms.group)
    sharers = decode_members(delivery.sharers, agreement.size)
    _check_set(seat, sharers)
    dealers = sorted(seat.neighbours & sharers)
    boxes = pieces(delivery.boxes, BOX_BYTES, dealers, "boxes")
    promises = pieces(delivery.promises, PROMISE_BYTES, dealers, "promises")
    signatures = pieces(delivery.signatures, SIGNATURE_BYTES, dealers, "signatures")
    pairs, bad, unsigned = ({} if own is None else {me: own}), {}, set()
    for dealer, box in boxes.items():
        promise = promises[dealer]
        key, route = seat.box_key(dealer=dealer, holder=me), seat.route(dealer=dealer, holder=me)
        try:
            pairs[dealer] = open_box(key, route, box, promise)
        except BoxNotOpened:
            try:
                verify_box(agreement, route, box, promise, signatures[dealer])
                bad[dealer] = key
            except UntrustedDocument:
                unsigned.add(dealer)
    return Received(sharers, pairs, bad, frozenset(unsigned))


def verify_box(agreement: Agreement, route: Route, box: bytes, promise: bytes, signature: bytes) -> None:
    """Return if the dealer signed this box with this promise.

    Raises:
        UntrustedDocument: It did not.
    """
    PublicKey(agreement.roster[route.dealer].device_key).verify(signature, signed_digest(route, box, promise))


def complaints(seat: Seat, received: Received) -> Complaints:
    """Whose boxes were bad, with their keys; a key opens that one box and nothing else."""
    about = sorted(received.bad_boxes)
    return Complaints(
        version=1,
        group=seat.agreement.terms.group,
        about=encode_members(about, seat.agreement.size),
        box_keys=b"".join(received.bad_boxes[dealer] for dealer in about),
        unsigned=encode_members(received.unsigned, seat.agreement.size),
    )


def mask(seat: Seat, received: Received, lanes: LaneVector) -> bytes:
    """Step 2: hide the lanes in place and pack them; the lanes of the masked report, to be stored before they leave.

    Guarantee: to whoever lacks the seed, and to whoever lacks a pair key of this device, the result is uniform.

    Args:
        lanes: Uint32, the exact number for the group's parameters; the report is not in it any more afterwards.

    Raises:
        ValueError: The lanes are not those of the group: a bug of the caller.
    """
    terms = seat.agreement.terms
    if lanes.size != terms.lanes.count(terms.parameters):
        raise ValueError(f"{lanes.size} lanes where {terms.lanes.count(terms.parameters)} are agreed")
    masks.apply(lanes, mask_streams(seat, received.sharers))
    return terms.lanes.packed(lanes)


def mask_streams(seat: Seat, sharers: Members) -> list[Stream]:
    """The streams of a device: its own, and one for each neighbour who shared, added towards later positions."""
    agreement, me = seat.agreement, seat.position
    own = own_stream(agreement, seat.secrets.seed)
    peers = sorted(seat.neighbours & sharers)
    return [own, *(pair_stream(agreement, seat.secrets.mask_key, of=me, peer=peer) for peer in peers)]


def own_stream(agreement: Agreement, seed: bytes) -> Stream:
    """The mask that a seed gives."""
    return Stream(derived(seed, agreement.context, Use.SELF), added=True)


def pair_stream(agreement: Agreement, key: AgreementKey, *, of: int, peer: int) -> Stream:
    """The mask between two members as the report of one of them has it: added if the peer comes later."""
    return Stream(key.agree(agreement.roster[peer].mask_key, agreement.context, Use.PAIR), added=of < peer)


def confirm(seat: Seat, device: SigningKey, received: Received, survivors: Survivors) -> Confirmed:
    """Step 3: sign the set whose sum is to be opened.

    Raises:
        ContradictedGroup: The set is of another group, has members who never shared, or leaves this device out.
        TooFewSurvivors: It is too small.
        Malformed: It is no set of members.
    """
    agreement = seat.agreement
    survivors.check_group(agreement.terms.group)
    masked = decode_members(survivors.masked, agreement.size)
    _check_set(seat, masked)
    if not masked <= received.sharers:
        raise ContradictedGroup("the survivors are not all among those who shared")
    signature = device.sign(confirmed_digest(agreement, masked))
    return Confirmed(masked, Confirmation(version=1, group=agreement.terms.group, signature=signature))


def confirmed_digest(agreement: Agreement, masked: Members) -> bytes:
    """What a confirmation signs, 32 bytes."""
    return hashed(Domain.CONFIRM, agreement.context, encode_members(masked, agreement.size))


def unmask(seat: Seat, received: Received, confirmed: Confirmed, confirmations: Confirmations) -> Unmasking:
    """Step 4: for each dealer one share, of its seed if it survived, of its mask key if it is gone. Never both.

    The caller stores that it reveals for this set, before the bytes leave, and never calls this for another.

    Raises:
        ContradictedGroup: Somebody confirmed another set, who did not survive, or not with its own key.
        TooFewSurvivors: Fewer than t confirmed, or on a regular graph fewer than t neighbours.
        Malformed: A length is wrong.
    """
    agreement = seat.agreement
    _check_confirmations(seat, confirmed.masked, confirmations)
    dealers = (seat.neighbours | received.pairs.keys()) & received.sharers
    held = sorted(dealers & received.pairs.keys())
    return Unmasking(
        version=1,
        group=agreement.terms.group,
        lacking=encode_members(dealers - received.pairs.keys(), agreement.size),
        seeds=b"".join(received.pairs[dealer].reveal_seed() for dealer in held if dealer in confirmed.masked),
        keys=b"".join(received.pairs[dealer].reveal_key() for dealer in held if dealer not in confirmed.masked),
    )


def _check_confirmations(seat: Seat, masked: Members, confirmations: Confirmations) -> None:
    agreement = seat.agreement
    confirmations.check_group(agreement.terms.group)
    signers = decode_members(confirmations.confirmed, agreement.size)
    signatures = pieces(confirmations.signatures, SIGNATURE_BYTES, sorted(signers), "signatures")
    if not signers <= masked:
        raise ContradictedGroup("somebody confirmed who did not survive")
    counted = signers if agreement.graph.complete else signers & seat.neighbours
    if len(counted) < agreement.threshold:
        raise TooFewSurvivors(f"{len(counted)} confirmations count where {agreement.threshold} are needed")
    expected = confirmed_digest(agreement, masked)
    for signer, signature in signatures.items():
        try:
            PublicKey(agreement.roster[signer].device_key).verify(signature, expected)
        except UntrustedDocument:
            raise ContradictedGroup(f"member {signer} did not confirm these survivors") from None


def _check_set(seat: Seat, members: Members) -> None:
    agreement = seat.agreement
    if seat.position not in members:
        raise ContradictedGroup("the device is not in the set that it is shown")
    if len(members) < agreement.quorum:
        raise TooFewSurvivors(f"{len(members)} members are left where {agreement.quorum} are needed")
    if not agreement.graph.complete and len(members & seat.neighbours) < agreement.threshold:
        raise TooFewSurvivors(f"fewer than {agreement.threshold} neighbours are left")
