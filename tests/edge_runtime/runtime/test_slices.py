"""Slices of work: what each of them does, why it ends, and what the next one goes on with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edge_runtime import Floors, Happened, Policy
from edge_runtime.conditions.fixed import IDEAL
from edge_runtime.journal import Phase
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import CHECK_IN_PATH, CheckIn
from edge_runtime.protocol.errors import NotFound, StateInUse
from edge_runtime.protocol.plan import RateStep
from edge_runtime.protocol.reasons import Blocker, Outcome, Wait
from edge_runtime.session import Request, Response
from edge_runtime.testing import FakeCoordinator, linear_manifest
from tests.edge_runtime.runtime.bench import COUNT, POLICY, Bench, bench, pairs

STEPS = -(-COUNT // 4) * 3
"""Of three epochs."""


def lose(home: Bench, at: int, **conditions: object) -> None:
    """Change conditions before this step; half a second passes at each."""

    def at_step(step: int) -> None:
        home.clock.forward(0.5)
        if step == at:
            home.source.conditions = replace(IDEAL, **conditions)  # type: ignore[arg-type]

    home.engine.at_step = at_step


def test_a_slice_takes_a_device_from_enrolment_to_a_receipt(home: Bench) -> None:
    home.coordinator.assign(epochs=3)
    with home.runtime() as runtime:
        end = runtime.run_slice(600)
    assert (end.happened, end.reason, end.work_left, end.round) == (Happened.REPORTED, "reported", False, 1)
    assert end.come_back_s == 900
    assert home.engine.steps == STEPS
    assert len(home.coordinator.reports) == 1
    assert [path.split("/")[3] for _method, path in home.coordinator.asked] == [
        "enrol",
        "check-in",
        "bundles",
        "checkpoints",
        "participations",
    ]


def test_every_check_in_says_what_the_app_says_of_its_device(home: Bench) -> None:
    sent: list[CheckIn] = []

    def recorded(request: Request, headers: dict[str, str]) -> Response:
        if request.path == CHECK_IN_PATH:
            sent.append(wire.decode(CheckIn, request.body))
        return home.coordinator(request, headers)

    home.transport = recorded
    with home.runtime() as runtime:
        runtime.run_slice(600)
    (message,) = sent
    assert (message.version, message.app_version, message.platform) == (3, "1.0", "linux")
    assert (message.region, message.hardware_class, message.attributes) == (None, None, {})


def test_the_graph_is_fetched_once(home: Bench) -> None:
    for _round in range(3):
        home.coordinator.assign()
    with home.runtime() as runtime:
        for _round in range(3):
            assert runtime.run_slice(600).happened is Happened.REPORTED
            home.clock.forward(900)
    fetched = [path for _method, path in home.coordinator.asked if "/bundles/" in path]
    assert len(fetched) == 1


def test_a_retry_window_is_kept(home: Bench) -> None:
    home.coordinator.wait(Wait.NOT_SELECTED, after_s=600)
    with home.runtime() as runtime:
        first = runtime.run_slice(600)
        assert (first.happened, first.reason, first.come_back_s) == (Happened.WAITING, "not-selected", 600)
        home.clock.forward(599)
        assert runtime.run_slice(600).reason == Blocker.TOO_SOON
        assert runtime.why().come_back_s == 1
        home.clock.forward(1)
        assert runtime.run_slice(600).happened is Happened.WAITING


def test_a_visit_that_ends_in_not_now_moves_little(home: Bench) -> None:
    with home.runtime() as runtime:
        runtime.run_slice(600)
        home.clock.forward(900)
        before = runtime._device.usage.days[-1].transferred_bytes
        assert runtime.run_slice(600).reason == Wait.NO_TASK
        assert runtime._device.usage.days[-1].transferred_bytes - before < 2048


@pytest.mark.parametrize("at", [0, 1, 5, 6, STEPS - 1])
def test_a_lost_condition_ends_a_slice_and_a_later_one_goes_on(home: Bench, at: int) -> None:
    home.coordinator.assign(epochs=3)
    lose(home, at, in_use=True)
    with home.runtime() as runtime:
        first = runtime.run_slice(600)
        if at < STEPS - 1:
            assert (first.happened, first.reason, first.work_left) == (Happened.INTERRUPTED, Blocker.IN_USE, True)
            assert home.engine.steps <= at + 3, "stopped within 2 s"
            assert runtime.why().phase is Phase.TRAINING
        home.source.conditions = IDEAL
        assert runtime.run_slice(600).happened is Happened.REPORTED
    assert home.engine.steps == STEPS


def report_of(interruptions: Callable[[int], bool], *, reopen: bool, seed: int = 0) -> bytes:
    """The lanes of a report whose training was interrupted before some steps; a new process goes on, or the same."""
    with bench() as home:
        home.coordinator.assign(epochs=3, proximal_mu=0.1, rate_steps=(RateStep(from_epoch=1, factor=0.5),))
        stopping = [False]

        def at_step(step: int) -> None:
            stopping[0] = interruptions(step)

        home.engine.at_step = at_step
        runtime = home.open()
        runtime.declare(home.collection)
        runtime.add("pairs", pairs(COUNT, seed))
        for _slice in range(STEPS + 2):
            end = runtime.run_slice(600, lambda: stopping[0])
            stopping[0] = False
            if end.happened is Happened.REPORTED:
                break
            assert end.reason == Blocker.SYSTEM_STOPPED
            if reopen:
                runtime.close()
                home.drawn += 1000  # another process draws other numbers
                runtime = home.open()
                runtime.declare(home.collection)
        runtime.close()
        (raw,) = home.coordinator.reports.values()
        return raw[32:]


def near(report: bytes, other: bytes) -> bool:
    """Whether two reports are of one delta: rounding to lanes may differ by one unit."""
    one, two = (np.frombuffer(raw, "<i4").astype(np.int64) for raw in (report, other))
    return bool((np.abs(one - two) <= 1).all())


def test_interrupted_at_every_step_a_report_is_of_the_same_delta() -> None:
    whole = report_of(lambda _step: False, reopen=False)
    assert near(report_of(lambda _step: True, reopen=False), whole)
    assert near(report_of(lambda _step: True, reopen=True), whole)
    assert not near(report_of(lambda _step: True, reopen=True, seed=1), whole), "it can tell"


def test_a_device_that_cannot_finish_in_time_says_so_at_once(home: Bench) -> None:
    home.coordinator.assign(epochs=3, deadline_s=600)
    lose(home, 3, charging=False, battery_level=0.1)
    with home.runtime() as runtime:
        end = runtime.run_slice(600)
        assert (end.happened, end.reason, end.work_left) == (Happened.GAVE_UP, Outcome.BATTERY_LOW, False)
        assert [visit.reason for visit in runtime.why().history] == ["battery-low"]
    (note,) = home.coordinator.outcomes.values()
    assert note.reason is Outcome.BATTERY_LOW
    assert note.costs is not None
    assert note.costs.seconds == 2
    assert note.costs.bytes >= 1024


def test_an_outcome_that_could_not_be_told_is_told_later(home: Bench) -> None:
    home.coordinator.assign(epochs=3, deadline_s=600)
    lose(home, 3, in_use=True, metered=True)
    with home.runtime() as runtime:
        end = runtime.run_slice(600)
        assert (end.happened, end.work_left, home.coordinator.outcomes) == (Happened.GAVE_UP, True, {})
        home.source.conditions = IDEAL
        assert runtime.run_slice(600).happened is Happened.GAVE_UP
    assert [note.reason for note in home.coordinator.outcomes.values()] == [Outcome.IN_USE]


def test_a_plans_time_counts_over_all_slices(home: Bench) -> None:
    home.coordinator.assign(epochs=3, time_limit_s=5.0)
    stops = iter([False] * 5 + [True])
    home.engine.at_step = lambda _step: home.clock.forward(1.0)
    with home.runtime() as runtime:
        assert runtime.run_slice(600, lambda: next(stops, False)).happened is Happened.INTERRUPTED
        assert runtime.run_slice(600).reason == Outcome.TIME_LIMIT
    assert home.engine.steps == 5
    assert [note.reason for note in home.coordinator.outcomes.values()] == [Outcome.TIME_LIMIT]


def test_a_deadline_that_passes_on_the_device_ends_a_participation(home: Bench) -> None:
    home.coordinator.assign(epochs=3, deadline_s=5000)
    with home.runtime() as runtime:
        assert runtime.run_slice(600, lambda: home.engine.steps >= 2).work_left
        home.clock.forward(5000)
        assert runtime.run_slice(600).reason == Wait.NO_TASK
        assert [visit.reason for visit in runtime.why().history] == ["system-stopped", "deadline-passed", "no-task"]


def test_plans_may_change_the_rate_limit_steps_and_measure(home: Bench) -> None:
    home.coordinator.assign(epochs=3, max_steps=7, evaluates=True)
    with home.runtime() as runtime:
        assert runtime.run_slice(600).happened is Happened.REPORTED
    assert home.engine.steps == 7
    (said,) = [line for line in home.said if line.startswith("loss")]
    before, after = (float(word) for word in said.split(": ")[1].split(" to "))
    assert after < before


def test_training_without_examples_is_given_up_by_name(home: Bench) -> None:
    home.coordinator.assign()
    with home.runtime(examples=0) as runtime:
        assert runtime.run_slice(600).reason == Outcome.EXAMPLES_REFUSED
    assert home.engine.steps == 0


def test_examples_that_are_too_old_for_a_plan_are_not_used(home: Bench) -> None:
    home.coordinator.assign(max_example_age_s=3600.0)
    with home.runtime() as runtime:
        home.clock.forward(1800)
        runtime.add("pairs", pairs(4, seed=1))
        home.clock.forward(1900)
        assert runtime.run_slice(600).happened is Happened.REPORTED
    assert home.engine.steps == 1


def test_deleting_all_examples_in_between_gives_up(home: Bench) -> None:
    home.coordinator.assign(epochs=3)
    with home.runtime() as runtime:
        runtime.run_slice(600, lambda: home.engine.steps >= 0 and bool(home.coordinator.asked[3:]))
        runtime.delete("pairs")
        runtime.declare(home.collection)
        assert runtime.run_slice(600).reason == Outcome.EXAMPLES_REFUSED


def test_personal_tensors_stay_here_and_are_taken_up_in_the_next_round() -> None:
    with bench(coordinator=FakeCoordinator(manifest=linear_manifest(personal_bias=True))) as home:
        for _round in range(2):
            home.coordinator.assign(epochs=5)
        with home.runtime() as runtime:
            x = np.zeros((1, 3), np.float32)
            runtime.run_slice(600)
            first = runtime._device.journal.personal(runtime._device.state.personal.bundle_sha256)  # type: ignore[union-attr]
            assert first is not None
            home.clock.forward(900)
            runtime.run_slice(600)
            runtime.renew()
            assert runtime.infer(x)["y"] == 0.0
            bias = float(runtime.infer(x, personalised=True)["y"][0])
            assert bias != float(first[3])
            assert abs(bias - 0.5) < abs(float(first[3]) - 0.5), "the second round began where the first had ended"
        for raw in home.coordinator.reports.values():
            assert len(raw) == 32 + 4 * (3 + 4), "three shared weights and four zero lanes"


def test_without_personal_tensors_the_model_as_trained_here_is_the_personal_one(home: Bench) -> None:
    home.coordinator.assign(epochs=5)
    x = pairs(4).x
    with home.runtime() as runtime:
        with pytest.raises(NotFound):
            runtime.infer(x)
        assert runtime.run_slice(600).happened is Happened.REPORTED
        assert not runtime.infer(x)["y"].any(), "the released model, fetched by the slice"
        own = runtime.infer(x, personalised=True)["y"]
        assert np.abs(own - pairs(4).y).mean() < 2
        assert runtime._device.engine.opened == 2  # type: ignore[attr-defined]


def test_policy_from_the_coordinator_holds_within_the_floors(home: Bench) -> None:
    home.coordinator.policy = replace(POLICY, needs_charging=True, quiet_hours=(4,))
    home.source.conditions = replace(IDEAL, charging=False)
    with home.runtime() as runtime:
        assert runtime.run_slice(600).reason == Wait.NO_TASK
        assert runtime.run_slice(600).reason == Blocker.NOT_CHARGING
        home.coordinator.policy = None
    with home.runtime(examples=0, floors=Floors(limits=replace(POLICY, needs_charging=True))) as runtime:
        home.source.conditions = IDEAL
        home.clock.forward(900)
        assert runtime.run_slice(600).reason == Wait.NO_TASK
        home.source.conditions = replace(IDEAL, charging=False)
        assert runtime.run_slice(600).reason == Blocker.NOT_CHARGING


def test_a_stricter_policy_that_comes_with_an_assignment_holds_at_once(home: Bench) -> None:
    home.coordinator.policy = replace(POLICY, needs_charging=True)
    home.source.conditions = replace(IDEAL, charging=False)
    home.coordinator.assign()
    with home.runtime() as runtime:
        end = runtime.run_slice(600)
        assert (end.happened, end.reason) == (Happened.INTERRUPTED, Blocker.NOT_CHARGING)
        assert home.engine.steps == 0
        home.source.conditions = IDEAL
        assert runtime.run_slice(600).happened is Happened.REPORTED


@pytest.mark.parametrize("maximum", [0, 1, 3])
def test_participations_and_their_separation_are_kept_on_the_device(home: Bench, maximum: int) -> None:
    for _round in range(5):
        home.coordinator.assign()
    limits = replace(POLICY, max_participations=maximum, min_separation_s=3600.0)
    with home.runtime(floors=Floors(limits=limits)) as runtime:
        for _day in range(maximum):
            assert runtime.run_slice(600).happened is Happened.REPORTED
            home.clock.forward(900)
            assert runtime.run_slice(600).reason == Blocker.PARTICIPATED_RECENTLY
            home.clock.forward(3600)
        assert runtime.run_slice(600).reason == Blocker.PARTICIPATIONS_SPENT


def test_a_daily_budget_of_seconds_is_spent_once(home: Bench) -> None:
    home.coordinator.assign(epochs=3)
    home.engine.at_step = lambda _step: home.clock.forward(1.0)
    with home.runtime(floors=Floors(limits=replace(POLICY, daily_seconds=5.0))) as runtime:
        end = runtime.run_slice(600)
        assert (end.reason, home.engine.steps) == (Blocker.DAILY_SECONDS_SPENT, 5)
    with home.runtime(examples=0, floors=Floors(limits=replace(POLICY, daily_seconds=5.0))) as runtime:
        assert runtime.run_slice(600).reason == Blocker.DAILY_SECONDS_SPENT
        home.clock.forward(86_400)
        assert runtime.run_slice(600).reason in (Blocker.DAILY_SECONDS_SPENT, Outcome.DEADLINE_PASSED, Wait.NO_TASK)


def test_the_kill_switch_is_honoured_at_the_next_contact_and_taken_back(home: Bench) -> None:
    home.coordinator.assign(epochs=3)
    with home.runtime() as runtime:
        assert runtime.run_slice(600, lambda: home.engine.steps >= 3).work_left
        home.coordinator.switch_off()
        end = runtime.run_slice(600)
        assert (end.happened, end.reason, end.work_left) == (Happened.SWITCHED_OFF, "switched-off", False)
        asked = len(home.coordinator.asked)
        home.clock.forward(3600)
        assert runtime.run_slice(600).happened is Happened.SWITCHED_OFF
        assert runtime.why().reason == "switched-off"
        assert len(home.coordinator.asked) == asked, "it asks nothing in between"
        home.clock.forward(86_400)
        assert runtime.run_slice(600).happened is Happened.SWITCHED_OFF
        home.coordinator.switch_on()
        home.clock.forward(86_400)
        assert runtime.run_slice(600).happened is Happened.WAITING
    assert home.coordinator.reports == {}


def test_a_device_switched_off_before_it_enrolled_enrols_later(home: Bench) -> None:
    home.coordinator.switch_off()
    with home.runtime() as runtime:
        assert runtime.run_slice(600).happened is Happened.SWITCHED_OFF
        home.coordinator.switch_on()
        home.clock.forward(86_400)
        assert runtime.run_slice(600).happened is Happened.WAITING


def test_opting_out_leaves_nothing_here_and_nobody_waiting(home: Bench) -> None:
    home.coordinator.assign(epochs=3)
    with home.runtime() as runtime:
        assert runtime.run_slice(600, lambda: home.engine.steps >= 3).work_left
        assert runtime.opt_out()
        assert not home.path.exists()
        assert [device.left for device in home.coordinator.devices.values()] == [True]
        assert runtime.run_slice(600).happened is Happened.OPTED_OUT
        assert runtime.opt_out(), "again changes nothing"


def test_opting_out_without_a_network_tells_the_coordinator_later(home: Bench) -> None:
    secret = pairs(COUNT)
    with home.runtime() as runtime:
        runtime.run_slice(600)
        home.coordinator.go_silent(3)
        assert not runtime.opt_out()
        assert sorted(path.name for path in home.path.iterdir()) == ["journal", "journal.seen", "lock"]
        assert not any(row.tobytes() in path.read_bytes() for path in home.path.iterdir() for row in secret.x)
    with home.open() as runtime:
        assert runtime.why().reason == "opted-out"
        end = runtime.run_slice(600)
        assert (end.happened, home.path.exists()) == (Happened.OPTED_OUT, False)
    assert [device.left for device in home.coordinator.devices.values()] == [True]


def test_a_device_that_the_coordinator_took_out_forgets_everything(home: Bench) -> None:
    with home.runtime() as runtime:
        runtime.run_slice(600)
        (device,) = home.coordinator.devices.values()
        device.left = True
        home.clock.forward(900)
        assert runtime.run_slice(600).happened is Happened.OPTED_OUT
    assert not home.path.exists()


def test_one_folder_has_one_runtime(home: Bench) -> None:
    with home.runtime(), pytest.raises(StateInUse):
        home.open()


def test_a_second_slice_at_once_is_refused(home: Bench) -> None:
    seen = []
    home.coordinator.assign()
    with home.runtime() as runtime:
        home.engine.at_step = lambda _step: seen.append(runtime.run_slice(600).reason)
        assert runtime.run_slice(600).happened is Happened.REPORTED
    assert set(seen) == {"state-in-use"}


def test_a_lost_answer_to_a_check_in_is_asked_for_again_under_the_same_visit(home: Bench) -> None:
    home.coordinator.assign()
    visits = []

    def answer_is_lost(request: object, headers: object) -> object:
        response = home.coordinator(request, headers)  # type: ignore[arg-type]
        if getattr(request, "path", "") == CHECK_IN_PATH:
            visits.append(getattr(request, "body", b""))
            if len(visits) < 4:
                home.coordinator.go_silent(1)
                return home.coordinator(request, headers)  # type: ignore[arg-type]
        return response

    home.transport = answer_is_lost  # type: ignore[assignment]
    with home.runtime() as runtime:
        assert runtime.run_slice(600).happened is Happened.UNREACHABLE
        home.clock.forward(1200)
        assert runtime.run_slice(600).happened is Happened.REPORTED
    assert len(set(visits)) == 1
    assert len(home.coordinator.reports) == 1


def test_what_is_said_names_no_example(home: Bench) -> None:
    home.coordinator.assign(evaluates=True)

    def broken(_sentence: str) -> None:
        raise RuntimeError("the app's own mistake")

    with home.runtime() as runtime:
        assert runtime.run_slice(600).happened is Happened.REPORTED
        assert home.said
        runtime._device.log = broken
        home.clock.forward(900)
        assert runtime.run_slice(600).happened is Happened.WAITING


def test_why_says_what_stands_in_the_way_and_what_is_unknown(home: Bench) -> None:
    home.source.conditions = replace(IDEAL, thermal=None)
    with home.runtime(floors=Floors(limits=Policy())) as runtime:
        why = runtime.why()
        assert (why.reason, why.unknown, why.examples) == (Blocker.OVERHEATED, ("thermal",), COUNT)
        home.source.conditions = IDEAL
        assert (runtime.why().reason, runtime.why().come_back_s) == (Blocker.JUST_INSTALLED, 300)
        for _slice in range(3):
            runtime.run_slice(600)
        (visit,) = runtime.why().history
        assert (visit.reason, visit.times) == ("just-installed", 3)
