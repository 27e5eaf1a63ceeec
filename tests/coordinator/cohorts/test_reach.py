"""What a rule reaches: counted exactly, or estimated from a sample with a margin that holds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlmodel import Session

from coordinator.core.cohorts.reading import rule_of
from coordinator.services import reach as reaching
from coordinator.services.reach import Reach, reach
from coordinator.store.database import Database
from coordinator.store.tables import Population
from edge_runtime.protocol.keys import digest
from tests.coordinator.cohorts.world import POPULATION, TENANT, Facts, holding
from tests.programme import START

NOW = START + timedelta(days=30)
AGES_H = [None, 0.2, 0.9, 5.0, 23.0, 30.0, 160.0, 200.0]
EVERYONE: dict[str, Any] = {"and": []}


def devices(count: int, **same: Any) -> list[Facts]:
    """Every tenth has left; seen now and then; on Android, but for a fifth."""
    choose = random.Random(5)
    made = []
    for number in range(count):
        age_h = choose.choice(AGES_H)
        facts: Facts = {
            "id": digest(b"reached", str(number).encode()).hex()[:32],
            "app": "app",
            "app_version": "2.4",
            "app_version_key": "a2a4=",
            "platform": "ios" if choose.random() < 0.2 else "android",
            "region": None,
            "hardware_class": None,
            "attributes": None,
            "seen_at": None if age_h is None else NOW - timedelta(hours=age_h),
            "left_at": START if number % 10 == 0 else None,
        }
        made.append({**facts, **same})
    return made


MANY = devices(3000)


@pytest.fixture
def there(database: Database) -> Iterator[Connection]:
    with holding(database, MANY) as connection:
        yield connection


def reached(connection: Connection, where: dict[str, Any] = EVERYONE, chance: float = 0.5, **more: Any) -> Reach:
    limits = {name: more.pop(name) for name in ("counted", "sample") if name in more}
    with Session(bind=connection) as session:
        population = session.get_one(Population, (TENANT, POPULATION))
        return reach(session, population, rule_of({"version": 1, "where": where, **more}), NOW, chance, **limits)


def truth(platform: str = "android") -> Reach:
    present = [one for one in MANY if one["left_at"] is None]
    fit = [one for one in present if one["platform"] == platform]

    def since(hours: float) -> int:
        return sum(one["seen_at"] is not None and NOW - one["seen_at"] < timedelta(hours=hours) for one in fit)

    return Reach(
        devices=len(present),
        matching=len(fit),
        seen_this_week=since(168),
        check_ins_per_hour=max(since(1), since(24) / 24),
        sampled=None,
        margin=0,
    )


def test_a_small_population_is_counted(there: Connection) -> None:
    assert reached(there, {"platform": ["android"]}) == truth()
    assert reached(there, {"or": []}) == Reach(
        devices=truth().devices, matching=0, seen_this_week=0, check_ins_per_hour=0.0, sampled=None, margin=0
    )


def test_lists_are_counted_whoever_has_left(there: Connection) -> None:
    ids = [one["id"] for one in MANY[:20]]
    assert reached(there, {"or": []}, include=ids).matching == 18
    assert reached(there, {"or": []}, include=ids, exclude=ids[:5]).matching == 14
    assert reached(there, include=ids, exclude=ids[:5]).matching == truth().devices - 4


def test_a_rhythm_slower_than_an_hour_is_seen_over_a_day(database: Database) -> None:
    once_a_day = [{**one, "left_at": None, "seen_at": NOW - timedelta(hours=2)} for one in MANY[:240]]
    with holding(database, once_a_day) as connection:
        assert reached(connection).check_ins_per_hour == pytest.approx(240 / 24)


@pytest.mark.parametrize("platform", ["android", "ios"])
def test_a_sample_of_a_large_population_is_within_its_margin(there: Connection, platform: str) -> None:
    exact = truth(platform)
    within = 0
    for step in range(40):
        found = reached(there, {"platform": [platform]}, step / 40, counted=1000, sample=400)
        assert found.sampled is not None
        assert 250 < found.sampled < 600, "about as many as were wanted"
        assert 0 < found.margin < 300
        within += abs(found.matching - exact.matching) <= found.margin
        assert abs(found.seen_this_week - exact.seen_this_week) <= 2 * found.margin
        assert abs(found.devices - exact.devices) <= 300
    assert within >= 36, "95 of 100, or nearly"


def test_a_sample_that_finds_nobody_has_a_margin(there: Connection) -> None:
    found = reached(there, {"platform": ["windows"]}, counted=1000, sample=400)
    assert (found.matching, found.check_ins_per_hour) == (0, 0.0)
    assert 10 < found.margin < 60, "a few of 3000 may be there"


def test_listed_devices_are_never_missed_by_a_sample(there: Connection) -> None:
    present = [one["id"] for one in MANY if one["left_at"] is None]
    for chance in (0.0, 0.3, 0.6, 0.99):
        assert reached(there, {"or": []}, chance, counted=1000, sample=100, include=present[:7]).matching == 7
        everyone = reached(there, EVERYONE, chance, counted=1000, sample=100)
        without = reached(there, EVERYONE, chance, counted=1000, sample=100, exclude=present[:7])
        assert everyone.matching - without.matching == 7


def test_a_stretch_of_ids_goes_round_the_end(there: Connection) -> None:
    for chance in (0.0, 0.85, 0.9999, 1.0):
        assert 450 < (reached(there, chance=chance, counted=1000, sample=600).sampled or 0) < 750
    everyone = reached(there, {"platform": ["android"]}, 0.7, counted=1000, sample=10_000)
    assert everyone.sampled == len(MANY)
    assert everyone.matching == truth().matching


def test_wilsons_interval_is_the_published_one() -> None:
    """Of 20, none: 0 to 0.161. Of 20, five: 0.112 to 0.469. https://doi.org/10.1214/ss/1009213286"""
    assert reaching._margin(0, 20) == pytest.approx(0.161, abs=5e-4)
    assert reaching._margin(5, 20) == pytest.approx(0.469 - 0.25, abs=5e-4)
    assert reaching._margin(0, 0) == 1.0
