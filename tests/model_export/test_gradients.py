"""Every rule gives TensorFlow's own values and gradients, on both interpreters, for fixed and for unknown batches.

The oracle is the unchanged operator, run eagerly and differentiated by `GradientTape`. `comparison` has the tolerance.
"""

from __future__ import annotations

import pytest

from tests.model_export.comparison import Lot
from tests.workers import Workers

UNASKED = {
    *("All", "Any", "ArgMax", "ArgMin", "Ceil", "Const", "Equal", "Floor", "FloorDiv", "Greater", "GreaterEqual"),
    *(
        "IsFinite",
        "IsInf",
        "IsNan",
        "Less",
        "LessEqual",
        "LinSpace",
        "LogicalAnd",
        "LogicalNot",
        "LogicalOr",
        "NotEqual",
    ),
    *("OneHot", "OnesLike", "PreventGradient", "Prod", "Range", "Rank", "Rint", "Round", "Shape", "Sign", "Size"),
    *("StopGradient", "Where", "ZerosLike"),
}
"""Operators that pass no gradient on; that TensorFlow gives none either is compared all the same."""


@pytest.fixture(scope="module")
def lot(workers: Workers) -> Lot:
    found: Lot = workers["tensorflow"].run("tests.model_export.lots:of_operators", 2, 0)
    return found


def test_every_rule_has_a_case(workers: Workers) -> None:
    rules, cases, draws = workers["tensorflow"].run("tests.model_export.lots:names")
    assert rules == cases
    assert draws, "random numbers have tests of their own"


def test_every_rule_is_exercised_and_differentiated(lot: Lot, workers: Workers) -> None:
    rules, _cases, _draws = workers["tensorflow"].run("tests.model_export.lots:names")
    assert lot.exercised == rules
    assert lot.differentiated == rules - UNASKED


def test_values_and_gradients_are_those_of_tensorflow(lot: Lot) -> None:
    assert not lot.problems
    assert sum(len(group.outputs) for group in lot.groups) > 400


@pytest.mark.parametrize("runtime", ["litert", "tflite"])
def test_both_interpreters_give_the_same(workers: Workers, lot: Lot, runtime: str) -> None:
    assert {group.signature for group in lot.groups} == {"fixed", "dynamic"}
    assert workers[runtime].run("tests.model_export.comparison:on_interpreter", lot, runtime) == []


MUTANTS = (
    "the last of several maxima",
    "a mean that forgets its factor",
    "a convolution without its dilation",
    "a padding that is one-sided",
    "a relu that lets a thousandth through",
    "repeats that are averaged",
    "a filter that is a hundred-thousandth too large",
)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_rule_is_noticed(workers: Workers, mutant: str) -> None:
    assert workers["tensorflow"].run("tests.model_export.lots:of_mutant", mutant)
