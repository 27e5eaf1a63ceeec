"""How numbers are written in the report."""

from __future__ import annotations

NO_BREAK = "\N{NO-BREAK SPACE}"


def byte_count(total: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if total >= size:
            value = total / size
            return f"{value:.0f}{NO_BREAK}{unit}" if value >= 100 else f"{value:.1f}{NO_BREAK}{unit}"
    return f"{total:.0f}{NO_BREAK}B"


def milliseconds(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:.0f}{NO_BREAK}s"
    if value >= 1000:
        return f"{value / 1000:.1f}{NO_BREAK}s"
    return f"{value:.0f}{NO_BREAK}ms" if value >= 10 else f"{value:.2g}{NO_BREAK}ms"


def percent(share: float) -> str:
    """A share of a battery; small ones keep two digits."""
    value = 100 * share
    return (
        f"{value:.0f}{NO_BREAK}%"
        if value >= 10
        else f"{value:.2g}{NO_BREAK}%"
        if value >= 0.001
        else f"<0.001{NO_BREAK}%"
    )


def error(value: float | None) -> str:
    if value is None:
        return "not finite"
    return "0" if value == 0 else f"{value:.1e}"
