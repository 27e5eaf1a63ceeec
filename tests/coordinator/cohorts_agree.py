"""Evaluate a cohort's rule from a file in SQL and in Python: `python -m tests.coordinator.cohorts_agree FILE.json`.

The rule is as docs/cohorts.md has it. It is asked about thousands of devices made for it: they say what the rule names,
and what lies just beside it. Databases: SQLite, and a PostgreSQL that is started for it. Status 0: no disagreement; 1:
there is one; 2: the file holds no rule.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coordinator.core.cohorts.reading import read_rule
from coordinator.core.cohorts.rule import BUCKETS, rule_tree
from coordinator.core.cohorts.versions import version_key
from coordinator.store import migrate
from coordinator.store.database import Database
from edge_runtime.protocol.errors import Malformed
from tests.coordinator.cohorts import oracle
from tests.coordinator.cohorts.world import (
    BUCKET_KEY,
    INTEGERS,
    TEXTS,
    VERSIONS,
    Facts,
    disagreements,
    holding,
    populate,
    read,
)
from tests.postgres import running

MOST_EDGES = 8
"""Bounds of buckets for which devices are sought."""


def conditions(tree: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every comparison of a rule: what is compared, and with what."""
    ((key, value),) = tree.items()
    if key in ("and", "or"):
        for part in value:
            yield from conditions(part)
    elif key == "not":
        yield from conditions(value)
    else:
        yield key, value


def around(version: str) -> list[str]:
    """Versions just beside one."""
    numbers, dash, _parts = version.partition("+")[0].partition("-")
    *others, last = numbers.split(".")
    beside = [".".join([*others, str(max(0, int(last) + by))]) for by in (-1, 1, 9)]
    return [version, numbers, f"{numbers}.0", f"{numbers}-0", f"{version}{'.' if dash else '-'}1", *beside]


def worlds(rule: dict[str, Any]) -> dict[str, list[Any]]:
    """What devices say, by column; of attributes by name."""
    said: dict[str, list[Any]] = {
        "platform": ["android", "other"], "app": ["app"], "region": [None, "XX"], "hardware_class": [None, "xx"],
        "app_version": list(VERSIONS[:4]),
    }  # fmt: skip
    attributes: dict[str, list[Any]] = {}
    for key, value in conditions(rule["where"]):
        if key in ("platform", "app", "region", "hardware_class"):
            said[key] += [*value, *(text.swapcase() for text in value)]
        elif key == "app_version":
            said[key] += [one for bound in value.values() for one in around(bound)]
        elif key == "attribute":
            known = attributes.setdefault(value["name"], [True, False, *TEXTS[:3], *INTEGERS[:3]])
            bounds = [bound for name, bound in value.items() if name not in ("name", "in", "is")]
            known += [*value.get("in", []), *(number + by for number in bounds for by in (-1, 0, 1)), *map(str, bounds)]
    return {**said, "attributes": [attributes]}


def at_edges(rule: dict[str, Any], choose: random.Random) -> list[str]:
    """Ids of devices in the first and the last bucket of each range, and just outside."""
    found = []
    for _key, value in [one for one in conditions(rule["where"]) if one[0] == "bucket"][: MOST_EDGES // 2]:
        wanted = {edge + by for edge in (value["from"], value["to"]) for by in (-1, 0)} & set(range(BUCKETS))
        while wanted:
            device = f"{choose.getrandbits(128):032x}"
            bucket = oracle.bucket(device, value["salt"], BUCKET_KEY)
            if bucket in wanted:
                wanted.discard(bucket)
                found.append(device)
    return found


def devices_for(rule: dict[str, Any], count: int) -> list[Facts]:
    choose = random.Random(20260105)
    said = worlds(rule)
    (attributes,) = said.pop("attributes")
    ids = [*rule["include"][:100], *rule["exclude"][:100], *at_edges(rule, choose)]
    ids += [f"{choose.getrandbits(128):032x}" for _one in range(count)]
    made = []
    for device in ids:
        facts: Facts = {"id": device, **{name: choose.choice(values) for name, values in said.items()}}
        facts["app_version_key"] = version_key(facts["app_version"])
        names = [name for name in attributes if choose.random() < 0.8]
        said_of: dict[str, Any] = {name: choose.choice(attributes[name]) for name in names}
        facts["attributes"] = said_of if said_of or choose.random() < 0.5 else None
        made.append(facts)
    return made


@contextmanager
def databases(*, sqlite_only: bool) -> Iterator[list[tuple[str, Database]]]:
    with tempfile.TemporaryDirectory() as folder:
        sqlite = Database(f"sqlite:///{Path(folder) / 'cohorts.sqlite'}")
        migrate.upgrade(sqlite)
        populate(sqlite)
        try:
            if sqlite_only:
                yield [("SQLite", sqlite)]
                return
            with running() as server:
                postgres = Database(server.new())
                populate(postgres)
                yield [("SQLite", sqlite), ("PostgreSQL", postgres)]
                postgres.close()
        finally:
            sqlite.close()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="a cohort's rule as JSON")
    parser.add_argument("--devices", type=int, default=2000, help="how many are made")
    parser.add_argument("--sqlite-only", action="store_true", help="start no PostgreSQL")
    options = parser.parse_args(arguments)
    try:
        rule = rule_tree(read_rule(options.file.read_bytes()))
    except (OSError, Malformed) as problem:
        print(problem, file=sys.stderr)
        return 2
    made = devices_for(rule, options.devices)
    inside = sum(oracle.fits(rule, one, BUCKET_KEY) for one in made)
    total = 0
    with databases(sqlite_only=options.sqlite_only) as found:
        for name, database in found:
            with holding(database, made) as connection:
                differing = disagreements(connection, read(connection), rule)
            total += len(differing)
            print(f"{name}: {len(made)} devices, {inside} in the cohort, {len(differing)} disagreements")
            for sentence in differing[:10]:
                print(f"  {sentence}")
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
