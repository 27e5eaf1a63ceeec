"""What only one of the phone systems has, and what their schedulers call."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.conditions import Conditions, assume, unknown
from edge_runtime.conditions.android import AndroidSource, Jobs, schedule
from edge_runtime.conditions.ios import IosSource, ProcessingTasks
from edge_runtime.conditions.phone import RunSlice, Slices
from edge_runtime.protocol.policy import Policy, Thermal
from tests.contracts.conditions import AT_NIGHT
from tests.edge_runtime.conditions.android_world import AndroidWorld, BatteryManager, FakeJava, Phone
from tests.edge_runtime.conditions.ios_world import BGProcessingTask, IosWorld


def android(api: int = 34) -> AndroidWorld:
    """An Android phone on its charger at night."""
    world = AndroidWorld(api)
    world.become(AT_NIGHT)
    return world


def test_an_android_television_runs_on_the_mains() -> None:
    world = android()
    world.phone.battery = {"present": False, "level": 0, "scale": 100, "status": 1, "plugged": 0}
    conditions = world.source.read()
    assert (conditions.charging, conditions.battery_level) == (True, None)


@pytest.mark.parametrize(
    ("status", "plugged", "charging"),
    [
        (BatteryManager.BATTERY_STATUS_CHARGING, 1, True),
        (BatteryManager.BATTERY_STATUS_FULL, 2, True),
        (BatteryManager.BATTERY_STATUS_NOT_CHARGING, 1, True),
        (BatteryManager.BATTERY_STATUS_NOT_CHARGING, 0, False),
        (BatteryManager.BATTERY_STATUS_DISCHARGING, 1, False),
        (BatteryManager.BATTERY_STATUS_UNKNOWN, 0, False),
        (BatteryManager.BATTERY_STATUS_UNKNOWN, 4, True),
        (-1, -1, None),
    ],
)
def test_an_android_phone_charges_as_a_laptop_does(status: int, plugged: int, charging: bool | None) -> None:
    world = android()
    world.phone.battery |= {"status": status, "plugged": plugged}
    assert world.source.read().charging is charging


@pytest.mark.parametrize(("level", "scale"), [(-1, 100), (50, -1), (0, 0), (101, 100)])
def test_an_impossible_battery_level_is_unknown(level: int, scale: int) -> None:
    world = android()
    world.phone.battery |= {"level": level, "scale": scale}
    assert world.source.read().battery_level is None


def test_without_the_sticky_broadcast_the_battery_is_unknown() -> None:
    world = android(api=26)
    world.phone.battery = {}
    assert unknown(world.source.read()) == ("charging", "battery_level", "thermal")


@pytest.mark.parametrize(
    ("status", "expected"),
    [(0, Thermal.NONE), (2, Thermal.MODERATE), (4, Thermal.CRITICAL), (5, Thermal.CRITICAL), (6, Thermal.CRITICAL)],
)
def test_the_thermal_status_of_android(status: int, expected: Thermal) -> None:
    world = android()
    world.phone.thermal_status = status
    assert world.source.read().thermal is expected


def test_android_is_offline_without_validation_and_in_doze() -> None:
    world = android()
    world.phone.validated = False
    assert world.source.read().online is False
    world.phone.validated, world.phone.doze = True, True
    assert world.source.read().online is False


def test_an_app_in_the_foreground_is_in_use_on_ios(tmp_path: Path) -> None:
    world = IosWorld(tmp_path)
    world.become(AT_NIGHT)
    for state, in_use in ((0, True), (1, True), (2, False)):
        world.phone.application_state = state
        assert world.source.read().in_use is in_use


def test_low_data_mode_is_metered_on_ios(tmp_path: Path) -> None:
    world = IosWorld(tmp_path)
    world.become(AT_NIGHT)
    world.phone.constrained = True
    world.phone.path_changed()
    assert world.source.read().metered is True


def test_a_path_that_needs_a_connection_first_is_offline_on_ios(tmp_path: Path) -> None:
    world = IosWorld(tmp_path)
    world.become(AT_NIGHT)
    world.phone.path_status, world.phone.expensive = 3, True
    world.phone.path_changed()
    conditions = world.source.read()
    assert (conditions.online, conditions.metered) == (False, False)


def test_services_that_die_under_a_source_of_ios_are_unknown(tmp_path: Path) -> None:
    world = IosWorld(tmp_path)
    world.become(AT_NIGHT)
    world.phone.broken = True
    assert world.source.read() == Conditions(online=True, metered=False)


def test_a_simulator_without_battery_cannot_tell_its_level(tmp_path: Path) -> None:
    world = IosWorld(tmp_path)
    world.become(AT_NIGHT)
    world.phone.battery_state, world.phone.battery_level = 0, -1.0
    assert unknown(world.source.read()) == ("charging", "battery_level")


def test_a_source_without_its_bridge_says_so(tmp_path: Path) -> None:
    with pytest.raises(ImportError):
        AndroidSource()
    with pytest.raises(ImportError):
        IosSource(tmp_path)


def test_assumptions_fill_gaps_and_change_nothing_else() -> None:
    seen = Conditions(charging=False, metered=None)
    assert assume(seen, Conditions(charging=True, metered=False)) == Conditions(charging=False, metered=False)


@pytest.mark.parametrize("wrong", [{"battery_level": 1.5}, {"battery_level": float("nan")}, {"free_storage_bytes": -1}])
def test_impossible_conditions_are_a_bug(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="is 0"):
        Conditions(**wrong)  # type: ignore[arg-type]


class Later:
    """Takes work instead of a thread, and does it when told."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []

    def __call__(self, work: Callable[[], None]) -> None:
        self.work.append(work)

    def run(self) -> None:
        self.work.pop()()


class Recorder:
    """A slice that notes how it was asked, and leaves work."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, bool]] = []

    def __call__(self, deadline_s: float, stop: Callable[[], bool]) -> bool:
        self.asked.append((deadline_s, stop()))
        return True


class JobService:
    """An android.app.job.JobService."""

    def __init__(self) -> None:
        self.finished: list[tuple[object, bool]] = []

    def jobFinished(self, params: object, wantsReschedule: bool) -> None:  # noqa: N802, N803
        self.finished.append((params, wantsReschedule))


@pytest.mark.parametrize("more", [True, False])
def test_a_job_runs_its_slice_away_from_the_main_thread_and_finishes(more: bool) -> None:
    later, service, asked = Later(), JobService(), []

    def run_slice(deadline_s: float, stop: Callable[[], bool]) -> bool:
        asked.append((deadline_s, stop()))
        return more

    jobs = Jobs(run_slice, start=later)
    assert jobs.on_start_job(service, "params")
    assert asked == []
    later.run()
    assert asked == [(585.0, False)]
    assert service.finished == [("params", more)]
    assert jobs.on_start_job(service, "again")


def test_a_job_that_the_system_stops_is_started_again_and_not_finished_twice() -> None:
    later, service, slice_ = Later(), JobService(), Recorder()
    jobs = Jobs(slice_, start=later)
    jobs.on_start_job(service, "params")
    assert jobs.on_stop_job(service, "params") is True
    later.run()
    assert slice_.asked == [(585.0, True)]
    assert service.finished == []


def test_a_second_job_does_not_start_beside_the_first() -> None:
    later, service = Later(), JobService()
    jobs = Jobs(lambda _deadline_s, _stop: False, start=later)
    assert jobs.on_start_job(service, 1)
    assert not jobs.on_start_job(service, 2)
    assert len(later.work) == 1


def test_stopping_when_nothing_runs_is_harmless() -> None:
    jobs = Jobs(lambda _deadline_s, _stop: False, start=Later())
    assert jobs.on_stop_job(JobService(), "params") is True


def test_a_slice_that_fails_finishes_its_job_and_the_next_one_runs() -> None:
    later, service = Later(), JobService()

    def run_slice(_deadline_s: float, _stop: Callable[[], bool]) -> bool:
        raise OSError("disk full")

    jobs = Jobs(run_slice, start=later)
    jobs.on_start_job(service, "params")
    with pytest.raises(OSError, match="disk full"):
        later.run()
    assert service.finished == [("params", False)]
    assert jobs.on_start_job(service, "next")


def test_a_system_without_threads_starts_no_slice() -> None:
    def none_left(_work: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    slices = Slices(lambda _deadline_s, _stop: False, deadline_s=1.0, start=none_left)
    assert not slices.begin(lambda _end: None)
    assert not slices.begin(lambda _end: None)


def test_a_slice_runs_on_a_thread_of_its_own() -> None:
    import threading

    ended, names = threading.Event(), []

    def run_slice(_deadline_s: float, _stop: Callable[[], bool]) -> bool:
        names.append(threading.current_thread().name)
        return False

    Slices(run_slice, deadline_s=1.0).begin(lambda _end: ended.set())
    assert ended.wait(5)
    assert names == ["edgewise-slice"]


def test_job_scheduler_is_asked_with_the_policys_conditions() -> None:
    phone = Phone()
    java = FakeJava(phone)
    policy = Policy(needs_charging=True)
    assert schedule(java, policy, service="com.example.TrainingJob", job_id=7, after_s=90.0)
    assert phone.jobs == [
        {
            "id": 7,
            "service": "com.example.TrainingJob",
            "latency_ms": 90_000,
            "network": 2,
            "idle": True,
            "charging": True,
        }
    ]
    assert schedule(java, Policy(needs_unmetered=False, needs_idle=False), service="S", job_id=7, after_s=0.0)
    assert (phone.jobs[1]["network"], phone.jobs[1]["idle"], phone.jobs[1]["charging"]) == (1, False, False)
    phone.broken = True
    assert not schedule(java, policy, service="S", job_id=7, after_s=0.0)


def processing(world: IosWorld, run_slice: RunSlice, later: Later) -> BGProcessingTask:
    """A task that the system has launched through the registered handler."""
    tasks = ProcessingTasks(world.objc, run_slice, start=later)
    assert tasks.register("com.example.train")
    task = BGProcessingTask()
    world.objc.objects[0x99] = task
    world.phone.launch["com.example.train"].function(0x99)
    return task


def test_a_processing_task_runs_a_slice_and_completes(tmp_path: Path) -> None:
    later, slice_ = Later(), Recorder()
    task = processing(IosWorld(tmp_path), slice_, later)
    assert task.completed == []
    later.run()
    assert slice_.asked == [(585.0, False)]
    assert task.completed == [True]


def test_a_processing_task_that_expires_stops_and_completes(tmp_path: Path) -> None:
    later, slice_ = Later(), Recorder()
    task = processing(IosWorld(tmp_path), slice_, later)
    task.expire()
    later.run()
    assert slice_.asked == [(585.0, True)]
    assert task.completed == [True]


def test_a_second_processing_task_is_completed_without_success(tmp_path: Path) -> None:
    world, later = IosWorld(tmp_path), Later()
    tasks = ProcessingTasks(world.objc, lambda _deadline_s, _stop: False, start=later)
    first, second = BGProcessingTask(), BGProcessingTask()
    tasks.on_task(first)
    tasks.on_task(second)
    assert (first.completed, second.completed) == ([], [False])


def test_a_slice_that_fails_completes_its_task_without_success(tmp_path: Path) -> None:
    later = Later()

    def run_slice(_deadline_s: float, _stop: Callable[[], bool]) -> bool:
        raise OSError("disk full")

    task = processing(IosWorld(tmp_path), run_slice, later)
    with pytest.raises(OSError, match="disk full"):
        later.run()
    assert task.completed == [False]


def test_ios_is_asked_with_the_policys_conditions(tmp_path: Path) -> None:
    world = IosWorld(tmp_path)
    tasks = ProcessingTasks(world.objc, lambda _deadline_s, _stop: False)
    assert tasks.submit(Policy(needs_charging=True), identifier="com.example.train", after_s=90.0)
    assert world.phone.submitted == [
        {"identifier": "com.example.train", "network": True, "power": True, "after_s": 90.0}
    ]


def test_importing_every_source_loads_no_bridge_and_nothing_heavy() -> None:
    script = (
        "import sys, edge_runtime.schedule\n"
        "from edge_runtime.conditions import android, fixed, ios, linux\n"
        "heavy = ('numpy', 'httpx', 'cryptography', 'java', 'rubicon')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
