"""The pictures of docs/pacing.md, from the same runs as the tests: `python -m tests.coordinator.pacing_pictures`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np

from tests.coordinator import pacing_scenes as scenes
from tests.coordinator.pacing_fleet import DAY_S, HOUR_S, MONDAY_S, Log

mpl.use("Agg")
from matplotlib import pyplot as plt

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
OURS: Final = "#1a5fb4"
NAIVE: Final = "#c64600"
BOUND: Final = "#555555"


def _axes(title: str, across: str, up: str) -> tuple[Any, Any]:
    figure, axes = plt.subplots(figsize=(7.6, 3.2), dpi=110, layout="constrained")
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(across, fontsize=9)
    axes.set_ylabel(up, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, axes: Any, name: str, legend_at: str | tuple[float, float] = "upper right") -> None:
    axes.legend(frameon=False, fontsize=8, loc=legend_at)
    figure.savefig(IMAGES / f"pacing-{name}.png", metadata={"Software": None})
    plt.close(figure)


def _present(log: Log, lasts_s: float, every_s: float) -> Any:
    """How many devices were there, every so often, at the end of a run."""
    return np.array(log.present)[-round(lasts_s / log.step_s) :: round(every_s / log.step_s)]


def swing() -> None:
    figure, axes = _axes(
        "A four-fold day: 4,000 devices, 30 to a round, fourth day", "hour of the day, UTC", "check-ins a second"
    )
    ours, naive = scenes.swing("paced"), scenes.swing("fixed 2 h")
    hours = np.arange(0, 24, 0.5)
    axes.plot(hours, naive.per_s(naive.knocked, 1800)[-48:], color=NAIVE, label="fixed window, 2 h ± 20 %")
    axes.plot(hours, ours.per_s(ours.knocked, 1800)[-48:], color=OURS, label="paced")
    axes.axhline(scenes.SWING_NEEDS_PER_S, color=BOUND, linestyle=":", label="what rounds need")
    axes.set_ylim(0)
    there = axes.twinx()
    there.fill_between(hours, _present(ours, DAY_S, 1800), color="#999999", alpha=0.2, linewidth=0)
    there.set_ylabel("devices there (grey)", fontsize=9)
    there.set_ylim(0)
    there.tick_params(labelsize=8)
    _save(figure, axes, "swing")


def crowd() -> None:
    figure, axes = _axes(
        "A flash crowd: 24,000 devices within ten minutes of hour 6", "hours since the start", "check-ins a second"
    )
    for name, colour, label in (
        ("fixed 4 h", NAIVE, "fixed window, 4 h ± 20 %"),
        ("paced", OURS, "paced"),
    ):
        log = scenes.crowd(name)
        rates = log.per_s(log.knocked, 300)
        axes.plot(np.arange(len(rates)) / 12, np.maximum(rates, 0.1), color=colour, linewidth=1, label=label)
    axes.axhline(scenes.CROWD_CAPACITY_PER_S, color=BOUND, linestyle=":", label="capacity")
    axes.set_yscale("log")
    axes.set_xlim(4, 30)
    _save(figure, axes, "crowd")


def fifty() -> None:
    figure, axes = _axes(
        "Fifty devices, there by night, 20 to a round: the last two days", "hours", "candidates of a round"
    )
    since_s = 6 * DAY_S
    for name, colour, label, shift in (
        ("fixed 1 h", NAIVE, "fixed window, 1 h ± 20 %", 0.2),
        ("paced", OURS, "meetings", -0.2),
    ):
        fills = scenes.fills_of_fifty(scenes.fifty(name, "nightly"), since_s)
        at = [(opening_s - MONDAY_S - since_s) / HOUR_S + shift for opening_s, _count in fills]
        axes.bar(at, [number for _opening, number in fills], width=0.4, color=colour, label=label)
    present = _present(scenes.fifty("paced", "nightly"), 2 * DAY_S, 900)
    axes.step(np.arange(len(present)) / 4, present, color="#999999", linewidth=1, label="devices there")
    axes.axhline(scenes.FIFTY.least, color=BOUND, linestyle=":", label="fewest for a round")
    _save(figure, axes, "fifty", (0.2, 0.68))


def million() -> None:
    figure, axes = _axes(
        "A million devices that all come within ten minutes", "hours since the start", "check-ins a second, thousands"
    )
    for name, colour, label in (("fixed 4 h", NAIVE, "fixed window, 4 h ± 20 %"), ("paced", OURS, "paced")):
        log = scenes.million(name, 1_000_000)
        rates = log.per_s(log.knocked, 600)
        axes.plot(np.arange(len(rates)) / 6, rates / 1000, color=colour, linewidth=1, label=label)
    axes.axhline(0.5, color=BOUND, linestyle=":", label="capacity")
    axes.set_ylim(0, 0.8)
    _save(figure, axes, "million")


def main() -> None:
    """Draw all four."""
    for draw in (swing, crowd, fifty, million):
        draw()


if __name__ == "__main__":
    main()
