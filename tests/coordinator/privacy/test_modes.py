"""Each mode is charged where its first view appears, and stated against both opponents as what it is."""

from __future__ import annotations

import mpmath
import pytest

from coordinator.core.privacy.conversions import rho_to_epsilon
from coordinator.core.privacy.ledger import (
    Account,
    Budget,
    Cost,
    Fact,
    FactKind,
    Purpose,
    applied,
    begin_task,
    charge,
    released,
    reserve,
    set_budget,
    spent,
)
from coordinator.core.privacy.participation import ParticipationLimits
from coordinator.core.privacy.refusals import InvalidBudget, LedgerClosed, NotReserved
from coordinator.core.privacy.statement import Mode, Opponent
from coordinator.core.privacy.zcdp import example_rho
from edge_runtime.protocol.group import Step
from edge_runtime.protocol.plan import Privacy
from tests.coordinator.asking import check_in
from tests.coordinator.privacy.oracle import least_over_orders
from tests.coordinator.privacy.spending import (
    CENTRAL,
    DELTA,
    FEW,
    NOISE,
    RHO,
    budget_of,
    distributed_plan,
    entries_of,
    in_a_round,
    kinds_of,
    members,
    put_budget,
    statement_of,
)
from tests.coordinator.privacy.test_spending import epsilon_of, played
from tests.coordinator.running import begun, reported, weights_of
from tests.coordinator.secure import STEPS, groups_of, meet
from tests.programme import FIRST_WEIGHTS, TASK, Home, one_hot, replace

BUDGETS = tuple(Budget(opponent=opponent, target_delta=DELTA, rho=9.0) for opponent in Opponent)


def then(account: Account, fact: Fact | None) -> Account:
    assert fact is not None
    return applied(account, fact)


def account_of(mode: Mode = Mode.DISTRIBUTED, cost: Cost = Cost(RHO, RHO)) -> Account:  # noqa: B008  # frozen
    """With one round charged."""
    account = Account(BUDGETS if mode is Mode.DISTRIBUTED else BUDGETS[1:])
    account = applied(account, begin_task(account, "words", Purpose.TRAINING, ParticipationLimits(), mode))
    account = then(account, reserve(account, "words", 1, cost))
    return then(account, charge(account, "words", 1))


def test_more_groups_lower_the_charge_against_recipients_alone_and_once() -> None:
    account = account_of()
    fact = released(account, "words", 1, 24)
    assert fact is not None
    assert (fact.kind, fact.cost) == (FactKind.RELEASED, Cost(RHO, RHO / 24))
    after = applied(account, fact)
    assert [spent(after, budget).figure for budget in BUDGETS] == [pytest.approx(RHO), pytest.approx(RHO / 24)]
    assert released(after, "words", 1, 48) is None, "once"
    assert released(account, "words", 1, 1) is None
    with pytest.raises(NotReserved):
        released(account, "words", 2, 24)


def test_groups_change_nothing_where_noise_is_not_of_each_group() -> None:
    account = account_of(Mode.CENTRAL, Cost(None, RHO))
    assert released(account, "words", 1, 24) is None


def test_a_budget_is_a_fact_that_may_be_raised_and_not_taken_below_what_is_spent() -> None:
    account = account_of()
    raised = Budget(opponent=Opponent.COORDINATOR, target_delta=DELTA, rho=10.0)
    fact = set_budget(account, raised)
    assert fact is not None
    assert applied(account, fact).budget_against(Opponent.COORDINATOR) == raised
    assert set_budget(account, BUDGETS[0]) is None
    with pytest.raises(InvalidBudget, match=r"holds ρ = 0\.125"):
        set_budget(account, Budget(opponent=Opponent.COORDINATOR, target_delta=DELTA, rho=RHO / 2))
    with pytest.raises(LedgerClosed, match="target delta"):
        set_budget(account, Budget(opponent=Opponent.COORDINATOR, target_delta=2 * DELTA, rho=9.0))
    with pytest.raises(LedgerClosed, match="without noise against the coordinator"):
        set_budget(account_of(Mode.CENTRAL, Cost(None, RHO)), BUDGETS[0])


def test_two_groups_of_a_round_are_charged_once_and_recipients_see_the_noise_of_both(home: Home) -> None:
    """One of each group never reveals; what was charged is the same."""
    enrolled = members(home, 2 * FEW)
    for opponent in Opponent:
        put_budget(home, opponent, rho=9.0).raise_for_status()
    plan = distributed_plan(FEW)
    home.start_order(home.order(plan, checkpoint_sha256=home.publish(), pool_size=2 * FEW, rounds=9))
    home.look()
    phones = in_a_round(home, enrolled, "one")
    meet(home, phones)
    for step in STEPS:
        for phone in phones:
            phone.take(step)
        home.look()
    assert [group.phase for group in groups_of(home)] == ["summed", "summed"]
    assert kinds_of(home) == ["budget", "budget", "task", "reserved", "charged", "released"]
    assert budget_of(home, "coordinator")["spent"] == pytest.approx(RHO, rel=1e-3)
    assert budget_of(home, "recipients")["spent"] == pytest.approx(RHO / 2, rel=1e-3)
    against = {one["opponent"]: one["epsilon"] for one in statement_of(home)["figures"]}
    assert against["coordinator"] == pytest.approx(epsilon_of(RHO), rel=1e-3)
    assert against["recipients"] == pytest.approx(epsilon_of(RHO / 2), rel=1e-3)


def test_central_noise_under_secure_sums_is_charged_with_the_unmasking_and_added_to_the_update(home: Home) -> None:
    enrolled = members(home, FEW)
    put_budget(home, "recipients", rho=9.0).raise_for_status()
    plan = distributed_plan(FEW, privacy=Privacy.CENTRAL)
    home.start_order(home.order(plan, checkpoint_sha256=home.publish(), pool_size=FEW, rounds=9))
    home.look()
    phones = in_a_round(home, enrolled, "one")
    played(home, phones, last=Step.CONFIRMATION)
    assert kinds_of(home)[-1] == "charged"
    for phone in phones:
        phone.take(Step.UNMASKING)
    home.look()
    assert kinds_of(home) == ["budget", "task", "reserved", "charged"]
    moved = weights_of(home, home.rounds()[0]["result_sha256"]) - FIRST_WEIGHTS
    assert abs(moved[2:]).max() * FEW > plan.clipping_norm / 10, "noise is in it: the lanes of the tests are tiny"
    assert not moved[:2].any()


def test_local_noise_is_charged_when_devices_are_chosen(home: Home) -> None:
    """The coordinator sees a report as soon as it comes: a round that ends without an update has spent it too."""
    home.publish()
    phones = [home.phone(number) for number in range(2)]
    for opponent in Opponent:
        put_budget(home, opponent, rho=9.0).raise_for_status()
    home.start_task(replace(CENTRAL, privacy=Privacy.LOCAL, lane_bits=24, clipping_norm=1.0), pool_size=2, rounds=2)
    begun(home, phones, "one")
    assert kinds_of(home)[-2:] == ["reserved", "charged"]
    home.clock.forward(101)
    home.look()
    assert home.rounds()[0]["phase"] == "abandoned"
    assert "freed" not in kinds_of(home)
    for one in statement_of(home)["figures"]:
        assert one["epsilon"] == pytest.approx(epsilon_of(RHO), rel=1e-2)
        assert one["mechanism"] == "discrete Gaussian on each report"


def test_a_population_of_several_modes_is_stated_with_all_that_must_hold(home: Home) -> None:
    home.publish()
    phones = [home.phone(number) for number in range(2)]
    put_budget(home, "recipients", rho=9.0).raise_for_status()
    alone = replace(CENTRAL, goal=1, lane_bits=24)
    for number, privacy in enumerate((Privacy.CENTRAL, Privacy.LOCAL)):
        order = home.order(
            replace(alone, privacy=privacy), name=privacy, checkpoint_sha256=home.publish(), pool_size=1, rounds=1
        )
        home.start_order(order)
        home.look()
        (assignment,) = begun(home, [phones[number]], privacy)
        reported(home, phones[number], assignment, one_hot(0))
        home.look()
    said = statement_of(home)
    against = {one["opponent"]: one for one in said["figures"]}
    assert said["modes"] == ["central", "local"]
    assert against["coordinator"]["epsilon"] is None, "the central task lay open to it"
    both = against["recipients"]
    assert both["epsilon"] == pytest.approx(epsilon_of(2 * RHO), rel=1e-2)
    assert both["adjacency"] == "one gives zeros instead"
    assert both["mechanism"].count(";") == 1
    assert statement_of(home, "?task=central")["rounds"] == 1


def test_examples_are_stated_apart_and_never_added(home: Home) -> None:
    """By the plan and the rounds; there is no budget, and nothing is charged."""
    home.publish()
    phones = [home.phone(number) for number in range(2)]
    plan = replace(
        CENTRAL,
        goal=1,
        epochs=3,
        privacy=Privacy.NONE,
        noise_multiplier=0.0,
        example_clipping_norm=1.0,
        example_noise_multiplier=0.5,
    )
    home.start_task(plan, pool_size=1, rounds=2)
    for number, phone in enumerate(phones):
        (assignment,) = begun(home, [phone], f"round {number}")
        reported(home, phone, assignment, one_hot(0))
        home.look()
    said = statement_of(home)
    assert (said["figures"], entries_of(home)) == ([], [])
    (one,) = said["examples"]
    delta = one["figure"]["target_delta"]
    rho = example_rho(0.5, 3, 2)

    def converted(order: mpmath.mpf) -> mpmath.mpf:
        rest = mpmath.log(1 / (order * delta)) + (order - 1) * mpmath.log(1 - 1 / order)
        return rho * order + rest / (order - 1)

    assert one["task"] == TASK
    assert one["figure"]["epsilon"] == pytest.approx(least_over_orders(converted), rel=1e-3)
    assert one["figure"]["unit"] == "one example within one device"


def test_examples_are_counted_by_the_numbers_of_rounds_as_devices_count_them(home: Home) -> None:
    """Rounds 1 and 3, two apart: one device may be in both, though two rounds in a row would give it one."""
    home.publish()
    phone, other = home.phone(0), home.phone(1)
    plan = replace(
        CENTRAL,
        goal=1,
        expected_participants=1,
        privacy=Privacy.NONE,
        noise_multiplier=0.0,
        separation=2,
        example_clipping_norm=1.0,
        example_noise_multiplier=0.5,
    )
    home.start_task(plan, pool_size=1, rounds=9, reporting_deadline_s=100)
    for number, (who, reports) in enumerate(((phone, True), (other, False), (phone, True))):
        (assignment,) = begun(home, [who], f"round {number}")
        if reports:
            reported(home, who, assignment, one_hot(0))
        else:
            home.clock.forward(101)
        home.look()
        home.look()
    assert [one["phase"] for one in home.rounds()[:3]] == ["committed", "abandoned", "committed"]
    (one,) = statement_of(home)["examples"]
    expected = rho_to_epsilon(example_rho(0.5, plan.epochs, 2), one["figure"]["target_delta"])
    assert one["figure"]["epsilon"] == pytest.approx(expected)


def test_a_dry_run_says_what_a_claim_lacks(home: Home) -> None:
    home.publish()
    home.phone(0)
    order = home.order(CENTRAL, checkpoint_sha256=home.publish())
    home.operator("POST", "/tasks", json=order).raise_for_status()
    findings = home.operator("GET", f"/tasks/{TASK}/dry-run").raise_for_status().json()["findings"]
    assert any("has no budget" in one for one in findings)
    home.phone(1)
    put_budget(home, "recipients", rho=9.0).raise_for_status()
    assert home.operator("GET", f"/tasks/{TASK}/dry-run").json()["findings"] == []
    assert NOISE > 0
    assert check_in(home, home.phone(2), "free").assignment is None
