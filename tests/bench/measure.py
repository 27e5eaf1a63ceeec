"""How a row of `build/bench.json` is measured: ours and the limit by turns, median process CPU time of at least 7."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

REPEATS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One comparison. `ratio` is cost ours / limit, rates inverted: lower is better."""

    id: str
    ours: float
    limit: float
    ratio: float
    bound: float
    """The ratio that ours must reach."""
    unit: str
    how: str


def cpu_s(work: Callable[[], object]) -> float:
    """Process CPU seconds of one call, threads included."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def by_turns(ours: Callable[[], object], limit: Callable[[], object], repeats: int = REPEATS) -> tuple[float, float]:
    """Median CPU seconds of each, measured alternately after one unmeasured call of both."""
    ours()
    limit()
    pairs = [(cpu_s(ours), cpu_s(limit)) for _ in range(repeats)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def cost_row(
    id_: str, ours: Callable[[], object], limit: Callable[[], object], *, bound: float, how: str, count: int = 1
) -> Row:
    """A row of costs in milliseconds for one of `count` pieces of work that each call does."""
    ours_s, limit_s = by_turns(ours, limit)
    return Row(
        id=id_,
        ours=round(ours_s / count * 1e3, 4),
        limit=round(limit_s / count * 1e3, 4),
        ratio=round(ours_s / limit_s, 3),
        bound=bound,
        unit="ms CPU",
        how=how,
    )


def rate_row(
    id_: str, ours: Callable[[], object], limit: Callable[[], object], *, bound: float, how: str, count: int
) -> Row:
    """A row of rates a CPU second for `count` pieces of work that each call does."""
    ours_s, limit_s = by_turns(ours, limit)
    return Row(
        id=id_,
        ours=round(count / ours_s, 1),
        limit=round(count / limit_s, 1),
        ratio=round(ours_s / limit_s, 3),
        bound=bound,
        unit="per CPU s",
        how=how,
    )
