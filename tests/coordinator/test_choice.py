"""Several tasks in one population: who goes where, and that none starves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.core import choice
from coordinator.core.choice import TELLING, Contender, choose, telling, unfit
from coordinator.core.task_settings import TaskSettings
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.reasons import Wait
from tests.programme import PLAN, START


def contender(number: int, pool_size: int, candidates: int = 0, priority: int = 0) -> Contender:
    return Contender(
        round_id=f"{number:032x}",
        seed=digest(b"round", bytes([number])),
        priority=priority,
        pool_size=pool_size,
        candidates=candidates,
    )


def device(number: int) -> str:
    return digest(b"device", str(number).encode()).hex()[:32]


def arrive(contenders: list[Contender], devices: range) -> list[Contender]:
    """Let devices come one after another; each becomes a candidate of what is chosen for it."""
    for number in devices:
        chosen = choose(contenders, device(number))
        assert chosen is not None
        place = contenders.index(chosen)
        contenders[place] = replace(chosen, candidates=chosen.candidates + 1)
    return contenders


CONTENDERS = st.lists(
    st.builds(contender, st.integers(0, 50), st.integers(1, 9), st.integers(0, 12), st.integers(-2, 2)),
    unique_by=lambda one: one.round_id,
    max_size=6,
)


@given(contenders=CONTENDERS, number=st.integers(0, 1000))
def test_no_round_in_need_is_passed_over_for_a_lower_priority_or_for_none(
    contenders: list[Contender], number: int
) -> None:
    chosen = choose(contenders, device(number))
    assert (chosen is None) == (not contenders)
    in_need = [one for one in contenders if one.need]
    if chosen is not None and in_need:
        assert chosen.need
        assert chosen.priority == max(one.priority for one in in_need)


@given(contenders=CONTENDERS, number=st.integers(0, 1000), data=st.data())
def test_asking_again_or_in_another_order_changes_nothing(
    contenders: list[Contender], number: int, data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(contenders))
    assert choose(shuffled, device(number)) == choose(contenders, device(number))


def check_shares(count: int = 6000) -> None:
    """Over devices, the share of a round is its share of the needs, within five standard deviations.

    Raises:
        AssertionError: It is not.
    """
    contenders = [contender(1, 10), contender(2, 30), contender(3, 100, candidates=40)]
    went = Counter(one.round_id for number in range(count) if (one := choose(contenders, device(number))))
    for one in contenders:
        share = one.need / 100
        spread = (count * share * (1 - share)) ** 0.5
        assert abs(went[one.round_id] - count * share) <= 5 * spread, went


def test_among_equals_shares_are_needs() -> None:
    check_shares()


def test_a_coin_that_forgets_the_need_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Contender, "need", property(lambda one: int(one.pool_size > one.candidates)))
    with pytest.raises(AssertionError):
        check_shares()


def test_a_coin_that_is_the_same_for_all_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_waiting_time", lambda _seed, _device: 1.0)
    with pytest.raises(AssertionError):
        check_shares()


def test_pools_of_any_size_fill_together() -> None:
    contenders = arrive([contender(1, 100), contender(2, 400), contender(3, 1500)], range(1000))
    for one in contenders:
        assert 0.4 <= one.candidates / one.pool_size <= 0.6, contenders
    contenders = arrive(contenders, range(1000, 2000))
    assert all(one.need == 0 for one in contenders), "exactly as many came as were needed"


def test_a_low_priority_gets_what_is_left_and_nothing_before() -> None:
    high, low = contender(1, 300, priority=5), contender(2, 300)
    high, low = arrive([high, low], range(300))
    assert (high.candidates, low.candidates) == (300, 0)
    high, low = arrive([high, low], range(300, 600))
    assert (high.candidates, low.candidates) == (300, 300)
    high, low = arrive([high, low], range(600, 700))
    assert (high.candidates, low.candidates) == (400, 300), "nobody is in need: the first by priority"


def test_a_task_whose_rounds_follow_each_other_leaves_devices_to_a_slow_one() -> None:
    """A hundred rounds of a large, quick task, each with new seeds; a small task of the same priority fills at once."""
    small, filled_after = contender(0, 5), None
    for number in range(1, 100):
        large = replace(contender(number, 95), seed=digest(b"next", bytes([number])))
        large, small = arrive([large, small], range(number * 100, number * 100 + 95))
        if small.need == 0:
            filled_after = number
            break
    assert filled_after is not None
    assert filled_after <= 3


SETTINGS = TaskSettings(pool_size=2, min_separation_s=60.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"in_cohort": False, "paused": True, "examples": 0}, Wait.NO_TASK),
        ({"paused": True, "examples": 0}, Wait.TASK_PAUSED),
        ({"examples": 16}, Wait.TOO_FEW_EXAMPLES),
        ({"participated_at": START - timedelta(seconds=59)}, Wait.PARTICIPATED_RECENTLY),
        ({"participated_at": START - timedelta(seconds=60)}, None),
    ],
)
def test_why_a_task_cannot_use_a_device(changes: dict[str, object], reason: Wait | None) -> None:
    fits = {"paused": False, "in_cohort": True, "examples": 32, "participated_at": None, "now": START}
    plan = replace(PLAN, min_examples=33)
    assert unfit(SETTINGS, plan, **{**fits, **changes}) == reason  # type: ignore[arg-type]


def test_of_all_reasons_the_nearest_to_an_assignment_is_told() -> None:
    assert set(TELLING) == set(Wait) - {Wait.BUSY}
    assert telling([]) is Wait.NO_TASK
    assert telling(reversed(TELLING)) is Wait.SELECTION_PENDING
    assert telling([Wait.TASK_PAUSED, Wait.TOO_FEW_EXAMPLES]) is Wait.TOO_FEW_EXAMPLES
