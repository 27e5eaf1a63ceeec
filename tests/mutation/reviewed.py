"""Mutants that were looked at by a person and found to be no bug: `equivalent.toml`, each with the reason."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.mutation.mutants import Mutant

REVIEWED: Final = Path(__file__).with_name("equivalent.toml")


@dataclass(frozen=True, slots=True)
class Equivalent:
    """A line of one function, what it may become, and why nobody can tell."""

    module: str
    function: str
    before: str
    after: tuple[str, ...]
    reason: str

    def has(self, mutant: Mutant) -> bool:
        here = (self.module, self.function, self.before) == (mutant.module, mutant.function, mutant.before)
        return here and mutant.after in self.after


def read() -> tuple[Equivalent, ...]:
    """The reviewed list.

    Raises:
        ValueError: An entry lacks something.
    """
    found = []
    for number, one in enumerate(tomllib.loads(REVIEWED.read_text())["mutant"], 1):
        texts = [one.get(name) for name in ("module", "before", "reason")]
        if not all(texts) or not one.get("after") or one.keys() - {"module", "function", "before", "after", "reason"}:
            raise ValueError(f"entry {number} of {REVIEWED.name} has module, function, before, after and reason")
        found.append(
            Equivalent(one["module"], one.get("function", ""), one["before"], tuple(one["after"]), one["reason"])
        )
    return tuple(found)


def stale(entries: Sequence[Equivalent], mutants: Sequence[Mutant]) -> list[str]:
    """What the list says of mutants that do not exist."""
    return [
        f"{entry.module} {entry.function}: {after}"
        for entry in entries
        for after in entry.after
        if not any(entry.has(mutant) and mutant.after == after for mutant in mutants)
    ]
