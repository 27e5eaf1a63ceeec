"""`python -m tests.coordinator.privacy.without_opacus`: which heavy modules a coordinator loads that asks nobody."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from coordinator.accounting import PldAccountant
from coordinator.core.privacy.events import GaussianEvent
from coordinator.core.privacy.opinions import SecondOpinions
from tests.coordinator.privacy.spending import PRIVACY
from tests.coordinator.privacy.test_claims import after_one_round, release
from tests.programme import Clock, make_home, open_home
from tests.warm import LOOP

HEAVY = ("torch", "opacus", "dp_accounting", "scipy")
WISH = {"population": 1000, "rounds": 10, "goal": 100, "parameters": 100, "epsilon_coordinator": 8.0}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, LOOP:
        token = make_home(Path(folder))
        never = {"smallest_cohort": 2, "second_opinion": SecondOpinions.NEVER}
        with open_home(Path(folder), Clock(), token, **never) as home:
            checkpoint = after_one_round(home)
            home.operator("GET", f"{PRIVACY}/statement").raise_for_status()
            home.operator("POST", "/privacy/plan", json=WISH).raise_for_status()
            release(home, checkpoint).raise_for_status()
    early = [name for name in HEAVY if name in sys.modules]
    PldAccountant().epsilon([GaussianEvent(1.0)], 1e-6)  # who makes a claim of central noise needs one of them
    late = [name for name in HEAVY if name in sys.modules]
    sys.stdout.write(f"{early} {late}")


if __name__ == "__main__":
    main()
