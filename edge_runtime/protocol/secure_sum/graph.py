"""Who shares with whom: from the context that each device computed itself, never from the coordinator's word.

On a complete graph everybody is a neighbour of everybody. On a regular graph of even degree k the members lie on a
ring, ordered by a hash of context and position, and the neighbours are the k/2 on either side.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.protocol.secure_sum.digests import Domain, hashed
from edge_runtime.protocol.secure_sum.members import Members


@dataclass(frozen=True, slots=True)
class Graph:
    """The neighbours of each member; positions are those of the roster.

    Attributes:
        size: Members, n.
        degree: Neighbours of each: n - 1, or even and less.
    """

    size: int
    degree: int
    _ring: tuple[int, ...]
    _place: tuple[int, ...]

    @classmethod
    def of(cls, size: int, degree: int, context: bytes) -> Graph:
        """The graph of an agreed context of 32 bytes.

        Raises:
            ValueError: There is no such graph: a bug of the caller.
        """
        if degree != size - 1 and degree not in range(2, size - 1, 2):
            raise ValueError(f"there is no regular graph of degree {degree} with {size} members")
        order = {member: hashed(Domain.RING, context, member.to_bytes(4, "little")) for member in range(size)}
        ring = tuple(sorted(order, key=lambda member: order[member]))
        place = {member: index for index, member in enumerate(ring)}
        return cls(size, degree, ring, tuple(place[member] for member in range(size)))

    @property
    def complete(self) -> bool:
        return self.degree == self.size - 1

    def neighbours(self, member: int) -> Members:
        """With whom a member is masked; never itself, and neighbours are so of each other."""
        if self.complete:
            return frozenset(range(self.size)) - {member}
        here, reach = self._place[member], self.degree // 2
        return frozenset(self._ring[(here + step) % self.size] for step in range(-reach, reach + 1) if step != 0)

    def holders(self, member: int) -> tuple[int, ...]:
        """Who holds a share of a member's secrets, by rising position: its neighbours, and on a complete graph itself.

        A device that dropped out is not asked for its own share; the threshold of a regular graph counts neighbours.
        """
        others = self.neighbours(member)
        return tuple(sorted(others | {member} if self.complete else others))
