"""Pacing in the service: what it measures, and that devices which do as they are told meet, or spread.

The formulas have tests of their own (`test_pacing.py`); here are real rows, real batches, and a clock that is moved.
"""

from __future__ import annotations

import hashlib
import hmac
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.core import arrivals
from coordinator.core.arrivals import Arrivals, from_bytes
from coordinator.core.pacing import Goals, Limits, Load, Plan, Window, pace, sure_count, unit_of
from coordinator.services import pace as wiring
from coordinator.services.pace import STRANGE, Pace
from coordinator.services.running import Home as Enrolled
from coordinator.store.tables import Population
from edge_runtime.protocol.reasons import Wait
from tests.coordinator.paced_devices import (
    DAY_S,
    HOUR_S,
    Fleet,
    Service,
    by_night,
    coordinator,
    enrol,
    knock,
    pacing_of,
    start_task,
    swinging,
    window_of,
)
from tests.postgres import Postgres
from tests.programme import POPULATION, TENANT, Clock, Home, make_home

OTHER = "keyboard-beta"


@pytest.fixture
def home(folder: Path, made: tuple[Path, str], clock: Clock) -> Iterator[Home]:
    with coordinator(folder, made[1], clock) as opened:
        yield opened


def service_of(home: Home, **settings: Any) -> Service:
    return Service(home.app.state.parts.database, home.clock, **settings)


# --- what it measures -----------------------------------------------------------------------------------------------


class Asked:
    """What the pure functions are asked, and what they say."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.plans: list[tuple[float, Goals | None, Load, int, Plan]] = []
        self.observed: list[tuple[int, int, float]] = []
        """Check-ins, devices, and the hazard that was in force."""
        observe = arrivals.observe

        def noted_pace(
            seen: Arrivals, goals: Goals | None, load: Load, devices: int, now_s: float, limits: Limits
        ) -> Plan:
            plan = pace(seen, goals, load, devices, now_s, limits)
            self.plans.append((now_s, goals, load, devices, plan))
            return plan

        def noted_observe(before: Arrivals, now_s: float, count: int, devices: int, hazard_per_s: float) -> Arrivals:
            self.observed.append((count, devices, hazard_per_s))
            return observe(before, now_s, count, devices, hazard_per_s)

        patch.setattr(wiring, "pace", noted_pace)
        patch.setattr(arrivals, "observe", noted_observe)


def measured(home: Home, asked: Asked) -> None:
    """Let check-ins of every kind come for half an hour, and hold what was asked and told against what happened.

    Raises:
        AssertionError: Pacing was told something else, or devices were.
    """
    start_task(home, "words", pool_size=5, selecting_deadline_s=200.0, least=4)
    start_task(home, "more", pool_size=7, selecting_deadline_s=100.0, reporting_deadline_s=50.0, least=3)
    start_task(home, "paused", "paused", pool_size=1000, least=1)
    start_task(home, "draft", "draft", pool_size=1000, least=1)
    home.operator("PUT", f"/populations/{OTHER}").raise_for_status()
    service, rng = service_of(home, queue=3), random.Random(1)
    ids = enrol(service.database, 40)
    service.answer([knock(one, 0, population=OTHER) for one in enrol(service.database, 9, OTHER, first=100)])
    asked.plans.clear()
    came, key = 0, _bucket_key(home)
    seen, counts = set[str](), dict[float, int]()
    for visit in range(150):
        home.clock.forward(rng.choice([0.3, 2, 7, 31]))
        now_s, fresh = home.clock.timestamp(), rng.sample(ids, rng.randrange(1, 5))
        counts[now_s] = len(seen)
        held, strange = rng.sample(ids, 2), [knock("f" * 32, visit)]
        told = service.answer([*(knock(one, visit) for one in fresh), *strange])
        service.answer([knock(one, visit, again=True) for one in held])
        away = [service.check_ins.turn_away(knock(ids[0], visit, population=POPULATION).message) for _one in range(2)]
        made_at_s, goals, load, devices, plan = asked.plans[-1]
        assert now_s - made_at_s < 1, "a plan is a second old at most"
        assert goals == Goals(devices=12, least=3, rounds_per_hour=24.0, patience_s=100.0), "of both active tasks"
        assert load.queue == 3
        assert devices in {count for at_s, count in counts.items() if at_s > now_s - 60}, "who was seen within a day"
        window = plan.window(unit_of(hmac.digest(key, b"edgewise/pacing/v1\0%032x" % visit, hashlib.sha256)))
        assert {(w.after_s, w.spread_s) for w in map(window_of, [*told[:-1], *away])} == {
            (window.after_s, window.spread_s)
        }
        assert {window_of(one).reason for one in away} == {Wait.BUSY}
        seen |= {*fresh, *held}
        came += len(fresh) + len(away)
    home.clock.forward(30)
    service.answer([knock(ids[0], 1 << 30)])
    assert sum(count for count, _devices, _hazard in asked.observed) == came, "each that came, once"
    hazards = {plan.hazard_per_s for _at, _goals, _load, _devices, plan in asked.plans}
    assert {hazard for count, _devices, hazard in asked.observed if count} <= hazards | {0.0}


def _bucket_key(home: Home) -> bytes:
    with home.app.state.parts.database.reading() as session:
        key: bytes = session.get_one(Population, (TENANT, POPULATION)).bucket_key
        return key


def test_plans_follow_from_who_came_what_is_wanted_and_what_waits(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(home, Asked(monkeypatch))


@pytest.mark.parametrize("wrong", ["population", "stale", "one task", "held", "turned away"])
def test_a_measurement_that_is_wrong_is_caught(home: Home, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    if wrong == "population":
        right = Pace._devices
        monkeypatch.setattr(Pace, "_devices", lambda self, s, _home, now: right(self, s, Enrolled(TENANT, OTHER), now))
    elif wrong == "stale":
        monkeypatch.setattr(wiring, "PLAN_S", 20.0)
    elif wrong == "one task":
        monkeypatch.setattr(wiring, "goals_of", _of_the_first(wiring.goals_of))
    elif wrong == "held":
        look = Pace.look
        monkeypatch.setattr(
            Pace, "look", lambda self, s, came, now: look(self, s, {h: max(1, n) for h, n in came.items()}, now)
        )
    else:
        turn_away = Pace.turn_away

        def uncounted(self: Pace, population: str, visit: str) -> Any:
            window = turn_away(self, population, visit)
            self._doors[population].turned_away = 0
            return window

        monkeypatch.setattr(Pace, "turn_away", uncounted)
    with pytest.raises(AssertionError):
        measured(home, Asked(monkeypatch))


def _of_the_first(goals_of: Any) -> Any:
    def first(programme: Any, now: Any) -> Goals | None:
        programme.tasks[1:] = []
        found: Goals | None = goals_of(programme, now)
        return found

    return first


def test_a_process_without_a_plan_turns_away_for_ten_minutes(home: Home) -> None:
    start_task(home, pool_size=5)
    service = service_of(home)
    told = window_of(service.check_ins.turn_away(knock("0" * 32, 1).message))
    assert (told.reason, told.after_s, told.spread_s) == (Wait.BUSY, STRANGE.after_s, STRANGE.spread_s)


def test_what_was_learnt_outlives_the_process_and_what_cannot_be_read_is_begun_anew(home: Home) -> None:
    start_task(home, pool_size=5)
    service = service_of(home)
    ids = enrol(service.database, 30)
    Fleet(service, ids, [0.0] * 30).run(1800, 10)
    before = from_bytes(pacing_of(service.database) or b"")
    assert sum(before.came) > 0
    service.restart()
    home.clock.forward(40)
    service.answer([knock(ids[0], 1)])
    home.clock.forward(6)
    service.answer([knock(ids[0], 2)])
    after = from_bytes(pacing_of(service.database) or b"")
    assert after.seen_at_s > before.seen_at_s
    assert sum(after.came) == pytest.approx(sum(before.came), abs=1.5)
    with service.database.writing() as session:
        session.get_one(Population, (TENANT, POPULATION)).pacing = b"not arrivals"
    service.restart()
    service.answer([knock(ids[0], 3)])
    home.clock.forward(6)
    service.answer([knock(ids[0], 4)])
    assert sum(from_bytes(pacing_of(service.database) or b"").came) <= 2


def test_from_an_outage_nothing_is_learnt_about_the_hours(home: Home) -> None:
    start_task(home, pool_size=5, selecting_deadline_s=300.0)
    service = service_of(home)
    ids = enrol(service.database, 30)
    Fleet(service, ids, [0.0] * 30).run(1800, 10)
    before = from_bytes(pacing_of(service.database) or b"")
    service.restart()
    home.clock.forward(9 * HOUR_S)
    for visit in range(3):
        service.answer([knock(ids[visit], visit)])
        home.clock.forward(6)
    after = from_bytes(pacing_of(service.database) or b"")
    assert after.expected[14:20] == before.expected[14:20] == (0.0,) * 6


def test_populations_share_what_the_coordinator_can_take(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crowd in one slows the other down, but never below an even share."""
    start_task(home, pool_size=5)
    home.operator("PUT", f"/populations/{OTHER}").raise_for_status()
    service = service_of(home, check_ins_per_s=10.0)
    ids, others = enrol(service.database, 200), enrol(service.database, 5, OTHER, first=1000)
    asked = Asked(monkeypatch)

    def capacity(per_s: int) -> float:
        """Of the one, while so many a second come to the other."""
        for visit in range(60):
            home.clock.forward(10)
            service.answer([knock(others[0], visit, population=OTHER)])
            for number in range(10 * per_s - 1):
                service.check_ins.turn_away(knock(others[0], number, population=OTHER).message)
        service.answer([knock(ids[0], int(home.clock.timestamp()))])
        return asked.plans[-1][2].capacity_per_s

    assert capacity(2) == pytest.approx(8, abs=0.3)
    assert capacity(20) == pytest.approx(5)
    home.clock.forward(HOUR_S)
    service.answer([knock(ids[0], 0)])
    assert asked.plans[-1][2].capacity_per_s == pytest.approx(10, rel=0.01)


# --- devices that do as they are told -------------------------------------------------------------------------------


def meetings(fleet: Fleet, since_s: float, period_s: float, for_s: float, lasts_s: float) -> list[int]:
    """Candidates of each meeting."""
    first_s = since_s + -since_s % period_s
    return [fleet.candidates(at_s, for_s) for at_s in np.arange(first_s, since_s + lasts_s - for_s, period_s)]


def fifty_meet(service: Service) -> None:
    fleet = Fleet(service, enrol(service.database, 50), [random.Random(n).random() * HOUR_S for n in range(50)])
    fleet.run(2.5 * HOUR_S, 10)
    found = meetings(fleet, service.clock.timestamp() - 1.5 * HOUR_S, 900.0, 150.0, 1.5 * HOUR_S)
    assert len(found) >= 5
    assert min(found) >= 20


FIFTY: dict[str, Any] = {"pool_size": 26, "least": 20, "selecting_deadline_s": 300.0, "reporting_deadline_s": 600.0}


def test_fifty_devices_meet(home: Home) -> None:
    start_task(home, **FIFTY)
    fifty_meet(service_of(home))


def test_fifty_devices_meet_on_postgresql_and_two_processes_send_them_to_the_same_instants(
    postgres: Postgres, tmp_path: Path, clock: Clock
) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    with coordinator(folder, make_home(folder, postgres.new()), clock) as home:
        start_task(home, **FIFTY)
        service = service_of(home)
        fifty_meet(service)
        other = service_of(home)
        told = [window_of(one.answer([knock(f"{7:032x}", 5)])[0]) for one in (service, other)]
        assert told[0] == told[1]


def test_without_pacing_fifty_devices_do_not_meet(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    start_task(home, **FIFTY)
    monkeypatch.setattr(Pace, "window", lambda *_args: Window(2880.0, 1440.0))
    with pytest.raises(AssertionError):
        fifty_meet(service_of(home))


def nightly_fleet(home: Home) -> Fleet:
    start_task(home, **FIFTY | {"reporting_deadline_s": 3300.0})
    service = service_of(home)
    fleet = Fleet(service, enrol(service.database, 50), [0.0] * 50, by_night)
    fleet.run(3 * DAY_S, 60)
    return fleet


def test_hours_in_which_nobody_comes_are_learnt_and_have_no_meeting(home: Home) -> None:
    """Who was there in the evening is not sent to a morning when nobody ever came."""
    fleet = nightly_fleet(home)
    ended_s = fleet.service.clock.timestamp()
    found = meetings(fleet, ended_s - DAY_S + 10 * HOUR_S, HOUR_S, 180.0, 8 * HOUR_S)
    assert sum(count >= 20 for count in found) >= len(found) - 1
    sent = {int((at_s + window.after_s) % DAY_S // HOUR_S) for at_s, window in fleet.windows if at_s >= ended_s - DAY_S}
    assert len({hour for hour in sent if not by_night(0, hour * HOUR_S)}) <= 2


def day_of(home: Home, days: int = 3) -> list[float]:
    """Arrivals of each two hours of the last day, over what rounds need: about one a minute."""
    start_task(home, pool_size=3, least=2, selecting_deadline_s=720.0)
    service = service_of(home)
    fleet = Fleet(service, enrol(service.database, 300), [n * 12.0 for n in range(300)], swinging)
    fleet.run(days * DAY_S, 300)
    needs = sure_count(3) / 720 * 2 * HOUR_S
    return [count / needs for count in fleet.counts(service.clock.timestamp() - DAY_S, 2 * HOUR_S, DAY_S)]


def keeps_the_band(two_hours: list[float]) -> bool:
    """Nobody is swamped; from 12:00 to 16:00, when one in four is there, rounds get over a third of what they need.

    About sixty come in two hours, so the key that windows are drawn by moves this: nine keys gave 1.2 to 2.1 at most
    and 0.47 to 0.75 at noon; a service that forgets, or is deaf, 0.21 to 0.28.
    """
    return max(two_hours) <= 2.5 and sum(two_hours[:2]) / 2 >= 0.38


def test_over_a_four_fold_day_the_service_brings_what_rounds_need(home: Home) -> None:
    found = day_of(home)
    assert keeps_the_band(found), found


@pytest.mark.parametrize("wrong", ["forgets", "is deaf"])
def test_a_service_that_forgets_or_learns_only_while_many_come_is_caught(
    home: Home, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    def deaf(_self: Pace, seen: Arrivals, lately: Any, now_s: float) -> Arrivals:
        return arrivals.observe(seen, now_s, lately.came, lately.devices, lately.hazard_per_s)

    if wrong == "forgets":
        monkeypatch.setattr(wiring, "_stored", lambda _raw: None)
    else:
        monkeypatch.setattr(Pace, "_observed", deaf)
    found = day_of(home, 2)
    assert not keeps_the_band(found), found


def crowd_of(home: Home) -> list[float]:
    """Arrivals over the capacity, by ten minutes, from when a crowd of three times the capacity ends."""
    start_task(home, pool_size=6, least=4, selecting_deadline_s=600.0)
    service = service_of(home, check_ins_per_s=0.5)
    first = [n * 36.0 for n in range(100)] + [HOUR_S + n * 0.6 for n in range(1000)]
    fleet = Fleet(service, enrol(service.database, 1100), first, desk=lambda step_s: round(0.5 * step_s))
    fleet.run(4 * HOUR_S, 20)
    ended_s = service.clock.timestamp() - 3 * HOUR_S + 600
    return [count / 600 / 0.5 for count in fleet.counts(ended_s, 600.0, 2.5 * HOUR_S)]


def test_a_flash_crowd_is_spread_by_its_windows(home: Home) -> None:
    later = crowd_of(home)[2:]
    assert max(later) <= 1
    assert max(later) <= 1.3 * later[0], "no echo of it is larger than what it left"


def test_a_service_that_does_not_count_whom_it_turns_away_is_caught(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "turn_away", lambda *_visit: STRANGE)
    assert max(crowd_of(home)[2:]) > 1
