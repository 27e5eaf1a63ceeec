"""The report as one HTML file that needs nothing but a browser."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

from model_export.check import pictures
from model_export.check.report import Exportation, Report, RuntimeReport
from model_export.check.words import NO_BREAK, byte_count, error, milliseconds, percent


def page(report: Report) -> str:
    """A complete HTML document that loads nothing. Equal reports give equal text; every text in it is escaped."""
    style = resources.files("model_export.check").joinpath("page.css").read_text(encoding="utf-8")
    sections = [_header(report), "<main>"]
    if report.warnings:
        sections.append(_warnings(report))
    if report.exportation is not None:
        sections += [_exactness(report), _cost(report), _needs(report, report.exportation)]
    sections.append("</main>")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.model)}: {'trains' if report.trains else 'does not train'} on a phone</title>\n"
        f"<style>\n{style}</style>\n</head>\n<body>\n{''.join(sections)}\n"
        f"<footer><p>{_footer(report)}</p></footer>\n</body>\n</html>\n"
    )


def _header(report: Report) -> str:
    tiles = "".join(
        f'<div><dt>{escape(name)}</dt><dd class="value">{escape(value)}</dd></div>' for name, value in _tiles(report)
    )
    return (
        '<header class="top"><p class="eyebrow">Edgewise trainability report</p>'
        f"<h1>{escape(report.model)}</h1>"
        f'<p class="verdict {"yes" if report.trains else "no"}">{escape(report.sentence)}</p>'
        + (f'<dl class="tiles">{tiles}</dl>' if tiles else "")
        + "</header>"
    )


def _tiles(report: Report) -> list[tuple[str, str]]:
    tiles: list[tuple[str, str]] = []
    timings = [one.timing for one in report.runtimes if one.timing is not None]
    if timings:
        quickest = min(timings, key=lambda one: one.step_ms)
        tiles.append(("A training step here", milliseconds(quickest.step_ms)))
        tiles.append(("Peak memory", byte_count(quickest.peak_memory_bytes)))
    if report.energy is not None:
        tiles.append(("Energy class", report.energy.energy_class.value))
        tiles.append(("Of a battery, for 1,000 examples", percent(report.energy.battery_share)))
    if (found := report.exportation) is not None:
        tiles.append(("To fetch, once", byte_count(found.graph_bytes)))
        tiles.append(("Sent up per report", byte_count(found.report_bytes)))
        tiles.append(("Reported parameters", f"{found.reported_parameters:,}"))
    return tiles


def _warnings(report: Report) -> str:
    items = "".join(
        f"<li><code>{escape(one.concern)}</code>{escape(one.sentence[:1].upper() + one.sentence[1:])}.</li>"
        for one in report.warnings
    )
    return _section("warnings", "What to know", "", f'<div class="card"><ul class="warnings">{items}</ul></div>')


def _exactness(report: Report) -> str:
    chart = _figure(
        "Error by step",
        "Largest relative error of any weight, after each training step from TensorFlow's weights.",
        _legend(report.runtimes, f"allowed: {report.tolerance:.0e}"),
        pictures.error_by_step(report.runtimes, report.tolerance),
    )
    shown = [one for one in report.runtimes if one.largest]
    heads = [("Signature", False), *((one.package, False) for one in shown), ("Largest of", True)]
    table = _table("The largest relative error of each signature", heads, _errors(shown))
    crashed = "".join(
        f'<p class="verdict no">{escape(one.package)} {escape(one.crashed)}.</p>'
        for one in report.runtimes
        if one.crashed
    )
    return _section(
        "exactness",
        "Beside TensorFlow",
        f"{report.steps} steps at a learning rate of {report.learning_rate:g}, each from the weights that TensorFlow "
        "itself had, with TensorFlow's own gradients.",
        f'{crashed}<div class="pair">{chart}<div class="card">{table}</div></div>',
    )


def _errors(runtimes: Sequence[RuntimeReport]) -> list[tuple[str, ...]]:
    """A row for each signature, a column for each runtime, and what was furthest off."""
    names = list(dict.fromkeys(found.signature for one in runtimes for found in one.largest))
    rows: list[tuple[str, ...]] = []
    for name in names:
        by_runtime = [next((found for found in one.largest if found.signature == name), None) for one in runtimes]
        present = [found for found in by_runtime if found is not None]
        worst = max(present, key=lambda found: math.inf if found.relative is None else found.relative)
        cells = ("–" if found is None else error(found.relative) for found in by_runtime)
        rows.append((name, *cells, worst.name))
    return rows


def _cost(report: Report) -> str:
    timed = [one for one in report.runtimes if one.timing is not None]
    if not timed or report.exportation is None:
        return ""
    chart = _figure(
        "Time of a step",
        f"CPU time of one thread for {report.exportation.batch_size} examples: median, and the quartiles as a line.",
        "",
        pictures.time_by_runtime(timed),
    )
    rows = [
        (
            one.package,
            milliseconds(one.timing.step_ms),
            _from_to(one.timing.low_ms, one.timing.high_ms),
            milliseconds(one.timing.open_ms),
            byte_count(one.timing.peak_memory_bytes),
        )
        for one in timed
        if one.timing is not None
    ]
    table = _table(
        "On this machine",
        (("Runtime", True), ("Step", False), ("Half lie in", False), ("Opening", False), ("Memory", False)),
        rows,
    )
    energy = ""
    if report.energy is not None:
        energy = (
            f"<p>Energy class <strong>{report.energy.energy_class}</strong>: about "
            f"{report.energy.joules_per_1000_examples:.2g} joules for training once on 1,000 examples, "
            f"{percent(report.energy.battery_share)} of a full battery. An estimate from CPU time, not a "
            "measurement.</p>"
        )
    return _section(
        "cost", "What it costs", "", f'<div class="pair">{chart}<div class="card">{table}{energy}</div></div>'
    )


def _from_to(low_ms: float, high_ms: float) -> str:
    """The quartiles in a narrow column."""
    low, high = milliseconds(low_ms), milliseconds(high_ms)
    return high if low == high else f"{low.partition(NO_BREAK)[0]}–{high}" if low[-2:] == high[-2:] else f"{low}–{high}"


def _needs(report: Report, found: Exportation) -> str:
    facts = [
        ("Parameters", f"{found.parameters:,}"),
        ("Reported", f"{found.reported_parameters:,}"),
        ("File", f"{byte_count(found.graph_bytes)}, weights alone {byte_count(found.weights_bytes)}"),
        ("Loss", found.loss),
        ("Optimizer", found.optimizer),
        ("Operators", f"{found.operations:,}, of {len(found.operators)} kinds"),
        ("Exported in", f"{found.export_s:.1f} s"),
    ]
    carriers = _table(
        f"Every operator is built in. TFLite {found.minimum_runtime} has them all; the app brings it, so the version "
        "of Android or iOS does not matter",
        (("Platform", True), ("Runtime", True)),
        report.carriers,
    )
    operators = "".join(f"<li>{escape(one.name)} <span>{one.version}</span></li>" for one in found.operators)
    return _section(
        "needs",
        "What it needs",
        "",
        f'<div class="pair"><div class="card">{carriers}</div>'
        f'<div class="card">{_table("The export", (("", True), ("", True)), facts, heads=False)}</div></div>'
        f'<div class="card below"><h3>Operators, with versions</h3><ul class="operators">{operators}</ul></div>',
    )


def _footer(report: Report) -> str:
    made = report.exportation.exporter if report.exportation is not None else "edgewise-export check"
    return f"Made by {escape(made)}. Times are of this machine, on one thread; a phone's differ."


def _section(name: str, title: str, intro: str, content: str) -> str:
    aside = f'<p class="aside">{escape(intro)}</p>' if intro else ""
    return f'<section aria-labelledby="about-{name}"><h2 id="about-{name}">{title}</h2>{aside}{content}</section>'


def _figure(title: str, about: str, legend: str, picture: str) -> str:
    words = f"<figcaption><h3>{title}</h3><p>{escape(about)}</p></figcaption>"
    return f'<figure class="card">{words}{legend}{picture}</figure>'


def _legend(runtimes: Sequence[RuntimeReport], line: str) -> str:
    dots = "".join(
        f'<li><span class="swatch" style="--of: var({pictures.COLOURS[index % 2]})"></span>{escape(one.package)}</li>'
        for index, one in enumerate(one for one in runtimes if one.errors_by_step)
    )
    dashes = f'<li><span class="swatch line" style="--of: var(--bad)"></span>{escape(line)}</li>'
    return f'<ul class="legend">{dots}{dashes}</ul>'


def _table(
    caption: str, heads_given: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]], *, heads: bool = True
) -> str:
    """A table; a column of words is aligned to the left and may wrap."""
    top = "".join(f'<th scope="col"{_words(words)}>{escape(head)}</th>' for head, words in heads_given)
    kinds = [words for _head, words in heads_given]
    body = "".join(f"<tr>{_cells(row, kinds)}</tr>" for row in rows)
    head = f"<thead><tr>{top}</tr></thead>" if heads else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}.</caption>{head}<tbody>{body}</tbody></table></div>"
    )


def _cells(row: Sequence[str], kinds: Sequence[bool]) -> str:
    return "".join(f"<td{_words(words)}>{escape(cell)}</td>" for cell, words in zip(row, kinds, strict=True))


def _words(words: bool) -> str:
    return ' class="words"' if words else ""
