"""Tasks that claim privacy in a small programme: a budget, a plan with a mode, and what the ledger says of it."""

from __future__ import annotations

from typing import Any, Final

from coordinator.services.ledger import Whose
from edge_runtime.protocol.plan import Plan, Privacy
from tests.coordinator.secure import SIX, SecurePhone, certified, secure_plan
from tests.programme import PLAN, POPULATION, TENANT, Home, replace

DELTA: Final = 1e-3
NOISE: Final = 2.0
RHO: Final = 1 / (2 * NOISE**2)
"""Of one round, rounding aside."""
FEW: Final = 3
"""Members of a group: the fewest that can be."""
WHOSE: Final = Whose(TENANT, POPULATION)
PRIVACY: Final = f"/populations/{POPULATION}/privacy"
CENTRAL: Final = replace(
    PLAN, version=5, privacy=Privacy.CENTRAL, noise_multiplier=NOISE, goal=2, min_reports=1, expected_participants=2
)


def distributed_plan(size: int = SIX, **more: Any) -> Plan:
    return replace(
        secure_plan(size), **{"version": 5, "privacy": Privacy.DISTRIBUTED, "noise_multiplier": NOISE, **more}
    )


def put_budget(home: Home, opponent: str = "coordinator", **wanted: Any) -> Any:
    home.operator("PUT", f"/populations/{POPULATION}").raise_for_status()
    return home.operator("PUT", f"{PRIVACY}/budgets/{opponent}", json={"target_delta": DELTA, **wanted})


def budget_of(home: Home, opponent: str = "coordinator") -> dict[str, Any]:
    found = home.operator("GET", f"{PRIVACY}/budgets").raise_for_status().json()
    return next(one for one in found if one["opponent"] == opponent)


def entries_of(home: Home) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = home.operator("GET", f"{PRIVACY}/ledger?limit=500").raise_for_status().json()
    return found


def kinds_of(home: Home) -> list[str]:
    return [one["kind"] for one in entries_of(home)]


def statement_of(home: Home, query: str = "") -> dict[str, Any]:
    found: dict[str, Any] = home.operator("GET", f"{PRIVACY}/statement{query}").raise_for_status().json()
    return found


def members(home: Home, count: int = SIX) -> list[tuple[Any, bytes]]:
    """Phones that are enrolled and certified, before any task."""
    home.publish()
    phones = [home.phone(number) for number in range(count)]
    return [(phone, certified(phone)) for phone in phones]


def in_a_round(home: Home, enrolled: list[tuple[Any, bytes]], visit: str) -> list[SecurePhone]:
    """Those phones with an assignment each in the round that opens now."""
    from tests.coordinator.running import begun

    assignments = begun(home, [phone for phone, _certificate in enrolled], visit)
    found = []
    for (phone, certificate), assignment in zip(enrolled, assignments, strict=True):
        assert assignment is not None
        found.append(SecurePhone(phone, home, assignment, certificate, draws=10 * assignment.round))
    return found


def ordered(home: Home, **more: Any) -> None:
    """A task of the smallest groups that claims distributed noise."""
    order = {"pool_size": FEW, "rounds": 9, "name": "words", **more}
    home.start_order(home.order(distributed_plan(FEW), checkpoint_sha256=home.publish(), **order))
