"""What a whole run says: a page of `docs/`, without a date, so that it differs only where something changed."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.mutation.asking import Outcome
from tests.mutation.mutants import Mutant
from tests.mutation.reviewed import Equivalent

PAGE: Final = Path(__file__).parents[2] / "docs" / "mutation.md"
TEXT: Final = Path(__file__).with_name("page.md")
"""What the page says besides the tables."""


@dataclass(frozen=True, slots=True)
class Score:
    """Mutants of a module, or of all.

    Attributes:
        equivalent: Those that were reviewed; they are none of the survivors.
    """

    mutants: int
    killed: int
    timed_out: int
    survived: int
    equivalent: int

    @property
    def percent(self) -> float:
        """Killed or timed out, of those that are not equivalent, rounded down to a tenth; 100 of none."""
        asked = self.mutants - self.equivalent
        return 1000 * (self.killed + self.timed_out) // asked / 10 if asked else 100.0


def score(mutants: Sequence[Mutant], outcomes: Mapping[str, Outcome], reviewed: Sequence[Equivalent]) -> Score:
    """Count what became of these mutants."""
    found = Counter(outcomes[mutant.id] for mutant in mutants)
    survivors = [mutant for mutant in mutants if outcomes[mutant.id] is Outcome.SURVIVED]
    equivalent = sum(any(entry.has(mutant) for entry in reviewed) for mutant in survivors)
    return Score(
        len(mutants),
        found[Outcome.KILLED],
        found[Outcome.TIMED_OUT],
        found[Outcome.SURVIVED] - equivalent,
        equivalent,
    )


def page(mutants: Sequence[Mutant], outcomes: Mapping[str, Outcome], reviewed: Sequence[Equivalent]) -> str:
    """The page."""
    modules: dict[str, list[Mutant]] = {}
    for one in mutants:
        modules.setdefault(one.module, []).append(one)
    rows = [_row(f"`{name}.py`", score(modules[name], outcomes, reviewed)) for name in sorted(modules)]
    rows.append(_row("all", score(mutants, outcomes, reviewed)))
    left = [
        f"| `{one.module}` | `{one.function}` | {_code(one.before)} | {_code(one.after)} |"
        for one in mutants
        if outcomes[one.id] is Outcome.SURVIVED and not any(entry.has(one) for entry in reviewed)
    ]
    same = [
        f"| `{one.module}` | {_code(one.before)} | {' <br> '.join(map(_code, one.after))} | {one.reason} |"
        for one in reviewed
    ]
    return (
        TEXT.read_text()
        .replace("{modules}", "\n".join(rows))
        .replace("{survivors}", "\n".join(left) or "| none | | | |")
        .replace("{equivalents}", "\n".join(same) or "| none | | | |")
    )


def _row(name: str, found: Score) -> str:
    cells = (found.mutants, found.killed, found.timed_out, found.survived, found.equivalent)
    return f"| {name} | {' | '.join(map(str, cells))} | {found.percent:.1f} % |"


def _code(text: str) -> str:
    """Code in a cell of a table: neither a bar nor a back-tick can end it."""
    return f"<code>{html.escape(text, quote=False).replace('|', '&#124;').replace('`', '&#96;')}</code>"
