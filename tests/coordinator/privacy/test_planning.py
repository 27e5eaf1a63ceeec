"""The planner keeps what it promises, says plainly what it cannot, and settings that hold no claim are refused."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Final

import pytest

from coordinator.core.privacy.blt import fitted
from coordinator.core.privacy.clipping import COUNT_NOISE
from coordinator.core.privacy.conversions import rho_to_epsilon
from coordinator.core.privacy.correlated import correlated_rho
from coordinator.core.privacy.distributed import recipients_rho
from coordinator.core.privacy.events import ConcentratedEvent, GaussianEvent
from coordinator.core.privacy.participation import ParticipationLimits, dearest
from coordinator.core.privacy.planner import Wish, error, noise_for_budgets, planned, point
from coordinator.core.privacy.plans import check_schedule, correlated_rho_until, cost_of, limits_of, settings_of
from coordinator.core.privacy.refusals import (
    CohortTooSmall,
    InvalidBudget,
    InvalidClippingNorm,
    InvalidLimits,
    InvalidNoise,
    InvalidTargetDelta,
    ModeNotGiven,
    NoiseLowered,
    NotCovered,
    PrivacyRefusal,
)
from coordinator.core.privacy.settings import (
    PrivacySettings,
    Sums,
    check_change,
    check_settings,
    default_target_delta,
)
from coordinator.core.privacy.statement import PROTECTS, Adjacency, Mode, Opponent, Unit, claimed_epsilon, stated
from coordinator.core.selection import ranked, round_seed
from edge_runtime.protocol.claims import AdaptiveNorm
from edge_runtime.protocol.plan import Plan, Privacy
from tests.coordinator.secure import secure_plan
from tests.programme import PLAN, replace

BOTH: Final = (Opponent.COORDINATOR, Opponent.RECIPIENTS)
LITTLE: Final = {"epsilon": {Opponent.COORDINATOR: 0.1}}
LIMITS: Final = ParticipationLimits(separation=10, most=3)


def wish(**changes: object) -> Wish:
    plain = Wish(
        mode=Mode.DISTRIBUTED, population=2_000_000, rounds=1000, goal=2400, parameters=102_000, target_delta=1e-7,
        epsilon={Opponent.COORDINATOR: 8.0}, largest_error=1.0, limits=ParticipationLimits(separation=100, most=2),
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "opponent"),
    [
        (Mode.DISTRIBUTED, Opponent.COORDINATOR),
        (Mode.DISTRIBUTED, Opponent.RECIPIENTS),
        (Mode.CENTRAL, Opponent.RECIPIENTS),
        (Mode.CORRELATED, Opponent.RECIPIENTS),
    ],
)
def test_a_reachable_plan_keeps_budget_and_error_with_no_more_noise_than_needed(mode: Mode, opponent: Opponent) -> None:
    asked = wish(mode=mode, epsilon={opponent: 3.0}, goal=4000, largest_error=3.0)
    advice = planned(asked)
    end = advice.by_round[-1]
    found = end.coordinator if opponent is Opponent.COORDINATOR else end.recipients
    assert advice.reachable
    assert found == pytest.approx(3.0, rel=1e-9)
    assert advice.error <= 3.0
    assert advice.goal_needed is not None
    assert advice.goal_needed <= asked.goal


def test_the_chart_rises_and_shows_both_opponents() -> None:
    chart = planned(wish()).by_round
    assert [one.round for one in chart] == sorted({one.round for one in chart})
    assert chart[-1].round == 1000
    for earlier, later in itertools.pairwise(chart):
        assert earlier.coordinator <= later.coordinator
        assert earlier.recipients <= later.recipients < later.coordinator


def test_groups_help_against_recipients_and_not_against_the_coordinator() -> None:
    one, many = point(wish(goal=100), 1.0, 1000), point(wish(goal=2400), 1.0, 1000)
    assert one.coordinator == many.coordinator == one.recipients
    assert many.recipients == pytest.approx(rho_to_epsilon(2 * 0.5 / 24, 1e-7), rel=1e-3)


def test_the_noise_of_a_mean_is_what_a_simulation_of_it_has() -> None:
    asked = wish(goal=300, group_size=100, parameters=400)
    assert error(asked, 2.0) == pytest.approx(20 * 2.0 * math.sqrt(3 * 100 / 70) / 300)
    assert error(wish(mode=Mode.CENTRAL, goal=300, parameters=400), 2.0) == pytest.approx(20 * 2.0 / 300)
    assert error(wish(mode=Mode.LOCAL, goal=300, parameters=400), 2.0) == pytest.approx(20 * 2.0 / math.sqrt(300))


def test_correlated_noise_needs_a_smaller_error_for_the_same_budget() -> None:
    asked = wish(mode=Mode.CORRELATED, epsilon={Opponent.RECIPIENTS: 2.0})
    central = dataclasses.replace(asked, mode=Mode.CENTRAL)
    both = [planned(one) for one in (asked, central)]
    assert both[0].error < both[1].error / 4
    rho = correlated_rho(fitted(1000, 100).column(1000), 100, both[0].noise_multiplier, 2)
    assert rho_to_epsilon(rho, 1e-7) == pytest.approx(2.0, rel=2e-3), "rounding aside"


def test_an_unreachable_budget_is_said_plainly_with_what_each_shape_costs() -> None:
    advice = planned(wish(goal=100, epsilon={Opponent.COORDINATOR: 2.0}))
    assert not advice.reachable
    assert advice.sentences[0] == (
        "Not reachable: ε = 2 against the coordinator at this goal and this error. With this error one group of 100 "
        "costs ε = 43.9 against the coordinator; a group of 1,000 costs ε = 2.88; against recipients, 24 groups of 100 "
        "cost ε = 1.13."
    )
    assert advice.sentences[1] == "Nearest: groups of 1,000 and a goal of 2,000 keep budget and error."
    nearest = planned(wish(goal=2000, group_size=1000, epsilon={Opponent.COORDINATOR: 2.0}))
    assert nearest.reachable


def test_a_goal_that_would_do_is_named_and_does() -> None:
    advice = planned(wish(goal=500, largest_error=1.0))
    assert (advice.reachable, advice.goal_needed) == (False, 1600)
    assert "a goal of 1,600" in advice.sentences[1]
    assert planned(wish(goal=1600)).reachable
    assert not planned(wish(goal=1500)).reachable


def test_where_nothing_does_the_error_of_keeping_the_budget_is_named() -> None:
    advice = planned(wish(mode=Mode.LOCAL))
    assert not advice.reachable
    assert advice.goal_needed is None
    assert "no goal among 2,000,000 devices keeps both" in advice.sentences[1]


def test_no_noise_keeps_a_budget_of_nothing() -> None:
    tiny = wish(epsilon={Opponent.COORDINATOR: 1e-5})
    assert noise_for_budgets(tiny) is None
    assert "fewer rounds" in planned(tiny).sentences[1]


def test_both_opponents_stand_in_every_plan() -> None:
    for mode in (Mode.CENTRAL, Mode.DISTRIBUTED):
        advice = planned(wish(mode=mode, epsilon={Opponent.RECIPIENTS: 2.0}))
        assert tuple(statement.opponent for statement in advice.statements) == BOTH
        assert ("No protection" in advice.statements[0].sentence()) is (mode is Mode.CENTRAL)


@pytest.mark.parametrize(
    ("wrong", "refusal"),
    [
        ({"epsilon": {}}, InvalidBudget),
        ({"epsilon": {Opponent.COORDINATOR: 0.0}}, InvalidBudget),
        ({"largest_error": 0.0}, InvalidBudget),
        ({"goal": 3_000_000}, InvalidLimits),
        ({"limits": ParticipationLimits(separation=1000, most=1)}, InvalidLimits),
        ({"mode": Mode.CENTRAL}, ModeNotGiven),
        ({"mode": Mode.NONE}, ModeNotGiven),
        ({"target_delta": 1e-6}, InvalidTargetDelta),
        ({"clipping_norm": 0.0}, InvalidClippingNorm),
        ({"group_size": 1001}, ModeNotGiven),
        ({"mode": Mode.CENTRAL, "epsilon": {Opponent.RECIPIENTS: 2.0}, "goal": 32_769}, InvalidLimits),
        (
            {"group_size": 12, "lane_bits": 32, "largest_error": 1e6, "epsilon": {Opponent.COORDINATOR: 0.1}},
            InvalidNoise,
        ),
    ],
)
def test_an_impossible_wish_is_refused(wrong: dict[str, object], refusal: type[PrivacyRefusal]) -> None:
    with pytest.raises(refusal):
        planned(wish(**wrong))


def plan_of(asked: Wish, noise: float) -> Plan:
    """The plan that is advised."""
    secure = asked.mode is Mode.DISTRIBUTED
    return replace(
        secure_plan(3) if secure else PLAN,
        version=5,
        privacy=Privacy(asked.mode.value),
        noise_multiplier=noise,
        clipping_norm=asked.clipping_norm,
        lane_bits=asked.lane_bits,
        rotation_seed=bytes(32) if asked.lane_bits < 24 else b"",
        max_participants=asked.summed,
        expected_participants=asked.summed,
        goal=asked.summed,
        min_reports=1,
        fewest_members=asked.fewest_survivors if secure else None,
        survivors=asked.fewest_survivors if secure else None,
        corrupt_permille=round(1000 * asked.corrupt_share),
        separation=asked.limits.separation,
        most_participations=asked.limits.most,
    )


def charged(plan: Plan, asked: Wish, opponent: Opponent) -> float:
    """ε of all rounds, as the ledger adds up what it is charged for each."""
    if asked.mode is Mode.CORRELATED:
        return rho_to_epsilon(correlated_rho_until(plan, asked.parameters, asked.rounds, asked.rounds), 1e-7)
    one = cost_of(plan, asked.parameters).against(opponent)
    assert one is not None
    if opponent is Opponent.RECIPIENTS and asked.mode is Mode.DISTRIBUTED:
        one = recipients_rho(one, asked.groups)
    return rho_to_epsilon(dearest([one] * asked.rounds, limits_of(plan)), 1e-7)


@pytest.mark.parametrize("parameters", [300, 10_000_000])
@pytest.mark.parametrize(("goal", "bits"), [(70, 24), (2400, 24), (20_000, 24), (20_000, 32)])
@pytest.mark.parametrize("mode", [Mode.DISTRIBUTED, Mode.CENTRAL, Mode.CORRELATED, Mode.LOCAL])
def test_what_is_advised_is_approved_and_charged_as_was_said(mode: Mode, goal: int, bits: int, parameters: int) -> None:
    asked = wish(
        mode=mode, goal=goal, parameters=parameters, lane_bits=bits, largest_error=1e6, limits=LIMITS, rounds=50,
        epsilon=dict.fromkeys(PROTECTS[mode], 3.0),
    )  # fmt: skip
    advice = planned(asked)
    assert advice.reachable
    plan = plan_of(asked, advice.noise_multiplier)
    check_schedule(plan, buffered=False, rounds=asked.rounds)
    check_settings(
        settings_of(
            plan, target_delta=1e-7, population=asked.population, cohort=asked.population, smallest_cohort=64,
            values=parameters,
        )
    )  # fmt: skip
    end = advice.by_round[-1]
    for opponent in PROTECTS[mode]:
        said = end.coordinator if opponent is Opponent.COORDINATOR else end.recipients
        assert charged(plan, asked, opponent) == pytest.approx(said, rel=1e-9)
        assert said <= 3.0 * (1 + 1e-9)


@pytest.mark.parametrize("goal", [10, 70, 2400, 20_000])
@pytest.mark.parametrize("mode", [Mode.DISTRIBUTED, Mode.CENTRAL])
def test_a_norm_may_adapt_with_the_count_noise_that_is_advised_at_the_same_charge(mode: Mode, goal: int) -> None:
    asked = wish(
        mode=mode, goal=goal, group_size=200, largest_error=1e6, limits=LIMITS, rounds=50,
        epsilon=dict.fromkeys(PROTECTS[mode], 8.0),
    )  # fmt: skip
    advice = planned(asked)
    plan = plan_of(asked, advice.noise_multiplier)
    counts = min(COUNT_NOISE * plan.expected_participants, 500.0)
    if goal == 10:
        assert "adapt" not in advice.clipping, "counts would cost more than all of z"
        return
    assert advice.clipping.endswith(f" Or let the norm adapt, with a count_noise of {counts:g}.")
    adaptive = AdaptiveNorm(quantile=0.5, smallest=1e-3, largest=1e3, rate=0.2, count_noise=counts)
    plain, counted = (cost_of(one, asked.parameters + one.counts) for one in (plan, replace(plan, adaptive=adaptive)))
    for opponent in PROTECTS[mode]:
        assert counted.against(opponent) == pytest.approx(plain.against(opponent), rel=1e-3)


@pytest.mark.parametrize("wrong", [{"mode": Mode.LOCAL}, {"mode": Mode.CORRELATED}, {"lane_bits": 20}])
def test_a_norm_that_cannot_adapt_is_not_advised(wrong: dict[str, object]) -> None:
    budget = {"epsilon": {Opponent.RECIPIENTS: 8.0}, "largest_error": 1e6}
    assert "adapt" not in planned(wish(**{**budget, **wrong})).clipping


@pytest.mark.parametrize("mode", [Mode.NONE, Mode.EXAMPLE_LEVEL])
def test_a_mode_that_is_not_planned_names_all_that_are(mode: Mode) -> None:
    with pytest.raises(ModeNotGiven) as refused:
        planned(wish(mode=mode))
    named = {one for one in Mode if one.value in refused.value.nearest}
    assert named == set(Mode) - {Mode.NONE, Mode.EXAMPLE_LEVEL}


def test_a_large_budget_is_not_met_with_noise_that_the_grid_cannot_hold() -> None:
    asked = wish(goal=1000, group_size=1000, lane_bits=20, epsilon={Opponent.COORDINATOR: 1e5})
    plan = plan_of(asked, planned(asked).noise_multiplier)
    assert plan.lanes().noise * plan.lanes().scale == pytest.approx(4.0)


def settings(**changes: object) -> PrivacySettings:
    plain = PrivacySettings(
        mode=Mode.DISTRIBUTED, sums=Sums.SECURE, clipping_norm=1.0, noise_multiplier=1.0, target_delta=1e-7,
        population=1_000_000, cohort=10_000, limits=ParticipationLimits(separation=10),
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "refusal", "nearest"),
    [
        ({"target_delta": 1e-6}, InvalidTargetDelta, "2.51e-07"),
        ({"target_delta": 0.0}, InvalidTargetDelta, "2.51e-07"),
        ({"clipping_norm": 0.0}, InvalidClippingNorm, "median norm"),
        ({"clipping_norm": -1.0}, InvalidClippingNorm, "median norm"),
        ({"clipping_norm": math.nan}, InvalidClippingNorm, "median norm"),
        ({"noise_multiplier": 0.0}, InvalidNoise, "mode none"),
        ({"noise_multiplier": math.nan}, InvalidNoise, "planner"),
        ({"mode": Mode.NONE}, InvalidNoise, "choose a mode"),
        ({"cohort": 63}, CohortTooSmall, "at least 64"),
        ({"sums": Sums.PLAIN}, ModeNotGiven, "Sum securely"),
        ({"fewest_survivors": 55}, ModeNotGiven, "56 to 100"),
        ({"sampling_rate": 0.01}, ModeNotGiven, "central noise"),
        ({"mode": Mode.CENTRAL, "sampling_rate": 1.5}, InvalidNoise, "none is claimed"),
        ({"mode": Mode.CORRELATED, "limits": ParticipationLimits()}, ModeNotGiven, "at least 2 rounds"),
        ({"noise_multiplier": 1e-5, "lane_bits": 20}, InvalidNoise, "at least"),
        ({"mode": Mode.CENTRAL, "sums": Sums.PLAIN, "lane_bits": 23}, ModeNotGiven, "24 bits"),
        ({"mode": Mode.CORRELATED, "lane_bits": 20}, ModeNotGiven, "24 bits"),
    ],
)
def test_settings_without_a_claim_are_refused_with_the_nearest_valid_choice(
    wrong: dict[str, object], refusal: type[PrivacyRefusal], nearest: str
) -> None:
    with pytest.raises(refusal) as caught:
        check_settings(settings(**wrong))
    assert nearest in caught.value.nearest
    assert caught.value.reason in caught.value.detail


def test_the_nearest_choices_are_valid() -> None:
    check_settings(settings(target_delta=2.51e-7))
    check_settings(settings(cohort=64, fewest_survivors=56))
    check_settings(settings(mode=Mode.CENTRAL, sums=Sums.PLAIN, sampling_rate=0.01, lane_bits=24))
    check_settings(settings(mode=Mode.NONE, noise_multiplier=0.0, target_delta=1.0, cohort=1))
    assert default_target_delta(1_000_000) == pytest.approx(2.512e-7, rel=1e-3)
    with pytest.raises(InvalidNoise) as caught:
        check_settings(settings(noise_multiplier=1e-5, lane_bits=20))
    needed = float(caught.value.nearest.split()[7].rstrip(","))
    check_settings(settings(noise_multiplier=needed, lane_bits=20))


@pytest.mark.parametrize(
    "weaker",
    [
        {"noise_multiplier": 0.9},
        {"mode": Mode.CENTRAL},
        {"target_delta": 2e-7},
        {"limits": ParticipationLimits(separation=9)},
    ],
)
def test_an_active_task_never_gets_weaker(weaker: dict[str, object]) -> None:
    after = settings(**weaker)
    check_change(settings(), after, active=False, charged=False)
    for active, charged in ((True, False), (False, True)):
        with pytest.raises(NoiseLowered):
            check_change(settings(), after, active=active, charged=charged)


def test_an_active_task_may_get_stronger() -> None:
    stronger = settings(noise_multiplier=1.1, target_delta=1e-8, limits=ParticipationLimits(separation=10, most=3))
    check_change(settings(), stronger, active=True, charged=True)
    with pytest.raises(NoiseLowered, match="more rounds"):
        check_change(stronger, dataclasses.replace(stronger, limits=ParticipationLimits(separation=10)), active=True,
                     charged=True)  # fmt: skip


def test_one_device_more_displaces_another_so_that_nothing_is_claimed_of_adding_one() -> None:
    """A round takes so many of those who came: with one more, the sum moves by two reports in opposite directions."""
    seed = round_seed(bytes(32), 1)
    came, others = ([f"{kind} {number}" for number in range(100)] for kind in ("device", "other"))
    most, chosen = 50, set(ranked(seed, came)[:50])
    more = next(name for name in others if name in ranked(seed, [*came, name])[:most])
    after = set(ranked(seed, [*came, more])[:most])
    assert (len(after - chosen), len(chosen - after)) == (1, 1), "one comes, one goes: 2 C"
    for mode in (Mode.CENTRAL, Mode.CORRELATED, Mode.DISTRIBUTED, Mode.LOCAL):
        assert stated(mode, Opponent.RECIPIENTS, 1.0, 1e-7).adjacency is Adjacency.ZERO_OUT


def test_a_figure_never_stands_alone() -> None:
    sentence = stated(Mode.DISTRIBUTED, Opponent.COORDINATOR, 2.99951, 1e-7).sentence()
    for part in ("ε = 3.000", "δ = 1e-07", "coordinator", Unit.INSTALLATION, Adjacency.ZERO_OUT, "no sampling", "zcdp"):
        assert part in sentence


@pytest.mark.parametrize(
    ("mode", "opponent", "said"),
    [
        (Mode.DISTRIBUTED, Opponent.COORDINATOR, {"secrets"}),
        (Mode.DISTRIBUTED, Opponent.RECIPIENTS, {"wrap around"}),
        (Mode.CENTRAL, Opponent.RECIPIENTS, set()),
        (Mode.CORRELATED, Opponent.RECIPIENTS, set()),
        (Mode.LOCAL, Opponent.RECIPIENTS, set()),
        (Mode.LOCAL, Opponent.COORDINATOR, {"secrets"}),
    ],
)
def test_a_figure_says_all_that_it_counts_on(mode: Mode, opponent: Opponent, said: set[str]) -> None:
    """That devices clip and keep their limits is in all of them."""
    found = stated(mode, opponent, 1.0, 1e-7).assumptions
    assert any("signed plan, and keep its limits" in one for one in found)
    assert said == {word for word in ("secrets", "wrap around") if any(word in one for one in found)}


def test_no_claim_is_made_where_none_holds() -> None:
    assert math.isinf(stated(Mode.CENTRAL, Opponent.COORDINATOR, 1.0, 1e-7).epsilon)
    with pytest.raises(NotCovered, match="no noise"):
        stated(Mode.NONE, Opponent.RECIPIENTS, 1.0, 1e-7)
    for mode, opponent in ((Mode.DISTRIBUTED, Opponent.COORDINATOR), (Mode.CENTRAL, Opponent.COORDINATOR)):
        with pytest.raises(NotCovered, match="claims no sampling"):
            stated(mode, opponent, 1.0, 1e-7, sampled=True)
    sampled = stated(Mode.CENTRAL, Opponent.RECIPIENTS, 1.0, 1e-7, sampled=True)
    assert "coin" in sampled.sentence()
    assert sampled.adjacency is Adjacency.ADD_OR_REMOVE
    assert stated(Mode.EXAMPLE_LEVEL, Opponent.RECIPIENTS, 1.0, 1e-7).unit is Unit.EXAMPLE


def test_a_claim_names_the_accountant_that_knows_everything_in_it() -> None:
    assert claimed_epsilon([ConcentratedEvent(0.5)], 1e-6)[1] == "zcdp"
    assert claimed_epsilon([ConcentratedEvent(0.5), GaussianEvent(1.0, 0.01)], 1e-6)[1] == "rdp"


PAGE: Final = (Path(__file__).parents[3] / "docs" / "privacy.md").read_text()


@pytest.mark.parametrize("mode", [Mode.DISTRIBUTED, Mode.CENTRAL, Mode.CORRELATED, Mode.LOCAL])
def test_the_privacy_page_shows_what_the_planner_says(mode: Mode) -> None:
    advice = planned(wish(mode=mode, epsilon={Opponent.RECIPIENTS: 2.0}, largest_error=1000.0))
    end = advice.by_round[-1]
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{mode}` | installation"))
    coordinator, recipients, noise, off = (cell.strip() for cell in row.split("|")[3:7])
    assert coordinator == (f"ε = {end.coordinator:.3g}" if math.isfinite(end.coordinator) else "no protection")
    assert recipients == f"ε = {end.recipients:.3g}"
    assert (float(noise), float(off)) == pytest.approx((advice.noise_multiplier, advice.error), rel=0.04)


def test_the_example_of_the_privacy_page_says_what_stands_there(capsys: pytest.CaptureFixture[str]) -> None:
    example = PAGE.split("```python\n")[1].split("```")[0]
    exec(compile(example, "privacy.md", "exec"), {})
    quoted = " ".join(line.removeprefix("> ") for line in PAGE.splitlines() if line.startswith("> "))
    assert " ".join(capsys.readouterr().out.split()) == quoted
