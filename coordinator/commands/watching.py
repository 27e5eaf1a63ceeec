"""`tasks watch`: a task's progress on a terminal as it happens, or a line for each thing that happens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final, Protocol

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from coordinator.commands.console import output, plain
from coordinator.commands.progress import Progress, RoundLine, progress_of, span
from coordinator.commands.remote import Operator, part

_BEFORE: Final = 20
"""Rounds that are read of a task that has run for long."""
_BAR: Final = 40
_SHOWN: Final = 6


class View(Protocol):
    """Shows how a task stands, again and again."""

    def show(self, progress: Progress) -> None: ...


class Watch:
    """Asks how a task stands; of rounds that have ended it asks once."""

    def __init__(self, operator: Operator, name: str) -> None:
        self._operator = operator
        self._path = f"/tasks/{part(name)}"
        self._etag: str | None = None
        self._task: dict[str, Any] = {}
        self._rounds: dict[int, dict[str, Any]] = {}

    def look(self) -> Progress:
        """How the task stands now."""
        found = self._operator.get_if_changed(self._path, self._etag)
        if found is not None:
            self._task, self._etag = found.tree, found.etag
        now = self._read_rounds()
        return progress_of(self._task, [self._rounds[number] for number in sorted(self._rounds)], now)

    def _read_rounds(self) -> datetime:
        waiting = [number for number, one in self._rounds.items() if one["phase"] not in ("committed", "abandoned")]
        newest = max(self._rounds, default=max(0, self._task["rounds_committed"] - _BEFORE))
        after = min(waiting, default=newest + 1) - 1
        answer = self._operator.get(f"{self._path}/rounds", after=after)
        self._rounds |= {one["number"]: one for one in answer.tree}
        return answer.server_time


def watch(operator: Operator, name: str, view: View, every_s: float, sleep: Callable[[float], None]) -> Progress:
    """Show how a task stands until it has ended, and return how it did."""
    watched = Watch(operator, name)
    while True:
        progress = watched.look()
        view.show(progress)
        if progress.ended:
            return progress
        sleep(every_s)


@contextlib.contextmanager
def viewing() -> Iterator[View]:
    """A picture on a terminal, lines elsewhere."""
    console = output()
    if not console.is_terminal:
        yield Lines(typer.echo)
        return
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        yield Picture(live)


class Lines:
    """A line for each round that moved to another phase, and for each change of the task."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._state = ""
        self._phases: dict[int, str] = {}

    def show(self, progress: Progress) -> None:
        if not progress.ended:
            self._say_state(progress)
        for one in progress.rounds:
            if self._phases.get(one.number) != one.phase:
                self._phases[one.number] = one.phase
                self._say(f"round {one.number} {_about(one)}")
        if progress.ended:
            self._say_state(progress)

    def _say_state(self, progress: Progress) -> None:
        if progress.state != self._state:
            self._state = progress.state
            self._say(headline(progress))


class Picture:
    """What is drawn anew each time."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, progress: Progress) -> None:
        self._live.update(drawn(progress))


def headline(progress: Progress) -> str:
    """The task in one line."""
    why = "" if progress.ended_because is None else f", {plain(progress.ended_because)}"
    wanted = "" if progress.rounds_wanted is None else f" of {progress.rounds_wanted}"
    parts = [
        f"{plain(progress.name)} is {progress.state}{why}: {progress.rounds_committed}{wanted} rounds",
        f"model version {progress.model_version}",
    ]
    if progress.reports_a_minute is not None:
        parts.append(f"{progress.reports_a_minute:.3g} reports a minute")
    if progress.left is not None:
        parts.append(f"about {span(progress.left)} left")
    return ", ".join(parts)


def drawn(progress: Progress) -> RenderableType:
    """The whole picture."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("round", "phase", "chosen", "reports", "ended without a report"):
        table.add_column(title, justify="right" if title in ("round", "chosen", "reports") else "left")
    for one in progress.rounds[-_SHOWN:]:
        phase = one.phase if one.abandonment is None else f"{one.phase}: {one.abandonment}"
        cells = (str(one.number), phase, str(one.chosen), str(one.reports), _outcomes(one.outcomes))
        table.add_row(*map(Text, cells), style="" if one.open else "dim")
    parts: list[RenderableType] = [Text(headline(progress), style="bold")]
    if progress.rounds_wanted is not None:
        bar = Table.grid()  # a line of its own
        bar.add_row(ProgressBar(progress.rounds_wanted, progress.rounds_committed, width=_BAR))
        parts.append(bar)
    parts.append(table)
    if progress.outcomes:
        parts.append(Text(f"without a report so far: {_outcomes(progress.outcomes)}"))
    if not progress.ended:
        parts.append(Text(_waits(progress), style="dim"))
    return Group(*parts)


def _waits(progress: Progress) -> str:
    if progress.state == "draft":
        return "it waits for its approval: edgewise-coordinator tasks approve"
    if progress.state == "approved":
        return "it waits for its start: edgewise-coordinator tasks start"
    return "Ctrl-C ends the watching, and leaves the task alone"


def _about(one: RoundLine) -> str:
    if one.phase == "selecting":
        return "looks for devices"
    counted = f"{one.reports} of {one.chosen} reports"
    ended = _outcomes(one.outcomes)
    why = "" if one.abandonment is None else f" ({plain(one.abandonment)})"
    return f"{one.phase}{why}: {counted}" + (f", without a report {ended}" if ended else "")


def _outcomes(counts: Any) -> str:
    return ", ".join(f"{count} {plain(reason)}" for reason, count in counts.items())
