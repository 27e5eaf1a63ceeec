"""Sums of groups that a corrupt member may make wrap around, folded so that nobody else is then seen. Pure.

A sum of masked lanes is known modulo R = 2^b alone. Where noise is added after it was opened, a member who takes a
lane to the edge of the ring learns on which side another one's report took it: a step of R that no noise hides. Read
as a triangle instead, x up to R/4 and R/2 - x beyond, a sum has no edge: it moves by no more than a report does,
wherever it stands, and so do the lanes of all groups together. Up to R/4 nothing changes, and there all sums of honest
reports are: lanes that fold have room for no more.
"""

from __future__ import annotations

import numpy as np

from coordinator.core.privacy.conversions import Values
from edge_runtime.protocol.secure_sum.lanes import Lanes


def folded(total: Values, lanes: Lanes) -> Values:
    """The opened sum of one group, without an edge.

    Guarantee: what one report moves a sum by in the ring, value by value, it moves the result by at most.

    Args:
        total: In units of the delta, within the ring.

    Raises:
        ValueError: The lanes are rotated: their values are no lanes.
    """
    if lanes.rotated:
        raise ValueError("sums of rotated lanes are not folded")
    half = (1 << (lanes.bits - 1)) / lanes.scale
    found: Values = np.where(np.abs(total) > half / 2, np.copysign(half, total) - total, total)
    return found
