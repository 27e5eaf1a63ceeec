"""The part of the report that says how sums were made, who could see what, and what privacy is claimed for it."""

from __future__ import annotations

import math
from collections import Counter
from html import escape

from device_sim.history import Claim, Elsewhere, GroupRecord, History, RoundRecord, Summary
from device_sim.report.elements import counted, number, percent, section

SECURE, DISTRIBUTED = "secure", "distributed"


def sums(history: History) -> str:
    """How the reports of each round were added up."""
    secure = history.summing == SECURE
    left = _groups(history) if secure else _plain(history)
    return section(
        "sums",
        "How the reports were added up",
        "Secure: the coordinator gets the sum of a group of phones, and no single report."
        if secure
        else "Plain: the coordinator reads each report, and adds it to the others.",
        f'<div class="pair leaves"><div class="card">{left}</div>'
        f'<div class="card">{_seen(history, secure)}</div></div>',
    )


def _plain(history: History) -> str:
    return (
        "<h3>A warning</h3>"
        f"<p><strong>{escape('; '.join(history.warnings))}.</strong> This run was ordered so, with "
        "<code>--summing plain</code>. Leave that out, and phones mask their reports before they send them.</p>"
    )


def _groups(history: History) -> str:
    groups = [group for one in history.rounds for group in one.groups]
    opened = sum(group.aborted is None for group in groups)
    why = opened < len(groups)
    rows = "".join(_round_row(one, why) for one in history.rounds)
    head = '<th scope="col" class="words">Aborted, and why</th>' if why else ""
    return (
        "<h3>Groups by round</h3>"
        f"<p>{counted(len(groups), 'group')} formed, {number(opened)} of them opened their sum. A group that loses too "
        "many phones ends without one; then nothing of it is ever seen, and the round goes on with the others.</p>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Table of groups"><table>'
        "<caption>Members are the phones that were asked to join.</caption>"
        '<thead><tr><th scope="col">Round</th><th scope="col">Formed</th><th scope="col">Opened</th>'
        f'<th scope="col">Members</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _round_row(one: RoundRecord, why: bool) -> str:
    members = ", ".join(number(group.members) for group in one.groups) or "–"
    opened = sum(group.aborted is None for group in one.groups)
    return f'<tr><th scope="row">{one.round}</th><td>{len(one.groups)}</td><td>{opened}</td><td>{members}</td>' + (
        f'<td class="words short">{_ends(one.groups)}</td></tr>' if why else "</tr>"
    )


def _ends(groups: tuple[GroupRecord, ...]) -> str:
    reasons = Counter(group.aborted for group in groups if group.aborted is not None)
    return ", ".join(f"<code>{escape(why)}</code> {count}" for why, count in sorted(reasons.items())) or "none"


def _seen(history: History, secure: bool) -> str:
    if not secure:
        return (
            "<h3>What the coordinator could see</h3><ul>"
            "<li><strong>Each report</strong>, with the phone it came from, until its round ended.</li>"
            "<li><strong>Who took part</strong>, when, and how it ended.</li></ul>"
            "<h3>What it could not</h3><ul><li><strong>Examples and labels.</strong> They never left a phone.</li></ul>"
        )
    sizes = [group.reports for one in history.rounds for group in one.groups if group.aborted is None]
    smallest = f" (of {number(min(sizes))} reports and more)" if sizes else ""
    return (
        "<h3>What the coordinator could see</h3><ul>"
        f"<li><strong>The sum of each opened group</strong>{smallest}, and every model made of them.</li>"
        "<li><strong>Who took part</strong>, in which group, when, and how it ended.</li></ul>"
        "<h3>What it could not</h3><ul>"
        "<li><strong>Any single report.</strong> Each pair of phones in a group agrees on a mask that one adds and the "
        "other takes away. Alone a report looks like dice; in the sum all masks are gone. If a phone drops out, the "
        "others give the coordinator what it takes to remove that phone's masks, and never what would open a report."
        "</li><li><strong>Examples and labels.</strong> They never left a phone.</li></ul>"
        "<h3>What to know</h3><ul>"
        "<li>A sum of few reports says more about each than a sum of many. Apps join no group below 64 phones unless "
        "they are built to; these were, since there are so few.</li>"
        "<li>Here one computer runs the coordinator and certifies the phones. It could have made phones up, and summed "
        "one real report with invented ones. Against that, somebody else has to certify.</li></ul>"
    )


def claim(history: History, summary: Summary) -> str:
    """What privacy is claimed, against whom, and what it cost."""
    if history.claim.mode != DISTRIBUTED:
        return section(
            "claim",
            "Privacy, in figures",
            "Mode <code>none</code>: no noise is added, so there is no figure to give.",
            '<div class="card"><p>Whoever gets the model may learn from it who was in it. Clipping bounds how far one '
            "phone can move the model; that alone is no privacy guarantee. Noise needs secure summing, and phones "
            "enough to hide in: the demo adds it where 64 phones or more train.</p></div>",
        )
    return section(
        "claim",
        "Privacy, in figures",
        "Mode <code>distributed</code>: each phone adds noise to its report before it is masked.",
        _tiles(history.claim, summary)
        + f'<div class="pair leaves claim"><div class="card">{_meaning(history, summary)}</div>'
        f'<div class="card">{_reasons(history)}</div></div>'
        + '<div class="card below"><h3>In the words of the ledger</h3><ul>'
        + "".join(f"<li>{escape(sentence)}</li>" for sentence in history.claim.sentences)
        + "</ul></div>",
    )


def epsilon(value: float) -> str:
    """Rounded up: a bound that is rounded down is none."""
    for places, below in ((2, 1.0), (1, 100.0)):
        if value < below:
            return f"{math.ceil(value * 10**places) / 10**places:.{places}f}"
    return f"{math.ceil(value):,}"


def _tiles(said: Claim, summary: Summary) -> str:
    cost = summary.accuracy_without_noise - summary.accuracy_final
    tiles = (
        ("ε against whoever runs the coordinator", epsilon(said.epsilon_coordinator or math.inf)),
        ("ε against whoever gets the models", epsilon(said.epsilon_recipients or math.inf)),
        ("δ: the chance that the bound does not hold", f"{said.target_delta or 0:.2g}"),
        ("Accuracy with noise", percent(summary.accuracy_final)),
        ("The same training without noise", percent(summary.accuracy_without_noise)),
        ("What the noise cost, in points", f"{100 * cost:.1f}".replace("-", "\N{MINUS SIGN}")),
    )
    shown = "".join(
        f'<div><dt>{escape(name)}</dt><dd class="value">{escape(value)}</dd></div>' for name, value in tiles
    )
    return f'<dl class="tiles under">{shown}</dl>'


def _meaning(history: History, summary: Summary) -> str:
    return (
        "<h3>What it protects from, and how well</h3><ul>"
        "<li><strong>From whom.</strong> From the coordinator, which sees the sum of each group, and from everybody "
        "who gets a model. What is hidden is one phone with all it holds: whether it gave what it gave, or zeros.</li>"
        "<li><strong>How well.</strong> ε bounds how much surer an opponent can become about one phone. Below 1 is "
        "strong, 10 is weak. "
        f"<strong>{epsilon(summary.epsilon_coordinator or math.inf)} is no useful promise</strong>: what protects "
        "a single report here is secure summing, not the noise.</li>"
        f"<li><strong>What it costs.</strong> {_cost(summary)}</li></ul>"
        "<p>Simulated phones draw their noise from the seed, so that a run can be repeated. Whoever knows the seed can "
        "take the noise away. Real phones draw it from the system's random source.</p>"
    )


def _cost(summary: Summary) -> str:
    points = 100 * (summary.accuracy_without_noise - summary.accuracy_final)
    if points <= 0:
        return "In this run nothing that can be measured on so few examples: luck weighs as much as the noise."
    return (
        f"{points:.1f} points of accuracy: without noise the same phones, rounds and seed reach "
        f"{percent(summary.accuracy_without_noise)}."
    )


def _reasons(history: History) -> str:
    said, rounds = history.claim, len(history.rounds)
    sizes = [group.members for one in history.rounds for group in one.groups] or [0]
    usual = sorted(sizes)[len(sizes) // 2]
    items = "".join(f"<li>{_other(one, first=not index)}</li>" for index, one in enumerate(said.elsewhere))
    return (
        "<h3>Why ε is so large here, and what it would be elsewhere</h3><ul>"
        f"<li><strong>Groups are small.</strong> The noise of a group hides a phone well when it is as large as what "
        f"one phone may give. Spread over {counted(usual, 'report')} so much noise would drown what they have in "
        f"common; so this run takes {said.noise_multiplier:g} of it.</li>"
        f"<li><strong>The same phones come again.</strong> With so few, one phone may be in all "
        f"{counted(rounds, 'round')}, and each costs.</li>"
        "<li><strong>More groups help against those who get the model</strong>, who see one sum with the noise of all; "
        "not against the coordinator, which sees each group.</li>"
        f"{items}</ul>"
    )


def _other(one: Elsewhere, *, first: bool) -> str:
    is_ = "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}"
    small = f"{one.target_delta:.2g}".replace("-", "\N{NON-BREAKING HYPHEN}")
    figure = f"<strong>ε{is_}{epsilon(one.epsilon)}</strong> at δ{is_}{small} against the coordinator"
    if first:
        return (
            f"<strong>With {number(one.members)} phones to a group</strong>, drawn from a million so that nobody is in "
            f"two rounds, and noise as large as what one phone may give (a multiplier of {one.noise_multiplier:g}): "
            f"{figure}."
        )
    return (
        "The same, with as much noise in the model as this run has (a multiplier of "
        f"{one.noise_multiplier:.1f}): {figure}."
    )
