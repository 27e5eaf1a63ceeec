"""The page on cohorts is true: its rule and its declaration are taken, its error is the code's, its limits too."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from coordinator.core.cohorts import rule as limits
from coordinator.core.cohorts.declarations import check_rule, read_declared
from coordinator.core.cohorts.reading import rule_of
from coordinator.services import cohorts, reach
from edge_runtime.protocol.errors import Malformed

PAGE = (Path(__file__).parents[2] / "docs" / "cohorts.md").read_text()
RULE, DECLARATION, REACH = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))


def test_the_rule_asks_for_what_the_declaration_declares() -> None:
    check_rule(rule_of(RULE), read_declared(DECLARATION["attributes"]))


def test_the_error_that_is_shown_is_the_one_that_comes() -> None:
    wrong: dict[str, Any] = json.loads(json.dumps(RULE))
    wrong["where"]["and"][2]["or"][1]["attribute"]["in"] = ["fr"]
    with pytest.raises(Malformed) as refused:
        check_rule(rule_of(wrong), read_declared(DECLARATION["attributes"]))
    assert refused.value.detail in " ".join(PAGE.split())


def test_the_limits_are_the_codes() -> None:
    rows = dict(re.findall(r"^\| (conditions.*|texts.*|device ids.*|cohorts.*) \| ([\d,]+)", PAGE, re.MULTILINE))
    assert {name: int(number.replace(",", "")) for name, number in rows.items()} == {
        "conditions within conditions": limits.MOST_DEPTH,
        "conditions": limits.MOST_CONDITIONS,
        "texts of one list": limits.MOST_VALUES,
        "device ids to include, and to exclude": limits.MOST_DEVICES,
        "cohorts of a population": cohorts.MOST_COHORTS,
    }
    assert f"more than {reach.COUNTED:,} devices is sampled: about {reach.SAMPLE:,}" in PAGE


def test_every_field_of_a_reach_is_explained() -> None:
    explained = re.findall(r"^\| `(\w+)` \| (?!holds)", PAGE.split("## Reach")[1].split("\n## ")[0], re.MULTILINE)
    assert set(explained) == set(reach.Reach.__dataclass_fields__) == set(REACH)
