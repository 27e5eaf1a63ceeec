"""ε by round, drawn: as text for a terminal, and as SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

_BARS: Final = " ▁▂▃▄▅▆▇█"
_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 720, 400, 60, 30, 200, 45
_COLOURS: Final = ("#0b6e99", "#b4531b", "#3c7a3c", "#7a3c78", "#555555")


Curve = tuple[str, list[tuple[int, float]]]


def curves(advice: Any) -> list[Curve]:
    """The curves of a plan: of each mode, against each opponent from whom it protects."""
    found = []
    for one in advice["modes"]:
        for opponent in ("coordinator", "recipients"):
            points = [(at["round"], at[opponent]) for at in one["by_round"] if at[opponent] is not None]
            if points:
                found.append((f"{one['mode']}, {opponent}" + ("" if one["reachable"] else " *"), points))
    return found


def _top(drawn: Sequence[Curve]) -> float:
    """The largest ε that is drawn: of modes that keep the budget, if any does; others leave the picture."""
    kept = [points for name, points in drawn if not name.endswith("*")] or [points for _name, points in drawn]
    return max((value for points in kept for _round, value in points), default=1.0)


def lines(advice: Any) -> Iterator[str]:
    """One line a curve, all on one scale: how ε grows from the first round to the last."""
    drawn = curves(advice)
    top = _top(drawn)
    width = max((len(name) for name, _points in drawn), default=0)
    for name, points in drawn:
        heights = (min(len(_BARS) - 1, max(1, round(value / top * (len(_BARS) - 1)))) for _round, value in points)
        bars = "".join(_BARS[height] for height in heights)
        yield f"{name:{width}}  {bars}  ε = {points[-1][1]:.3g} after {points[-1][0]:,} rounds"
    if any(name.endswith("*") for name, _points in drawn):
        yield "* does not keep the budget: with the noise that the error allows"


def svg(advice: Any, title: str) -> str:
    """The same as a picture, with axes."""
    drawn = curves(advice)
    last = max((points[-1][0] for _name, points in drawn), default=1)
    top = _round_up(_top(drawn))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="18" font-size="14">{html.escape(title)}</text>',
        *_axes(last, top),
    ]
    for place, (name, points) in enumerate(drawn):
        colour = _COLOURS[place // 2 % len(_COLOURS)]
        dash = "" if "coordinator" in name else ' stroke-dasharray="6 3"'
        path = " ".join(f"{_x(at, last):.1f},{_y(value, top):.1f}" for at, value in points if value <= top)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        y = _TOP + 14 + 20 * place
        x = _WIDTH - _RIGHT + 12
        parts.append(
            f'<line x1="{x}" x2="{x + 22}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" stroke-width="2"{dash}/>'
        )
        parts.append(f'<text x="{x + 28}" y="{y}">{html.escape(name)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _axes(last: int, top: float) -> Sequence[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = [
        f'<text x="{(_LEFT + right) / 2:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">round</text>',
        f'<text x="14" y="{(_TOP + bottom) / 2:.0f}">ε</text>',
    ]
    for step in range(6):
        value, at = top * step / 5, max(1, last * step // 5)
        y = _y(value, top)
        parts.append(f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
        parts.append(f'<text x="{_x(at, last):.1f}" y="{bottom + 18}" text-anchor="middle">{at:,}</text>')
    return parts


def _x(at: int, last: int) -> float:
    return _LEFT + (_WIDTH - _RIGHT - _LEFT) * at / last


def _y(value: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * value / top


def _round_up(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(step * power for step in (1, 2, 5, 10) if value <= step * power * (1 + 1e-9))
