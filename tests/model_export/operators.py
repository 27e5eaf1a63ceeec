"""Operators as our rules emit them, beside TensorFlow's own forward pass and `GradientTape`. TensorFlow worker only.

The oracle runs the function as it is, eagerly. Ours is the trace of the same function, emitted. Many examples share one
graph, one run and one TFLite file: a graph for each would take a hundred times as long.
"""

from __future__ import annotations

import contextlib
import inspect
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import hypothesis
import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

from model_export.errors import UnsupportedModel
from model_export.flatbuffer import operators
from model_export.gradients import Emission, Trace, added_up, losses, lowering
from model_export.gradients.rule import Lowered, Rule
from model_export.gradients.shapes import spread
from tests.model_export.comparison import Array, Expected, Group, Lot, disagreements

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One use of an operator.

    Attributes:
        what: Its attributes, for messages.
        function: From tensors to a tensor or a list of them.
        inputs: Those that are float32 get a gradient.
        batched: Whether the first side of each input is the batch; of all inputs if it is None.
        dynamic: Whether the batch is unknown while exporting.
        terms: Products that are added up for one number.
        oracle: The same, written with what TensorFlow can differentiate on a CPU, where it cannot differentiate
            `function`.
        variables: That it reads; they get a gradient too.
        statistics: That it assigns; their new values are compared.
        before: Values of the statistics.
        held: Other variables that it reads.
        within: Around tracing.
    """

    what: str
    function: Function
    inputs: tuple[Array, ...]
    batched: tuple[bool, ...] | None = None
    dynamic: bool = False
    terms: int = 1
    oracle: Function | None = None
    variables: tuple[tf.Variable, ...] = ()
    statistics: tuple[tf.Variable, ...] = ()
    before: tuple[Array, ...] = ()
    held: tuple[tf.Variable, ...] = ()
    within: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext

    def specs(self) -> list[tf.TensorSpec]:
        batched = self.batched or (True,) * len(self.inputs)
        return [
            tf.TensorSpec((None if self.dynamic and first else len(one), *one.shape[1:]) if one.ndim else (), one.dtype)
            for one, first in zip(self.inputs, batched, strict=True)
        ]


def raw(name: str, **attributes: Any) -> Function:
    """An operator of TensorFlow by its own name, with its inputs in their order."""
    operator = getattr(tf.raw_ops, name)
    names = [one for one in inspect.signature(operator).parameters if one not in attributes]
    return lambda *inputs: operator(**dict(zip(names, inputs, strict=False)), **attributes)


def drawn(strategy: st.SearchStrategy[Example], count: int, seed: int) -> list[Example]:
    """The examples that hypothesis makes of a strategy; always the same for one seed."""
    found: list[Example] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def collect(example: Example) -> None:
        found.append(example)

    collect()
    return found


def lot(cases: Mapping[str, Sequence[Example]], *, convert: bool = True) -> Lot:
    """Compare examples by name with TensorFlow, and put them into one TFLite file."""
    watch = _Watch()
    problems: list[str] = []
    functions: dict[str, Any] = {}
    groups: list[Group] = []
    with watch.watching():
        for signature, examples in _grouped(cases).items():
            for group, function, found in _groups(signature, examples):
                problems += found
                if function is not None:
                    groups.append(group)
                    functions[group.signature] = function
    variables = [
        one
        for examples in cases.values()
        for example in examples
        for one in (*example.variables, *example.statistics, *example.held)
    ]
    graph = _converted(functions, variables) if convert else b""
    if graph:
        problems += [
            f"the file needs {one.name}" for one in operators(graph) if one.name.startswith(("CUSTOM", "FLEX"))
        ]
    return Lot(graph, tuple(groups), frozenset(watch.emitted), frozenset(watch.differentiated), tuple(problems))


def refusal(example: Example) -> str:
    """The message with which a function is refused; empty if it is not."""
    said: list[str] = []

    def build(*inputs: tf.Tensor) -> list[tf.Tensor]:
        try:
            return _emit(example, _traced(example), inputs, None)[0]
        except UnsupportedModel as refused:
            said.append(str(refused))
            return [tf.constant(0.0)]

    tf.function(build, input_signature=example.specs(), autograph=False).get_concrete_function()
    return said[0] if said else ""


class _Watch:
    """Notes which rules are asked, and which of them for a gradient."""

    def __init__(self) -> None:
        self.emitted: set[str] = set()
        self.differentiated: set[str] = set()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        with contextlib.ExitStack() as patches:
            for rules in (lowering.RULES, losses.TRAINED_RULES):
                watched = {name: self._noting(name, rule) for name, rule in rules.items()}
                patches.enter_context(mock.patch.dict(rules, watched))
            yield

    def _noting(self, name: str, rule: Rule) -> Rule:
        def noting(op: tf.Operation, *inputs: tf.Tensor) -> Lowered:
            self.emitted.add(name)
            found = rule(op, *inputs)
            backward = found.backward
            if backward is None:
                return found

            def noted(*upstream: tf.Tensor | None) -> Any:
                self.differentiated.add(name)
                return backward(*upstream)

            return Lowered(found.outputs, noted, found.broadcasts)

        return noting


def _grouped(cases: Mapping[str, Sequence[Example]]) -> dict[str, list[tuple[str, Example]]]:
    """Examples of a fixed and of an unknown batch apart: one of these makes all of a graph's memory dynamic."""
    groups: dict[str, list[tuple[str, Example]]] = {}
    for name, examples in cases.items():
        for example in examples:
            groups.setdefault("dynamic" if example.dynamic else "fixed", []).append((name, example))
    return groups


def _groups(signature: str, examples: Sequence[tuple[str, Example]]) -> list[tuple[Group, Any, list[str]]]:
    """One group; where something in it fails to run, the halves of it, until the culprit is alone."""
    try:
        return [_group(signature, examples)]
    except Exception as problem:
        if len(examples) == 1:
            name, example = examples[0]
            return [(Group(signature, {}, {}), None, [f"{name} {example.what}: {type(problem).__name__}: {problem}"])]
        middle = len(examples) // 2
        return [*_groups(f"{signature}_a", examples[:middle]), *_groups(f"{signature}_b", examples[middle:])]


def _group(signature: str, examples: Sequence[tuple[str, Example]]) -> tuple[Group, Any, list[str]]:
    """Emit examples into one function, run it, and compare."""
    inputs: dict[str, Array] = {}
    specs: dict[str, tf.TensorSpec] = {}
    wanted: dict[str, Expected] = {}
    problems: list[str] = []
    pieces = []
    for index, (name, example) in enumerate(examples):
        title = f"{name} {example.what}{' with any batch' if example.dynamic else ''}"
        piece = _Piece(f"e{index}", title, example)
        piece.note(inputs, specs, wanted)
        pieces.append(piece)

    def every(**given: tf.Tensor) -> dict[str, tf.Tensor]:
        found: dict[str, tf.Tensor] = {}
        for piece in pieces:
            try:
                with tf.name_scope(piece.prefix):
                    found |= piece.emit(given)
            except Exception as problem:
                problems.append(f"{piece.title}: {type(problem).__name__}: {problem}")
                for key in [key for key in wanted if key.startswith(f"{piece.prefix}_")]:
                    del wanted[key]
        return found

    function = tf.function(every, autograph=False).get_concrete_function(**specs)
    wanted = {name: one for name, one in wanted.items() if name in function.structured_outputs or one.value.any()}
    taken = {name: inputs[name] for name in function.structured_input_signature[1]}
    found = function(**{name: tf.constant(value) for name, value in taken.items()})
    group = Group(signature, taken, wanted)
    problems += disagreements({name: value.numpy() for name, value in found.items()}, group)
    return group, function, problems


class _Piece:
    """One example inside a function of many."""

    def __init__(self, prefix: str, title: str, example: Example) -> None:
        self.prefix = prefix
        self.title = title
        self.example = example
        self.trace = _traced(example)
        self.outputs, self.upstream, self.gradients, self.moved = _oracle(title, example)

    def note(self, inputs: dict[str, Array], specs: dict[str, tf.TensorSpec], wanted: dict[str, Expected]) -> None:
        """Add what goes in and what should come out."""
        example, prefix = self.example, self.prefix
        for index, (value, spec) in enumerate(zip(example.inputs, example.specs(), strict=True)):
            inputs[f"{prefix}_x{index}"], specs[f"{prefix}_x{index}"] = value, spec
        shapes = self.trace.shapes
        for index, one in enumerate(self.outputs):
            wanted[f"{prefix}_y{index}"] = Expected(f"{self.title}, output {index}", one, example.terms)
            if self.upstream[index] is not None:
                inputs[f"{prefix}_u{index}"] = self.upstream[index]
                specs[f"{prefix}_u{index}"] = tf.TensorSpec(shapes[f"y{index}"], tf.float32)
        for index, gradient in self.gradients.items():
            wanted[f"{prefix}_g{index}"] = Expected(f"{self.title}, gradient {index}", gradient, example.terms)
        for index, value in enumerate(self.moved):
            wanted[f"{prefix}_s{index}"] = Expected(f"{self.title}, statistic {index}", value, example.terms)

    def emit(self, given: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        prefix, count = self.prefix, len(self.example.inputs)
        upstream = {index: given[f"{prefix}_u{index}"] for index, one in enumerate(self.upstream) if one is not None}
        xs = [given[f"{prefix}_x{index}"] for index in range(count)]
        outputs, gradients, statistics = _emit(self.example, self.trace, xs, upstream)
        found = {f"{prefix}_y{index}": tf.identity(one) for index, one in enumerate(outputs)}
        for index, gradient in zip(self.gradients, gradients, strict=bool(self.gradients)):
            if gradient is not None:
                found[f"{prefix}_g{index}"] = tf.identity(gradient)
        found |= {f"{prefix}_s{index}": tf.identity(one) for index, one in enumerate(statistics)}
        return found


def _moved(example: Example) -> list[Array]:
    """What a call made of the variables that it assigns; they get their values back."""
    values = [one.numpy() for one in example.statistics]
    for variable, value in zip(example.statistics, example.before, strict=True):
        variable.assign(value)
    return values


def _oracle(title: str, example: Example) -> tuple[list[Array], list[Any], dict[int, Array], list[Array]]:
    """TensorFlow's outputs, the gradients given to them, and TensorFlow's gradients of the inputs by index."""
    inputs = [tf.constant(one) for one in example.inputs]
    learned = {index: one for index, one in enumerate([*inputs, *example.variables]) if one.dtype == tf.float32}
    rng = np.random.default_rng(zlib.crc32(title.encode()))
    with tf.GradientTape() as tape:
        tape.watch([one for one in inputs if one.dtype.is_floating])
        outputs = tf.nest.flatten((example.oracle or example.function)(*inputs))
    moved = _moved(example)
    smooth = [one.dtype == tf.float32 for one in outputs]
    upstream = [
        rng.normal(size=one.shape).astype(np.float32) if learned and yes else None
        for one, yes in zip(outputs, smooth, strict=True)
    ]
    gradients: dict[int, Array] = {}
    if learned and any(smooth):
        of = [one for one, yes in zip(outputs, smooth, strict=True) if yes]
        found = tape.gradient(
            of, list(learned.values()), output_gradients=[tf.constant(one) for one in upstream if one is not None]
        )
        for (index, value), gradient in zip(learned.items(), found, strict=True):
            gradients[index] = (
                np.zeros(value.shape, np.float32) if gradient is None else tf.convert_to_tensor(gradient).numpy()
            )
    return [one.numpy() for one in outputs], upstream, gradients, moved


def _traced(example: Example) -> Trace:
    def named(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {f"y{index}": one for index, one in enumerate(tf.nest.flatten(example.function(*inputs)))}

    with example.within():
        return Trace(named, example.specs())


def _emit(
    example: Example, trace: Trace, inputs: Sequence[tf.Tensor], upstream: Mapping[int, tf.Tensor] | None
) -> tuple[list[tf.Tensor], list[tf.Tensor | None], list[tf.Tensor]]:
    """Outputs; gradients of float inputs and variables, for those of outputs by index or for ones; new statistics."""
    specs = example.specs()
    keys = {variable.ref(): key for key, variable in trace.variables.items()}
    values = [one for one, spec in zip(inputs, specs, strict=True) if spec.dtype == tf.float32]
    values += [one.read_value() for one in example.variables]
    wanted = [key for key, spec in zip(trace.inputs, specs, strict=True) if spec.dtype == tf.float32]
    wanted += [keys[one.ref()] for one in example.variables]
    updated = [key for one in example.statistics if (key := keys.get(one.ref(), "")) in trace.updates]
    emission = Emission(trace, inputs, lambda variable: variable.read_value(), trained=wanted, updated=updated)
    statistics = [emission.updates.get(keys.get(one.ref(), ""), one.read_value()) for one in example.statistics]
    outputs = [emission.outputs[f"y{index}"] for index in range(len(emission.outputs))]
    if upstream is None:
        upstream = {index: tf.ones_like(one) for index, one in enumerate(outputs) if one.dtype == tf.float32}
    if not upstream:
        return outputs, [None] * len(wanted), statistics
    shares = emission.shares({trace.outputs[f"y{index}"]: one for index, one in upstream.items()}, wanted)
    gradients = [added_up(of_one) for of_one in shares]
    full = [None if one is None else spread(one, like) for one, like in zip(gradients, values, strict=True)]
    return outputs, full, statistics


def _converted(functions: Mapping[str, Any], variables: Sequence[tf.Variable]) -> bytes:
    module = tf.Module()
    module.held = list(variables)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=dict(functions))
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(functions))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.experimental_enable_resource_variables = True
        return bytes(converter.convert())
