"""The zoo's models are what their specs and the documents say, and learn with the plans they suggest."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Final

import pytest

from model_export.errors import UnsupportedModel
from model_export.spec import Adam, ExportSpec, Loss
from model_export.zoo import ZOO
from tests.workers import Workers

if TYPE_CHECKING:
    from tests.model_export.zoo_facts import Facts

PAGE: Final = Path(__file__).parents[2] / "docs" / "zoo.md"
STEPS: Final = 32

OTHER_SHAPE: Final = (8, 8, 1)
OTHER_CLASSES: Final = 3
ANY_SIZE: Final = sorted(name for name, reference in ZOO.items() if reference.any_size)
ONE_SIZE: Final = sorted(set(ZOO) - set(ANY_SIZE))


@pytest.fixture(scope="module")
def facts(workers: Workers) -> dict[str, Facts]:
    return {name: workers["tensorflow"].run("tests.model_export.zoo_facts:facts", name) for name in ZOO}


def test_the_zoo_is_listed_without_loading_keras() -> None:
    program = "import sys, model_export.zoo; print([name for name in ('keras', 'tensorflow') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize("name", ZOO)
def test_a_model_takes_its_features(facts: dict[str, Facts], name: str) -> None:
    features = ZOO[name].spec.features
    inputs = facts[name]["inputs"]
    assert {dtype for _shape, dtype in inputs} == {features.dtype}
    assert sum(math.prod(shape) for shape, _dtype in inputs) == features.size
    assert len(inputs) > 1 or inputs[0][0] == features.shape


@pytest.mark.parametrize("name", ZOO)
def test_a_model_gives_what_its_labels_are_held_against(facts: dict[str, Facts], name: str) -> None:
    spec = ZOO[name].spec
    classes = (int(spec.labels.high) + 1,) if spec.loss is Loss.SPARSE_CROSS_ENTROPY else ()
    assert facts[name]["outputs"] == (2, *spec.labels.shape, *classes)
    assert facts[name]["finite"]
    assert len(spec.class_names) in (0, *classes)


@pytest.mark.parametrize("name", ZOO)
def test_every_pattern_of_a_spec_names_a_layer(facts: dict[str, Facts], name: str) -> None:
    assert facts[name]["unmatched"] == ()


def test_weights_are_called_the_same_whatever_was_built_before(facts: dict[str, Facts]) -> None:
    assert [name for name, found in facts.items() if found["paths"][0] != found["paths"][1]] == []


@pytest.mark.parametrize("name", ZOO)
def test_a_seed_determines_the_first_weights(facts: dict[str, Facts], name: str) -> None:
    first, again = facts[name]["weights"]
    assert first == again


def test_what_stays_on_the_device_is_the_users_embedding_alone(facts: dict[str, Facts]) -> None:
    personal = {
        name: found["parameters"] - found["reported"] for name, found in facts.items() if ZOO[name].spec.personal
    }
    assert personal == {"two_tower": 1000 * 32}


@pytest.mark.parametrize("name", ZOO)
def test_a_model_learns_with_its_own_plan(workers: Workers, name: str) -> None:
    losses, guessing = workers["tensorflow"].run("tests.model_export.zoo_facts:learned", name, STEPS)
    assert mean(losses[-5:]) < 0.8 * guessing, losses
    assert mean(losses[-5:]) < 0.7 * mean(losses[:5]), losses


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_function_builds_what_its_reference_builds(workers: Workers, name: str) -> None:
    run = workers["tensorflow"].run
    direct, by_reference = run("tests.model_export.zoo_facts:digest_of_function", name, OTHER_SHAPE, OTHER_CLASSES)
    assert direct == by_reference


@pytest.mark.parametrize("name", ANY_SIZE)
def test_a_classifier_comes_in_other_sizes(workers: Workers, name: str) -> None:
    spec = ZOO[name].spec_for(OTHER_SHAPE, OTHER_CLASSES)
    assert spec.class_names == ("0", "1", "2")
    assert (spec.features.shape, spec.labels.high) == (OTHER_SHAPE, OTHER_CLASSES - 1)
    shapes = workers["tensorflow"].run("tests.model_export.zoo_facts:shapes", name, OTHER_SHAPE, OTHER_CLASSES)
    assert shapes == (OTHER_SHAPE, (OTHER_CLASSES,))


@pytest.mark.parametrize("name", ANY_SIZE)
def test_another_shape_keeps_the_names_of_the_classes(name: str) -> None:
    assert ZOO[name].spec_for(OTHER_SHAPE).class_names == ZOO[name].spec.class_names


@pytest.mark.parametrize("name", ONE_SIZE)
def test_a_model_of_one_size_refuses_another(name: str) -> None:
    assert ZOO[name].spec_for(ZOO[name].spec.features.shape) is ZOO[name].spec
    for input_shape, classes in ((OTHER_SHAPE, None), (None, OTHER_CLASSES)):
        with pytest.raises(UnsupportedModel, match=f"{name} has one size"):
            ZOO[name].spec_for(input_shape, classes)


def test_plans_fit_their_models() -> None:
    for name, reference in ZOO.items():
        assert reference.name == name
        assert 0 < reference.spec.default_plan.batch_size <= reference.spec.batch_size


def test_the_table_of_the_zoo_is_the_code(facts: dict[str, Facts]) -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in PAGE.read_text().splitlines()
        if line.startswith("| `")
    ]
    assert [row[:6] for row in rows] == [
        [
            f"`{name}`",
            reference.summary,
            _input(reference.spec),
            f"{facts[name]['parameters']:,}",
            f"{facts[name]['reported']:,}",
            _plan(reference.spec),
        ]
        for name, reference in ZOO.items()
    ]
    assert all(len(row) == 8 and row[6] for row in rows)


def _input(spec: ExportSpec) -> str:
    shape = "×".join(map(str, spec.features.shape))
    return f"{spec.features.dtype} {shape}, {spec.features.low:g} to {spec.features.high:g}".replace("-", "−")


def _plan(spec: ExportSpec) -> str:
    plan, optimizer = spec.default_plan, spec.optimizer
    if isinstance(optimizer, Adam):
        kind = "Adam"
    else:
        kind = f"momentum {optimizer.momentum:g}" if optimizer.momentum else "SGD"
    return f"{plan.epochs} × {plan.batch_size} at {plan.learning_rate:g}, {kind}"
