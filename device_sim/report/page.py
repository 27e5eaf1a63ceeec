"""The report page: everything a demo recorded, in one HTML file without scripts, fonts or addresses of others."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from html import escape
from importlib import resources
from typing import Final

from device_sim.history import History, PhoneEvent, RoundRecord, Summary
from device_sim.report import pictures, protection
from device_sim.report.elements import byte_count, clock, counted, duration, figure, legend, number, percent, section

_QUIET: Final = ("check-in", "waiting")
_BUSY: Final = ("assigned", "fetched", "trained", "summing", "reported")
_KINDS: Final[tuple[str, ...]] = (*_QUIET, *_BUSY, "interrupted", "other")
_MOST_REASONS: Final = 5
"""Reasons with a colour of their own; the rest are drawn together."""


def page(history: History, summary: Summary) -> str:
    """See `device_sim.report.render`."""
    style = resources.files("device_sim.report").joinpath("page.css").read_text(encoding="utf-8")
    body = "\n".join(
        (
            _header(history, summary),
            "<main>",
            _learning(history),
            _taking_part(history),
            _uneven(history),
            _day(history),
            _what_left(history, summary),
            protection.sums(history),
            protection.claim(history, summary),
            _rounds(history),
            _digest(summary),
            "</main>",
        )
    )
    title = (
        f"Edgewise: {percent(summary.accuracy_final)} accurate, learned on {counted(history.devices_training, 'phone')}"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n{body}\n"
        "<footer><p>Made by the simulator, which owns the simulated phones and so may look at their data to draw "
        "this page. A coordinator could draw only what it is sent.</p></footer>\n</body>\n</html>\n"
    )


def _header(history: History, summary: Summary) -> str:
    best = f"<strong>{percent(summary.accuracy_final)}</strong>"
    lead = (
        f"After {counted(summary.rounds, 'round')}, the shared model is right about {best} of the examples on "
        f"{counted(history.devices_held_out, 'phone')} that never trained. Each phone training alone would reach "
        f"<strong>{percent(summary.accuracy_local_mean)}</strong> on average, and all data collected in one place "
        f"<strong>{percent(summary.accuracy_central)}</strong>."
    )
    tiles = (
        ("Final accuracy, on phones that never trained", percent(summary.accuracy_final)),
        ("Each phone alone, mean accuracy", percent(summary.accuracy_local_mean)),
        ("All data pooled, which federation avoids", percent(summary.accuracy_central)),
        ("Phones that trained", number(history.devices_training)),
        ("Reports counted", number(summary.reports_counted)),
        ("Sent up per report", byte_count(summary.bytes_up_per_report)),
        ("From start to finish", duration(summary.seconds)),
    )
    shown = "".join(
        f'<div{" class=first" if not index else ""}><dt>{escape(name)}</dt><dd class="value">{value}</dd></div>'
        for index, (name, value) in enumerate(tiles)
    )
    return (
        f'<header class="top"><p class="eyebrow">Edgewise demo · dataset {escape(history.dataset)} · '
        f"model {escape(history.model)} · seed&nbsp;{history.seed}</p>"
        f"<h1>{counted(history.devices_training, 'phone')} taught one model and kept their data</h1>"
        f'<p class="lead">{lead}</p><dl class="tiles">{shown}</dl></header>'
    )


def _learning(history: History) -> str:
    last, base = history.rounds[-1], history.baselines
    accuracy = pictures.accuracy_by_round(
        history,
        f"Line chart. Accuracy goes from {percent(history.initial_accuracy)} before training to "
        f"{percent(last.accuracy)} after round {last.round}. Each phone alone: {percent(base.local_mean)}. "
        f"All data pooled: {percent(base.central)}.",
    )
    loss = pictures.loss_by_round(
        history,
        f"Line chart. Loss goes from {history.initial_loss:.2f} before training to {last.loss:.2f} "
        f"after round {last.round}.",
    )
    lines = legend(
        (
            ("--shared", "line", "Federated"),
            ("--pooled", "line dashed", "All data pooled (what federation avoids)"),
            ("--alone", "line dotted", "Each phone alone (mean)"),
        )
    )
    return section(
        "learning",
        "Learning, round by round",
        "Measured on phones that never train. Round 0 is the untrained model.",
        '<div class="pair">'
        + figure("Accuracy by round", "Share of examples named correctly.", lines, accuracy)
        + figure("Loss by round", "Lower is better.", legend((("--shared", "line", "Federated"),)), loss)
        + "</div>",
    )


def _taking_part(history: History) -> str:
    stacks = _stacks(history)
    picture = pictures.participants_by_round(
        history,
        [(colour, numbers) for _name, colour, numbers in stacks],
        "Stacked bars. Over all rounds: " + ", ".join(f"{name} {sum(numbers)}" for name, _, numbers in stacks) + ".",
    )
    parts = legend(
        (pictures.VARIABLES[colour], "", f"{name}: {number(sum(numbers))}") for name, colour, numbers in stacks
    )
    chosen = sum(one.chosen for one in history.rounds)
    slow = sum(one.stragglers for one in history.rounds)
    lost = sum(sum(one.dropouts.values()) for one in history.rounds)
    words = (
        f"<p>Phones were chosen <strong>{number(chosen)}</strong> times. "
        f"{number(lost)} of these ended without a report, each with its reason; {number(slow)} were slow.</p>"
        "<p>People use their phones: they unplug them, take them out of a pocket, carry them out of reach. A round "
        "goes on without whoever left, and a report counts fully or not at all.</p>"
    )
    return section(
        "participants",
        "Who took part, and who dropped out",
        "Every participant that did not report has a reason code, the same on the phone, in the API and here.",
        '<div class="pair">'
        + figure("Participants and dropouts by round", "Each bar is one round's participants.", parts, picture)
        + f'<div class="card">{words}{_reasons(history)}</div></div>',
    )


def _reasons(history: History) -> str:
    reasons = _dropouts(history)
    if not reasons:
        return "<p>No participant dropped out.</p>"
    rows = "".join(
        f'<tr><th scope="row" class="words"><code>{escape(name)}</code></th><td>{number(lost)}</td></tr>'
        for name, lost in reasons
    )
    return (
        "<table><caption>Dropouts by reason</caption>"
        '<thead><tr><th scope="col" class="words">Reason</th><th scope="col">Phones</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _dropouts(history: History) -> list[tuple[str, int]]:
    """Reasons and how many participants each took away, most first."""
    found: Counter[str] = Counter()
    for one in history.rounds:
        found.update({reason: number for reason, number in one.dropouts.items() if number})
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))


def _stacks(history: History) -> list[tuple[str, str, list[int]]]:
    """What became of participants: (name, colour, number in each round). Rare reasons share the last colour."""
    rounds = history.rounds
    stacks = [("reported", pictures.SHARED, [one.reported for one in rounds])]
    named = [reason for reason, _number in _dropouts(history)]
    own, rare = named[:_MOST_REASONS], named[_MOST_REASONS:]
    for colour, reason in zip(pictures.REASONS, own, strict=False):
        stacks.append((reason, colour, [one.dropouts.get(reason, 0) for one in rounds]))
    rest = [sum(one.dropouts.get(reason, 0) for reason in rare) + _unaccounted(one) for one in rounds]
    if any(rest):
        stacks.append(("other", pictures.REASONS[_MOST_REASONS], rest))
    return stacks


def _unaccounted(one: RoundRecord) -> int:
    return max(0, one.chosen - one.reported - sum(one.dropouts.values()))


def _uneven(history: History) -> str:
    totals = sorted(sum(counts) for counts in history.examples_by_device)
    classes = len(history.examples_by_device[0])
    held = sorted(sum(count > 0 for count in counts) for counts in history.examples_by_device)
    spread = (
        f"The smallest training phone holds {counted(totals[0], 'example')}, the largest {number(totals[-1])}; "
        f"the median phone has seen {held[len(held) // 2]} of {classes} classes."
    )
    devices = pictures.examples_by_device(history, f"Bars and heat map. {spread}")
    steps = [f"{low:.0%}" for low in pictures.SHARE_STEPS]
    shades = "".join(
        f'<li><span class="swatch" style="--of: var(--shared); opacity: {opacity}"></span>from {step}</li>'
        for step, opacity in zip(steps, pictures.SHARE_OPACITIES, strict=True)
    )
    return section(
        "data",
        "No two phones hold the same data",
        spread,
        '<div class="pair">'
        + figure(
            "Examples by device, and their class mix",
            "A column is a phone. Below, the stronger a cell, the more of the phone's examples are of that class.",
            f'<ul class="legend" aria-label="Share of the phone\'s examples">{shades}</ul>',
            devices,
        )
        + _alone(history)
        + "</div>",
    )


def _alone(history: History) -> str:
    alone, final = history.baselines.local, history.rounds[-1].accuracy
    behind = sum(one < final for one in alone)
    histogram = pictures.alone_histogram(
        history,
        f"Histogram of the accuracy of each phone alone, mean {percent(history.baselines.local_mean)}; "
        f"a line marks the federated {percent(final)}.",
    )
    marks = legend(
        (("--alone", "", "Phones training alone"), ("--shared", "line", f"The federated model, {percent(final)}"))
    )
    return figure(
        "Each phone alone against the shared model",
        f"{number(behind)} of {counted(len(alone), 'phone')} would do worse alone.",
        marks,
        histogram,
    )


def _day(history: History) -> str:
    name = escape(history.phone_name)
    intro = "What one of the phones did, and why it waited when it waited."
    if not history.phone:
        return section("phone", f"One phone's day: {name}", intro, "<p>Nothing was recorded for this phone.</p>")
    events = sorted(history.phone, key=lambda event: event.at_s)
    seen = {_kind(event) for event in events}
    lanes = {kind: _colour(kind) for kind in _KINDS if kind in seen}
    picture = pictures.phone_day(
        events,
        lanes,
        "Timeline. " + ", ".join(f"{kind} {sum(_kind(one) == kind for one in events)} times" for kind in lanes) + ".",
    )
    meanings = legend(
        (
            ("--muted", "", "offering itself, waiting"),
            ("--shared", "", "taking part"),
            *((("--alone", "", "interrupted"),) if "interrupted" in seen else ()),
        )
    )
    return section(
        "phone",
        f"One phone's day: {name}",
        intro,
        '<div class="pair">'
        + figure("The day at a glance", "A dot is an event; time runs to the right.", meanings, picture)
        + '<div class="card"><h3>Event by event</h3>'
        + f'<div class="scroll day" tabindex="0" role="region" aria-label="Events">{_events(events)}</div></div></div>',
    )


def _events(events: Sequence[PhoneEvent]) -> str:
    """A list in which the same thing again and again is one line."""
    lines = []
    for (what, detail), again in itertools.groupby(events, key=lambda event: (event.what, event.detail)):
        run = list(again)
        times = f" <em>({len(run)} times, until {clock(run[-1].at_s)})</em>" if len(run) > 1 else ""
        words = f"<strong>{escape(what)}</strong>" + (f" · {escape(detail)}" if detail else "") + times
        mark = f'<span class="swatch" style="--of: var({pictures.VARIABLES[_colour(_kind(run[0]))]})"></span>'
        lines.append(f"<li><time>{clock(run[0].at_s)}</time>{mark}<span>{words}</span></li>")
    return f"<ol>{''.join(lines)}</ol>"


def _kind(event: PhoneEvent) -> str:
    return event.what if event.what in _KINDS else "other"


def _colour(kind: str) -> str:
    if kind in _BUSY:
        return pictures.SHARED
    return pictures.ALONE if kind == "interrupted" else pictures.MUTED


def _what_left(history: History, summary: Summary) -> str:
    up = sum(one.bytes_up for one in history.rounds)
    down = sum(one.bytes_down for one in history.rounds)
    return section(
        "leaving",
        "What left the phones, and what did not",
        "In plain words, for exactly the configuration this demo ran.",
        '<div class="pair leaves"><div class="card"><h3>Never left a phone</h3><ul>'
        "<li><strong>Examples and labels.</strong> No picture, recording or label was sent, and no message of the "
        "protocol has a field for one.</li>"
        "<li><strong>The exact number of examples.</strong> Only a power of two, rounded down, so that a phone can be "
        "passed over if it has too few.</li>"
        "<li><strong>The trained weights as such.</strong> Only their change.</li>"
        '</ul></div><div class="card"><h3>Did leave the phone</h3><ul>'
        "<li><strong>One delta per report</strong>: how the weights changed, clipped to a fixed length, rounded at "
        f"random to fixed-point integers{_treated(history)}, and signed. {byte_count(summary.bytes_up_per_report)} "
        "each, for every phone the same.</li>"
        "<li><strong>Check-ins and reasons</strong>: that the phone is there, which runtime it has, roughly how many "
        "examples it holds, and a code when it could not finish.</li>"
        f"<li><strong>In total</strong> {byte_count(up)} up and {byte_count(down)} down, all phones and rounds.</li>"
        "</ul></div></div>",
    )


def _treated(history: History) -> str:
    """What else a phone does to a delta before it leaves."""
    noised = ", noised" if history.claim.mode == protection.DISTRIBUTED else ""
    return noised + (", masked" if history.summing == protection.SECURE else "")


def _rounds(history: History) -> str:
    heads = ("Round", "Accuracy", "Loss", "Chosen", "Reported", "Slow", "Time", "Up", "Down")
    columns = "".join(f'<th scope="col">{head}</th>' for head in heads)
    first = (
        f'<tr><th scope="row">0</th><td>{percent(history.initial_accuracy)}</td><td>{history.initial_loss:.3f}</td>'
        + "<td>–</td>" * 6
        + '<td class="words">before training</td></tr>'
    )
    rows = first + "".join(_row(one) for one in history.rounds)
    return section(
        "rounds",
        "Every round",
        "",
        '<div class="card"><div class="scroll" tabindex="0" role="region" aria-label="Table of rounds"><table>'
        "<caption>Accuracy and loss are of the model each round made, on the held-out phones.</caption>"
        f'<thead><tr>{columns}<th scope="col" class="words">Dropouts</th></tr></thead><tbody>{rows}</tbody>'
        "</table></div></div>",
    )


def _row(one: RoundRecord) -> str:
    cells = (
        percent(one.accuracy),
        f"{one.loss:.3f}",
        number(one.chosen),
        number(one.reported),
        number(one.stragglers),
        duration(one.seconds),
        byte_count(one.bytes_up),
        byte_count(one.bytes_down),
    )
    reasons = ", ".join(f"{escape(name)} {number}" for name, number in sorted(one.dropouts.items()) if number)
    return (
        f'<tr><th scope="row">{one.round}</th>'
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + f'<td class="words">{reasons or "none"}</td></tr>'
    )


def _digest(summary: Summary) -> str:
    return section(
        "digest",
        "The fingerprint of the result",
        "SHA-256 of the final weights. One seed gives one model, bit by bit, in whatever order reports arrive.",
        f'<div class="card"><code>{escape(summary.final_weights_sha256)}</code></div>',
    )
