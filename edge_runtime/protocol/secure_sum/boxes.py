"""Pairs of shares on their way: sealed for one holder, with a promise by which a share that comes back is checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edge_runtime.protocol.errors import BoxNotOpened, Malformed, WrongShare
from edge_runtime.protocol.secure_sum.digests import Domain, hashed
from edge_runtime.protocol.secure_sum.field import ELEMENT_BYTES, decode, encode

SALT_BYTES: Final = 16
PAIR_BYTES: Final = 2 * ELEMENT_BYTES + SALT_BYTES
"""82: share of the seed, share of the mask key, salt."""
BOX_BYTES: Final = PAIR_BYTES + 16
"""98: the pair and the tag of AES-GCM."""
PROMISE_BYTES: Final = 64
"""Two digests: of the seed's share and of the key's."""
REVEALED_BYTES: Final = ELEMENT_BYTES + SALT_BYTES
"""49: one share and the salt."""
_NONCE: Final = bytes(12)
"""A box key seals one box and never another, so the nonce need not change."""


class WrongPair(BoxNotOpened):
    """A box opens, and does not hold the promised shares: only its dealer can have made it."""


@dataclass(frozen=True, slots=True)
class Route:
    """From whom to whom, in which group: what a box and a promise are bound to."""

    context: bytes
    dealer: int
    holder: int

    @property
    def raw(self) -> bytes:
        return self.context + self.dealer.to_bytes(4, "little") + self.holder.to_bytes(4, "little")


@dataclass(frozen=True, slots=True)
class Pair:
    """What a holder has of a dealer: a share of its seed, a share of its mask key, and the salt of the promise."""

    seed_share: int = field(repr=False)
    key_share: int = field(repr=False)
    salt: bytes = field(repr=False)

    @property
    def raw(self) -> bytes:
        """82 bytes."""
        return encode(self.seed_share) + encode(self.key_share) + self.salt

    @classmethod
    def from_raw(cls, raw: bytes) -> Pair:
        """Read a pair.

        Raises:
            Malformed: The bytes are not 82, or hold no two elements of the field.
        """
        return cls(decode(raw[:ELEMENT_BYTES]), decode(raw[ELEMENT_BYTES:-SALT_BYTES]), raw[-SALT_BYTES:])

    def promise(self, route: Route) -> bytes:
        """The dealer's commitment to both shares, 64 bytes."""
        return _promised(Domain.SEED_SHARE, route, encode(self.seed_share), self.salt) + _promised(
            Domain.KEY_SHARE, route, encode(self.key_share), self.salt
        )

    def reveal_seed(self) -> bytes:
        """49 bytes, for a dealer whose report is in the sum."""
        return encode(self.seed_share) + self.salt

    def reveal_key(self) -> bytes:
        """49 bytes, for a dealer that is gone."""
        return encode(self.key_share) + self.salt


def signed_digest(route: Route, box: bytes, promise: bytes) -> bytes:
    """What the dealer signs of each box, 32 bytes: who shows a key as evidence against a box must know whose it is."""
    return hashed(Domain.BOX, route.raw, box, promise)


def seal(key: bytes, route: Route, pair: Pair) -> bytes:
    """A box of 98 bytes. The key is derived for this dealer, holder and context, and seals nothing else."""
    return AESGCM(key).encrypt(_NONCE, pair.raw, route.raw)


def open_box(key: bytes, route: Route, box: bytes, promise: bytes) -> Pair:
    """Open a box and compare what it holds with the promise.

    Raises:
        BoxNotOpened: It does not open.
        WrongPair: It holds no shares, or others than were promised.
    """
    try:
        opened = AESGCM(key).decrypt(_NONCE, box, route.raw)
    except InvalidTag:
        raise BoxNotOpened(f"the box of member {route.dealer} does not open") from None
    try:
        pair = Pair.from_raw(opened)
    except Malformed:
        raise WrongPair(f"the box of member {route.dealer} holds no two shares") from None
    if pair.promise(route) != promise:
        raise WrongPair(f"the box of member {route.dealer} holds other shares than it promised")
    return pair


def revealed_seed(raw: bytes, route: Route, promise: bytes) -> int:
    """A seed's share that came back.

    Raises:
        WrongShare: It is not the promised one.
    """
    return _revealed(Domain.SEED_SHARE, raw, route, promise[: PROMISE_BYTES // 2])


def revealed_key(raw: bytes, route: Route, promise: bytes) -> int:
    """A mask key's share that came back.

    Raises:
        WrongShare: It is not the promised one.
    """
    return _revealed(Domain.KEY_SHARE, raw, route, promise[PROMISE_BYTES // 2 :])


def _revealed(domain: Domain, raw: bytes, route: Route, promised: bytes) -> int:
    share, salt = raw[:ELEMENT_BYTES], raw[ELEMENT_BYTES:]
    if _promised(domain, route, share, salt) != promised:
        raise WrongShare(f"member {route.holder} gave another share of member {route.dealer} than was promised")
    return decode(share)


def _promised(domain: Domain, route: Route, share: bytes, salt: bytes) -> bytes:
    return hashed(domain, route.raw, share, salt)
