"""Servers that lie, disks that are full, clocks that jump, apps that hurry: a named end each time, and no harm."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime import Happened, SliceEnd
from edge_runtime import downloads as downloads_module
from edge_runtime.conditions.fixed import IDEAL
from edge_runtime.journal import files
from edge_runtime.journal import journal as journal_module
from edge_runtime.journal import stored as stored_module
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import CHECK_IN_PATH
from edge_runtime.protocol.enrolment import Problem
from edge_runtime.protocol.errors import REFUSALS, DeviceStorageFull
from edge_runtime.protocol.reasons import Blocker, Outcome, Wait
from edge_runtime.session import Request, Response, Unreachable
from tests.edge_runtime.runtime.bench import Bench, bench, pairs
from tests.edge_runtime.schedules import conditions
from tests.workers import ROOT

REASONS: Final = {
    Happened.BLOCKED: {one.value for one in Blocker},
    Happened.WAITING: {one.value for one in Wait},
    Happened.INTERRUPTED: {one.value for one in Blocker},
    Happened.REPORTED: {"reported"},
    Happened.GAVE_UP: {one.value for one in Outcome},
    Happened.UNREACHABLE: {"network-lost"},
    Happened.REFUSED: set(REFUSALS),
    Happened.SWITCHED_OFF: {"switched-off"},
    Happened.OPTED_OUT: {"opted-out"},
}
"""Every end of a slice, and the reasons that it can have."""


def fits(end: SliceEnd) -> bool:
    return end.reason in REASONS[end.happened] and end.come_back_s >= 0


def test_every_end_has_a_closed_list_of_reasons() -> None:
    assert set(REASONS) == set(Happened)


# --- servers ------------------------------------------------------------------------------------------------------

GARBAGE: Final = [b"", b"{}", b"null", b"<html>", b"\xff" * 100, b'{"version":99}', b"[" * 100_000]


@pytest.mark.parametrize("body", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("after", range(5))
def test_garbage_at_any_step_is_a_named_end_and_the_next_visit_is_fine(home: Bench, after: int, body: bytes) -> None:
    home.coordinator.assign()

    def garbage(request: Request, headers: dict[str, str]) -> Response:
        if len(home.coordinator.asked) == after and not spoilt:
            spoilt.append(request.path)
            return Response(200, body)
        return home.coordinator(request, headers)

    spoilt: list[str] = []
    home.transport = garbage
    with home.runtime() as runtime:
        end = runtime.run_slice(600)
        assert spoilt
        assert fits(end)
        assert end.happened is not Happened.REPORTED or not body, end
        for _visit in range(3):
            home.clock.forward(6 * 3600)
            end = runtime.run_slice(600)
            if end.happened in (Happened.REPORTED, Happened.WAITING):
                break
        assert end.happened in (Happened.REPORTED, Happened.WAITING)
    assert len(home.coordinator.reports) + len(home.coordinator.outcomes) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_a_server_that_is_ill_is_left_alone_for_a_quarter_of_an_hour(home: Bench, status: int) -> None:
    for _try in range(3):
        home.coordinator.fail(status)
    with home.runtime() as runtime:
        end = runtime.run_slice(600)
        assert end.happened is Happened.UNREACHABLE
        assert 720 <= end.come_back_s <= 1080
        assert len(home.coordinator.asked) == 3


def test_a_delay_that_a_server_names_is_honoured(home: Bench) -> None:
    home.coordinator.fail(503, retry_after_s=7200)
    with home.runtime() as runtime:
        end = runtime.run_slice(600)
        assert (end.happened, end.reason) == (Happened.REFUSED, "unavailable")
        assert 7200 <= end.come_back_s <= 8640
        assert len(home.coordinator.asked) == 1


def test_a_short_delay_that_a_server_names_is_waited_for(home: Bench) -> None:
    home.coordinator.fail(503, retry_after_s=12)
    before_s = home.clock.running_s
    with home.runtime() as runtime:
        assert runtime.run_slice(600).happened is Happened.WAITING
    assert home.clock.running_s - before_s == pytest.approx(12)


def test_a_refusal_that_does_not_pass_waits_for_hours(home: Bench) -> None:
    problem = Problem(
        type="", title="", status=404, detail="", code="not-found", retry="never", retry_after_s=None, server_time=0
    )
    home.coordinator.fail(404, wire.encode(problem))
    with home.runtime() as runtime:
        end = runtime.run_slice(600)
        assert (end.happened, end.reason) == (Happened.REFUSED, "not-found")
        assert 0.8 * 4 * 3600 <= end.come_back_s <= 1.2 * 4 * 3600


def test_a_device_that_the_coordinator_forgot_enrols_again(home: Bench) -> None:
    home.coordinator.assign()
    with home.runtime() as runtime:
        assert runtime.run_slice(600, lambda: home.engine.steps > 2).work_left
        home.coordinator.forget()
        for _visit in range(4):
            end = runtime.run_slice(600)
            home.clock.forward(6 * 3600)
        assert (end.happened, len(home.coordinator.devices)) == (Happened.WAITING, 1)
        assert "unknown-participation" in [visit.reason for visit in runtime.why().history]


def tampered(content: bytes) -> bytes:
    return content[:-70] + bytes([content[-70] ^ 1]) + content[-69:]


@pytest.mark.parametrize(
    ("kind", "change", "outcome"),
    [
        ("bundles", tampered, Outcome.BUNDLE_REFUSED),
        ("bundles", lambda content: content[:100], Outcome.BUNDLE_REFUSED),
        ("bundles", lambda _content: b"TFL3" * 1000, Outcome.BUNDLE_REFUSED),
        ("checkpoints", tampered, Outcome.CHECKPOINT_REFUSED),
        ("checkpoints", lambda content: content + b"\0", Outcome.CHECKPOINT_REFUSED),
    ],
)
def test_hostile_bytes_never_reach_an_interpreter(
    home: Bench, kind: str, change: Callable[[bytes], bytes], outcome: Outcome
) -> None:
    home.coordinator.assign()

    def hostile(request: Request, headers: dict[str, str]) -> Response:
        answer = home.coordinator(request, headers)
        return Response(200, change(answer.body)) if f"/{kind}/" in request.path else answer

    home.transport = hostile
    with home.runtime() as runtime:
        assert runtime.run_slice(600).reason == outcome
    assert home.engine.opened == 0
    assert [note.reason for note in home.coordinator.outcomes.values()] == [outcome]


def test_a_plan_for_others_is_refused(home: Bench) -> None:
    home.coordinator.assign(population="elsewhere")
    with home.runtime() as runtime:
        assert runtime.run_slice(600).reason == Outcome.PLAN_REFUSED
    assert home.engine.opened == 0


# --- disks --------------------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_at_any_write_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = files.replace_file
    points = 0
    for at in range(1, 60):
        written = 0

        def full(path: Path, content: bytes, at: int = at) -> None:
            nonlocal written
            written += 1
            if at <= written < at + 4:
                raise DeviceStorageFull("no room") from OSError(errno.ENOSPC, "full")
            real(path, content)

        with bench() as home:
            home.coordinator.assign(epochs=2)
            with home.runtime() as runtime:
                for module in (journal_module, stored_module, downloads_module):
                    monkeypatch.setattr(module, "replace_file", full)
                ends = [runtime.run_slice(600)]
                while not home.coordinator.reports and len(ends) < 8:
                    home.clock.forward(1200)
                    ends.append(runtime.run_slice(600))
                monkeypatch.undo()
            assert all(map(fits, ends)), ends
            assert len(home.coordinator.reports) == 1, (at, ends)
            assert home.coordinator.outcomes == {}
            if written < at:
                break
            points += 1
    assert points > 10


# --- clocks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [1, -1])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_clock_that_jumps_a_day_trains_and_reports_once(home: Bench, days: int, after: int) -> None:
    home.coordinator.assign(epochs=3, deadline_s=7200 if days < 0 else 7 * 86_400)
    stops = iter([False] * after + [True])
    with home.runtime() as runtime:
        first = runtime.run_slice(600, lambda: next(stops, False))
        home.clock.at += days * (home.clock.at - home.clock.at.replace(day=home.clock.at.day - 1))
        ends = [first]
        for _slice in range(60):
            if ends[-1].happened is Happened.REPORTED:
                break
            ends.append(runtime.run_slice(600))
            home.clock.forward(3600)
        assert all(map(fits, ends))
        assert ends[-1].happened is Happened.REPORTED
    assert len(home.coordinator.reports) == 1
    assert home.engine.steps == 18


# --- apps ---------------------------------------------------------------------------------------------------------


def test_two_processes_cannot_use_one_folder(home: Bench) -> None:
    program = (
        "import sys, pathlib; from edge_runtime.journal import open_folder; open_folder(pathlib.Path(sys.argv[1]))"
    )
    with home.runtime():
        other = subprocess.run(
            [sys.executable, "-c", program, str(home.path)], cwd=ROOT, capture_output=True, text=True
        )
    assert other.returncode == 1
    assert "StateInUse" in other.stderr
    assert subprocess.run([sys.executable, "-c", program, str(home.path)], cwd=ROOT).returncode == 0


def test_an_asyncio_app_awaits_a_slice_and_no_thread_is_left(home: Bench) -> None:
    home.coordinator.assign()
    ticks = 0

    async def app() -> SliceEnd:
        nonlocal ticks
        slice_ = asyncio.create_task(runtime.arun_slice(600))
        while not slice_.done():
            ticks += 1
            await asyncio.sleep(0)
        assert not [one for one in threading.enumerate() if one.name.startswith("edgewise-slice")]
        return slice_.result()

    with home.runtime() as runtime:
        assert asyncio.run(app()).happened is Happened.REPORTED
    assert ticks > 1, "the loop went on"


def test_a_slice_that_is_cancelled_stops_and_leaves_a_savepoint(home: Bench) -> None:
    home.coordinator.assign(epochs=200)
    training = threading.Event()
    home.engine.at_step = lambda _step: training.set()

    async def app() -> None:
        slice_ = asyncio.create_task(runtime.arun_slice(600))
        await asyncio.to_thread(training.wait)
        slice_.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slice_
        assert not [one for one in threading.enumerate() if one.name.startswith("edgewise-slice")]

    with home.runtime() as runtime:
        asyncio.run(app())
        assert 0 < home.engine.steps < 1200
        assert runtime.why().phase == "training"


def test_closing_ends_a_slice_that_runs(home: Bench) -> None:
    home.coordinator.assign(epochs=1000)
    training, ends = threading.Event(), []
    home.engine.at_step = lambda _step: training.set()
    with home.runtime() as runtime:
        slice_ = threading.Thread(target=lambda: ends.append(runtime.run_slice(600)))
        slice_.start()
        training.wait()
    slice_.join()
    assert [end.reason for end in ends] == [Blocker.SYSTEM_STOPPED]
    with home.runtime(examples=0) as runtime:
        assert runtime.why().phase == "training"


def test_a_thousand_slices_leave_no_more_than_the_first_ones(home: Bench) -> None:
    def session(number: int) -> None:
        if number % 10 == 0:
            home.coordinator.assign()
        with home.runtime(examples=0) as runtime:
            runtime.add("pairs", pairs(1, seed=number))
            runtime.run_slice(600)
        home.clock.forward(900)
        home.coordinator.asked.clear()
        home.said.clear()
        home.coordinator.participations.clear()
        home.coordinator._given.clear()
        home.coordinator._nonces.clear()

    for number in range(250):
        session(number)
    gc.collect()
    handles, files, blocks = len(os.listdir("/proc/self/fd")), sizes(home.path), sys.getallocatedblocks()
    for number in range(250, 1000):
        session(number)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == handles
    assert sizes(home.path).keys() == files.keys() or len(sizes(home.path)) <= len(files)
    assert sum(sizes(home.path).values()) < sum(files.values()) + 16_384
    assert sys.getallocatedblocks() - blocks < 1000
    assert home.engine.opened >= 90


def sizes(path: Path) -> dict[str, int]:
    return {found.name: found.stat().st_size for found in path.iterdir()}


# --- anything -----------------------------------------------------------------------------------------------------

answers = st.sampled_from(["fine", "silent", "garbage", "ill", "later", "off", "gone", "closed", "left"])


def _told(home: Bench, what: str, request: Request, headers: dict[str, str]) -> Response:
    refusals = {"off": "switched-off", "gone": "unknown-device", "closed": "round-closed", "left": "device-left"}
    if what == "silent":
        raise Unreachable("silent")
    if what == "garbage":
        return Response(200, b"\xff")
    if what == "ill":
        return Response(500, b"")
    if what == "later":
        return Response(503, b"", 3600.0)
    if what in refusals:
        problem = Problem(
            type="",
            title="",
            status=403,
            detail="",
            code=refusals[what],
            retry="never",
            retry_after_s=None,
            server_time=0,
        )
        return Response(403, wire.encode(problem))
    return home.coordinator(request, headers)


@settings(max_examples=150, deadline=None)
@given(
    worlds=st.lists(st.just(IDEAL) | conditions, min_size=1, max_size=5),
    script=st.lists(answers, max_size=25),
    stops=st.integers(0, 60),
    deadline_s=st.sampled_from([0.0, 600.0, 86_400.0]),
)
def test_whatever_happens_a_slice_has_exactly_one_end_with_one_reason(
    worlds: list[Any], script: list[str], stops: int, deadline_s: float
) -> None:
    with bench() as home:
        told: Iterator[str] = iter(script)
        home.coordinator.assign(epochs=2, deadline_s=deadline_s)
        home.transport = lambda request, headers: _told(home, next(told, "fine"), request, headers)
        asked = 0

        def stop() -> bool:
            nonlocal asked
            asked += 1
            return stops > 0 and asked % stops == 0

        with home.runtime(examples=9) as runtime:
            for world in worlds:
                home.source.conditions = world
                end = runtime.run_slice(600, stop)
                assert fits(end), end
                home.clock.forward(min(end.come_back_s, 86_400))
                if end.happened is Happened.OPTED_OUT:
                    return
                why = runtime.why().reason
                assert why is None or why in REASONS[Happened.BLOCKED] | {"switched-off"}
        ended = set(home.coordinator.reports) & set(home.coordinator.outcomes)
        assert not ended, "a report and an outcome for one participation"


def test_a_check_in_is_the_only_thing_that_costs_when_nothing_is_to_do(home: Bench) -> None:
    with home.runtime() as runtime:
        runtime.run_slice(600)
        home.coordinator.asked.clear()
        home.clock.forward(900)
        runtime.run_slice(600)
    assert home.coordinator.asked == [("POST", CHECK_IN_PATH)]
    assert np.isfinite(home.clock.running_s)
