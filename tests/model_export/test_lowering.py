"""Models that are easy to get wrong train as in TensorFlow, or are refused in a sentence; nothing is left behind."""

from __future__ import annotations

import re

import pytest

from model_export.errors import SUPPORTED
from tests.model_export.comparison import Lot
from tests.workers import Workers

FIXED = (
    *("shared", "normalized_twice", "residual", "nested", "custom_gradient", "stopped", "compiled", "frozen", "module"),
    *("unit_norm", "rms_norm", "layer_norm", "group_norm", "batch_norm", "prelu", "leaky", "softmax", "relu_max"),
    *(
        "gelu",
        "lambda",
        "repeated",
        "add",
        "subtract",
        "multiply",
        "average",
        "maximum",
        "minimum",
        "concatenate",
        "dot",
    ),
    *("up", "padded", "cropped", "permuted", "separable", "depthwise_dilated", "grouped", "transposed", "pooled"),
    *("largest", "conv1d", "conv1d_transposed", "up1d", "each_step", "einsum_dense", "heads", "attention", "additive"),
    *("dotted", "gru", "bidirectional", "masking", "masked_words", "tied", "averaged_words"),
)
DYNAMIC = (
    "shared",
    "residual",
    "custom_gradient",
    "separable",
    "pooled",
    "heads",
    "averaged_words",
    "conv1d",
    "group_norm",
    "depthwise_dilated",
)
LONG = ("lstm", "heads_causal", "grouped_heads", "conv_lstm", "words")
"""Only in the nightly form, like all others with an unknown batch."""


@pytest.fixture(scope="module")
def fixed(workers: Workers) -> list[Lot]:
    """In files of a size that a model may have: tflite-runtime 2.14 aborts on one with all of them."""
    parts = [FIXED[begin::4] for begin in range(4)]
    return [workers["tensorflow"].run("tests.model_export.lots:of_models", part) for part in parts]


@pytest.fixture(scope="module")
def dynamic(workers: Workers) -> Lot:
    found: Lot = workers["tensorflow"].run("tests.model_export.lots:of_models", DYNAMIC, True)
    return found


def test_every_kind_of_model_is_tried(workers: Workers) -> None:
    kinds, noisy = workers["tensorflow"].run("tests.model_export.lots:kinds_of_models")
    assert {*FIXED, *LONG} == kinds - noisy


def test_losses_gradients_and_statistics_are_those_of_tensorflow(fixed: list[Lot], dynamic: Lot) -> None:
    assert [lot.problems for lot in (*fixed, dynamic)] == [()] * 5
    found = {one.what.split()[0] for lot in fixed for group in lot.groups for one in group.outputs.values()}
    assert found == set(FIXED)


@pytest.mark.parametrize("runtime", ["litert", "tflite"])
def test_both_interpreters_give_the_same(workers: Workers, fixed: list[Lot], dynamic: Lot, runtime: str) -> None:
    assert [[group.signature for group in lot.groups] for lot in (*fixed, dynamic)] == [*[["fixed"]] * 4, ["dynamic"]]
    for lot in (*fixed, dynamic):
        assert workers[runtime].run("tests.model_export.comparison:on_interpreter", lot, runtime) == []


OPERATORS = {
    "sorting": "TopKV2 of sort has no gradient here; use a softmax",
    "largest few": "TopKV2 of the model has no gradient here; use a softmax",
    "resizing": "ResizeBilinear of resize has no gradient here; use UpSampling2D",
    "a loop": "StatelessWhile of the model has no gradient here; use a fixed number of steps",
    "a product of values": "Prod of the model has no gradient here; use multiplications",
    "a gradient that is forbidden": r"\(PreventGradient\) forbids to train what comes before it",
    "a backward slice": r"strided_slice \(StridedSlice\) goes backwards",
    "another axis": r"\(GatherV2\) looks up along another axis than the first",
    "an exponent that is computed": r"\(Pow\) has an exponent that is not one constant",
    "channels first": r"\(MaxPool\) has its channels first",
    "a mean over an unknown batch": r"\(Mean\) averages over a batch of unknown size",
    "part of an unknown batch": r"\(StridedSlice\) cuts a batch of unknown size",
    "batches behind one another": r"\(ConcatV2\) joins batches of unknown size",
    "a batch that is repeated": r"\(Tile\) repeats a batch of unknown size",
    "a lone axis": r"\(Einsum ab,b->b\) sums or repeats an axis of one tensor",
}
MODELS = {
    "Conv3D": "Conv3D of .*cube.* has no gradient here; use Conv2D over slices",
    "Resizing": "ResizeBilinear of .*smooth.* has no gradient here; use UpSampling2D",
    "a loop that was not unrolled": "StatelessWhile of .*rounds.* has no gradient here; use a fixed number of steps",
}


def test_operators_that_cannot_be_trained_through_are_refused_by_name(workers: Workers) -> None:
    said = workers["tensorflow"].run("tests.model_export.refusals:of_operators")
    assert set(said) == set(OPERATORS)
    for name, pattern in OPERATORS.items():
        assert re.search(pattern, said[name]), (name, said[name])
        assert SUPPORTED in said[name]


def test_layers_that_cannot_be_trained_through_are_refused_by_name(workers: Workers) -> None:
    said = workers["tensorflow"].run("tests.model_export.refusals:of_models")
    assert set(said) == set(MODELS)
    for name, pattern in MODELS.items():
        assert re.match(f"UnsupportedModel: the operator {pattern}", said[name]), (name, said[name])


def test_statistics_of_a_batch_want_a_batch_of_known_size(workers: Workers) -> None:
    names = ["normalized_twice", "batch_norm"]
    said = workers["tensorflow"].run("tests.model_export.refusals:of_unknown_batches", names)
    assert all("averages over a batch of unknown size" in said[name] for name in names), said


def test_two_threads_export_two_models(workers: Workers) -> None:
    pairs = workers["tensorflow"].run("tests.model_export.surroundings:two_at_once", ("shared", "conv1d"))
    assert [alone for alone, _beside in pairs] == [beside for _alone, beside in pairs]
    assert len({alone for alone, _beside in pairs}) == 2


def test_a_refused_export_leaves_tensorflow_and_the_model_as_they_were(workers: Workers) -> None:
    said, same, before, after = workers["tensorflow"].run("tests.model_export.surroundings:after_a_refusal")
    assert "TopKV2" in said
    assert "in_order" in said
    assert same
    assert before == after == [False, True]


def test_private_steps_are_refused_where_statistics_mix_the_examples_of_a_batch(workers: Workers) -> None:
    said = workers["tensorflow"].run("tests.model_export.refusals:of_private_steps")
    assert said["normalized"].startswith("UnsupportedModel: ")
    assert "private steps hide single examples; use GroupNormalization" in said["normalized"]
    assert said["frozen_statistics"] == ""
