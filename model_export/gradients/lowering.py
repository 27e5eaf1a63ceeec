"""From a traced TensorFlow function to built-in operators of TFLite, forwards and backwards.

A function is traced once by TensorFlow, as it is: an unmodified Keras model, a `tf.Module`, a loss of one's own. The
trace is then emitted again, operation by operation, by a rule for each kind. A rule knows how to write its operator
with what the interpreters run fast, and the gradient of that. So there is no global state to change and to restore: two
threads can export at the same time, and an error leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import tensorflow as tf

from model_export.errors import no_rule
from model_export.gradients import (
    activations,
    convolution,
    depthwise,
    elementwise,
    embedding,
    layout,
    losses,
    matmul,
    normalization,
    pooling,
    reductions,
)
from model_export.gradients.constants import folded_constants
from model_export.gradients.elementwise import MANY_SIDES
from model_export.gradients.fusion import fused
from model_export.gradients.matmul import product_left_transposed
from model_export.gradients.randomness import DRAWS, drawn
from model_export.gradients.rule import Lowered, OuterProduct, Rule, Share, copied
from model_export.gradients.shapes import spread
from model_export.gradients.trace import Key, Node, Trace

RULES: Final[Mapping[str, Rule]] = {
    **elementwise.RULES,
    **activations.RULES,
    **reductions.RULES,
    **layout.RULES,
    **matmul.RULES,
    **convolution.RULES,
    **depthwise.RULES,
    **pooling.RULES,
    **normalization.RULES,
    **embedding.RULES,
    **losses.RULES,
}
"""By TensorFlow's name of the operator."""


class Emission:
    """One emission of a trace into the graph that is being built.

    Args:
        trace: What to emit.
        inputs: For the trace's arguments, in order.
        read: The value of a variable.
        trained: Variables whose gradients will be asked for, by key.
        updated: Variables whose new values will be asked for, by key.
        seed: For random numbers.
        given: Values of the trace that are there already, by key; their gradients may be asked for too.
        targets: Values to emit instead of the outputs, by key.

    Attributes:
        outputs: Of the trace, by name.
        updates: New values of updated variables, by key.
        values: Everything that was emitted, by key.

    Raises:
        UnsupportedModel: An operator on the way to a trained variable has no rule.
    """

    def __init__(
        self,
        trace: Trace,
        inputs: Sequence[tf.Tensor],
        read: Callable[[tf.Variable], tf.Tensor],
        *,
        trained: Iterable[Key] = (),
        updated: Iterable[Key] = (),
        seed: tf.Tensor | None = None,
        given: Mapping[Key, tf.Tensor] | None = None,
        targets: Sequence[Key] | None = None,
    ) -> None:
        self._trace = trace
        self._read = read
        self.values: dict[Key, tf.Tensor] = dict(zip(trace.inputs, inputs, strict=True))
        self.values.update(given or {})
        self._live: set[Key] = {*trained, *(given or {})}
        in_training = losses.TRAINED_RULES if self._live else {}
        self._rules: Mapping[str, Rule] = {**RULES, **in_training}
        self._seed = seed
        self._steps: list[tuple[Node, Lowered]] = []
        ends = list(trace.outputs.values()) if targets is None else list(targets)
        wanted = [*ends, *(trace.updates[key] for key in updated)]
        self._nodes = fused(trace.nodes, [*wanted, *trace.read_by_own_gradients])
        self._emit(self._nodes, wanted)
        self.outputs = {name: self._value(key) for name, key in trace.outputs.items()} if targets is None else {}
        self.updates = {key: self._value(trace.updates[key]) for key in updated}

    def shares(self, upstream: Mapping[Key, tf.Tensor], wanted: Sequence[Key]) -> list[list[Share]]:
        """What makes up the gradients of wanted values, given those of others; `added_up` makes one of them."""
        shares: dict[Key, list[Share]] = {}
        for key, gradient in upstream.items():
            shares.setdefault(key, []).append(gradient)
        for node, step in reversed(list(self._steps)):
            of_outputs = [added_up(shares.pop(key, [])) for key in node.outputs]
            if step.backward is None or all(one is None for one in of_outputs):
                continue
            if not step.broadcasts or any(_must_be_whole(output) for output in step.outputs):
                of_outputs = [
                    None if one is None else spread(one, output)
                    for one, output in zip(of_outputs, step.outputs, strict=True)
                ]
            for key, share in zip(node.inputs, step.backward(*of_outputs), strict=True):
                if share is not None and key in self._live:
                    shares.setdefault(key, []).append(share)
        return [shares.get(key, []) for key in wanted]

    def _emit(self, nodes: Sequence[Node], wanted: Iterable[Key]) -> None:
        """Emit what the wanted values need and is not there yet."""
        for node in _needed(nodes, wanted, self.values):
            inputs = [self._value(key) for key in node.inputs]
            live = any(key in self._live for key in node.inputs)
            step = self._step(node, inputs, live)
            self.values.update(zip(node.outputs, step.outputs, strict=True))
            self._steps.append((node, step))
            if live and step.backward is not None:
                self._live.update(node.outputs)

    def _step(self, node: Node, inputs: Sequence[tf.Tensor], live: bool) -> Lowered:
        if node.op.type == "IdentityN":
            return Lowered(tuple(inputs), lambda *upstream: self._identities(node, upstream))
        constants = folded_constants(node.op, inputs)
        if constants is not None:
            return Lowered(constants)
        if node.op.type in DRAWS:
            return drawn(node.op, inputs[0], self._seed, salt=node.outputs[0])
        rule = self._rules.get(node.op.type)
        if rule is not None:
            return rule(node.op, *inputs)
        if live:
            raise no_rule(node.op)
        return copied(node.op, *inputs)

    def _identities(self, node: Node, upstream: Sequence[tf.Tensor | None]) -> Sequence[Share]:
        """Pass on, or ask the model's own gradient if there is one."""
        own = self._trace.own_gradients.get(node.outputs[0])
        if own is None:
            return upstream
        given = [
            tf.zeros_like(self._value(key)) if one is None else one
            for key, one in zip(node.outputs, upstream, strict=True)
        ]
        self.values.update(zip(own.upstream, given, strict=True))
        self._emit([*self._nodes, *own.nodes], [key for key in own.shares if key is not None])
        return [None if key is None else self._value(key) for key in own.shares]

    def _value(self, key: Key) -> tf.Tensor:
        if key not in self.values:
            variable = self._trace.variables.get(key)
            if variable is not None:
                self.values[key] = self._read(variable)
            else:
                self.values[key] = tf.constant(self._trace.constants[key])
        return self.values[key]


def _must_be_whole(output: tf.Tensor) -> bool:
    """Whether a product that repeats along a side would end tflite-runtime 2.14: a MUL that XNNPACK does not take."""
    return bool(output.shape.rank and output.shape.rank >= MANY_SIDES and not output.shape.is_fully_defined())


def _needed(nodes: Sequence[Node], wanted: Iterable[Key], present: Mapping[Key, tf.Tensor]) -> list[Node]:
    """The nodes on the way to the wanted values, in order."""
    missing = set(wanted)
    found = []
    for node in reversed(nodes):
        if any(key in missing and key not in present for key in node.outputs):
            found.append(node)
            missing.update(node.inputs)
    return found[::-1]


def added_up(shares: Sequence[Share]) -> tf.Tensor | None:
    """The sum of shares, None of none; outer products are added before they are computed."""
    products = [share for share in shares if isinstance(share, OuterProduct)]
    total = None
    if len(products) == 1:
        total = product_left_transposed(products[0].left, products[0].right)
    elif products:
        left, right = (tf.concat([getattr(one, side) for one in products], 0) for side in ("left", "right"))
        total = product_left_transposed(left, right)
    for share in shares:
        if isinstance(share, OuterProduct) or share is None:
            continue
        total = share if total is None else total + share
    return total
