"""A figure with everything that must stand beside it: no ε leaves the coordinator alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from coordinator.core.privacy.events import Event
from coordinator.core.privacy.rdp import RdpAccountant
from coordinator.core.privacy.refusals import NotCovered
from coordinator.core.privacy.zcdp import ZcdpAccountant


class Mode(StrEnum):
    """What noise hides a participant."""

    NONE = "none"
    DISTRIBUTED = "distributed"
    CENTRAL = "central"
    CORRELATED = "correlated"
    LOCAL = "local"
    EXAMPLE_LEVEL = "example-level"


class Opponent(StrEnum):
    """Who is to learn little."""

    COORDINATOR = "coordinator"
    """Who runs the coordinator, sees every opened sum and who took part."""
    RECIPIENTS = "recipients"
    """Who gets the model and every published figure."""


class Unit(StrEnum):
    """Whose data is hidden."""

    INSTALLATION = "one installation of the app"
    EXAMPLE = "one example within one device"


class Adjacency(StrEnum):
    """What two neighbouring worlds differ in."""

    ADD_OR_REMOVE = "add or remove one"
    """Where each takes part by a coin of its own: nobody's place is filled by another."""
    ZERO_OUT = "one gives zeros instead"
    """Elsewhere: rounds have a most, so that who stays away makes room, and the sum moves by two reports."""


class Mechanism(StrEnum):
    """Which noise."""

    DISCRETE_GAUSSIANS = "discrete Gaussians of the devices of a group"
    GAUSSIAN = "Gaussian on the sum of a round"
    CORRELATED_GAUSSIAN = "Gaussian noise correlated by a matrix factorisation"
    LOCAL_GAUSSIAN = "discrete Gaussian on each report"
    EXAMPLE_GAUSSIAN = "Gaussian on the sum of clipped gradients of examples"


MECHANISMS: Final = {
    Mode.DISTRIBUTED: Mechanism.DISCRETE_GAUSSIANS,
    Mode.CENTRAL: Mechanism.GAUSSIAN,
    Mode.CORRELATED: Mechanism.CORRELATED_GAUSSIAN,
    Mode.LOCAL: Mechanism.LOCAL_GAUSSIAN,
    Mode.EXAMPLE_LEVEL: Mechanism.EXAMPLE_GAUSSIAN,
}

PROTECTS: Final = {
    Mode.NONE: frozenset[Opponent](),
    Mode.DISTRIBUTED: frozenset(Opponent),
    Mode.CENTRAL: frozenset({Opponent.RECIPIENTS}),
    Mode.CORRELATED: frozenset({Opponent.RECIPIENTS}),
    Mode.LOCAL: frozenset(Opponent),
    Mode.EXAMPLE_LEVEL: frozenset(Opponent),
}
"""From whom a mode hides its unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One figure.

    Attributes:
        epsilon: An upper bound, rounded up where it is shown; infinite where the mode does not protect.
        sampling: The sampling assumption; a device that chooses when to come is not sampled.
        assumptions: What must hold, a sentence each.
    """

    epsilon: float
    target_delta: float
    opponent: Opponent
    unit: Unit
    adjacency: Adjacency
    mechanism: Mechanism
    sampling: str
    accountant: str
    assumptions: tuple[str, ...]

    def sentence(self) -> str:
        """The figure and everything beside it."""
        if not math.isfinite(self.epsilon):
            return f"No protection against the {self.opponent}: this mode leaves {self.unit} open to it."
        shown = math.ceil(self.epsilon * 1000) / 1000
        return (
            f"ε = {shown:.3f} at δ = {self.target_delta:.2g} against the {self.opponent}, for {self.unit} "
            f"({self.adjacency}); {self.mechanism}; {self.sampling}; by the {self.accountant} "
            f"accountant. Holds if: {'; '.join(self.assumptions)}."
        )


NO_SAMPLING: Final = "no sampling is assumed"
POISSON: Final = "each device of a fixed, known population is drawn by a coin of the coordinator"

_SIGNED_PLAN: Final = "devices run the signed plan, and keep its limits"
"""Clipping and, where they add it, noise; and how often one takes part: every figure counts on it."""
_WITHIN_LANES: Final = (
    "no member of a group sends more than the plan allows, to make its sum wrap around; "
    "if one does, the figure against the coordinator holds"
)
"""Where the noise of other groups counts, which is not on a sum before it is read as signed numbers."""
_NOT_DATA: Final = (
    "when and how often a device comes, how a visit ends and how many examples it says it has are no secrets"
)
"""The claim is about reports; the coordinator sees the rest, examples rounded down to a power of two."""

_ASSUMPTIONS: Final = {
    Mode.DISTRIBUTED: (
        _SIGNED_PLAN,
        "at most the plan's share of a group is corrupt",
        "members of a group have genuine certificates",
    ),
    Mode.CENTRAL: (
        _SIGNED_PLAN,
        "the coordinator draws its noise once for each sum, and erases it",
        "a standard deviation is thousands of steps of the grid, so that the noise counts as continuous",
    ),
    Mode.CORRELATED: (
        _SIGNED_PLAN,
        "devices keep the minimum separation",
        "the coordinator erases its noise",
        "the noise counts as continuous",
    ),
    Mode.LOCAL: (_SIGNED_PLAN,),
    Mode.EXAMPLE_LEVEL: (_SIGNED_PLAN, "each example is in one device's store once"),
}


def stated(
    mode: Mode,
    opponent: Opponent,
    epsilon: float,
    target_delta: float,
    *,
    accountant: str = "zcdp",
    sampled: bool = False,
) -> Statement:
    """The statement of a figure of a mode.

    Raises:
        NotCovered: The mode makes no claims, or amplification by sampling is claimed where it does not hold.
    """
    if mode is Mode.NONE:
        raise NotCovered("There is no noise, so there is no figure.", "Choose a mode.")
    if sampled and not (mode in (Mode.CENTRAL, Mode.EXAMPLE_LEVEL) and opponent is Opponent.RECIPIENTS):
        raise NotCovered(
            f"The {opponent} sees who takes part, or the mode has no coins: {mode} claims no sampling.",
            "Amplification by sampling may be claimed for central noise, against recipients.",
        )
    example = mode is Mode.EXAMPLE_LEVEL
    return Statement(
        epsilon=epsilon if opponent in PROTECTS[mode] else math.inf,
        target_delta=target_delta,
        opponent=opponent,
        unit=Unit.EXAMPLE if example else Unit.INSTALLATION,
        adjacency=Adjacency.ADD_OR_REMOVE if sampled else Adjacency.ZERO_OUT,
        mechanism=MECHANISMS[mode],
        sampling=POISSON if sampled else NO_SAMPLING,
        accountant=accountant,
        assumptions=(*_ASSUMPTIONS[mode], *_more_assumptions(mode, opponent)),
    )


def _more_assumptions(mode: Mode, opponent: Opponent) -> tuple[str, ...]:
    """What depends on more than the mode."""
    if opponent is Opponent.COORDINATOR:
        return (_NOT_DATA,)
    return (_WITHIN_LANES,) if mode is Mode.DISTRIBUTED else ()


def claimed_epsilon(events: list[Event], delta: float) -> tuple[float, str]:
    """ε of events by the tightest accountant of the core that knows all of them, and its name."""
    zcdp, rdp = ZcdpAccountant(), RdpAccountant()
    try:
        return zcdp.epsilon(events, delta), zcdp.name
    except NotCovered:
        return rdp.epsilon(events, delta), rdp.name
