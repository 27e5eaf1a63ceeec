"""How many devices a rule would address, before it is saved.

Of a large population a sample is asked. Device ids are hashes, so the devices whose ids lie in a random stretch of all
ids are a random sample, and the primary key finds them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlmodel import Session, col

from coordinator.core.cohorts.rule import Rule
from coordinator.store.cohort_sql import listed, matching
from coordinator.store.tables import Device, Population

COUNTED: Final = 100_000
"""Larger populations are sampled."""
SAMPLE: Final = 50_000
WEEK: Final = timedelta(days=7)
_DAY, _HOUR = timedelta(days=1), timedelta(hours=1)
_HOURS_A_DAY: Final = 24
_IDS: Final = 1 << 128
_Z: Final = 1.96
"""Standard deviations: 95 of 100 samples are no further off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What a rule reaches now.

    Attributes:
        devices: Enrolled in the population, that have not left.
        matching: Of these, the rule's.
        seen_this_week: Of these, those that checked in within seven days.
        check_ins_per_hour: Devices of the rule to expect within the coming hour, each counted once: those that were
            last seen within the past hour, or, if that is more, a 24th of those of the past day.
        sampled: How many devices were asked; null if all were, and the numbers are exact.
        margin: `matching` and `seen_this_week` are off by no more, in 95 of 100 samples; 0 if all were asked.
    """

    devices: int
    matching: int
    seen_this_week: int
    check_ins_per_hour: float
    sampled: int | None
    margin: int


@dataclass(frozen=True, slots=True)
class _Counts:
    matching: int = 0
    week: int = 0
    day: int = 0
    hour: int = 0

    def __add__(self, other: _Counts) -> _Counts:
        return _Counts(
            self.matching + other.matching, self.week + other.week, self.day + other.day, self.hour + other.hour
        )

    def scaled(self, factor: float) -> _Counts:
        return _Counts(*(round(factor * one) for one in (self.matching, self.week, self.day, self.hour)))


def reach(
    session: Session,
    population: Population,
    rule: Rule,
    now: datetime,
    chance: float,
    *,
    counted: int = COUNTED,
    sample: int = SAMPLE,
) -> Reach:
    """Count, or estimate, what a rule reaches; bounded work, however large the population is.

    Args:
        chance: Where the sample begins, 0 to 1, drawn evenly.
        counted: The largest population that is counted.
        sample: About how many devices are asked of a larger one.
    """
    mine = and_(col(Device.tenant) == population.tenant, col(Device.population) == population.name)
    enrolled = _count(session, mine)
    if enrolled <= counted:
        present = and_(mine, col(Device.left_at).is_(None))
        found = _counted(session, and_(present, matching(rule, population.bucket_key)), now)
        return _reach(found, devices=_count(session, present), sampled=None, margin=0)
    return _sampled(session, population, rule, now, chance, enrolled, sample)


def _sampled(
    session: Session, population: Population, rule: Rule, now: datetime, chance: float, enrolled: int, sample: int
) -> Reach:
    """The rule's conditions by a sample, and the devices that it lists exactly: a sample would miss them."""
    key = population.bucket_key
    # Computed columns: so the database takes the stretch of ids, and not the whole population, to begin with.
    mine = and_(
        func.coalesce(col(Device.tenant), "") == population.tenant,
        func.coalesce(col(Device.population), "") == population.name,
    )
    present = and_(mine, col(Device.left_at).is_(None))
    stretch = _stretch(chance, sample / enrolled)
    asked = _count(session, and_(mine, stretch))
    here = _count(session, and_(present, stretch))
    factor = enrolled / asked if asked else 0.0
    conditions = replace(rule, include=(), exclude=())
    in_sample = _counted(session, and_(present, stretch, matching(conditions, key)), now)
    found = in_sample.scaled(factor)
    if named := tuple(sorted({*rule.include, *rule.exclude})):
        wrongly = _counted(session, and_(present, listed(named), matching(conditions, key)), now)
        rightly = _counted(session, and_(present, listed(named), matching(rule, key)), now)
        found = found + rightly + wrongly.scaled(-1)
        found = _Counts(*(max(one, least) for one, least in zip(_each(found), _each(rightly), strict=True)))
    margin = math.ceil(enrolled * _margin(in_sample.matching, asked))
    return _reach(found, devices=round(here * factor), sampled=asked, margin=margin)


def _each(counts: _Counts) -> tuple[int, ...]:
    return counts.matching, counts.week, counts.day, counts.hour


def _stretch(chance: float, share: float) -> ColumnElement[bool]:
    """A share of all ids, from a random one on, and round the end."""
    begin = min(int(chance * _IDS), _IDS - 1)
    end = begin + max(1, int(min(share, 1.0) * _IDS))
    low, high = f"{begin:032x}", f"{end % _IDS:032x}"
    identity = col(Device.id)
    if end < _IDS:
        return and_(identity >= low, identity < high)
    return or_(identity >= low, identity < high)


def _count(session: Session, among: ColumnElement[bool]) -> int:
    found: int = session.execute(select(func.count()).select_from(Device).where(among)).scalar_one()
    return found


def _counted(session: Session, among: ColumnElement[bool], now: datetime) -> _Counts:
    """Those devices, and those of them that were seen within a week, a day and an hour."""
    seen = col(Device.seen_at)

    def since(age: timedelta) -> Any:
        return func.count().filter(seen > now - age)

    query = select(func.count(), since(WEEK), since(_DAY), since(_HOUR)).select_from(Device).where(among)
    return _Counts(*session.execute(query).one())


def _margin(found: int, asked: int) -> float:
    """How far a share of a sample may be off: the longer arm of Wilson's interval.

    Source: https://doi.org/10.1080/01621459.1927.10502953
    """
    if not asked:
        return 1.0
    share, z2 = found / asked, _Z * _Z / asked
    middle = (share + z2 / 2) / (1 + z2)
    arm = _Z / (1 + z2) * math.sqrt(share * (1 - share) / asked + z2 / (4 * asked))
    return max(middle + arm - share, share - middle + arm)


def _reach(found: _Counts, *, devices: int, sampled: int | None, margin: int) -> Reach:
    return Reach(
        devices=devices,
        matching=found.matching,
        seen_this_week=found.week,
        check_ins_per_hour=max(float(found.hour), found.day / _HOURS_A_DAY),
        sampled=sampled,
        margin=margin,
    )
