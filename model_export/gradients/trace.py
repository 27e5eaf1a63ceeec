"""A function as TensorFlow traced it, flattened to a list of operations over named values.

Calls of other functions are written out, and variables become values: reading one after it was assigned gives what was
assigned. This is the only file that looks into TensorFlow's graphs beyond its public interface (function bodies and the
gradients that models define with `tf.custom_gradient`); TensorFlow is pinned because of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import tensorflow as tf
from tensorflow.python.framework import function_def_to_graph, ops

from model_export.errors import unsupported
from model_export.gradients.randomness import DRAWS

_CALLS: Final = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_SKIPPED: Final = frozenset({"Placeholder", "NoOp", "Assert", "VarIsInitializedOp"})

Key = str
"""The name of a value in a trace."""


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operation; values by key."""

    op: tf.Operation
    inputs: tuple[Key, ...]
    outputs: tuple[Key, ...]


@dataclass(frozen=True, slots=True, eq=False)
class OwnGradient:
    """The gradient that a model gives for a part of itself, traced as well."""

    upstream: tuple[Key, ...]
    shares: tuple[Key | None, ...]
    """One for each input of the part."""
    nodes: tuple[Node, ...]


class Trace:
    """A traced function.

    Args:
        function: Takes tensors, gives tensors by name.
        specs: Of its arguments.

    Attributes:
        nodes: In an order in which each comes after what it needs.
        inputs: Of the arguments, in order.
        outputs: By name.
        variables: What the function reads, by key.
        constants: Tensors that it captured, by key.
        shapes: Of the outputs, by name.
        updates: What it assigns, as the variable's key to the value's.
        own_gradients: By the first output of the part.
    """

    def __init__(self, function: Callable[..., Mapping[str, tf.Tensor]], specs: Sequence[tf.TensorSpec]) -> None:
        concrete = tf.function(function, input_signature=list(specs), autograph=False).get_concrete_function()
        self._concrete = concrete  # keeps what it captured alive
        self.nodes: list[Node] = []
        self.variables: dict[Key, tf.Variable] = {}
        self.constants: dict[Key, tf.Tensor] = {}
        self.own_gradients: dict[Key, OwnGradient] = {}
        self._alias: dict[Key, Key] = {}
        self._current: dict[Key, Key] = {}
        self._capture(concrete.graph)
        self.inputs = tuple(one.name for one in concrete.graph.inputs[: len(specs)])
        self._flatten(concrete.graph, concrete.graph.get_operations(), "", self.nodes)
        structured = concrete.structured_outputs
        self.outputs = {name: self._key(tensor, "") for name, tensor in _graph_outputs(concrete, structured).items()}
        self.updates = {key: value for key, value in self._current.items() if value != key}
        self.shapes = {name: one.shape for name, one in _graph_outputs(concrete, structured).items()}

    @property
    def draws(self) -> bool:
        """Whether the function draws random numbers."""
        return any(node.op.type in DRAWS for node in self.nodes)

    @property
    def read_by_own_gradients(self) -> list[Key]:
        """What the gradients that a model gives read, beside the nodes."""
        own = self.own_gradients.values()
        read = [key for one in own for node in one.nodes for key in node.inputs]
        return read + [key for one in own for key in one.shares if key is not None]

    def _capture(self, graph: Any) -> None:
        by_handle = {id(variable.handle): variable for variable in graph.variables}
        for outside, inside in graph.captures:
            variable = by_handle.get(id(outside))
            if variable is not None:
                self.variables[inside.name] = variable
                self._current[inside.name] = inside.name
            elif outside.dtype != tf.resource:
                self.constants[inside.name] = outside

    def _key(self, tensor: tf.Tensor, prefix: str) -> Key:
        key: Key = prefix + tensor.name
        while key in self._alias:
            key = self._alias[key]
        return key

    def _flatten(self, graph: Any, operations: Sequence[tf.Operation], prefix: str, nodes: list[Node]) -> None:
        for op in operations:
            if op.type in _SKIPPED:
                continue
            inputs = tuple(self._key(one, prefix) for one in op.inputs)
            if op.type in _CALLS:
                self._inline(graph, op, inputs, prefix, nodes)
            elif op.type == "ReadVariableOp":
                self._alias[prefix + op.outputs[0].name] = self._current.get(inputs[0], inputs[0])
            elif op.type == "AssignVariableOp":
                self._current[inputs[0]] = inputs[1]
            elif op.type in ("AssignAddVariableOp", "AssignSubVariableOp"):
                self._current[inputs[0]] = f"{op.name} (not followed)"
            else:
                if op.type == "ResourceGather":
                    inputs = (self._current.get(inputs[0], inputs[0]), *inputs[1:])
                if op.type in DRAWS:
                    inputs = inputs[:1]
                node = Node(op, inputs, tuple(prefix + one.name for one in op.outputs))
                nodes.append(node)
                self._note_own_gradient(graph, node, prefix)

    def _inline(self, graph: Any, op: tf.Operation, inputs: tuple[Key, ...], prefix: str, nodes: list[Node]) -> None:
        definition = graph._get_function(op.get_attr("f").name).cached_definition
        body = function_def_to_graph.function_def_to_graph(definition)
        inner = f"{prefix}{op.name}/"
        for placeholder, key in zip(body.inputs, inputs, strict=True):
            self._alias[inner + placeholder.name] = key
        self._flatten(body, body.get_operations(), inner, nodes)
        for outside, inside in zip(op.outputs, body.outputs, strict=True):
            self._alias[prefix + outside.name] = self._key(inside, inner)

    def _note_own_gradient(self, graph: Any, node: Node, prefix: str) -> None:
        """Trace the gradient of a part that the model wrapped in `tf.custom_gradient`."""
        if node.op.type != "IdentityN" or "_gradient_op_type" not in node.op.node_def.attr:
            return
        before = len(graph.get_operations())
        with graph.as_default():
            upstream = [tf.compat.v1.placeholder(one.dtype, one.shape) for one in node.op.outputs]
            shares = ops.get_gradient_function(node.op)(node.op, *upstream)
        found: list[Node] = []
        self._flatten(graph, graph.get_operations()[before:], prefix, found)
        keys = tuple(None if one is None else self._key(one, prefix) for one in shares)
        self.own_gradients[node.outputs[0]] = OwnGradient(
            tuple(prefix + one.name for one in upstream), keys, tuple(found)
        )


def _graph_outputs(concrete: Any, structured: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """The tensors of the graph behind the outputs by name."""
    flat = tf.nest.flatten(structured)
    if len(flat) != len(concrete.graph.outputs):
        raise unsupported("a traced function returns something that is not a tensor")
    names = tf.nest.flatten(dict(sorted((name, name) for name in structured)))
    return dict(zip(names, concrete.graph.outputs, strict=True))
