"""The ledger's arithmetic: nothing is overspent, nothing is given back, nothing is edited unseen."""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.core.privacy.chain import Entry, Head, genesis, linked, rebuilt, verified
from coordinator.core.privacy.conversions import rho_to_epsilon
from coordinator.core.privacy.ledger import (
    Account,
    Budget,
    Cost,
    Fact,
    FactKind,
    Purpose,
    Spent,
    alerts,
    applied,
    begin_task,
    charge,
    free,
    reserve,
    spent,
    stopped,
)
from coordinator.core.privacy.participation import ParticipationLimits
from coordinator.core.privacy.refusals import BudgetSpent, InvalidBudget, LedgerClosed, LedgerDamaged, NotReserved
from coordinator.core.privacy.statement import Opponent

DELTA: Final = 1e-6
RHO_BUDGET: Final = Budget(opponent=Opponent.COORDINATOR, target_delta=DELTA, rho=1.0)
EPSILON_BUDGET: Final = Budget(opponent=Opponent.RECIPIENTS, target_delta=DELTA, epsilon=4.0)
COST: Final = Cost(0.1, 0.01)


def begun(*budgets: Budget, limits: ParticipationLimits = ParticipationLimits(), task: str = "words") -> Account:  # noqa: B008
    account = Account(budgets or (RHO_BUDGET,))
    return applied(account, begin_task(account, task, Purpose.TRAINING, limits))


def then(account: Account, fact: Fact | None) -> Account:
    assert fact is not None
    return applied(account, fact)


def released(account: Account, round_: int, cost: Cost = COST, task: str = "words") -> Account:
    account = then(account, reserve(account, task, round_, cost))
    return then(account, charge(account, task, round_))


def share(account: Account) -> float:
    return spent(account, account.budgets[0]).share


def test_rounds_add_up_to_the_budget_and_no_further() -> None:
    account = begun()
    for number in range(1, 11):
        account = released(account, number)
    assert share(account) == pytest.approx(1.0)
    assert stopped(account)
    with pytest.raises(BudgetSpent, match="Nothing is left"):
        reserve(account, "words", 11, COST)


def test_a_round_that_no_longer_fits_names_the_noise_that_does() -> None:
    account = begun()
    for number in range(1, 10):
        account = released(account, number)
    with pytest.raises(BudgetSpent, match=r"does not cover the round.*fits with 1\.42 times the noise"):
        reserve(account, "words", 10, Cost(0.2, 0.02))
    assert reserve(account, "words", 10, Cost(0.2 / 1.42**2, 0.02 / 1.42**2)), "and it does"


def test_concurrent_rounds_cannot_overspend_one_budget() -> None:
    account = begun()
    for number in range(1, 11):
        account = then(account, reserve(account, "words", number, COST))
    with pytest.raises(BudgetSpent):
        reserve(account, "words", 11, COST)
    assert not account.tasks["words"].charged


def test_what_is_reserved_comes_back_when_a_round_opens_nothing() -> None:
    account = begun()
    account = then(account, reserve(account, "words", 1, COST))
    assert share(account) == pytest.approx(0.1)
    account = then(account, free(account, "words", 1))
    assert share(account) == 0
    assert free(account, "words", 1) is None


def test_what_is_charged_never_comes_back() -> None:
    account = released(begun(), 1)
    with pytest.raises(LedgerClosed, match="stays spent"):
        free(account, "words", 1)


def test_groups_of_a_round_compose_in_parallel_once() -> None:
    account = released(begun(), 1)
    assert charge(account, "words", 1) is None
    assert reserve(account, "words", 1, COST) is None
    assert share(account) == pytest.approx(0.1)


def test_nothing_is_opened_without_a_reservation() -> None:
    with pytest.raises(NotReserved):
        charge(begun(), "words", 1)


def test_a_round_in_the_ledger_keeps_its_cost() -> None:
    account = released(begun(), 1)
    with pytest.raises(LedgerClosed, match="another cost"):
        reserve(account, "words", 1, Cost(0.05, 0.005))


def test_separation_makes_a_hundred_rounds_cost_what_one_device_gave() -> None:
    account = begun(limits=ParticipationLimits(separation=50, most=2))
    for number in range(1, 101):
        account = released(account, number, Cost(0.4, 0.04))
    assert share(account) == pytest.approx(0.8)


@pytest.mark.parametrize(("rounds", "share_of_one"), [((1, 20), 2), ((1, 5), 1), ((3, 12, 40), 2), ((3, 13, 40), 3)])
def test_rounds_that_opened_nothing_still_separate(rounds: tuple[int, ...], share_of_one: int) -> None:
    account = begun(limits=ParticipationLimits(separation=10))
    for number in rounds:
        account = released(account, number)
    assert share(account) == pytest.approx(0.1 * share_of_one)


def test_limits_of_a_task_in_the_ledger_do_not_change() -> None:
    with pytest.raises(LedgerClosed):
        begin_task(begun(), "words", Purpose.TRAINING, ParticipationLimits(separation=100))
    with pytest.raises(LedgerClosed, match="Begin it first"):
        reserve(begun(), "another", 1, COST)


def test_tasks_of_a_population_add_up_evaluation_included() -> None:
    account = released(begun(), 1)
    account = then(account, begin_task(account, "accuracy", Purpose.EVALUATION, ParticipationLimits()))
    account = released(account, 1, task="accuracy")
    assert share(account) == pytest.approx(0.2)


def test_budgets_against_both_opponents_are_kept_apart() -> None:
    account = released(begun(RHO_BUDGET, EPSILON_BUDGET), 1)
    assert spent(account, RHO_BUDGET).figure == pytest.approx(0.1)
    assert spent(account, EPSILON_BUDGET).figure == pytest.approx(rho_to_epsilon(0.01, DELTA))


def test_a_budget_against_an_opponent_the_mode_does_not_protect_from_is_refused() -> None:
    with pytest.raises(BudgetSpent, match="distributed"):
        reserve(begun(), "words", 1, Cost(None, 0.1))


def test_sampled_rounds_are_booked_with_their_rate_and_against_recipients_alone() -> None:
    plain, sampled = begun(EPSILON_BUDGET), begun(EPSILON_BUDGET)
    for number in range(1, 6):
        plain = released(plain, number, Cost(None, 0.01))
        sampled = released(sampled, number, Cost(None, 0.01, sampling_rate=0.05))
    assert 0 < share(sampled) < share(plain) / 3
    with pytest.raises(InvalidBudget, match="knows no sampling"):
        released(begun(dataclasses.replace(RHO_BUDGET, opponent=Opponent.RECIPIENTS)), 1, Cost(None, 0.01, 0.05))


def test_alerts_come_once_at_seventy_and_ninety_per_cent() -> None:
    account, found = begun(), []
    for number in range(1, 11):
        before = spent(account, RHO_BUDGET)
        account = released(account, number, Cost(0.099, 0.0))
        found += [(number, level) for level in alerts(before, spent(account, RHO_BUDGET))]
    assert found == [(8, 0.7), (10, 0.9)]
    at = [Spent(RHO_BUDGET, level, level, "zcdp") for level in (0.6, 0.7, 0.95)]
    assert (alerts(at[0], at[1]), alerts(at[1], at[1]), alerts(at[1], at[2])) == ((0.7,), (), (0.9,))


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": None, "rho": None},
        {"epsilon": 1.0, "rho": 1.0},
        {"rho": 0.0},
        {"rho": -1.0},
        {"rho": math.inf},
        {"rho": 1.0, "target_delta": 0.0},
    ],
)
def test_an_impossible_budget_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidBudget):
        Budget(**({"opponent": Opponent.COORDINATOR, "target_delta": DELTA} | wrong))  # type: ignore[arg-type]


def test_other_impossible_figures_are_refused() -> None:
    for wrong in ((math.inf, 0.1), (-1.0, 0.1)):
        with pytest.raises(InvalidBudget):
            Cost(*wrong)
    with pytest.raises(InvalidBudget):
        Cost(None, None, sampling_rate=0.1)
    with pytest.raises(InvalidBudget, match="two budgets"):
        Account((RHO_BUDGET, RHO_BUDGET))


def test_a_budget_in_epsilon_is_a_rho() -> None:
    assert rho_to_epsilon(EPSILON_BUDGET.whole_rho, DELTA) == pytest.approx(4.0)
    assert RHO_BUDGET.whole_rho == 1.0


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_no_history_overspends_and_charges_only_grow(seed: int) -> None:
    """Any order of reserving, charging and giving back, by several rounds at once."""
    rng = random.Random(seed)
    account, before = begun(limits=ParticipationLimits(separation=rng.randint(1, 4))), 0.0
    for _step in range(60):
        number, cost = rng.randint(1, 25), Cost(rng.choice((0.05, 0.3)), 0.0)
        try:
            fact = rng.choice(
                (
                    functools.partial(reserve, cost=cost),
                    charge,
                    free,
                )
            )(account, "words", number)
        except (BudgetSpent, LedgerClosed, NotReserved):
            continue
        account = applied(account, fact) if fact else account
        charged = dataclasses.replace(account.tasks["words"], reserved={})
        now = spent(dataclasses.replace(account, tasks={"words": charged}), RHO_BUDGET).share
        assert before <= now <= share(account) <= 1 + 1e-6
        before = now


@pytest.fixture
def chain() -> list[Entry]:
    account, head, entries = Account((RHO_BUDGET,)), genesis("keyboard"), list[Entry]()
    facts: list[Fact | None] = [begin_task(account, "words", Purpose.TRAINING, ParticipationLimits(separation=2))]
    account = then(account, facts[0])
    for number in range(1, 5):
        for decide in (functools.partial(reserve, cost=COST), charge):
            facts.append(decide(account, "words", number))
            account = then(account, facts[-1])
    for at_ms, fact in enumerate(facts):
        assert fact is not None
        entry, head = linked("keyboard", head, fact, at_ms)
        entries.append(entry)
    return entries


def head_of(entries: list[Entry]) -> Head:
    return verified("keyboard", entries)


def test_replaying_a_ledger_rebuilds_the_account(chain: list[Entry]) -> None:
    account = rebuilt([Entry.from_bytes(entry.to_bytes()) for entry in chain], (RHO_BUDGET,))
    assert share(account) == pytest.approx(0.2)
    assert set(account.tasks["words"].charged) == {1, 2, 3, 4}


def test_every_edit_of_an_entry_is_found(chain: list[Entry]) -> None:
    head = head_of(chain)
    for at, entry in enumerate(chain):
        cheap = dataclasses.replace(entry, fact=dataclasses.replace(entry.fact, cost=Cost(0.0, 0.0)))
        for changed in (cheap, dataclasses.replace(entry, at_ms=99), dataclasses.replace(entry, place=at + 2)):
            with pytest.raises(LedgerDamaged):
                verified("keyboard", [*chain[:at], changed, *chain[at + 1 :]], head)


def test_every_flipped_byte_is_found(chain: list[Entry]) -> None:
    head, raw = head_of(chain), chain[3].to_bytes()
    for at in range(len(raw)):
        flipped = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        with pytest.raises(LedgerDamaged):
            verified("keyboard", [*chain[:3], Entry.from_bytes(flipped), *chain[4:]], head)


def test_deleting_and_reordering_and_cutting_off_are_found(chain: list[Entry]) -> None:
    head = head_of(chain)
    for at in range(len(chain)):
        with pytest.raises(LedgerDamaged):
            verified("keyboard", chain[:at] + chain[at + 1 :], head)
        with pytest.raises(LedgerDamaged):
            verified("keyboard", chain[:at], head)
    swapped = [chain[1], chain[0], *chain[2:]]
    with pytest.raises(LedgerDamaged):
        verified("keyboard", swapped, head)


def test_a_rewritten_history_is_found_by_a_head_kept_elsewhere(chain: list[Entry]) -> None:
    trusted, head, forged = head_of(chain[:5]), genesis("keyboard"), list[Entry]()
    for entry in chain:
        cheap = Cost(0.0, 0.0) if entry.fact.kind is not FactKind.TASK else None
        other, head = linked("keyboard", head, dataclasses.replace(entry.fact, cost=cheap), entry.at_ms)
        forged.append(other)
    assert verified("keyboard", forged) == head  # a chain in itself
    with pytest.raises(LedgerDamaged, match="entry 5"):
        verified("keyboard", forged, trusted)
    assert verified("keyboard", chain, trusted) == head_of(chain)


def test_a_ledger_of_another_population_is_not_this_one(chain: list[Entry]) -> None:
    with pytest.raises(LedgerDamaged):
        verified("camera", chain)
    assert genesis("camera") != genesis("keyboard")


def test_what_is_not_an_entry_is_refused(chain: list[Entry]) -> None:
    for raw in (b"", b"{}", b"[1]", chain[0].to_bytes() + b" ", chain[0].to_bytes().replace(b":1,", b": 1,")):
        with pytest.raises(LedgerDamaged):
            Entry.from_bytes(raw)
