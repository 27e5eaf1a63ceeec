"""How `edgewise-device` prints: sentences and tables for people, one JSON object for programs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from edge_runtime.agent.advice import BLOCKED, span
from edge_runtime.journal.state import Visited
from edge_runtime.outcomes import SliceEnd, Why


def as_json(tree: Mapping[str, Any]) -> str:
    """One line; a number that JSON cannot write is null."""
    return json.dumps({key: _plain(value) for key, value in tree.items()}, allow_nan=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {key: _plain(item) for key, item in dataclasses.asdict(value).items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def stamp(at_s: float) -> str:
    """A moment, as logs have it: UTC, to the second."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def slice_text(end: SliceEnd) -> str:
    """One line for a slice's end."""
    round_ = "" if end.round is None else f" (round {end.round})"
    more = ", work is left" if end.work_left else ""
    return f"{end.happened}: {end.reason}{round_}{more}; come back in {span(end.come_back_s)}"


def why_text(why: Why, *, working: bool) -> str:
    """Why nothing is trained just now, and a table of what happened before."""
    if working:
        now = ["working      another process runs a slice just now"]
    elif why.reason is None:
        now = ["nothing stands in the way; the next slice works"]
    else:
        again = f"look again in {span(why.come_back_s)}" if why.come_back_s > 0 else "look again at any time"
        now = [f"{why.reason}: {BLOCKED.get(why.reason, '')}", f"             {again}"]
    lines = [
        f"now          {now[0]}",
        *now[1:],
        f"examples     {why.examples if why.examples >= 0 else 'in use by another process'}",
        f"under way    {why.phase or 'no participation'}",
        *_of_groups(why),
        f"unknown      {', '.join(why.unknown) or 'nothing'}",
    ]
    if why.restarted is not None:
        lines.append(f"restarted    the journal was begun anew: {why.restarted}")
    return "\n".join([*lines, "", *_history(why.history)])


def _of_groups(why: Why) -> list[str]:
    """What waits for a group, and until when."""
    waits = why.appointment_at_s
    lines = [] if waits is None else [f"group        what was trained waits for its appointment at {stamp(waits)}"]
    return [*lines, f"contributes  zeros: {why.zeroed}"] if why.zeroed else lines


def _history(visits: tuple[Visited, ...]) -> list[str]:
    if not visits:
        return ["no slice has ended yet"]
    rows = [("last at (UTC)", "ended with", "round", "times")]
    rows += [(stamp(one.at_s), one.reason, str(one.round or "-"), str(one.times)) for one in reversed(visits)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
