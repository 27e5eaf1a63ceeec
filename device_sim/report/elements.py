"""What the report page is put together from: sections, figures, legends, and how its numbers are written."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


def section(name: str, title: str, intro: str, content: str) -> str:
    """A section; `title`, `intro` and `content` are HTML already."""
    aside = f'<p class="aside">{intro}</p>' if intro else ""
    return f'<section aria-labelledby="about-{name}"><h2 id="about-{name}">{title}</h2>{aside}{content}</section>'


def figure(title: str, about: str, legend: str, picture: str) -> str:
    return f'<figure class="card"><figcaption><h3>{title}</h3><p>{about}</p></figcaption>{legend}{picture}</figure>'


def legend(entries: Iterable[tuple[str, str, str]]) -> str:
    """Entries are (CSS variable, swatch classes, words)."""
    items = "".join(
        f'<li><span class="swatch {kind}" style="--of: var({variable})"></span>{escape(words)}</li>'
        for variable, kind, words in entries
    )
    return f'<ul class="legend">{items}</ul>'


def percent(share: float) -> str:
    return f"{share:.1%}"


def number(value: int) -> str:
    return f"{value:,}"


def counted(things: int, noun: str) -> str:
    return f"{things:,} {noun}" if things == 1 else f"{things:,} {noun}s"


def byte_count(total: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if total >= size:
            return f"{total / size:.1f}\N{NO-BREAK SPACE}{unit}"
    return f"{total}\N{NO-BREAK SPACE}B"


def duration(seconds: float) -> str:
    return f"{seconds:.1f}\N{NO-BREAK SPACE}s" if seconds < 600 else clock(seconds)


def clock(at_s: float) -> str:
    """Seconds as such in the first ten minutes, then hours, minutes and seconds."""
    if at_s < 600:
        return f"{at_s:.1f}\N{NO-BREAK SPACE}s"
    whole = int(at_s)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
