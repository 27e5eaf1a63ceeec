"""What the commands say: tables for people, JSON for machines, one line for every mistake."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge_runtime.protocol.errors import Refusal

REFUSED: Final = 1
"""Exit status: the coordinator refused, or what was asked about is not well."""
WRONG: Final = 2
"""Exit status: the command could not be carried out: command line, settings, a file, the network, the token."""
_WIDE: Final = 1000
"""Columns of an output that is no terminal: nothing is cut off."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


class Mistake(Exception):
    """Something that whoever called can put right, in one sentence that says how."""

    def __init__(self, sentence: str, status: int = WRONG) -> None:
        super().__init__(sentence)
        self.status = status


def fail(sentence: str, status: int = WRONG) -> NoReturn:
    typer.echo(f"edgewise-coordinator: {plain(sentence)}", err=True)
    raise typer.Exit(status)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """End with one line for everything that a person can put right."""
    try:
        yield
    except Mistake as mistake:
        fail(str(mistake), mistake.status)
    except Refusal as refusal:
        fail(refusal.detail)
    except OSError as problem:
        fail(f"{problem.filename or 'a file'}: {problem.strerror or problem}")


def say(sentence: str) -> None:
    """A line for a person; JSON on standard output stays alone."""
    typer.echo(plain(sentence), err=True)


def plain(text: str) -> str:
    """Text without anything that a terminal would obey: devices and files say what they like."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def output() -> Console:
    """Standard output; as wide as it needs where no terminal is."""
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=False)
    return console if console.is_terminal else Console(width=_WIDE, highlight=False, markup=False, emoji=False)


def print_json(tree: object) -> None:
    typer.echo(json.dumps(tree, indent=2, ensure_ascii=not _speaks_unicode()))


def _speaks_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def cell(value: object) -> str:
    """A value as a table shows it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict | list):
        return plain(json.dumps(value, ensure_ascii=False))
    return plain(str(value))


def moment(text: str | None) -> str:
    """A time of the API, to the second, in UTC."""
    if text is None:
        return "–"
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def short(digest: str | None) -> str:
    """Enough of a digest to tell it from others."""
    return "–" if digest is None else f"{plain(digest[:12])}…"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Print rows under their titles, or a sentence where there is none."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in columns:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row))
    if table.row_count:
        _print(table)
    else:
        typer.echo(empty)


def print_facts(facts: Sequence[tuple[str, object]]) -> None:
    """Print what is known of one thing, a line each."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, Text(cell(value)))
    _print(table)


def _print(table: Table) -> None:
    console = output()
    with console.capture() as captured:
        console.print(table)
    sys.stdout.write("\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n")


def show(as_json: bool, tree: Any, people: Callable[[Any], None]) -> None:
    """Print for machines, or for people."""
    if as_json:
        print_json(tree)
    else:
        people(tree)


def confirm(question: str, yes: bool) -> None:
    """Go on if the person at the terminal agrees, or `--yes` was given.

    Raises:
        Mistake: They do not, or nobody is there to ask.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Mistake(f"{question} Nobody is there to ask: add --yes")
    if not typer.confirm(plain(question), err=True):
        raise Mistake("nothing was done", REFUSED)
