"""`python -m tests.coordinator.privacy.second_opinions`: what Opacus says, as JSON; pytest need not load torch."""

from __future__ import annotations

import json
import sys
import warnings
from typing import Final

from coordinator.accounting import OpacusPrv, OpacusRdp, claimed
from coordinator.core.privacy.events import Accountant, ConcentratedEvent, Event, GaussianEvent

DELTA: Final = 1e-6
CASES: Final[dict[str, list[Event]]] = {
    "reference": [GaussianEvent(1.0, 0.01, 1000)],
    "long reference": [GaussianEvent(1.0, 0.01, 10_000)],
    "unsampled": [GaussianEvent(1.0)],
    "little noise": [GaussianEvent(0.5)],
    "much noise": [GaussianEvent(20.0)],
    "repeated": [GaussianEvent(4.0, 1.0, 50)],
    "changing rates": [GaussianEvent(1.0, 0.01, 500), GaussianEvent(1.0, 0.02, 300), GaussianEvent(2.0, 0.05, 100)],
    "rarely": [GaussianEvent(1.0, 0.002, 1000)],
}
CONCENTRATED: Final = (0.001, 0.2, 0.5, 1.0, 10.0)
LITTLE: Final = ((1e-7, 1e-10), (1e-9, 1e-12), (3e-6, 1e-10), (1e-5, 1e-12), (1e-7, 1e-3))
"""ρ and δ."""


def main() -> None:
    prv: Accountant = OpacusPrv()
    rdp: Accountant = OpacusRdp()
    found = {name: [prv.epsilon(events, DELTA), rdp.epsilon(events, DELTA)] for name, events in CASES.items()}
    both = claimed(CASES["unsampled"], DELTA), claimed([ConcentratedEvent(0.5)], DELTA)
    found["claims"] = [one.epsilon for pair in both for one in pair]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Opacus says itself that its largest order was the best
        found["little"] = [rdp.epsilon([ConcentratedEvent(rho)], delta) for rho, delta in LITTLE]
    found["concentrated"] = [rdp.epsilon([ConcentratedEvent(rho)], DELTA) for rho in CONCENTRATED]
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
