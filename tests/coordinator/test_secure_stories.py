"""Groups drawn at random sum as plain integers do; a phone that lies at random is refused, or named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import Phase, given, settings

from coordinator.services import group_opening, sums
from edge_runtime.protocol.group import Step
from tests.coordinator.secure_stories import Scene, scenes, tell, tell_of_a_liar, told_afresh
from tests.programme import Home


@settings(max_examples=6, deadline=None, derandomize=True, phases=[Phase.generate])
@given(scene=scenes())
def test_a_drawn_group_sums_as_plain_integers_do_or_ends_by_name(made: tuple[Path, str], scene: Scene) -> None:
    told_afresh(made, lambda home: tell(home, scene))


@pytest.mark.parametrize("gone", [1, 2])
def test_a_group_opens_at_the_last_dropout_that_is_promised_and_ends_one_above(home: Home, gone: int) -> None:
    """n = 6 with A = 1: t = ⌈7/2⌉ + 1 = 5, so n − max(t, m) = 1 may go behind the shares."""
    scene = Scene(size=6, parameters=10, bits=24, survivors=5, corrupt_permille=170, gone={Step.MASKED: gone})
    assert (scene.outcome()[0] is None) == (gone == 1)
    tell(home, scene)


@pytest.mark.parametrize("seed", range(5))
def test_a_phone_that_lies_at_random_is_refused_or_named_and_nobody_else_is(home: Home, seed: int) -> None:
    liar = tell_of_a_liar(home, seed)
    assert liar.codes or liar.lied


def test_a_coordinator_that_counts_wrongly_would_be_seen(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: each lane of a sum is one too large."""
    right = sums.group_total
    monkeypatch.setitem(vars(group_opening), "group_total", lambda *of: right(*of) + 1)
    scene = Scene(size=3, parameters=2, bits=24, survivors=3, corrupt_permille=0, gone={})
    with pytest.raises(AssertionError):
        tell(home, scene)
