"""Examples of what is sent and answered about privacy, of one made-up population."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from coordinator.api.operator.privacy import BudgetRequest, EntryView, WishRequest, advice_for
from coordinator.core.privacy.chain import genesis, linked
from coordinator.core.privacy.ledger import Account, Cost, Fact, FactKind, Purpose, TaskAccount
from coordinator.core.privacy.participation import ParticipationLimits
from coordinator.core.privacy.statement import Mode, Opponent
from coordinator.services.budgets import BudgetState
from coordinator.services.claim_views import Claimed
from coordinator.services.privacy_claims import Said, figures_of

_AT: Final = datetime(2026, 11, 22, 2, 32, 50, tzinfo=UTC)
_COST: Final = Cost(0.02, 0.0025)
_WISH: Final = WishRequest(
    population=2_000_000,
    rounds=100,
    goal=2400,
    parameters=102_000,
    epsilon_coordinator=8.0,
    separation=100,
    largest_error=2.0,
)


def privacy_examples() -> Iterator[object]:
    entry, head = linked("acme/digits", genesis("acme/digits"), _charge(), round(_AT.timestamp() * 1000))
    account = Account((), {"digits-mlp": TaskAccount(ParticipationLimits(), Purpose.TRAINING, {1: _COST})})
    yield BudgetRequest(epsilon=8.0, target_delta=1e-7)
    yield BudgetState(
        opponent=Opponent.COORDINATOR,
        target_delta=1e-7,
        epsilon=8.0,
        rho=None,
        spent=1.12,
        reserved=0.47,
        share=0.199,
        alerts=(),
        accountant="zcdp",
    )
    yield EntryView.of(entry)
    yield Said(
        population="digits",
        task=None,
        since=_AT,
        entries=1,
        head=head.digest,
        modes=(Mode.DISTRIBUTED,),
        rounds=1,
        figures=tuple(figures_of(account, None, 1e-7)),
        examples=(),
    )
    yield Claimed(
        at=_AT,
        entries=1,
        head=head.digest,
        opponent=Opponent.RECIPIENTS,
        target_delta=1e-7,
        epsilon=0.37,
        accountant="zcdp",
        second_epsilon=0.37,
        second_accountant="opacus RDP",
        release=None,
    )
    yield _WISH
    yield advice_for(_WISH)


def _charge() -> Fact:
    return Fact(kind=FactKind.CHARGED, task="digits-mlp", round=1, cost=_COST)
