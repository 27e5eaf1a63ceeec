"""Which functions a change to a module touches, by comparing what the two sources compile to."""

from __future__ import annotations

from dataclasses import dataclass
from types import CodeType
from typing import Final

_OF_A_FUNCTION: Final = 0x1
"""The flag of codes that are a function's, and not a class's or a module's."""
_COMPARED: Final = (
    "co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_flags", "co_argcount",
    "co_kwonlyargcount", "co_posonlyargcount", "co_exceptiontable",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Changed:
    """A function with another code.

    Attributes:
        name: With its class.
        line: Its first line in the module as it was.
        code: What it becomes.
    """

    name: str
    line: int
    code: CodeType


def changed_functions(original: str, mutated: str) -> list[Changed] | None:
    """The functions that differ; None if something differs that runs when the module is imported."""
    old, new = (compile(text, "mutant", "exec", dont_inherit=True) for text in (original, mutated))
    found: list[Changed] = []
    return found if _only_functions(old, new, found) else None


def _only_functions(old: CodeType, new: CodeType, found: list[Changed]) -> bool:
    if not _alike(old, new):
        return False
    for one, other in zip(old.co_consts, new.co_consts, strict=True):
        if not isinstance(one, CodeType) or _same(one, other):
            continue
        if not one.co_flags & _OF_A_FUNCTION:
            if not _only_functions(one, other, found):
                return False
        elif "<" in one.co_name or one.co_freevars != other.co_freevars:
            return False  # it has no name by which it could be found, or another closure
        else:
            found.append(Changed(one.co_qualname, one.co_firstlineno, other))
    return True


def _alike(old: CodeType, new: CodeType) -> bool:
    """Whether two codes are the same but for their lines and the codes inside."""
    old_plain, new_plain = (
        [None if isinstance(const, CodeType) else const for const in code.co_consts] for code in (old, new)
    )
    return repr(old_plain) == repr(new_plain) and all(getattr(old, name) == getattr(new, name) for name in _COMPARED)


def _same(old: CodeType, new: CodeType) -> bool:
    return _alike(old, new) and all(
        _same(one, other)
        for one, other in zip(old.co_consts, new.co_consts, strict=True)
        if isinstance(one, CodeType) and isinstance(other, CodeType)
    )
