"""How a task stands, from what the API says of it and its rounds: pure, for whoever draws it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

ENDED: Final = ("completed", "cancelled")
OPEN_PHASES: Final = ("selecting", "training", "reporting")
RECENT: Final = 10
"""Rounds from which rates are taken: enough to be steady, few enough to follow the hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundLine:
    """One round as it is shown."""

    number: int
    phase: str
    chosen: int
    reports: int
    outcomes: Mapping[str, int]
    abandonment: str | None
    model_version: int

    @property
    def open(self) -> bool:
        return self.phase in OPEN_PHASES


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A task at a moment.

    Attributes:
        rounds: The newest ones, oldest first.
        outcomes: Of all rounds that were seen, by reason code.
        reports_a_minute: Of the recent rounds; None before the first report.
        left: Until the first stop condition that can be foreseen; None if none can.
    """

    name: str
    state: str
    ended_because: str | None
    model_version: int
    rounds_committed: int
    rounds_wanted: int | None
    rounds: tuple[RoundLine, ...]
    outcomes: Mapping[str, int]
    reports_a_minute: float | None
    left: timedelta | None

    @property
    def ended(self) -> bool:
        return self.state in ENDED


def progress_of(task: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]], now: datetime) -> Progress:
    """Put together what is shown of a task.

    Args:
        task: As `GET /tasks/{name}` answers.
        rounds: As `GET /tasks/{name}/rounds` does, oldest first.
        now: By the coordinator's clock.
    """
    return Progress(
        name=task["name"],
        state=task["state"],
        ended_because=task["ended_because"],
        model_version=task["model_version"],
        rounds_committed=task["rounds_committed"],
        rounds_wanted=task["rounds_wanted"],
        rounds=tuple(map(_line, rounds[-RECENT:])),
        outcomes=_summed(one["outcomes"] for one in rounds),
        reports_a_minute=_reports_a_minute(rounds[-RECENT:], now),
        left=None if task["state"] != "active" else _left(task, rounds, now),
    )


def _line(round_: Mapping[str, Any]) -> RoundLine:
    return RoundLine(
        number=round_["number"],
        phase=round_["phase"],
        chosen=round_["chosen"],
        reports=round_["reports"],
        outcomes=round_["outcomes"],
        abandonment=round_["abandonment"],
        model_version=round_["model_version"],
    )


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total.most_common())


def _reports_a_minute(rounds: Sequence[Mapping[str, Any]], now: datetime) -> float | None:
    reports = sum(one["reports"] for one in rounds)
    if reports == 0:
        return None
    began = datetime.fromisoformat(rounds[0]["opened_at"])
    ended = now if rounds[-1]["closed_at"] is None else datetime.fromisoformat(rounds[-1]["closed_at"])
    minutes = (ended - began).total_seconds() / 60
    return reports / minutes if minutes > 0 else None


def _left(task: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]], now: datetime) -> timedelta | None:
    """The earlier of the stop conditions by rounds, at the recent pace, and by date."""
    found = []
    stop_at = task["settings"]["stop"]["at"]
    if stop_at is not None:
        found.append(datetime.fromisoformat(stop_at) - now)
    committed = [one for one in rounds if one["phase"] == "committed" and one["closed_at"] is not None][-RECENT:]
    if task["rounds_wanted"] is not None and committed:
        began = datetime.fromisoformat(committed[0]["opened_at"])
        last = datetime.fromisoformat(committed[-1]["closed_at"])
        each = (last - began) / len(committed)
        ends = last + each * (task["rounds_wanted"] - task["rounds_committed"])
        found.append(ends - now)
    return max(timedelta(0), min(found)) if found else None


def span(left: timedelta) -> str:
    """A span for people, rounded up: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    seconds = math.ceil(left.total_seconds())
    if seconds < 60:
        return f"{seconds} s"
    minutes = math.ceil(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
