"""The audit's report: the bound beside the claim, for a browser and for a program."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from coordinator.core.privacy.plans import OF_THE_COORDINATOR
from coordinator.core.privacy.statement import Mode, Opponent, Statement, stated
from device_sim.audit.attacks import Verdict
from device_sim.audit.attacks import figure as epsilon
from device_sim.audit.plans import Audit, Ran, scores_of
from device_sim.report.elements import counted, figure, legend, section

_BINS: Final = 60
_WIDTH, _HEIGHT = 640, 260
_AXIS: Final = 44
_BARS_LEFT, _BARS_RIGHT = 122, 130
"""Of a bar: room for its name, and for its figure."""
_LONGEST: Final = 20.0
"""ε at which a bar ends."""


def facts(audit: Audit, run: Ran, verdict: Verdict) -> dict[str, Any]:
    """What was found, as numbers, with what the claim is about."""
    claim = _claim(audit, verdict)
    return {
        "mode": audit.mode.value,
        "opponent": audit.opponent.value,
        "unit": claim.unit.value,
        "adjacency": claim.adjacency.value,
        "mechanism": claim.mechanism.value,
        "sampling": claim.sampling,
        "accountant": claim.accountant,
        "assumptions": list(claim.assumptions),
        "epsilon_claimed": verdict.claimed,
        "epsilon_bound": verdict.bound,
        "epsilon_bound_at_most": verdict.most,
        "confidence": 0.95,
        "epsilon_estimated": verdict.estimate.epsilon if math.isfinite(verdict.estimate.epsilon) else None,
        "target_delta": verdict.delta,
        "disproved": verdict.disproved,
        "attack": verdict.attack,
        "canaries": verdict.canaries,
        "rounds": audit.rounds,
        "participations": len(run.gave),
        "noise_multiplier": audit.multiplier,
        "clipping_norm": audit.plan.clipping_norm,
        "seed": audit.seed,
        "not_attacked": audit.not_attacked,
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
    title = _title(verdict)
    tiles = _tiles(
        (epsilon(verdict.claimed), f"ε claimed against the {audit.opponent.value}"),
        (epsilon(verdict.bound), "ε shown at 95 %: the truth is at least this"),
        (epsilon(verdict.estimate.epsilon), "ε if scores are Gaussian: an estimate, and no bound"),
        (f"{verdict.canaries:,}", f"canaries, in {len(run.gave)} of {counted(audit.rounds, 'round')}"),
    )
    said = (
        "A right claim is far above the bound: surviving this audit proves nothing. What is smaller than a factor of "
        "two in the noise it hardly finds. A bound above the claim means that a promise is broken. "
        f"{audit.not_attacked or ''}"
    )
    body = (
        f'<header class="top"><p class="eyebrow">Audit of {escape(audit.mode.value)} noise, '
        f"z = {audit.multiplier:g}</p><h1>{title}</h1>"
        f'<p class="lead">{escape(verdict.sentence())}</p>{tiles}</header><main>'
        + section("claim", "What is claimed", escape(_claim(audit, verdict).sentence()), "")
        + section("bound", "The bound beside the claim", escape(said), _scale_card(verdict))
        + section("next", "What to do next", escape(_advice(verdict)), "")
        + section("scores", "What the attacker saw", escape(_attacker(audit)), _scores_card(audit, run, verdict))
        + "</main>"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Edgewise audit: {title.lower()}</title>\n<style>\n{style}</style>\n</head>\n<body>\n{body}\n"
        "</body>\n</html>\n"
    )


def _title(verdict: Verdict) -> str:
    if verdict.disproved:
        return "The claim is disproved"
    return "The claim is too large to be disproved" if verdict.out_of_reach else "The claim was not disproved"


def _claim(audit: Audit, verdict: Verdict) -> Statement:
    """The claim with everything that stands beside it, as a ledger would state it."""
    accountant = "the exact curve of a Gaussian" if audit.mode in OF_THE_COORDINATOR else "zcdp"
    return stated(audit.mode, audit.opponent, verdict.claimed, verdict.delta, accountant=accountant)


def _advice(verdict: Verdict) -> str:
    if verdict.disproved:
        return (
            "Stop the task, and release nothing of it: less is kept than was promised. Audit once more with another "
            "--seed; chance disproves a right claim in one audit of twenty at most. If it stays, look for the cause "
            "where the best attack looked: in the rounds of the canaries, at clipping, noise and double counts; in "
            "every round, at the limits of participation; in two rounds that share noise, at noise that was not drawn "
            "anew."
        )
    if verdict.out_of_reach:
        return (
            "Audit with 10,000 canaries or more. If the claim is beyond what they can show, audit the same mode with "
            "more noise, by --noise-multiplier instead of --plan: faults in code are the same there, and can be seen. "
            "A claim above 10 itself promises hardly anything; larger groups, more noise or fewer participations make "
            "it smaller."
        )
    return (
        "Keep this page with the claim, as a test that it passed and no proof. Audit again when the plan or the "
        "version changes."
    )


def _attacker(audit: Audit) -> str:
    """Whom the audit plays, and what that one gets to see."""
    if audit.mode is Mode.EXAMPLE_LEVEL:
        return "The attacker sees the weights of one phone after each step of training; canaries are examples on it."
    if audit.mode is Mode.LOCAL:
        return "The attacker is who runs the coordinator, and sees each report; canaries are devices."
    if audit.opponent is Opponent.COORDINATOR:
        return (
            "The attacker is who runs the coordinator: it sees the sum of each group, knows who was in it, and takes "
            "away the noise of its corrupt members; canaries are devices."
        )
    return (
        "The attacker is who gets the model, and sees its change in each round; canaries are devices. Against who "
        "runs the coordinator this mode protects nobody."
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
    room = _WIDTH - _BARS_LEFT - _BARS_RIGHT
    unit = room / max(min(value, _LONGEST) for _words, value, _colour in rows)
    bars = []
    for at, (words, value, colour) in enumerate(rows):
        top, length = 20 + 44 * at, unit * min(value, _LONGEST)
        bars.append(
            f'<text x="110" y="{top + 19}" text-anchor="end" font-size="15" fill="var(--muted)">{words}</text>'
            f'<rect x="{_BARS_LEFT}" y="{top}" width="{length:.1f}" height="28" rx="4" fill="var({colour})"/>'
            f'<text x="{_BARS_LEFT + 8 + length:.1f}" y="{top + 19}" font-size="15" fill="var(--ink)">'
            f"ε = {epsilon(value)}</text>"
        )
    about = (
        "Longer is less private. The claim is broken where the first bar is longer than the last; so many canaries "
        f"can make the first bar no longer than {verdict.most:.2f}."
    )
    if any(value > _LONGEST for _words, value, _colour in rows):
        about += f" Bars end at {_LONGEST:.0f}."
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
        f'<g font-size="14" fill="var(--muted)"><text x="0" y="{_HEIGHT - 24}">{edges[0]:.1f}</text>'
        f'<text x="{_WIDTH / 2:.0f}" y="{_HEIGHT - 4}" text-anchor="middle">score, in clipping norms</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT - 24}" text-anchor="end">{edges[-1]:.1f}</text></g>'
    )
    about = (
        f"Canaries by their score in the attack “{escape(verdict.attack)}”; the highest column has {most:,}. The less "
        "both heaps lie apart, the less anybody learns."
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
