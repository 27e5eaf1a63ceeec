"""The database and Python give every device the same answer; deliberate mistakes in either are found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from sqlalchemy import ColumnElement, and_, true
from sqlalchemy.exc import DBAPIError
from sqlmodel import col

from coordinator.core.cohorts import evaluation
from coordinator.core.cohorts.evaluation import bucket_key_of, bucket_of, compile_rule
from coordinator.core.cohorts.reading import rule_of
from coordinator.core.cohorts.rule import AppVersion
from coordinator.store import cohort_sql
from coordinator.store.database import Database
from coordinator.store.tables import Device
from tests.coordinator.cohorts import world
from tests.coordinator.cohorts.world import DEVICES, devices, disagreements, holding, read, rules
from tests.coordinator.cohorts_agree import main

Disagreeing: TypeAlias = Callable[[dict[str, Any]], list[str]]
ONE_WORLD = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DRAWN = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@ONE_WORLD
@given(rule=rules(DEVICES))
def test_any_rule_is_evaluated_the_same_in_sql_and_in_python(disagreeing: Disagreeing, rule: dict[str, Any]) -> None:
    assert disagreeing(rule) == []


@DRAWN
@given(found=st.lists(devices, min_size=1, max_size=6), data=st.data())
def test_any_rule_is_evaluated_the_same_over_any_devices(database: Database, found: Any, data: Any) -> None:
    rule = data.draw(rules(found))
    with holding(database, found) as connection:
        assert disagreements(connection, read(connection), rule) == []


def test_a_rule_of_the_largest_size_is_evaluated_the_same(disagreeing: Disagreeing) -> None:
    texts = [f"text {number}" for number in range(256)]
    part: dict[str, Any] = {"and": [{"not": {"attribute": {"name": "n", "in": texts}}}] * 122}
    where: dict[str, Any] = part
    for _layer in range(5):
        where = {"not": where}
    others = [f"{number:032x}" for number in range(9_990)]
    ids = [one["id"] for one in DEVICES]
    rule = {"version": 1, "where": where, "include": [*ids[:9], *others], "exclude": [*ids[5:15], *others]}
    assert disagreeing(rule) == []


@ONE_WORLD
@given(rule=rules(DEVICES))
def test_the_locale_of_the_database_changes_nothing(disagreeing_elsewhere: Disagreeing, rule: dict[str, Any]) -> None:
    assert disagreeing_elsewhere(rule) == []


# --- deliberate mistakes ------------------------------------------------------------------------------------------


def is_found(disagreeing: Disagreeing) -> bool:
    """Whether the property above finds a rule that tells the evaluations apart."""
    find(
        rules(DEVICES),
        lambda rule: bool(disagreeing(rule)),
        settings=settings(max_examples=2000, deadline=None, database=None, phases=[Phase.generate]),
    )
    return True


def test_a_bucket_too_many_is_found_in_sql(disagreeing: Disagreeing, monkeypatch: pytest.MonkeyPatch) -> None:
    right = cohort_sql._BucketOf.between
    monkeypatch.setattr(cohort_sql._BucketOf, "between", lambda self, start, last: right(self, start, last + 1))
    assert is_found(disagreeing)


def test_a_bucket_too_few_is_found_in_python(disagreeing: Disagreeing, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_too_few(key: bytes, start: int, end: int) -> evaluation.Test:
        return lambda facts: start < bucket_of(facts.device_id, key) < end

    monkeypatch.setattr(evaluation, "_in_buckets", one_too_few)
    assert is_found(disagreeing)


def test_versions_as_strings_are_found_in_sql(disagreeing: Disagreeing, monkeypatch: pytest.MonkeyPatch) -> None:
    def as_strings(bounds: AppVersion) -> ColumnElement[bool]:
        version = col(Device.app_version)
        low, high = bounds.at_least or bounds.above, bounds.at_most or bounds.below
        return and_(true(), *([version >= low] if low else []), *([version <= high] if high else []))

    monkeypatch.setattr(cohort_sql, "_version_between", as_strings)
    assert is_found(disagreeing)


def test_versions_as_strings_are_found_on_both_sides(disagreeing: Disagreeing, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle knows nothing of keys: so it finds what SQL and Python agree upon."""
    for module in (evaluation, cohort_sql):
        monkeypatch.setattr(module, "version_key", lambda version: f"a{version}=")
    assert is_found(disagreeing)


def test_null_under_not_is_found(disagreeing: Disagreeing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort_sql, "_known", lambda comparison: comparison)
    assert is_found(disagreeing)


def test_text_in_the_order_of_a_locale_is_found(
    disagreeing_elsewhere: Disagreeing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL without ICU cannot compare in that order at all, and says so; with ICU it finds other devices."""
    monkeypatch.setattr(cohort_sql, "_bytewise", lambda text: text)
    try:
        found = disagreeing_elsewhere({"version": 1, "where": {"app_version": {"below": "2.10.0-Beta"}}})
    except DBAPIError as problem:
        found = [str(problem.orig)]
    assert found


def test_true_for_one_is_found(disagreeing: Disagreeing, monkeypatch: pytest.MonkeyPatch) -> None:
    def loosely(name: str, bounds: Any) -> evaluation.Test:
        least, most = evaluation.whole_bounds(bounds)

        def test(facts: evaluation.DeviceFacts) -> bool:
            value = facts.attributes.get(name)
            return isinstance(value, int) and (least is None or least <= value) and (most is None or value <= most)

        return test

    monkeypatch.setattr(evaluation, "_integer_between", lambda bounds: loosely(bounds.name, bounds))
    assert is_found(disagreeing)


# --- an expression from outside -----------------------------------------------------------------------------------


def test_an_expression_from_a_file_is_evaluated_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cohort.json"
    key = bucket_key_of(world.BUCKET_KEY, "spring")
    edge = bucket_of(DEVICES[0]["id"], key)
    rule = {
        "version": 1,
        "where": {
            "and": [
                {"not": {"attribute": {"name": "beta", "is": True}}},
                {"or": [{"app_version": {"at_least": "2.10", "below": "3.0.0-0"}}, {"region": ["DE"]}]},
                {"bucket": {"salt": "spring", "from": edge, "to": min(edge + 50_000, 100_000)}},
            ]
        },
    }
    file.write_text(json.dumps(rule))
    assert main([str(file), "--sqlite-only"]) == 0
    assert "0 disagreements" in capsys.readouterr().out
    rule["where"] = {"and": [{"platform": []}]}
    file.write_text(json.dumps(rule))
    assert main([str(file), "--sqlite-only"]) == 2
    assert "rule.where.and[0].platform" in capsys.readouterr().err


def test_a_rule_is_compiled_once_for_its_bytes() -> None:
    raw = b'{"version":1,"where":{"platform":["android"]}}'
    assert evaluation.compiled(raw, world.BUCKET_KEY) is evaluation.compiled(raw, world.BUCKET_KEY)
    test = compile_rule(rule_of(json.loads(raw)), world.BUCKET_KEY)
    assert test is not evaluation.compiled(raw, world.BUCKET_KEY)
