"""The charts of ε by round: every mode has a line of its own, whatever the others cost, and nothing is cut off."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from coordinator.api.operator.privacy import WishRequest, advice_for
from coordinator.commands.charts import curves, lines, number, svg

SVG = "{http://www.w3.org/2000/svg}"
BUDGET_COLOUR = "#b00020"
WIDEST_LETTER = 0.5
"""Of a letter over the size of its font, on average."""


def advice(**wanted: Any) -> Any:
    wish = {"population": 100_000, "rounds": 200, "goal": 1000, "parameters": 50_000, **wanted}
    return advice_for(WishRequest(**wish)).model_dump(mode="json")


WISHES: dict[str, dict[str, Any]] = {
    "every mode": {"epsilon_recipients": 2.0, "separation": 20, "most_participations": 5},
    "all kept": {"epsilon_coordinator": 8.0, "population": 900, "goal": 100, "parameters": 10, "rounds": 3},
    "thousands": {"epsilon_coordinator": 0.001, "rounds": 500, "parameters": 100_000},
    "no bound": {"epsilon_coordinator": 8.0, "rounds": 50, "parameters": 3_000_000_000},
    "one round": {"epsilon_recipients": 8.0, "rounds": 1},
}


@pytest.fixture(params=WISHES)
def plan(request: pytest.FixtureRequest) -> Any:
    return advice(**WISHES[request.param])


BUDGETS: dict[str, dict[str, float]] = {
    "none": {},
    "one": {"coordinator": 8.0},
    "the same": {"coordinator": 2.0, "recipients": 2.0},
    "two": {"coordinator": 8.0, "recipients": 1.0},
    "far below": {"recipients": 1e-9},
    "far above": {"recipients": 1e9},
}


@pytest.mark.parametrize("budgets", BUDGETS.values(), ids=BUDGETS)
def test_nothing_of_the_picture_lies_outside_it(plan: Any, budgets: dict[str, float]) -> None:
    picture = ElementTree.fromstring(svg(plan, "ε by round", budgets))
    width, height = (float(side) for side in picture.attrib["viewBox"].split()[2:])
    for text in picture.iter(f"{SVG}text"):
        long = len(text.text or "") * WIDEST_LETTER * float(text.get("font-size", 13))
        share = {"middle": 0.5, "end": 1.0}.get(text.get("text-anchor", "start"), 0.0)
        left = float(text.attrib["x"]) - share * long
        assert left >= 0, text.text
        assert left + long <= width, text.text
        assert float(text.attrib["y"]) <= height
    for straight in picture.iter(f"{SVG}line"):
        assert 0 < float(straight.attrib["y1"]) < height
    for line in picture.iter(f"{SVG}polyline"):
        for corner in line.attrib["points"].split():
            x, y = (float(part) for part in corner.split(","))
            assert 0 < x < width
            assert 0 < y < height


def budget_lines(picture: ElementTree.Element) -> dict[str, float]:
    """Of the legend's lines of budgets: how high the line across the picture is."""
    said = [str(one.text) for one in picture.iter(f"{SVG}text") if (one.text or "").startswith("budget, ")]
    red = [one for one in picture.iter(f"{SVG}line") if one.attrib["stroke"] == BUDGET_COLOUR]
    return {words: float(line.attrib["y1"]) for words, line in zip(said, red[::2], strict=True)}


def test_a_budget_is_a_line_at_which_the_curve_ends_that_just_keeps_it() -> None:
    """The planner spends the whole budget: against the coordinator the curve ends at its line."""
    plan = advice(**WISHES["all kept"])
    picture = ElementTree.fromstring(svg(plan, "ε by round", {"coordinator": 8.0}))
    assert list(budget_lines(picture)) == ["budget, coordinator: ε = 8"]
    kept = next(iter(picture.iter(f"{SVG}polyline"))).attrib["points"].split()[-1]
    assert float(kept.partition(",")[2]) == pytest.approx(budget_lines(picture)["budget, coordinator: ε = 8"], abs=0.5)


def test_budgets_against_both_have_a_line_each() -> None:
    plan = advice(**WISHES["every mode"])
    two = budget_lines(ElementTree.fromstring(svg(plan, "ε by round", BUDGETS["two"])))
    assert list(two) == ["budget, coordinator: ε = 8", "budget, recipients: ε = 1"]
    assert two["budget, coordinator: ε = 8"] < two["budget, recipients: ε = 1"]
    assert not budget_lines(ElementTree.fromstring(svg(plan, "ε by round")))


def test_every_mode_has_a_line_that_looks_like_no_other() -> None:
    plan = advice(**WISHES["every mode"])
    looks = [
        (line.attrib["stroke"], line.get("stroke-dasharray"))
        for line in ElementTree.fromstring(svg(plan, "ε by round")).iter(f"{SVG}polyline")
    ]
    assert len(looks) == len(set(looks)) == len(curves(plan)) == 6
    assert {one["mode"] for one in plan["modes"]} == {"distributed", "central", "correlated", "local"}


def drawn_of(plan: Any) -> dict[str, str]:
    """The lines, by the names of their curves."""
    return {line.split("  ")[0].strip(): line for line in lines(plan)}


def at_end(plan: Any, mode: str) -> float:
    return float(next(one for one in plan["modes"] if one["mode"] == mode)["by_round"][-1]["recipients"])


def test_a_mode_that_costs_thousands_leaves_the_others_readable() -> None:
    plan = advice(**WISHES["thousands"])
    cheap, dear = (drawn_of(plan)[f"{mode}, recipients *"] for mode in ("central", "local"))
    assert at_end(plan, "local") > 100 * at_end(plan, "central")
    assert len(set(cheap) & set("▁▂▃▄▅▆▇█")) >= 2
    assert f"ε = {at_end(plan, 'central'):.3g} after 500 rounds" in cheap
    assert f"ε = {at_end(plan, 'local'):,.0f} after 500 rounds" in dear


def test_a_bound_that_ends_says_after_which_round() -> None:
    plan = advice(**WISHES["no bound"])
    last = max(at["round"] for at in plan["by_round"] if at["coordinator"] is not None)
    assert last < 50
    drawn = drawn_of(plan)
    assert f"no bound after round {last}" in drawn["distributed, coordinator *"]
    assert drawn["local, recipients *"].endswith("no bound")
    assert "central, coordinator" not in " ".join(drawn)  # it protects nobody from the coordinator


def test_notes_say_what_a_star_is_and_which_mode_is_missing() -> None:
    every, kept = ("\n".join(lines(advice(**WISHES[name]))) for name in ("every mode", "all kept"))
    assert "* misses the budget" in every
    assert "*" not in kept
    assert "correlated noise is not drawn" not in every
    assert "correlated noise is not drawn" in kept


@pytest.mark.parametrize(("value", "said"), [(0.05678, "0.0568"), (2.0, "2"), (43.864, "43.9"), (26121.3, "26,121")])
def test_numbers_are_written_out(value: float, said: str) -> None:
    assert number(value) == said
