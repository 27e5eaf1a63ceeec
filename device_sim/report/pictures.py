"""The report's pictures as inline SVG, drawn by matplotlib and coloured by the page's CSS variables.

Only the page's own words are drawn; those of others stay in HTML. Equal histories give equal bytes under one
matplotlib version.
"""

from __future__ import annotations

import html
import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from device_sim.history import History, PhoneEvent

CARD: Final = "#fe0000"
INK: Final = "#fe0001"
MUTED: Final = "#fe0002"
GRID: Final = "#fe0003"
SHARED: Final = "#fe0004"
ALONE: Final = "#fe0005"
POOLED: Final = "#fe0006"
REASONS: Final = tuple(f"#fe001{index}" for index in range(6))
VARIABLES: Final = {
    CARD: "--card",
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    SHARED: "--shared",
    ALONE: "--alone",
    POOLED: "--pooled",
    **{colour: f"--reason-{index}" for index, colour in enumerate(REASONS)},
}
"""Colours that no picture uses stand for the page's variables, so that one picture serves light and dark."""

SHARE_STEPS: Final = (0.05, 0.2, 0.4, 0.6, 0.8)
"""The heat map's steps: the lowest share of each. Below the first nothing is drawn."""
SHARE_OPACITIES: Final = (0.18, 0.38, 0.58, 0.78, 1.0)

_WIDTH_PX: Final = 440
_STYLE: Final = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 14,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 1,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 6,
    "text.color": INK,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
}


class _Drawing:
    """A figure, and its SVG once it is finished."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.svg = ""


@contextmanager
def _drawing(name: str, label: str, height_px: int) -> Iterator[_Drawing]:
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(_WIDTH_PX / 72, height_px / 72), dpi=72)
        FigureCanvasSVG(figure)
        drawing = _Drawing(figure)
        yield drawing
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    drawing.svg = _inlined(out.getvalue(), name, label)


def _inlined(svg: str, name: str, label: str) -> str:
    """Make a part of an HTML page of an SVG file: no prologue, no metadata, own ids, the page's colours and fonts."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    used = set(re.findall(r"#([\w.-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'xlink:href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    box = re.search(r'viewBox="[^"]*"', svg)
    body = svg[svg.index(">") + 1 :]
    return f'<svg role="img" aria-label="{html.escape(label)}" {box[0] if box else ""}>{body.strip()}'


def accuracy_by_round(history: History, label: str) -> str:
    """The shared model's accuracy, between each phone alone and all data pooled."""
    with _drawing("accuracy", label, 300) as drawing:
        axes = drawing.figure.subplots()
        axes.axhline(history.baselines.central, color=POOLED, linewidth=2, linestyle=(0, (6, 3)))
        axes.axhline(history.baselines.local_mean, color=ALONE, linewidth=2, linestyle=(0, (2, 2)))
        _line(axes, history, [history.initial_accuracy, *(one.accuracy for one in history.rounds)])
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return drawing.svg


def loss_by_round(history: History, label: str) -> str:
    """The shared model's mean loss."""
    with _drawing("loss", label, 300) as drawing:
        axes = drawing.figure.subplots()
        losses = [history.initial_loss, *(one.loss for one in history.rounds)]
        _line(axes, history, losses)
        axes.set_ylim(min(0.0, *losses), max(losses) * 1.05 if max(losses) > 0 else 1.0)
    return drawing.svg


def _line(axes: Axes, history: History, values: Sequence[float]) -> None:
    rounds = [0, *(one.round for one in history.rounds)]
    few = len(rounds) <= 40
    axes.plot(rounds, values, color=SHARED, linewidth=2.5, marker="o" if few else "", markersize=5, clip_on=False)
    axes.set_xlim(-0.3, max(rounds) + 0.3)
    _rounds_below(axes)


def _rounds_below(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.set_xlabel("Round")


def participants_by_round(history: History, stacks: Sequence[tuple[str, Sequence[int]]], label: str) -> str:
    """Stacked bars: for each round what became of its participants; `stacks` are (colour, number by round)."""
    with _drawing("participants", label, 300) as drawing:
        axes = drawing.figure.subplots()
        rounds = [one.round for one in history.rounds]
        floor = np.zeros(len(rounds))
        for colour, numbers in stacks:
            axes.bar(rounds, numbers, 0.8, bottom=floor, color=colour, edgecolor=CARD, linewidth=0.75)
            floor = floor + np.asarray(numbers)
        axes.set_ylim(0, max(1.0, float(floor.max()) * 1.05))
        axes.set_xlim(min(rounds) - 0.7, max(rounds) + 0.7)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.set_ylabel("Phones")
        _rounds_below(axes)
    return drawing.svg


def alone_histogram(history: History, label: str) -> str:
    """How many phones reach which accuracy alone, beside what the shared model reaches."""
    with _drawing("alone", label, 420) as drawing:
        axes = drawing.figure.subplots()
        axes.hist(
            np.clip(history.baselines.local, 0, 1),
            bins=[step / 20 for step in range(21)],
            color=ALONE,
            edgecolor=CARD,
            linewidth=1,
        )
        axes.axvline(history.rounds[-1].accuracy, color=SHARED, linewidth=3)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.set_xlabel("Accuracy on the held-out phones")
        axes.set_ylabel("Phones training alone")
    return drawing.svg


def examples_by_device(history: History, label: str) -> str:
    """Above, the number of examples of each device, most first; below, its class mix as a heat map."""
    counts = np.array(sorted(history.examples_by_device, key=lambda one: (-sum(one), one)), dtype=np.float64)
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    classes = counts.shape[1]
    with _drawing("devices", label, 420) as drawing:
        above, below = drawing.figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
        above.bar(np.arange(len(totals)), totals, 1.0, color=SHARED, edgecolor=CARD, linewidth=0.3)
        above.set_ylabel("Examples")
        above.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        for step, opacity in enumerate(SHARE_OPACITIES):
            upper = SHARE_STEPS[step + 1] if step + 1 < len(SHARE_STEPS) else 2.0
            cells = np.argwhere((shares >= SHARE_STEPS[step]) & (shares < upper))
            if len(cells):
                below.add_patch(PathPatch(_squares(cells), facecolor=SHARED, alpha=opacity, linewidth=0))
        below.grid(visible=False)
        below.set_xlim(-0.5, len(totals) - 0.5)
        below.set_ylim(classes - 0.5, -0.5)
        below.yaxis.set_major_locator(MaxNLocator(nbins=min(10, max(classes - 1, 1)), integer=True))
        below.set_ylabel("Class")
        below.set_xlabel("Training phones, most examples first")
        below.set_xticks([])
    return drawing.svg


def _squares(cells: np.ndarray[Any, np.dtype[np.int64]]) -> Path:
    """One path of a unit square, with a little room between, for each (device, class)."""
    corners = np.array([(-0.46, -0.46), (0.46, -0.46), (0.46, 0.46), (-0.46, 0.46), (-0.46, -0.46)])
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return Path(
        (cells[:, None, :] + corners).reshape(-1, 2), list(itertools.islice(itertools.cycle(codes), 5 * len(cells)))
    )


def phone_day(events: Sequence[PhoneEvent], lanes: Mapping[str, str], label: str) -> str:
    """One phone's events over time; `lanes` are kinds to colours, first on top, the last also for kinds not in it."""
    names = list(lanes)
    kinds = [event.what if event.what in lanes else names[-1] for event in events]
    heights = [names.index(kind) for kind in kinds]
    with _drawing("phone", label, 70 + 34 * len(lanes)) as drawing:
        axes = drawing.figure.subplots()
        unit, seconds = clock_unit(max((event.at_s for event in events), default=0.0))
        times = [event.at_s / seconds for event in events]
        axes.plot(times, heights, color=GRID, linewidth=1.5)
        axes.scatter(times, heights, s=42, color=[lanes[kind] for kind in kinds], zorder=3, clip_on=False)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel(f"{unit} since the demo began")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    return drawing.svg


def clock_unit(longest_s: float) -> tuple[str, float]:
    """The unit that suits a span, and its seconds."""
    if longest_s >= 3 * 3600:
        return "Hours", 3600.0
    return ("Minutes", 60.0) if longest_s >= 300 else ("Seconds", 1.0)
