"""ε by round, drawn: as text for a terminal, and as SVG.

Both have one logarithmic scale, so that a mode that costs thousands does not press the others flat.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_BARS: Final = " ▁▂▃▄▅▆▇█"
_WIDTH, _LEFT, _TOP, _RIGHT, _BELOW = 890, 92, 56, 385, 64
_PLOT_HEIGHT, _LINE_HEIGHT = 300, 19
_COLOURS: Final = {"distributed": "#0b6e99", "central": "#b4531b", "correlated": "#7a3c78", "local": "#3c7a3c"}
_OTHER: Final = "#555555"
_BUDGET: Final = "#b00020"
_HALO: Final = 'stroke="white" stroke-width="4" paint-order="stroke"'
_DASHES: Final = ' stroke-dasharray="6 3"'
_SMALLEST: Final = 1e-3
"""ε below it is drawn at it."""
_LARGEST: Final = 1e6
"""A budget above it is drawn at it."""
_MISSED: Final = "* misses the budget: with the noise that the error allows"
_WORDS: Final = {-1: "hardly anything", 0: "strong", 1: "weak, better than nothing"}
"""Beside a power of ten: what such an ε is worth."""


@dataclass(frozen=True, slots=True)
class Curve:
    """ε of one mode against one opponent.

    Attributes:
        kept: Whether the mode keeps budget and error.
        points: Rounds and ε, to the last round for which there is a bound.
        rounds: Of the whole training.
    """

    mode: str
    opponent: str
    kept: bool
    points: tuple[tuple[int, float], ...]
    rounds: int

    @property
    def name(self) -> str:
        """As a legend has it; a star where the budget is missed."""
        return f"{self.mode}, {self.opponent}" + ("" if self.kept else " *")

    @property
    def end(self) -> str:
        """ε after the last round."""
        if not self.points:
            return "no bound"
        last, value = self.points[-1]
        return f"ε = {number(value)}" if last == self.rounds else f"no bound after round {last:,}"


def curves(advice: Any) -> list[Curve]:
    """The curves of a plan: of each mode, against each opponent from whom it protects."""
    from coordinator.core.privacy.statement import PROTECTS, Mode, Opponent

    return [
        Curve(
            one["mode"],
            opponent.value,
            one["reachable"],
            tuple((at["round"], at[opponent.value]) for at in one["by_round"] if at[opponent.value] is not None),
            one["by_round"][-1]["round"],
        )
        for one in advice["modes"]
        for opponent in Opponent
        if opponent in PROTECTS[Mode(one["mode"])]
    ]


def lines(advice: Any) -> Iterator[str]:
    """One line a curve: how ε grows from the first round to the last, and what it is then."""
    drawn = curves(advice)
    low, high = _range(drawn)
    width = max((len(curve.name) for curve in drawn), default=0)
    longest = max((len(curve.points) for curve in drawn), default=0)
    for curve in drawn:
        bars = "".join(_BARS[1 + round((len(_BARS) - 2) * _share(value, low, high))] for _at, value in curve.points)
        after = f" after {curve.rounds:,} rounds" if curve.points and curve.points[-1][0] == curve.rounds else ""
        yield f"{curve.name:{width}}  {bars:{longest}}  {curve.end}{after}"
    yield f"All bars have one logarithmic scale, from ε = {number(low)} to ε = {number(high)}."
    yield from _notes(advice, drawn)


def svg(advice: Any, title: str, budgets: Mapping[str, float] | None = None) -> str:
    """The same as a picture, with axes.

    Args:
        budgets: ε against each opponent for whom there is one: a line across all curves.
    """
    drawn, allowed = curves(advice), budgets or {}
    notes = list(_notes(advice, drawn))
    height = _TOP + _PLOT_HEIGHT + _BELOW + _LINE_HEIGHT * len(notes)
    ends = [*_range(drawn), *map(_drawable, allowed.values())]
    low, high = min(ends), max(ends)
    low, high = 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high))
    high = max(high, 10 * low)
    last = max((curve.rounds for curve in drawn), default=1)
    look = 'font-family="sans-serif" font-size="13" fill="#222222"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" {look}>',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">{html.escape(title)}</text>',
        *_axes(last, low, high),
    ]
    parts += _budget_lines(allowed, len(drawn), low, high)
    for place, curve in enumerate(drawn):
        parts += _drawn(curve, place, last, low, high)
    parts += _worth(low, high)
    for place, note in enumerate(notes):
        y = _TOP + _PLOT_HEIGHT + _BELOW + _LINE_HEIGHT * place
        parts.append(f'<text x="{_LEFT}" y="{y}" fill="#555555">{html.escape(note)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def number(value: float) -> str:
    """Three digits that tell, never a power of ten."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _range(drawn: Sequence[Curve]) -> tuple[float, float]:
    """The smallest and the largest ε of all."""
    values = [max(value, _SMALLEST) for curve in drawn for _at, value in curve.points] or [1.0]
    return min(values), max(values)


def _drawable(epsilon: float) -> float:
    return min(max(epsilon, _SMALLEST), _LARGEST)


def _share(value: float, low: float, high: float) -> float:
    """Where a value lies between both, in logarithms; 1 where they are the same."""
    return math.log(max(value, _SMALLEST) / low) / math.log(high / low) if high > low else 1.0


def _notes(advice: Any, drawn: Sequence[Curve]) -> Iterator[str]:
    if any(not curve.kept for curve in drawn):
        yield _MISSED
    if "correlated" not in {one["mode"] for one in advice["modes"]}:
        yield "correlated noise is not drawn: it needs devices that stay away for some rounds (--separation)"


def _drawn(curve: Curve, place: int, last: int, low: float, high: float) -> Iterator[str]:
    """A curve in steps, each as high as ε is at its end, and its line of the legend."""
    colour = _COLOURS.get(curve.mode, _OTHER)
    stroke = f'fill="none" stroke="{colour}" stroke-width="2"'
    stroke += "" if curve.opponent == "coordinator" else _DASHES
    begins = (0, *(at for at, _value in curve.points))
    corners = (
        f"{_x(at, last):.1f},{_y(value, low, high):.1f}"
        for begin, (end, value) in zip(begins, curve.points, strict=False)
        for at in (begin, end)
    )
    yield f'<polyline points="{" ".join(corners)}" {stroke}/>'
    yield from _legend(place, f"{curve.name}: {curve.end}", stroke)


def _budget_lines(budgets: Mapping[str, float], curves: int, low: float, high: float) -> Iterator[str]:
    """A line across the picture at each budget, and below the curves' lines of the legend its own."""
    for place, (opponent, epsilon) in enumerate(budgets.items(), start=curves):
        y = _y(_drawable(epsilon), low, high)
        dashes = "" if opponent == "coordinator" else _DASHES
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_BUDGET}"{dashes}/>'
        yield from _legend(place, f"budget, {opponent}: ε = {number(epsilon)}", f'stroke="{_BUDGET}"{dashes}')


def _legend(place: int, words: str, stroke: str) -> Iterator[str]:
    x, y = _WIDTH - _RIGHT + 16, _TOP + 30 + _LINE_HEIGHT * place
    yield f'<line x1="{x}" x2="{x + 26}" y1="{y - 4}" y2="{y - 4}" {stroke}/>'
    yield f'<text x="{x + 34}" y="{y}">{html.escape(words)}</text>'


def _axes(last: int, low: float, high: float) -> Iterator[str]:
    right, bottom = _WIDTH - _RIGHT, _TOP + _PLOT_HEIGHT
    yield f'<text x="{(_LEFT + right) / 2:.0f}" y="{bottom + 38}" text-anchor="middle">round</text>'
    yield f'<text x="{_LEFT - 8}" y="{_TOP - 14}" text-anchor="end" font-size="16">ε</text>'
    yield f'<text x="{right + 16}" y="{_TOP + 8}" fill="#555555">mode, and against whom:</text>'
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        value = 10.0**power
        y = _y(value, low, high)
        yield f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>'
    for at in sorted({last * step // 5 for step in range(6)}):
        yield f'<text x="{_x(at, last):.1f}" y="{bottom + 18}" text-anchor="middle">{at:,}</text>'


def _worth(low: float, high: float) -> Iterator[str]:
    """What an ε is worth, above the curves that it would cross."""
    for power, words in _WORDS.items():
        if low <= 10.0**power <= high:
            y = _y(10.0**power, low, high)
            yield f'<text x="{_LEFT + 4}" y="{y - 4:.1f}" font-size="11" fill="#666666" {_HALO}>{words}</text>'


def _x(at: int, last: int) -> float:
    return _LEFT + (_WIDTH - _RIGHT - _LEFT) * at / last


def _y(value: float, low: float, high: float) -> float:
    return _TOP + _PLOT_HEIGHT * (1 - _share(value, low, high))
