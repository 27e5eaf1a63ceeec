"""The coordinator's side of the steps before the sum is opened: routing boxes, judging complaints, checking who signed.

The coordinator sees no share here: boxes are sealed, and promises are digests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from edge_runtime.protocol.errors import BoxNotOpened, ContradictedGroup, UntrustedDocument
from edge_runtime.protocol.keys import SIGNATURE_BYTES, PublicKey
from edge_runtime.protocol.secure_sum.boxes import BOX_BYTES, PROMISE_BYTES, Route, WrongPair, open_box
from edge_runtime.protocol.secure_sum.masks import KEY_BYTES
from edge_runtime.protocol.secure_sum.members import Members, decode_members, encode_members
from edge_runtime.protocol.secure_sum.messages import Complaints, Confirmation, Confirmations, Delivery, Shares, pieces
from edge_runtime.protocol.secure_sum.participant import confirmed_digest, verify_box
from edge_runtime.protocol.secure_sum.transcript import Agreement


class Fault(StrEnum):
    """What a member is blamed for."""

    BAD_BOX = "bad-box"
    """It dealt a box that it did not sign, or that holds other shares than it promised."""
    FALSE_COMPLAINT = "false-complaint"
    """It complained about a box that is good."""
    DISPUTED_BOX = "disputed-box"
    """A box does not open with the key that was shown: its dealer or its holder lies, and none can tell who."""
    FORGED_SHARE = "forged-share"
    """It gave back another share than it was dealt, and did not complain about."""
    INCONSISTENT_SHARES = "inconsistent-shares"
    """What it dealt rebuilds another secret than it had committed to."""


@dataclass(frozen=True, slots=True, order=True)
class Blame:
    """Who did what, and to whom it was seen: the coordinator quarantines by it, and keeps the messages as evidence."""

    member: int
    fault: Fault
    other: int
    """The dealer or the holder at the other end; the member itself where there is none."""


@dataclass(frozen=True, slots=True)
class Dealt:
    """One dealer's shares, cut up; boxes and signatures by holder without the dealer, promises by every holder."""

    seed_digest: bytes
    boxes: Mapping[int, bytes]
    promises: Mapping[int, bytes]
    signatures: Mapping[int, bytes]


def taken(agreement: Agreement, dealer: int, shares: Shares) -> Dealt:
    """Take the shares of step 1.

    Raises:
        ContradictedGroup: They are of another group.
        Malformed: A length is wrong.
    """
    shares.check_group(agreement.terms.group)
    holders = agreement.graph.holders(dealer)
    others = [holder for holder in holders if holder != dealer]
    return Dealt(
        shares.seed_digest,
        pieces(shares.boxes, BOX_BYTES, others, "boxes"),
        pieces(shares.promises, PROMISE_BYTES, holders, "promises"),
        pieces(shares.signatures, SIGNATURE_BYTES, others, "signatures"),
    )


def delivery(agreement: Agreement, holder: int, dealt: Mapping[int, Dealt]) -> Delivery:
    """What a holder gets once it is settled who shared: those whose shares are in `dealt`."""
    dealers = sorted(agreement.graph.neighbours(holder) & dealt.keys())
    return Delivery(
        version=1,
        group=agreement.terms.group,
        sharers=encode_members(dealt, agreement.size),
        boxes=b"".join(dealt[dealer].boxes[holder] for dealer in dealers),
        promises=b"".join(dealt[dealer].promises[holder] for dealer in dealers),
        signatures=b"".join(dealt[dealer].signatures[holder] for dealer in dealers),
    )


def judged(agreement: Agreement, holder: int, complaints: Complaints, dealt: Mapping[int, Dealt]) -> list[Blame]:
    """Whom the complaints of one holder show to be at fault.

    Raises:
        ContradictedGroup: They are of another group, or about somebody who dealt the holder nothing.
        Malformed: A length is wrong.
    """
    complaints.check_group(agreement.terms.group)
    about = decode_members(complaints.about, agreement.size)
    unsigned = decode_members(complaints.unsigned, agreement.size)
    keys = pieces(complaints.box_keys, KEY_BYTES, sorted(about), "box_keys")
    if about & unsigned or not about | unsigned <= agreement.graph.neighbours(holder) & dealt.keys():
        raise ContradictedGroup("a complaint is about a member who dealt nothing, or twice")
    found = [_judged(agreement, dealer, holder, dealt[dealer], None) for dealer in sorted(unsigned)]
    found += [_judged(agreement, dealer, holder, dealt[dealer], key) for dealer, key in keys.items()]
    return sorted(found)


def _judged(agreement: Agreement, dealer: int, holder: int, dealt: Dealt, key: bytes | None) -> Blame:
    route = Route(agreement.context, dealer, holder)
    box, promise = dealt.boxes[holder], dealt.promises[holder]
    try:
        verify_box(agreement, route, box, promise, dealt.signatures[holder])
    except UntrustedDocument:
        return Blame(dealer, Fault.BAD_BOX, holder)
    if key is None:
        return Blame(holder, Fault.FALSE_COMPLAINT, dealer)
    try:
        open_box(key, route, box, promise)
    except WrongPair:
        return Blame(dealer, Fault.BAD_BOX, holder)
    except BoxNotOpened:
        return Blame(dealer, Fault.DISPUTED_BOX, holder)
    return Blame(holder, Fault.FALSE_COMPLAINT, dealer)


def check_confirmation(agreement: Agreement, signer: int, masked: Members, confirmation: Confirmation) -> None:
    """Return if a survivor confirmed this set.

    Raises:
        ContradictedGroup: It is none of the survivors, or signed something else, or the message is of another group.
    """
    confirmation.check_group(agreement.terms.group)
    if signer not in masked:
        raise ContradictedGroup(f"member {signer} confirmed and did not survive")
    try:
        PublicKey(agreement.roster[signer].device_key).verify(
            confirmation.signature, confirmed_digest(agreement, masked)
        )
    except UntrustedDocument:
        raise ContradictedGroup(f"member {signer} did not confirm these survivors") from None


def confirmations(agreement: Agreement, signatures: Mapping[int, bytes]) -> Confirmations:
    """What every survivor gets: who confirmed, with their signatures."""
    return Confirmations(
        version=1,
        group=agreement.terms.group,
        confirmed=encode_members(signatures, agreement.size),
        signatures=b"".join(signatures[signer] for signer in sorted(signatures)),
    )
