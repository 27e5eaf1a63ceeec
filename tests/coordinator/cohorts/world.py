"""Devices that differ in everything that a rule can ask for, in a database; and rules about them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from hypothesis import strategies as st
from sqlalchemy import Connection, insert, select
from sqlmodel import Session, col

from coordinator.core.cohorts.evaluation import DeviceFacts, compile_rule
from coordinator.core.cohorts.reading import rule_of
from coordinator.core.cohorts.versions import version_key
from coordinator.services.device_facts import facts_in
from coordinator.store.cohort_sql import matching
from coordinator.store.database import Database
from coordinator.store.tables import Device, Population, Tenant
from edge_runtime.protocol.errors import Malformed
from edge_runtime.protocol.keys import digest
from tests.coordinator.cohorts import oracle
from tests.programme import START

BUCKET_KEY = digest(b"bucket key of the tests")
TENANT, POPULATION = "acme", "cohorts"

Facts = dict[str, Any]
"""A device's columns by name."""

PLATFORMS = ["android", "Android", "ios", "linux", "é", "e\u0301", "🙂"]
APPS = ["com.example.keyboard", "com.example"]
CODES = [None, "DE", "de", "D", "US-CA"]
SALTS = ["spring", "Spring", "autumn"]
VERSIONS = [
    "2.9", "2.10", "2.10.0", "02.10", "2.10.0-beta.2", "2.10.0-beta.10", "2.10.0-beta", "2.10.0-0", "2.10.0-Beta",
    "2.10.1", "2.10+5", "10", "9", "0", "0-a", "2.10.0-beta-1", "3.0.0-rc.1", "not one", "2..1", "v2.10", "left",
]  # fmt: skip
REAL_VERSIONS = [text for text in VERSIONS if version_key(text)]
NAMES = ["n", "other", "n_2"]
SAID: list[Any] = [True, False, 1, 0, -1, 7, 2**53 - 1, 1 - 2**53, "1", "0", "true", "ü", '"', "'", "\\", "7"]
ROWS_ONLY: list[Any] = [1.0, 7.5, None]
"""What no check-in brings, but a row might hold."""
TEXTS = [value for value in SAID if isinstance(value, str)]
INTEGERS = [value for value in SAID if type(value) is int]


def device(number: int, choose: random.Random) -> Facts:
    names = choose.sample(NAMES, choose.randint(0, len(NAMES)))
    version = choose.choice(VERSIONS)
    return {
        "id": digest(b"device of the tests", str(number).encode()).hex()[:32],
        "app": choose.choice(APPS),
        "app_version": version,
        "app_version_key": version_key(version),
        "platform": choose.choice(PLATFORMS),
        "region": choose.choice(CODES),
        "hardware_class": choose.choice(CODES),
        "attributes": {name: choose.choice(SAID + ROWS_ONLY) for name in names} if names or number % 2 else None,
    }


def many(count: int) -> list[Facts]:
    choose = random.Random(20260105)
    return [device(number, choose) for number in range(count)]


DEVICES = many(160)

devices = st.builds(device, st.integers(0, 10_000), st.randoms(use_true_random=False))


# --- rules --------------------------------------------------------------------------------------------------------


def _some(values: Sequence[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3)


def _between(values: Sequence[Any]) -> st.SearchStrategy[dict[str, Any]]:
    one = st.sampled_from(values)
    lower = st.none() | st.tuples(st.sampled_from(["at_least", "above"]), one)
    upper = st.none() | st.tuples(st.sampled_from(["at_most", "below"]), one)
    return st.tuples(lower, upper).map(lambda pair: dict(bound for bound in pair if bound)).filter(bool)


def _leaves(among: Sequence[str]) -> st.SearchStrategy[dict[str, Any]]:
    name = st.sampled_from(NAMES)
    attribute = st.one_of(
        st.builds(lambda name, values: {"name": name, "in": values}, name, _some(TEXTS)),
        st.builds(lambda name, value: {"name": name, "is": value}, name, st.booleans()),
        st.builds(lambda name, bounds: {"name": name, **bounds}, name, _between(INTEGERS)),
    )
    return st.one_of(
        st.builds(lambda values: {"platform": values}, _some(PLATFORMS)),
        st.builds(lambda values: {"app": values}, _some(APPS)),
        st.builds(lambda values: {"region": values}, _some([code for code in CODES if code])),
        st.builds(lambda values: {"hardware_class": values}, _some([code for code in CODES if code])),
        st.builds(lambda bounds: {"app_version": bounds}, _between(REAL_VERSIONS)),
        st.builds(lambda value: {"attribute": value}, attribute),
        st.builds(lambda value: {"bucket": value}, _buckets(among)),
    )


def _buckets(among: Sequence[str]) -> st.SearchStrategy[dict[str, Any]]:
    """With bounds at, or beside, buckets of these devices."""

    def of(salt: str, one: int, two: int, by: int) -> dict[str, Any]:
        edges = sorted(oracle.bucket(among[index], salt, BUCKET_KEY) for index in (one, two))
        start = min(max(0, edges[0] + by), 99_999)
        return {"salt": salt, "from": start, "to": max(start + 1, edges[1])}

    one = st.integers(0, len(among) - 1)
    return st.builds(of, st.sampled_from(SALTS), one, one, st.integers(-1, 1))


def rules(among: Sequence[Facts]) -> st.SearchStrategy[dict[str, Any]]:
    """Valid rules as JSON, about these devices."""
    known = [one["id"] for one in among]
    where = st.recursive(
        _leaves(known),
        lambda inner: (
            st.builds(lambda part: {"not": part}, inner)
            | st.builds(lambda parts: {"and": parts}, st.lists(inner, max_size=3))
            | st.builds(lambda parts: {"or": parts}, st.lists(inner, max_size=3))
        ),
        max_leaves=6,
    ).filter(_is_valid)
    ids = st.lists(st.integers(0, len(known) - 1).map(known.__getitem__), max_size=2)
    return st.builds(
        lambda where, include, exclude: {"version": 1, "where": where, "include": include, "exclude": exclude},
        where,
        ids,
        ids,
    )


def _is_valid(where: dict[str, Any]) -> bool:
    """Drawn bounds may hold nothing, and drawn conditions may lie too deep."""
    try:
        rule_of({"version": 1, "where": where})
    except Malformed:
        return False
    return True


# --- the two evaluations ------------------------------------------------------------------------------------------


def populate(database: Database) -> None:
    """Give a migrated database a population to put devices in."""
    with database.writing() as session:
        session.add(Tenant(name=TENANT, public_key=bytes(32), created_at=START))
        session.flush()
        session.add(Population(tenant=TENANT, name=POPULATION, created_at=START, bucket_key=BUCKET_KEY))


def put(connection: Connection, found: Iterable[Facts]) -> None:
    """Add devices; of several with one id, the last."""
    shared = {"tenant": TENANT, "population": POPULATION, "public_key": bytes(32), "evidence": "none"}
    rows = {one["id"]: {**shared, "enrolled_at": START, "participations": 0, **one} for one in found}
    if rows:
        connection.execute(insert(Device), list(rows.values()))


@contextmanager
def holding(database: Database, found: Iterable[Facts]) -> Iterator[Connection]:
    """A transaction with these devices, rolled back at the end."""
    with database.engine.connect().execution_options(writing=True) as connection:
        transaction = connection.begin()
        put(connection, found)
        yield connection
        transaction.rollback()


Read: TypeAlias = list[tuple[Facts, DeviceFacts]]


def read(connection: Connection) -> Read:
    """The devices as the database gives them back: their columns, and what `matches` takes."""
    with Session(bind=connection) as session:
        rows = session.scalars(select(Device)).all()
        return [({name: getattr(row, name) for name in DEVICES[0]}, facts_in(row)) for row in rows]


def disagreements(connection: Connection, found_there: Read, rule: dict[str, Any]) -> list[str]:
    """The devices in the database about which SQL, Python and the oracle disagree, a sentence each."""
    parsed = rule_of(rule)
    test = compile_rule(parsed, BUCKET_KEY)
    in_sql = set(connection.execute(select(col(Device.id)).where(matching(parsed, BUCKET_KEY))).scalars())
    found = []
    for facts, device_facts in found_there:
        said = {
            "SQL": facts["id"] in in_sql,
            "Python": test(device_facts),
            "oracle": oracle.fits(rule, facts, BUCKET_KEY),
        }
        if len(set(said.values())) > 1:
            found.append(f"{said} of {json.dumps(facts, ensure_ascii=False)}")
    return found
