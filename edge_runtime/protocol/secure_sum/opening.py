"""The coordinator's arithmetic when a sum is opened: rebuild secrets, check every one, take the masks away.

Called after the ledger was charged. What it gives is the sum of the survivors' reports; of what it rebuilds, seeds hide
reports together with the pair masks, and mask keys are those of members whose report is in no sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edge_runtime.protocol.errors import ContradictedGroup, Malformed, TooFewSurvivors, WrongShare
from edge_runtime.protocol.secure_sum import masks
from edge_runtime.protocol.secure_sum.boxes import REVEALED_BYTES, Route, revealed_key, revealed_seed
from edge_runtime.protocol.secure_sum.lanes import LaneVector
from edge_runtime.protocol.secure_sum.mailbox import Blame, Dealt, Fault
from edge_runtime.protocol.secure_sum.masks import AgreementKey, Spread, Stream
from edge_runtime.protocol.secure_sum.members import Members, decode_members
from edge_runtime.protocol.secure_sum.messages import Unmasking, pieces
from edge_runtime.protocol.secure_sum.participant import own_stream, pair_stream, seed_digest
from edge_runtime.protocol.secure_sum.shamir import Weights
from edge_runtime.protocol.secure_sum.transcript import Agreement


class NotOpened(TooFewSurvivors):
    """A secret cannot be rebuilt: the group is aborted, and who is to blame is named.

    Attributes:
        blamed: Members at fault; empty if too many merely fell silent.
    """

    def __init__(self, detail: str, blamed: Sequence[Blame] = ()) -> None:
        super().__init__(detail)
        self.blamed = tuple(blamed)


class _Revealed(Protocol):
    def __call__(self, raw: bytes, route: Route, promise: bytes) -> int: ...


@dataclass(frozen=True, slots=True)
class Revelation:
    """What one holder gave in step 4, cut up by dealer."""

    seeds: Mapping[int, bytes] = field(repr=False)
    keys: Mapping[int, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Recovery:
    """The secrets that open a sum: seeds of the survivors, mask keys of those who are gone; and who lied on the way."""

    seeds: Mapping[int, bytes] = field(repr=False)
    keys: Mapping[int, AgreementKey]
    blamed: tuple[Blame, ...]


def revealed(
    agreement: Agreement, holder: int, unmasking: Unmasking, *, sharers: Members, masked: Members
) -> Revelation:
    """Take the shares of step 4; they are checked when the secrets are rebuilt.

    Raises:
        ContradictedGroup: The message is of another group, or of a holder that did not survive, or lacks the shares
            of a member who dealt it none.
        Malformed: A length is wrong.
    """
    unmasking.check_group(agreement.terms.group)
    if holder not in masked:
        raise ContradictedGroup(f"member {holder} reveals shares and did not survive")
    dealers = {dealer for dealer in agreement.graph.neighbours(holder) | {holder} if dealer in sharers}
    if not agreement.graph.complete:
        dealers.discard(holder)
    lacking = decode_members(unmasking.lacking, agreement.size)
    if not lacking <= dealers:
        raise ContradictedGroup(f"member {holder} lacks the shares of a member who dealt it none")
    held = sorted(dealers - lacking)
    alive, gone = [one for one in held if one in masked], [one for one in held if one not in masked]
    return Revelation(
        pieces(unmasking.seeds, REVEALED_BYTES, alive, "seeds"), pieces(unmasking.keys, REVEALED_BYTES, gone, "keys")
    )


def recover(
    agreement: Agreement, dealt: Mapping[int, Dealt], masked: Members, revelations: Mapping[int, Revelation]
) -> Recovery:
    """Rebuild the seed of every survivor and the mask key of everyone else who shared.

    Guarantee: each share was the promised one, each seed has the digest and each mask key the public key that its
    dealer had committed to. A holder's wrong share is left out, and costs the group nothing while t are right.

    Args:
        dealt: By dealer, all who shared (U1).
        masked: Whose report is in the sum (U2).
        revelations: By holder.

    Raises:
        NotOpened: The survivors are too few, too few right shares of a secret came, or they rebuild another secret.
        ContradictedGroup: A survivor never shared.
    """
    if not masked <= dealt.keys():
        raise ContradictedGroup("the survivors are not all among those who shared")
    if len(masked) < agreement.quorum:
        raise NotOpened(f"{len(masked)} reports came where a sum has {agreement.quorum} or more")
    rebuild = _Rebuilding(agreement, dealt, revelations)
    seeds = {dealer: rebuild.seed(dealer) for dealer in sorted(masked)}
    keys = {dealer: rebuild.key(dealer) for dealer in sorted(dealt.keys() - masked)}
    if rebuild.failed:
        raise NotOpened(rebuild.failed[0], sorted(rebuild.blamed))
    return Recovery(
        {dealer: seed for dealer, seed in seeds.items() if seed is not None},
        {dealer: key for dealer, key in keys.items() if key is not None},
        tuple(sorted(rebuild.blamed)),
    )


class _Rebuilding:
    """One pass over all secrets: weights are kept by their set of holders, blame and failures are collected."""

    def __init__(self, agreement: Agreement, dealt: Mapping[int, Dealt], revelations: Mapping[int, Revelation]) -> None:
        self.agreement, self.dealt, self.revelations = agreement, dealt, revelations
        self.blamed: set[Blame] = set()
        self.failed: list[str] = []
        self._weights: dict[tuple[int, ...], Weights] = {}

    def seed(self, dealer: int) -> bytes | None:
        """The seed of a survivor, or None and a failure."""
        given = {holder: one.seeds[dealer] for holder, one in self.revelations.items() if dealer in one.seeds}
        seed = self._secret(dealer, given, revealed_seed)
        if seed and seed_digest(self.agreement, seed) != self.dealt[dealer].seed_digest:
            self._blame_dealer(dealer)
        return seed

    def key(self, dealer: int) -> AgreementKey | None:
        """The mask key of a member that is gone, or None and a failure."""
        given = {holder: one.keys[dealer] for holder, one in self.revelations.items() if dealer in one.keys}
        secret = self._secret(dealer, given, revealed_key)
        key = AgreementKey(secret) if secret else None
        if key and key.public != self.agreement.roster[dealer].mask_key:
            self._blame_dealer(dealer)
        return key

    def _secret(self, dealer: int, given: Mapping[int, bytes], read: _Revealed) -> bytes | None:
        promises, right = self.dealt[dealer].promises, {}
        for holder in sorted(given):
            try:
                right[holder] = read(given[holder], Route(self.agreement.context, dealer, holder), promises[holder])
            except (WrongShare, Malformed):
                self.blamed.add(Blame(holder, Fault.FORGED_SHARE, dealer))
        enough = tuple(right)[: self.agreement.threshold]
        if len(enough) < self.agreement.threshold:
            self.failed.append(f"{len(enough)} right shares of member {dealer} came; {self.agreement.threshold} open")
            return None
        points = tuple(holder + 1 for holder in enough)
        if points not in self._weights:
            self._weights[points] = Weights.of(points)
        try:
            return self._weights[points].rebuild([right[holder] for holder in enough])
        except WrongShare:
            self._blame_dealer(dealer)
            return None

    def _blame_dealer(self, dealer: int) -> None:
        self.blamed.add(Blame(dealer, Fault.INCONSISTENT_SHARES, dealer))
        self.failed.append(f"the shares of member {dealer} rebuild another secret than it had committed to")


def streams_left(agreement: Agreement, recovery: Recovery) -> list[Stream]:
    """What the sum of the survivors' masked reports has too much, as streams that take it away.

    The pair masks of two survivors cancel. Left are the survivors' own masks, and each survivor's pair masks with
    those of its neighbours who shared and are gone.
    """
    left = [own_stream(agreement, seed).undone() for seed in recovery.seeds.values()]
    for gone, key in recovery.keys.items():
        # The survivor's report has this mask with the sign opposite to that which the one who is gone would have had.
        left += [
            pair_stream(agreement, key, of=gone, peer=survivor)
            for survivor in sorted(agreement.graph.neighbours(gone) & recovery.seeds.keys())
        ]
    return left


def open_sum(
    agreement: Agreement, total: LaneVector, recovery: Recovery, *, spread: Spread = map, parts: int = 1
) -> None:
    """Take the masks off a sum, in place; what is left is the sum of the survivors' lanes modulo 2^b.

    Memory: the total, and for each part two blocks of 256 KB and 256 open key streams.

    Args:
        total: Sum of the masked lanes of exactly the survivors, uint32, modulo 2^32.
        spread: `map`, or a thread pool's to use several cores.
        parts: As many as there are cores.

    Raises:
        ValueError: The total has not the agreed number of lanes: a bug of the caller.
    """
    terms = agreement.terms
    if total.size != terms.lanes.count(terms.parameters):
        raise ValueError(f"{total.size} lanes where {terms.lanes.count(terms.parameters)} are agreed")
    masks.apply(total, streams_left(agreement, recovery), spread=spread, parts=parts)
