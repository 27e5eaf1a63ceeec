"""What travels between a device and the coordinator while a group sums, step by step.

JSON with packed bytes inside. What can be checked without the group is checked when a message is made; the lengths
that follow from the group are checked by whoever takes it (`participant`, `mailbox`). Sets of members are bits, so that
nobody is in one twice; who is gone is never sent but follows from two sets, so that nobody is both alive and gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import ContradictedGroup, Malformed
from edge_runtime.protocol.keys import SIGNATURE_BYTES, is_id
from edge_runtime.protocol.secure_sum.roster import ENTRY_BYTES, Entry

DIGEST_BYTES: Final = 32


class OfGroup:
    """What the messages of a group have in common."""

    __slots__ = ()
    group: str

    def check_group(self, group: str) -> None:
        """Return if the message is of this group.

        Raises:
            ContradictedGroup: It is of another.
        """
        if self.group != group:
            raise ContradictedGroup("the message is of another group")


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining(OfGroup):
    """Step 0, up: the device's entry, 240 bytes."""

    VERSION: ClassVar[int] = 1
    version: int
    group: str
    entry: bytes

    def __post_init__(self) -> None:
        _check_head(self.version, self.group)
        wire.require(len(self.entry) == ENTRY_BYTES, f"entry has {ENTRY_BYTES} bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster(OfGroup):
    """Step 0, down: every member's entry, by rising device id."""

    VERSION: ClassVar[int] = 1
    version: int
    group: str
    entries: bytes

    def __post_init__(self) -> None:
        _check_head(self.version, self.group)
        wire.require(len(self.entries) % ENTRY_BYTES == 0, f"entries have {ENTRY_BYTES} bytes each")

    def members(self) -> tuple[Entry, ...]:
        """The entries, not yet verified."""
        return tuple(map(Entry.from_raw, cut(self.entries, ENTRY_BYTES)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares(OfGroup):
    """Step 1, up: a promise for each holder, a signed box for each but the dealer itself, by rising position.

    Attributes:
        seed_digest: Commitment to the seed of the dealer's own mask.
        boxes: 98 bytes each.
        promises: 64 bytes each.
        signatures: 64 bytes each, of box and promise.
    """

    VERSION: ClassVar[int] = 1
    version: int
    group: str
    seed_digest: bytes
    boxes: bytes
    promises: bytes
    signatures: bytes

    def __post_init__(self) -> None:
        _check_head(self.version, self.group)
        wire.require(len(self.seed_digest) == DIGEST_BYTES, "seed_digest has 32 bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery(OfGroup):
    """Step 1, down: who shared (U1); from each neighbour among them box, promise and signature, by rising position."""

    VERSION: ClassVar[int] = 1
    version: int
    group: str
    sharers: bytes
    boxes: bytes
    promises: bytes
    signatures: bytes

    def __post_init__(self) -> None:
        _check_head(self.version, self.group)


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaints(OfGroup):
    """With step 2, up: whose boxes do not open or do not hold what was promised.

    Attributes:
        about: Dealers who signed what is bad.
        box_keys: The keys of their boxes, as evidence: 32 bytes each, by rising position.
        unsigned: Dealers whose signature is bad too: no key is shown, the coordinator could have changed the box.
    """

    VERSION: ClassVar[int] = 1
    version: int
    group: str
    about: bytes
    box_keys: bytes
    unsigned: bytes

    def __post_init__(self) -> None:
        _check_head(self.version, self.group)
        wire.require(len(self.box_keys) % DIGEST_BYTES == 0, "box_keys have 32 bytes each")


@dataclass(frozen=True, slots=True, kw_only=True)
class Survivors(OfGroup):
    """Step 2, down: whose masked report arrived (U2)."""

    VERSION: ClassVar[int] = 1
    version: int
    group: str
    masked: bytes

    def __post_init__(self) -> None:
        _check_head(self.version, self.group)


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation(OfGroup):
    """Step 3, up: the device's signature of context and U2."""

    VERSION: ClassVar[int] = 1
    version: int
    group: str
    signature: bytes

    def __post_init__(self) -> None:
        _check_head(self.version, self.group)
        wire.require(len(self.signature) == SIGNATURE_BYTES, "signature has 64 bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmations(OfGroup):
    """Step 3, down: who confirmed, and their signatures by rising position."""

    VERSION: ClassVar[int] = 1
    version: int
    group: str
    confirmed: bytes
    signatures: bytes

    def __post_init__(self) -> None:
        _check_head(self.version, self.group)
        wire.require(len(self.signatures) % SIGNATURE_BYTES == 0, "signatures have 64 bytes each")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmasking(OfGroup):
    """Step 4, up: a share of the seed of each dealer in U2, of the mask key of each in U1 that is not; 49 bytes each.

    Attributes:
        lacking: Dealers whose box was bad: nothing is sent of theirs.
        seeds: By rising position of the dealer: the share and the salt of its promise.
        keys: The same of those who are gone.
    """

    VERSION: ClassVar[int] = 1
    version: int
    group: str
    lacking: bytes
    seeds: bytes
    keys: bytes

    def __post_init__(self) -> None:
        _check_head(self.version, self.group)


def cut(raw: bytes, length: int) -> Sequence[bytes]:
    """Pieces of equal length."""
    return [raw[begin : begin + length] for begin in range(0, len(raw), length)]


def pieces(raw: bytes, length: int, members: Sequence[int], name: str) -> dict[int, bytes]:
    """Exactly one piece of equal length for each of these members, in their order.

    Raises:
        Malformed: There are more or fewer.
    """
    if len(raw) != length * len(members):
        raise Malformed(f"{name} has {len(raw)} bytes where {length * len(members)} are expected")
    return dict(zip(members, cut(raw, length), strict=True))


def _check_head(version: int, group: str) -> None:
    wire.require(version == 1, "version is 1")
    wire.require(is_id(group), "group is 32 hex digits")
