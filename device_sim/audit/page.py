"""The audit's report: the bound beside the claim, for a browser and for a program."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from device_sim.audit.attacks import Verdict
from device_sim.audit.plans import Audit, Ran, scores_of
from device_sim.report.elements import figure, legend, section

_BINS: Final = 60
_WIDTH, _HEIGHT = 640, 240
_AXIS: Final = 24


def facts(audit: Audit, run: Ran, verdict: Verdict) -> dict[str, Any]:
    """What was found, as numbers."""
    return {
        "mode": audit.mode.value,
        "opponent": audit.opponent.value,
        "epsilon_claimed": verdict.claimed,
        "epsilon_bound": verdict.bound,
        "confidence": 0.95,
        "epsilon_estimated": verdict.estimate.epsilon,
        "target_delta": verdict.delta,
        "disproved": verdict.disproved,
        "attack": verdict.attack,
        "canaries": verdict.canaries,
        "rounds": audit.rounds,
        "participations": len(run.gave),
        "noise_multiplier": audit.multiplier,
        "clipping_norm": audit.plan.clipping_norm,
        "seed": audit.seed,
        "sentence": verdict.sentence(),
    }


def write(folder: Path, audit: Audit, run: Ran, verdict: Verdict) -> tuple[Path, Path]:
    """Write `audit.json` and `audit.html`.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers, report = folder / "audit.json", folder / "audit.html"
    numbers.write_text(json.dumps(facts(audit, run, verdict), indent=2) + "\n", encoding="utf-8")
    report.write_text(page(audit, run, verdict), encoding="utf-8")
    return numbers, report


def page(audit: Audit, run: Ran, verdict: Verdict) -> str:
    """One HTML document that loads nothing. Equal arguments give equal text."""
    style = resources.files("device_sim.report").joinpath("page.css").read_text(encoding="utf-8")
    title = "The claim is disproved" if verdict.disproved else "The claim was not disproved"
    tiles = _tiles(
        (f"{verdict.claimed:.2f}", f"ε claimed against the {audit.opponent.value}"),
        (f"{verdict.bound:.2f}", "ε shown at 95 %: the truth is at least this"),
        (f"{verdict.estimate.epsilon:.2f}", "ε if scores are Gaussian: an estimate, and no bound"),
        (f"{verdict.canaries:,}", f"canaries, in {len(run.gave)} of {audit.rounds} rounds"),
    )
    said = (
        "A right claim is far above the bound: surviving this audit proves nothing. What is smaller than a factor of "
        "two in the noise it hardly finds. A bound above the claim means that a promise is broken."
    )
    body = (
        f'<header class="top"><p class="eyebrow">Audit of {escape(audit.mode.value)} noise, '
        f"z = {audit.multiplier:g}</p><h1>{title}</h1>"
        f'<p class="lead">{escape(verdict.sentence())}</p>{tiles}</header><main>'
        + section("bound", "The bound beside the claim", escape(said), _scale_card(verdict))
        + section("scores", "What the attacker saw", "", _scores_card(audit, run, verdict))
        + "</main>"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Edgewise audit: {title.lower()}</title>\n<style>\n{style}</style>\n</head>\n<body>\n{body}\n"
        "</body>\n</html>\n"
    )


def _tiles(*tiles: tuple[str, str]) -> str:
    rows = "".join(
        f'<div{" class=first" if not at else ""}><dt>{escape(words)}</dt><dd class="value">{escape(value)}</dd></div>'
        for at, (value, words) in enumerate(tiles)
    )
    return f'<dl class="tiles">{rows}</dl>'


def _scale_card(verdict: Verdict) -> str:
    rows = (
        ("shown at 95 %", verdict.bound, "--shared"),
        ("estimated", verdict.estimate.epsilon, "--pooled"),
        ("claimed", verdict.claimed, "--alone"),
    )
    shown = [value for _words, value, _colour in rows if np.isfinite(value)]
    unit = (_WIDTH - 180) / (1.1 * max(shown))
    bars = []
    for at, (words, value, colour) in enumerate(rows):
        top, length = 20 + 44 * at, unit * value if np.isfinite(value) else _WIDTH - 180
        bars.append(
            f'<text x="110" y="{top + 19}" text-anchor="end" font-size="15" fill="var(--muted)">{words}</text>'
            f'<rect x="122" y="{top}" width="{length:.1f}" height="28" rx="4" fill="var({colour})"/>'
            f'<text x="{130 + length:.1f}" y="{top + 19}" font-size="15" fill="var(--ink)">ε = {value:.2f}</text>'
        )
    about = "Longer is less private. The claim is broken where the first bar is longer than the last."
    return figure("ε", about, "", _svg("".join(bars), 150, "Bars of ε: shown, estimated and claimed"))


def _scores_card(audit: Audit, run: Ran, verdict: Verdict) -> str:
    scores = scores_of(audit, run)[verdict.attack]
    edges = np.histogram_bin_edges(scores, _BINS)
    there, away = (np.histogram(scores[chosen], edges)[0] for chosen in (run.included, ~run.included))
    most = max(1, int(there.max()), int(away.max()))
    step = _WIDTH / _BINS
    bars = "".join(_columns(counts, most, step, colour) for counts, colour in ((away, "--pooled"), (there, "--shared")))
    axis = (
        f'<line x1="0" x2="{_WIDTH}" y1="{_HEIGHT - _AXIS}" y2="{_HEIGHT - _AXIS}" stroke="var(--muted)"/>'
        f'<g font-size="14" fill="var(--muted)"><text x="0" y="{_HEIGHT - 4}">{edges[0]:.1f}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT - 4}" text-anchor="end">{edges[-1]:.1f}</text></g>'
    )
    about = (
        f"Canaries by score, by the attack “{escape(verdict.attack)}”, in clipping norms. The less both heaps lie "
        "apart, the less anybody learns."
    )
    entries = (("--shared", "", "took part"), ("--pooled", "", "did not"))
    return figure("Scores", about, legend(entries), _svg(bars + axis, _HEIGHT, "Two heaps of scores"))


def _columns(counts: npt.NDArray[np.int64], most: int, step: float, colour: str) -> str:
    def column(at: int, count: int) -> str:
        high = (_HEIGHT - _AXIS - 4) * count / most
        top = _HEIGHT - _AXIS - high
        return f'<rect x="{at * step:.1f}" y="{top:.1f}" width="{step:.1f}" height="{high:.1f}"/>'

    drawn: Iterable[str] = (column(at, int(count)) for at, count in enumerate(counts) if count)
    return f'<g fill="var({colour})" fill-opacity="0.6">{"".join(drawn)}</g>'


def _svg(content: str, height: int, words: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{words}">{content}</svg>'
