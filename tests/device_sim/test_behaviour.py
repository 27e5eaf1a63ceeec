"""Simulated phones drop out, go silent and straggle at the rates of production, the same on every run."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from device_sim.appointments import keep_appointments
from device_sim.behaviour import DROPOUT_SHARE, INTERRUPTIONS, STRAGGLE_S, Behaviour, behaviour, generator
from device_sim.datasets import load
from device_sim.events import Diary, Enrolled, Evaluated, Event, EventWriter, Participated, TrainedAlone, read_event
from device_sim.fleet import noise_of, phone_key, pooled
from device_sim.programme import plan_for
from device_sim.recipes import RECIPES, DemoOptions, privacy_for
from device_sim.watching import Heard
from edge_runtime.protocol.keys import SigningKey
from edge_runtime.protocol.plan import Privacy, Summing
from edge_runtime.protocol.secure_sum.transcript import Floors
from edge_runtime.session.terms import authority_for

RECIPE = RECIPES["digits"]


def drawn(seed: int) -> list[Behaviour]:
    return [behaviour(generator(seed, 0, phone, number)) for phone in range(200) for number in range(50)]


def test_dropouts_stragglers_and_silence_come_at_their_rates() -> None:
    behaviours = drawn(1)
    dropouts = [one for one in behaviours if one.dropout is not None or one.silent]
    assert 0.06 < len(dropouts) / len(behaviours) < 0.10
    assert 0.2 < sum(one.silent for one in dropouts) / len(dropouts) < 0.3
    assert 0.035 < sum(one.straggle_s > 0 for one in behaviours) / len(behaviours) < 0.06
    assert {one.dropout for one in dropouts} == {None, *INTERRUPTIONS}


def test_a_phone_never_both_drops_out_and_straggles_or_speaks_and_is_silent() -> None:
    for one in drawn(2):
        assert not (one.dropout is not None and one.silent)
        assert not ((one.dropout is not None or one.silent) and one.straggle_s)
        assert one.straggle_s == 0 or STRAGGLE_S[0] <= one.straggle_s <= STRAGGLE_S[1]


def test_the_same_seed_behaves_the_same_and_another_does_not() -> None:
    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)


def test_phones_have_keys_of_their_own_from_the_seed() -> None:
    keys = {phone_key(seed, index).raw for seed in range(3) for index in range(50)}
    assert len(keys) == 150
    assert phone_key(1, 7).raw == phone_key(1, 7).raw


def test_every_phone_acts_again_until_it_is_done_and_never_twice_at_once() -> None:
    left = [3, 1, 5, 2]
    busy = [threading.Lock() for _ in left]

    def act(index: int) -> float | None:
        assert busy[index].acquire(blocking=False)
        left[index] -= 1
        busy[index].release()
        return 0.0 if left[index] else None

    keep_appointments(len(left), act)
    assert left == [0, 0, 0, 0]


def test_a_failing_phone_ends_the_fleet_with_its_error() -> None:
    def act(index: int) -> float | None:
        if index == 2:
            raise ValueError("phone 2 broke")
        return 3600.0

    with pytest.raises(ValueError, match="phone 2 broke"):
        keep_appointments(4, act)


@pytest.mark.parametrize(
    "event",
    [
        Enrolled(3),
        Evaluated(1, 0.5, 1.25),
        Participated(2, "reported", 100, 200, True),
        Diary(12.5, "waiting", "not-selected"),
        TrainedAlone(4),
    ],
)
def test_events_come_back_from_their_lines(event: Event) -> None:
    lines: list[str] = []

    class Stream:
        def write(self, text: str) -> None:
            lines.append(text)

        def flush(self) -> None:
            lines.append("")

    EventWriter(Stream())(event)  # type: ignore[arg-type]
    assert read_event("".join(lines)) == event


@pytest.mark.parametrize("line", ["", "not json", "[]", "{}", '{"kind": "Other"}', '{"kind": "Enrolled", "cats": 1}'])
def test_other_lines_are_no_events(line: str) -> None:
    assert read_event(line) is None


@pytest.mark.parametrize("phones", [1, 2, 5, 16, 80, 100])
def test_a_plain_plan_fits_any_size_of_fleet(phones: int) -> None:
    plan = plan_for(RECIPE, "digits", "0" * 64, phones, Summing.PLAIN, Privacy.NONE)
    assert 1 <= plan.min_reports <= plan.goal <= plan.max_participants == phones
    assert 1 <= plan.expected_participants <= phones


@pytest.mark.parametrize(("phones", "groups"), [(5, 1), (6, 1), (16, 1), (40, 2), (80, 3), (100, 5), (500, 25)])
def test_a_secure_plan_is_about_one_group_and_the_fleet_makes_several(phones: int, groups: int) -> None:
    plan = plan_for(RECIPE, "digits", "0" * 64, phones, Summing.SECURE, Privacy.DISTRIBUTED)
    assert phones // plan.max_participants == groups
    assert plan.fewest_members == plan.survivors
    authority_for(plan, SigningKey(bytes(32)).public, Floors(smallest_group=3, fewest_survivors=3))  # a sum that hides


@pytest.mark.parametrize("phones", [5, 6, 8, 16, 40, 80, 100, 250, 500])
def test_a_secure_group_stands_the_usual_dropouts(phones: int) -> None:
    plan = plan_for(RECIPE, "digits", "0" * 64, phones, Summing.SECURE, Privacy.DISTRIBUTED)
    assert plan.survivors is not None
    assert plan.survivors <= plan.max_participants * (1 - DROPOUT_SHARE)


@pytest.mark.parametrize("phones", [1, 4])
def test_too_few_phones_for_a_group_are_told_what_to_do(phones: int) -> None:
    with pytest.raises(ValueError, match=r"too few to sum securely: take more with --devices, or .* --summing plain"):
        plan_for(RECIPE, "digits", "0" * 64, phones, Summing.SECURE, Privacy.DISTRIBUTED)


def asked(summing: Summing = Summing.SECURE, privacy: Privacy | None = None) -> DemoOptions:
    return DemoOptions(
        dataset="digits", model="zoo:cnn", rounds=1, devices=None, seed=1, port=0, out=Path("out"), summing=summing,
        privacy=privacy,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "phones", "mode"),
    [
        (asked(), 64, Privacy.DISTRIBUTED),
        (asked(), 63, Privacy.NONE),
        (asked(Summing.PLAIN), 80, Privacy.NONE),
        (asked(privacy=Privacy.NONE), 80, Privacy.NONE),
        (asked(privacy=Privacy.DISTRIBUTED), 6, Privacy.DISTRIBUTED),
    ],
)
def test_noise_is_added_where_a_claim_is_made_for_so_many_phones_or_where_it_is_asked_for(
    options: DemoOptions, phones: int, mode: Privacy
) -> None:
    assert privacy_for(options, phones) is mode
    plan = plan_for(RECIPE, "digits", "0" * 64, phones, options.summing, mode)
    assert (plan.noise_multiplier > 0) is (mode is Privacy.DISTRIBUTED)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (asked(Summing.PLAIN, Privacy.DISTRIBUTED), "leave --summing plain or --privacy distributed out"),
        (asked(privacy=Privacy.CENTRAL), "choose none or distributed"),
    ],
)
def test_noise_that_the_demo_cannot_give_is_refused(options: DemoOptions, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        privacy_for(options, 80)


def test_noise_is_the_same_for_the_same_phone_and_round_and_another_for_any_other() -> None:
    def words(*of: int) -> tuple[int, ...]:
        return tuple(noise_of(*of).words(4).tolist())

    assert words(1, 2, 1) == words(1, 2, 1)
    assert len({words(seed, phone, number) for seed in (1, 2) for phone in (1, 2, 12) for number in (1, 21)}) == 12


def test_pooled_examples_are_those_of_all_devices() -> None:
    devices = load("digits", devices=10, seed=1).training
    together = pooled(devices)
    assert len(together) == sum(map(len, devices))
    assert (together.x[: len(devices[0])] == devices[0].x).all()


def test_enrolments_told_out_of_order_are_all_heard() -> None:
    heard = Heard()
    for phones in (1, 3, 2):
        heard(Enrolled(phones))
    assert heard.enrolled == 3
