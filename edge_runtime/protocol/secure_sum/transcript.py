"""What a group agrees on, and the context: one hash of all of it that each device computes itself.

Every key, box, commitment and signature of the group depends on the context. A device that was told another plan,
another model, another roster or another threshold has another context: its masks cancel with nobody's.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from edge_runtime.protocol import wire
from edge_runtime.protocol.enrolment import is_name
from edge_runtime.protocol.errors import InvalidGroup, InvalidRoster
from edge_runtime.protocol.keys import PublicKey, is_id, is_sha256
from edge_runtime.protocol.secure_sum.digests import Domain, hashed
from edge_runtime.protocol.secure_sum.graph import Graph
from edge_runtime.protocol.secure_sum.lanes import Lanes
from edge_runtime.protocol.secure_sum.roster import Entry, verify_roster
from edge_runtime.protocol.secure_sum.thresholds import (
    COMPLETE_UP_TO,
    LARGEST_GROUP,
    PERMILLE,
    SMALLEST_GROUP,
    complete_threshold,
    corrupt_members,
    sharing,
)

PARAMETER_LIMIT: Final = 1 << 31


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What plan and assignment say of a group before anybody joined; a threshold is not among it.

    Attributes:
        group: 32 hex digits.
        fewest: Least members, n_min.
        survivors: Fewest reports whose sum may be opened, m.
        corrupt_permille: Share of members assumed corrupt, γ, in thousandths.
        dropout_permille: Share of members that may fall silent, δ, in thousandths; for groups above 200.
        lanes: The report codec; its `max_participants` is the most members, n_max.
        parameters: Of one report, d.

    Raises:
        InvalidGroup: A number is out of range, or sums under these terms would not hide a report.
    """

    tenant: str
    task: str
    round: int
    group: str
    plan_sha256: str
    bundle_sha256: str
    checkpoint_sha256: str
    fewest: int
    survivors: int
    corrupt_permille: int
    dropout_permille: int
    lanes: Lanes
    parameters: int

    def __post_init__(self) -> None:
        def check(holds: bool, sentence: str) -> None:
            if not holds:
                raise InvalidGroup(sentence)

        check(is_name(self.tenant) and is_name(self.task), "tenant and task are names")
        check(1 <= self.round < wire.INTEGER_LIMIT, "rounds are counted from 1")
        check(is_id(self.group), "a group's id is 32 hex digits")
        digests = (self.plan_sha256, self.bundle_sha256, self.checkpoint_sha256)
        check(all(map(is_sha256, digests)), "plan, bundle and checkpoint are named by 64 hex digits")
        check(1 <= self.parameters < PARAMETER_LIMIT, "a report has 1 to 2^31 - 1 parameters")
        shares = (self.corrupt_permille, self.dropout_permille)
        check(all(0 <= share < PERMILLE for share in shares), "shares of members are 0 to 999 thousandths")
        check(
            SMALLEST_GROUP <= self.fewest <= self.most <= LARGEST_GROUP,
            f"a group has {SMALLEST_GROUP} to {LARGEST_GROUP} members, the fewest at most the most",
        )
        check(self.fewest_to_open <= self.survivors <= self.most, f"survivors is {self.fewest_to_open} to {self.most}")

    @property
    def most(self) -> int:
        """Most members, n_max."""
        return self.lanes.max_participants

    @property
    def corrupt(self) -> int:
        """Members assumed corrupt on a complete graph, A = ⌊γ n_max⌋."""
        return corrupt_members(self.corrupt_permille, self.most)

    @property
    def fewest_to_open(self) -> int:
        """The least m: no less than any threshold of a complete graph, and more than half."""
        return max(complete_threshold(min(self.most, COMPLETE_UP_TO), self.corrupt), self.most // 2 + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Floors:
    """What the host app compiled in: a device joins no group below it, whoever signed the plan.

    Attributes:
        smallest_group: Least members of a group.
        fewest_survivors: Least m.
        least_corrupt_permille: Least γ that thresholds must withstand, in thousandths.
        least_noise: Least noise multiplier.
    """

    smallest_group: int = 64
    fewest_survivors: int = 52
    least_corrupt_permille: int = 50
    least_noise: float = 0.0

    def check(self, terms: Terms) -> None:
        """Return if the terms are no worse.

        Raises:
            InvalidGroup: They are.
        """
        if terms.fewest < self.smallest_group:
            raise InvalidGroup(f"groups of {terms.fewest} are below the app's floor of {self.smallest_group}")
        if terms.survivors < self.fewest_survivors:
            raise InvalidGroup(f"sums of {terms.survivors} are below the app's floor of {self.fewest_survivors}")
        if terms.corrupt_permille < self.least_corrupt_permille:
            raise InvalidGroup("the plan assumes fewer corrupt members than the app does")
        if terms.lanes.noise_multiplier < self.least_noise:
            raise InvalidGroup("the plan's noise is below the app's floor")


@dataclass(frozen=True, slots=True)
class Agreement:
    """A group that was agreed on. Made by `agree` and `join`, which check everything, and nowhere else.

    Attributes:
        roster: The members; elsewhere they are named by their positions here, from 0.
        graph: Who shares with whom.
        threshold: Shares that rebuild a secret, t.
        context: 32 bytes, ctx.
    """

    terms: Terms
    roster: tuple[Entry, ...]
    graph: Graph
    threshold: int
    context: bytes

    @property
    def size(self) -> int:
        return len(self.roster)

    @property
    def quorum(self) -> int:
        """Fewest members with whom the group can go on: m, which is at least t wherever the graph is complete."""
        return self.terms.survivors


def agree(terms: Terms, roster: Sequence[Entry], authority: PublicKey) -> Agreement:
    """Check a roster against the terms and compute what follows from both.

    Args:
        authority: The enrolment authority's key; of a device, the one that its host app pins.

    Raises:
        InvalidRoster: An entry does not hold, or the members are too few or too many.
        InvalidGroup: No threshold is safe for so many members.
    """
    size = len(roster)
    if not max(terms.fewest, terms.survivors) <= size <= terms.most:
        raise InvalidRoster(f"{size} members where {max(terms.fewest, terms.survivors)} to {terms.most} are wanted")
    verify_roster(roster, tenant=terms.tenant, plan_sha256=terms.plan_sha256, group=terms.group, authority=authority)
    shared = sharing(
        size,
        corrupt=terms.corrupt,
        corrupt_permille=terms.corrupt_permille,
        dropout_permille=terms.dropout_permille,
    )
    context = _context(terms, tuple(roster), shared.degree, shared.threshold)
    return Agreement(terms, tuple(roster), Graph.of(size, shared.degree, context), shared.threshold, context)


def join(
    terms: Terms, roster: Sequence[Entry], authority: PublicKey, *, own: Entry, floors: Floors
) -> tuple[Agreement, int]:
    """A device's `agree`: its own entry, unchanged, is there exactly once; its position comes back too.

    Raises:
        InvalidGroup: The terms are below the app's floors, or no threshold is safe.
        InvalidRoster: As `agree`, or the own entry is missing or was changed.
    """
    floors.check(terms)
    positions = [position for position, entry in enumerate(roster) if entry == own]
    if len(positions) != 1:
        raise InvalidRoster("the device's own entry is not there exactly once")
    return agree(terms, roster, authority), positions[0]


def _context(terms: Terms, roster: tuple[Entry, ...], degree: int, threshold: int) -> bytes:
    lanes = terms.lanes
    numbers = (
        *(len(roster), threshold, degree, terms.survivors, terms.corrupt),
        *(lanes.bits, terms.parameters),
    )
    return hashed(
        Domain.CONTEXT,
        terms.tenant.encode(),
        terms.task.encode(),
        struct.pack("<Q", terms.round),
        bytes.fromhex(terms.group),
        bytes.fromhex(terms.plan_sha256),
        bytes.fromhex(terms.bundle_sha256),
        bytes.fromhex(terms.checkpoint_sha256),
        *(struct.pack("<Q", number) for number in numbers),
        struct.pack("<d", lanes.scale),
        struct.pack("<d", lanes.noise),
        lanes.rotation_seed,
        b"".join(entry.raw for entry in roster),
    )
