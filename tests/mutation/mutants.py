"""Mutants of a module: its source with one small deliberate bug each.

The operators are mutmut's; two more are ours, because what matters here are checks that are left out: a statement that
is a call is dropped, and a guard never holds. Not mutated is what no test could see or should hold fast: annotations
and type aliases, decorators, and sentences, which are for people.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import libcst as cst
import libcst.matchers as m
from mutmut.mutation.mutators import mutation_operators

Operator: TypeAlias = Callable[[Any], Iterable[cst.CSTNode]]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change.

    Attributes:
        id: The same as long as the change is, wherever its lines move to.
        module: Name of the file, without its ending.
        function: Where in the file, with its class; empty at the top.
        before: The lines that change, stripped.
        after: What they become.
        source: The whole module with the change.
    """

    id: str
    module: str
    function: str
    before: str
    after: str
    source: str = field(repr=False)


def _dropped(node: cst.Expr) -> Iterator[cst.Pass]:
    """A statement that is a call is left out."""
    if isinstance(node.value, cst.Call):
        yield cst.Pass()


def _never(node: cst.If) -> Iterator[cst.If]:
    """A guard never holds."""
    yield node.with_changes(test=cst.Name("False"), whitespace_before_test=cst.SimpleWhitespace(" "))


OPERATORS: Final[Sequence[tuple[type, Operator]]] = (*mutation_operators, (cst.Expr, _dropped), (cst.If, _never))


def mutants_of(module: str, source: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its lines; those that are the same text are one."""
    tree = cst.parse_module(source)
    texts = [tree.code_for_node(statement) for statement in tree.body]
    found: dict[str, Mutant] = {}
    seen: Counter[tuple[str, str, str]] = Counter()
    for place, statement in enumerate(tree.body):
        above, below = source[: -len("".join(texts[place:]))], "".join(texts[place + 1 :])
        visitor = _Changes()
        statement.visit(visitor)
        for function, node, other in visitor.changes:
            mutated = above + tree.code_for_node(_replaced(statement, node, other)) + below
            if mutated == source or mutated in found or not _compiles(mutated):
                continue
            key = (function, *_difference(source, mutated))
            seen[key] += 1
            name = hashlib.sha256(repr((module, *key, seen[key])).encode()).hexdigest()[:12]
            found[mutated] = Mutant(name, module, *key, mutated)
    return list(found.values())


class _Changes(cst.CSTVisitor):
    """Walks a module and notes every node with what it may become."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[tuple[str, cst.CSTNode, cst.CSTNode]] = []
        self._inside: list[str] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if _left_alone(node):
            return False
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self._inside.append(node.name.value)
        for kind, operator in OPERATORS:
            if isinstance(node, kind):
                self.changes += [(".".join(self._inside), node, other) for other in operator(node)
                                 if not _of_no_matter(node, other)]  # fmt: skip
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, cst.FunctionDef | cst.ClassDef):
            self._inside.pop()


def _left_alone(node: cst.CSTNode) -> bool:
    match node:
        case cst.Annotation() | cst.Decorator() | cst.Import() | cst.ImportFrom():
            return True
        case cst.AnnAssign(annotation=cst.Annotation(annotation=cst.Name(value="TypeAlias"))):
            return True
        case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value="__all__" | "__slots__"))]):
            return True
        case cst.SimpleString() | cst.FormattedStringText():
            return _is_sentence(node)
    return False


def _is_sentence(node: cst.CSTNode) -> bool:
    match node:
        case cst.SimpleString(value=text) | cst.FormattedStringText(value=text):
            return " " in text
        case cst.FormattedString(parts=parts):
            return any(map(_is_sentence, parts))
        case cst.ConcatenatedString(left=left, right=right):
            return _is_sentence(left) or _is_sentence(right)
    return False


def _of_no_matter(node: cst.CSTNode, other: cst.CSTNode) -> bool:
    """Whether a call changes by a sentence among its arguments alone, or by a False that becomes None."""
    if not isinstance(node, cst.Call) or not isinstance(other, cst.Call):
        return False
    changed = [one.value for one in node.args if not any(one is kept for kept in other.args)]
    falsy = len(node.args) == len(other.args) and all(m.matches(one, m.Name("False")) for one in changed)
    return bool(changed) and (falsy or all(map(_is_sentence, changed)))


def _replaced(statement: cst.CSTNode, node: cst.CSTNode, other: cst.CSTNode) -> cst.CSTNode:
    changed = statement.deep_replace(node, other)
    if not isinstance(changed, cst.CSTNode):
        raise TypeError("a mutant of a statement is a statement")
    return changed


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True


def _difference(source: str, mutated: str) -> tuple[str, str]:
    """The lines that differ, stripped and joined."""
    old, new = source.splitlines(), mutated.splitlines()
    shorter = min(len(old), len(new))
    begin = next((at for at in range(shorter) if old[at] != new[at]), shorter)
    end = next((at for at in range(shorter - begin) if old[-1 - at] != new[-1 - at]), shorter - begin)
    return _joined(old[begin : len(old) - end]), _joined(new[begin : len(new) - end])


def _joined(lines: Sequence[str]) -> str:
    return " ".join(line.strip() for line in lines)
