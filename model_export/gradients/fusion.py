"""Changes the order of operations where that saves work and changes no value.

A maximum commutes with adding a constant to a channel and with relu, which never decreases. So

    max_pool(relu(x + bias)) = relu(max_pool(x) + bias)

and addition, relu and their gradients see a quarter of the values. Ties change nothing either: where relu makes several
values of a window 0, their gradient is 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from model_export.gradients.trace import Key, Node

_ADDITIONS = frozenset({"BiasAdd", "Add", "AddV2"})
_MONOTONE = frozenset({"Relu", "Relu6"})


def fused(nodes: Sequence[Node], wanted: Sequence[Key]) -> list[Node]:
    """The same values under the same keys, with pooling first where it may be.

    Args:
        wanted: Keys that must stay, though no node reads them.
    """
    maker = {key: node for node in nodes for key in node.outputs}
    readers = Counter(key for node in nodes for key in node.inputs)
    readers.update(wanted)
    replaced: dict[Key, list[Node]] = {}
    dropped: set[Key] = set()
    for node in nodes:
        if node.op.type != "MaxPool":
            continue
        chain = _chain(node, maker, readers)
        if chain:
            replaced[node.outputs[0]] = _pool_first(node, chain)
            dropped.update(one.outputs[0] for one in chain)
    found: list[Node] = []
    for node in nodes:
        if node.outputs and node.outputs[0] in dropped:
            continue
        found.extend(replaced.get(node.outputs[0], [node]) if node.outputs else [node])
    return found


def _chain(pool: Node, maker: dict[Key, Node], readers: Counter[Key]) -> list[Node]:
    """Nodes before a pooling that may come after it, last first; each is read by the next one alone."""
    chain: list[Node] = []
    key = pool.inputs[0]
    while key in maker and readers[key] == 1 and (maker[key].op.type in _MONOTONE or _adds_to_channels(maker[key])):
        chain.append(maker[key])
        key = maker[key].inputs[0]
    return chain


def _adds_to_channels(node: Node) -> bool:
    """Whether a node adds one number to each channel of an image."""
    if node.op.type not in _ADDITIONS:
        return False
    image, bias = (one.shape for one in node.op.inputs)
    return bool(image.rank == 4 and bias.rank == 1)


def _pool_first(pool: Node, chain: list[Node]) -> list[Node]:
    """The pooling, then the chain in its own order; the last node has the pooling's output."""
    keys = [f"{pool.outputs[0]}/before/{place}" for place in range(len(chain))] + [pool.outputs[0]]
    nodes = [Node(pool.op, (chain[-1].inputs[0],), (keys[0],))]
    for place, node in enumerate(reversed(chain)):
        nodes.append(Node(node.op, (keys[place], *node.inputs[1:]), (keys[place + 1],)))
    return nodes
