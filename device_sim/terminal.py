"""The demo in a terminal: bars while it runs, plain lines where there is no terminal, a table at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from device_sim.history import History, Summary
from device_sim.report.protection import epsilon
from device_sim.watching import Watcher


class TerminalWatcher(Watcher):
    """Draws bars on a terminal; elsewhere says a line for each stage and each committed round."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console = console
        self._progress = progress
        self._bars: dict[str, TaskID] = {}
        self._said_round = 0

    def stage(self, title: str) -> None:
        if self._console.is_terminal:
            self._progress.update(self._bar("now"), description=f"[bold]{title}")
        else:
            self._console.print(title)

    def enrolled(self, phones: int, of: int) -> None:
        self._move("phones enrolled", phones, of)

    def round(self, number: int, of: int, resolved: int, chosen: int, accuracy: float | None) -> None:
        shown = "" if accuracy is None else f"accuracy {accuracy:.1%}"
        self._move("rounds committed", number, of, shown)
        self._move("participants done", resolved, chosen)
        if not self._console.is_terminal and number > self._said_round:
            self._said_round = number
            self._console.print(f"round {number} of {of}  {shown}")

    def baselines(self, done: int, of: int) -> None:
        self._move("trained alone, for comparison", done, of)

    def note(self, sentence: str) -> None:
        self._progress.console.print(sentence)

    def _move(self, name: str, done: int, of: int, note: str = "") -> None:
        self._progress.update(self._bar(name), completed=done, total=of, count=f"{done}/{of}", note=note)

    def _bar(self, name: str) -> TaskID:
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=None, count="", note="")
        return self._bars[name]


@contextmanager
def watching(console: Console) -> Iterator[TerminalWatcher]:
    """Draw progress while the block runs."""
    columns = (
        TextColumn("{task.description:<32}"),
        BarColumn(),
        TextColumn("{task.fields[count]:>9}"),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield TerminalWatcher(console, progress)


def print_summary(console: Console, history: History, summary: Summary, out: Path) -> None:
    """Say what came out, how reports were added up, what that protects, and where the report is."""
    table = Table(title="Edgewise demo", show_header=False, title_justify="left")
    table.add_column(style="dim")
    table.add_column(justify="right")
    for name, value in (
        ("accuracy before", f"{summary.accuracy_initial:.1%}"),
        ("accuracy, federated", f"[bold]{summary.accuracy_final:.1%}"),
        ("accuracy, each phone alone", f"{summary.accuracy_local_mean:.1%}"),
        ("accuracy, all data pooled", f"{summary.accuracy_central:.1%}"),
        ("phones", str(summary.devices)),
        ("rounds", str(summary.rounds)),
        ("reports counted", str(summary.reports_counted)),
        ("bytes up per report", f"{summary.bytes_up_per_report:,}"),
        ("sums", _sums(history)),
        *_privacy(summary),
        ("seconds", f"{summary.seconds:.0f}"),
        ("final weights", summary.final_weights_sha256[:16] + "…"),
    ):
        table.add_row(name, value)
    console.print(table)
    for sentence in _remarks(history, summary):
        console.print(sentence, highlight=False, soft_wrap=True)
    console.print(f"report   {out / 'report.html'}", highlight=False, soft_wrap=True)
    console.print(f"summary  {out / 'summary.json'}", highlight=False, soft_wrap=True)


def _sums(history: History) -> str:
    groups = [group for one in history.rounds for group in one.groups]
    if not groups:
        return history.summing
    return f"{history.summing}, {sum(group.aborted is None for group in groups)} of {len(groups)} groups"


def _privacy(summary: Summary) -> list[tuple[str, str]]:
    """The figures, or that there is none."""
    if summary.epsilon_coordinator is None or summary.epsilon_recipients is None or summary.target_delta is None:
        return [("privacy", summary.privacy_mode)]
    return [
        ("privacy", summary.privacy_mode),
        ("accuracy without noise", f"{summary.accuracy_without_noise:.1%}"),
        ("ε against the coordinator", epsilon(summary.epsilon_coordinator)),
        ("ε against recipients", epsilon(summary.epsilon_recipients)),
        ("at δ", f"{summary.target_delta:.2g}"),
    ]


def _remarks(history: History, summary: Summary) -> list[str]:
    """What must not be left unsaid beside the figures."""
    remarks = [f"warning  {warning}" for warning in history.warnings]
    if summary.epsilon_coordinator is not None:
        remarks.append(
            "An ε this large promises little: groups are small, and phones come again. More is in the report."
        )
    return remarks
