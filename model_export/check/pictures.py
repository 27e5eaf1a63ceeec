"""The report's two charts, as SVG that takes its colours from the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from model_export.check.report import RuntimeReport
from model_export.check.words import milliseconds

COLOURS: Final = ("--first", "--second")
"""CSS variables of the runtimes, in their order."""

_WIDTH, _HEIGHT = 480, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 34
_LOWEST: Final = 1e-10
"""Errors below it are drawn on the lower edge."""


def error_by_step(runtimes: Sequence[RuntimeReport], tolerance: float) -> str:
    """A dot for each step and runtime on a logarithmic scale, and a dashed line for what is allowed."""
    shown = [one for one in runtimes if one.errors_by_step]
    steps = max((len(one.errors_by_step) for one in shown), default=1)
    values = [value for one in shown for value in one.errors_by_step if value is not None]
    low = math.floor(math.log10(max(min([*values, tolerance / 10]), _LOWEST)))
    high = math.ceil(math.log10(max([*values, 2 * tolerance])))

    def across(step: float) -> float:
        return _LEFT + (step + 0.5) * (_WIDTH - _LEFT - _RIGHT) / steps

    def down(value: float) -> float:
        share = (math.log10(max(value, 10.0**low)) - low) / (high - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for power in range(low, high + 1, 1 + (high - low) // 7):
        y = down(10.0**power)
        parts.append(_line(_LEFT, y, _WIDTH - _RIGHT, y, "--grid"))
        parts.append(_text(_LEFT - 8, y + 4, f"1e{power}", "end"))
    parts += [_text(across(step), _HEIGHT - 12, str(step + 1), "middle") for step in range(steps)]
    y = down(tolerance)
    parts.append(_line(_LEFT, y, _WIDTH - _RIGHT, y, "--bad", ' stroke-dasharray="5 4" stroke-width="1.5"'))
    for index, one in enumerate(shown):
        beside = (index - (len(shown) - 1) / 2) * 12
        for step, value in enumerate(one.errors_by_step):
            x, height = across(step) + beside, down(value if value is not None else 10.0**high)
            title = f"{one.package}, step {step + 1}: {'not finite' if value is None else f'{value:.1e}'}"
            parts.append(
                f'<circle cx="{x:.1f}" cy="{height:.1f}" r="5" fill="var({COLOURS[index % 2]})">'
                f"<title>{escape(title)}</title></circle>"
            )
    worst = f"{max(values):.1e}" if values else "none"
    about = f"Dots. Largest relative error of any training step: {worst}; allowed are {tolerance:.0e}."
    return _picture(_HEIGHT, about, parts)


def time_by_runtime(runtimes: Sequence[RuntimeReport]) -> str:
    """A bar for the median time of a step on each runtime, and a whisker between its quartiles."""
    timed = [(one, one.timing) for one in runtimes if one.timing is not None]
    largest = max((timing.high_ms for _one, timing in timed), default=1.0)
    height = 56 * len(timed) + 8
    parts = []
    for index, (one, timing) in enumerate(timed):
        top = 56 * index + 4
        scale = (_WIDTH - 90) / largest
        width, low, high = (scale * value for value in (timing.step_ms, timing.low_ms, timing.high_ms))
        parts.append(_text(0, top + 12, one.package, "start"))
        parts.append(
            f'<rect x="0" y="{top + 18}" width="{max(width, 2):.1f}" height="22" rx="3" '
            f'fill="var({COLOURS[index % 2]})"><title>{escape(one.package)}</title></rect>'
        )
        parts.append(_line(low, top + 29, max(high, low + 1), top + 29, "--ink", ' stroke-width="2"'))
        parts.append(_text(max(high, width) + 8, top + 34, milliseconds(timing.step_ms), "start", "value"))
    words = ", ".join(f"{one.package} {milliseconds(timing.step_ms)}" for one, timing in timed)
    return _picture(height, f"Bars. Median time of a step: {words}.", parts)


def _picture(height: int, about: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(about)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _line(x_1: float, y_1: float, x_2: float, y_2: float, colour: str, more: str = "") -> str:
    return f'<line x1="{x_1:.1f}" y1="{y_1:.1f}" x2="{x_2:.1f}" y2="{y_2:.1f}" stroke="var({colour})"{more}/>'


def _text(x: float, y: float, words: str, anchor: str, kind: str = "") -> str:
    shown = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{shown}>{escape(words)}</text>'
