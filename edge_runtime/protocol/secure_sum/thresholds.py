"""How many shares rebuild a secret, and with how many others each member of a group shares its own.

On a complete graph, up to 200 members: with A corrupt, t = ⌈(n + A)/2⌉ + 1. A coordinator that shows a member as alive
to some and as gone to others gets at most n - A shares of one kind or the other from the honest, and A of both kinds
from the corrupt: n + A < 2 t. So it never has both secrets of a member.

On a regular graph, above 200: the smallest even degree k for which, with corrupt and dropping members drawn at random,
1. the survivors who are honest are connected but with probability 2^-41,
2. at most t1 neighbours of any member are corrupt but with probability 2^-41, 2^-41/n for each,
3. at least t neighbours of any member survive but with probability 2^-20, 2^-20/n for each,
where t = ⌈(t1 + k - 1.25)/2⌉ + 1, for the reason above. Probabilities are compared as whole numbers, so that every
language finds the same k and t.

Source: https://eprint.iacr.org/2020/704, with the bounds of google-parfait/federated-compute,
fcp/secagg/server/graph_parameter_finder.cc.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from math import comb
from typing import Final

from edge_runtime.protocol.errors import InvalidGroup

SMALLEST_GROUP: Final = 3
"""In a sum of two, each knows the other's report."""
COMPLETE_UP_TO: Final = 200
LARGEST_GROUP: Final = 1000
PERMILLE: Final = 1000
_SECURITY_BITS: Final = 41
_CORRECTNESS_BITS: Final = 20


@dataclass(frozen=True, slots=True)
class Sharing:
    """With whom secrets are shared: a consequence of the group's size, never a choice of the coordinator.

    Attributes:
        degree: Neighbours of each member.
        threshold: Shares that rebuild a secret, t.
    """

    degree: int
    threshold: int


def corrupt_members(permille: int, size: int) -> int:
    """A: the members assumed corrupt, ⌊γ n⌋ for γ in thousandths."""
    return permille * size // PERMILLE


def complete_threshold(size: int, corrupt: int) -> int:
    """t = ⌈(n + A)/2⌉ + 1 on a complete graph, where each member also holds a share of its own secrets."""
    return -(-(size + corrupt) // 2) + 1


def sharing(size: int, *, corrupt: int, corrupt_permille: int, dropout_permille: int) -> Sharing:
    """How a group of this size shares.

    Args:
        size: Members, n.
        corrupt: Members assumed corrupt on a complete graph, A, of the largest group that the plan allows.
        corrupt_permille: γ in thousandths, for a regular graph.
        dropout_permille: δ in thousandths, for a regular graph: the share of members that may fall silent.

    Raises:
        InvalidGroup: No threshold is safe for such a group.
    """
    if not SMALLEST_GROUP <= size <= LARGEST_GROUP:
        raise InvalidGroup(f"a group has {SMALLEST_GROUP} to {LARGEST_GROUP} members, not {size}")
    if not (0 <= corrupt_permille < PERMILLE and 0 <= dropout_permille < PERMILLE and corrupt >= 0):
        raise InvalidGroup("the shares of corrupt and of dropping members are 0 or more, and below 1")
    if size > COMPLETE_UP_TO:
        return regular(size, corrupt_permille, dropout_permille)
    threshold = complete_threshold(size, corrupt)
    if threshold > size:
        raise InvalidGroup(f"{corrupt} corrupt members are too many for a group of {size}")
    return Sharing(degree=size - 1, threshold=threshold)


@functools.cache
def regular(size: int, corrupt_permille: int, dropout_permille: int) -> Sharing:
    """The smallest even degree that meets the three bounds, and its threshold.

    Raises:
        InvalidGroup: No degree does.
    """
    corrupt = corrupt_members(corrupt_permille, size)
    surviving = size - corrupt_members(dropout_permille, size)
    for degree in range(2, size - 1, 2):
        if not _stays_connected(size, degree, corrupt + size - surviving):
            continue
        threshold = (_most_corrupt(size, corrupt, degree) + degree) // 2 + 1  # of whole numbers ⌈(x - 1.25)/2⌉ is ⌊x/2⌋
        if _keeps_enough(size, surviving, degree, threshold):
            return Sharing(degree=degree, threshold=threshold)
    raise InvalidGroup(f"no regular graph of {size} members is safe with so many corrupt or dropping ones")


def _stays_connected(size: int, degree: int, bad: int) -> bool:
    """Bound 1. To cut a ring, k of the bad ones must lie at two places: n (n - k - 1)/2 pairs of places.

    n (n - k - 1)/2 · C(n - k, bad - k) / C(n, bad) < 2^-41
    """
    if degree > bad:
        return True
    ways = size * (size - degree - 1) * comb(size - degree, bad - degree)
    return ways << _SECURITY_BITS < 2 * comb(size, bad)


def _most_corrupt(size: int, corrupt: int, degree: int) -> int:
    """Bound 2: the smallest t1 with n · P[more than t1 of k neighbours are corrupt] ≤ 2^-41."""
    limit, tail, most = comb(size, degree), 0, degree + 1
    while tail * size << _SECURITY_BITS <= limit:
        most -= 1
        tail += comb(corrupt, most) * comb(size - corrupt, degree - most)
    return most


def _keeps_enough(size: int, surviving: int, degree: int, threshold: int) -> bool:
    """Bound 3: n · P[fewer than t of k neighbours survive] ≤ 2^-20."""
    gone = size - surviving
    tail = sum(comb(surviving, alive) * comb(gone, degree - alive) for alive in range(threshold))
    return threshold <= degree and tail * size << _CORRECTNESS_BITS <= comb(size, degree)
