"""`tasks`: ordered, approved, started, watched, changed, ended."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.commands.console import (
    REFUSED,
    AsJson,
    Mistake,
    cell,
    confirm,
    moment,
    print_table,
    say,
    show,
)
from coordinator.commands.remote import Address, TokenFile, connected, part
from coordinator.commands.task_orders import create, new
from coordinator.commands.task_views import RECENT, print_dry_run, print_funnel, print_moved, print_task, rounds_of
from coordinator.core.tasks import TaskState

tasks = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Training and evaluation: ordered, approved, started, watched."
)

Name = Annotated[str, typer.Argument(help="Of the task, within the tenant.")]
_SET = typer.Option(
    "--set",
    help="A setting and its value in JSON, such as stop.rounds=100; may be given again and again.",
    show_default=False,
)

tasks.command()(new)
tasks.command()(create)


@tasks.command("list")
def list_tasks(
    population: Annotated[str | None, typer.Option(help="Of this one alone.", show_default=False)] = None,
    state: Annotated[TaskState | None, typer.Option(help="In this one alone.", show_default=False)] = None,
    address: Address = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """List the tenant's tasks.

    edgewise-coordinator tasks list --state active
    """
    with connected(address, token_file) as operator:
        found = operator.pages("/tasks", population=population, state=None if state is None else state.value)
    show(
        as_json,
        found,
        lambda tree: print_table(
            ("task", "population", "state", "rounds", "model version", "started", "ended because"),
            [
                (
                    one["name"],
                    one["population"],
                    one["state"],
                    rounds_of(one),
                    one["model_version"],
                    moment(one["started_at"]),
                    one["ended_because"],
                )
                for one in tree
            ],
            "there is no such task; begin one: edgewise-coordinator tasks new > order.toml",
        ),
    )


@tasks.command("show")
def show_task(name: Name, address: Address = "", token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Show a task, its settings and its newest rounds.

    edgewise-coordinator tasks show digits-1
    """
    with connected(address, token_file) as operator:
        found = operator.get(f"/tasks/{part(name)}").tree
        after = max(0, found["rounds_committed"] - RECENT)
        rounds = operator.pages(f"/tasks/{part(name)}/rounds", after=after)
    show(as_json, found | {"rounds": rounds}, print_task)


def _move(
    verb: str, name: str, address: str, token_file: Path | None, as_json: bool, *, question: str = "", yes: bool = True
) -> None:
    """Move a task a step, only as it was seen."""
    with connected(address, token_file) as operator:
        found = operator.get(f"/tasks/{part(name)}")
        confirm(question, yes)
        tree = operator.change("POST", f"/tasks/{part(name)}/{verb}", if_match=found.etag).tree
    show(as_json, tree, print_moved)


@tasks.command()
def approve(name: Name, address: Address = "", token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Approve a draft as it stands. Look at it before: `tasks show`, `tasks dry-run`.

    edgewise-coordinator tasks approve digits-1
    """
    _move("approve", name, address, token_file, as_json)


@tasks.command()
def start(name: Name, address: Address = "", token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Start an approved task.

    edgewise-coordinator tasks start digits-1
    """
    _move("start", name, address, token_file, as_json)


@tasks.command()
def pause(name: Name, address: Address = "", token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Choose no more devices until the task is resumed. Those at work go on.

    edgewise-coordinator tasks pause digits-1
    """
    _move("pause", name, address, token_file, as_json)


@tasks.command()
def resume(name: Name, address: Address = "", token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Go on with a paused task.

    edgewise-coordinator tasks resume digits-1
    """
    _move("resume", name, address, token_file, as_json)


@tasks.command()
def cancel(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    address: Address = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """End a task for ever. Its open rounds are abandoned; its model versions stay.

    edgewise-coordinator tasks cancel digits-1 --yes
    """
    _move("cancel", name, address, token_file, as_json, question=f"Cancel {name} for ever?", yes=yes)


@tasks.command()
def change(
    name: Name,
    settings: Annotated[list[str], _SET],
    address: Address = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Change settings of a task; the next round follows them. `tasks new` says what each means, and when it may change.

    An approved task becomes a draft again: what was approved is no longer what would run.

    edgewise-coordinator tasks change digits-1 --set stop.rounds=100 --set priority=5
    """
    with connected(address, token_file) as operator:
        patch = patch_of(settings)
        found = operator.get(f"/tasks/{part(name)}")
        tree = operator.change("PATCH", f"/tasks/{part(name)}", patch, if_match=found.etag).tree
    show(as_json, tree, lambda one: typer.echo(f"{one['name']} is {one['state']}; {_given(patch)}"))


@tasks.command()
def clone(
    name: Name,
    new_name: Annotated[str, typer.Argument(help="Of the new task.")],
    newest: Annotated[bool, typer.Option("--newest", help="From its newest model version, not its first.")] = False,
    settings: Annotated[list[str] | None, _SET] = None,
    address: Address = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a draft with the plan and the settings of a task; then change some.

    edgewise-coordinator tasks clone digits-1 digits-2 --newest --set stop.rounds=10
    """
    with connected(address, token_file) as operator:
        patch = patch_of(settings or [])
        made = operator.change("POST", f"/tasks/{part(name)}/clone", {"name": new_name, "newest": newest})
        if patch:
            made = operator.change("PATCH", f"/tasks/{part(new_name)}", patch, if_match=made.etag)
    show(as_json, made.tree, lambda one: typer.echo(f"{one['name']} is {one['state']}"))


@tasks.command("dry-run")
def dry_run_task(name: Name, address: Address = "", token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Say what a task would do from now on: devices, rounds a day, bytes, and what to look at before. Nothing changes.

    Exit status 1 if something keeps it from starting.

    edgewise-coordinator tasks dry-run digits-1
    """
    with connected(address, token_file) as operator:
        found = operator.get(f"/tasks/{part(name)}/dry-run").tree
    show(as_json, found, print_dry_run)
    if found["findings"]:
        raise typer.Exit(REFUSED)


@tasks.command()
def funnel(name: Name, address: Address = "", token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Show how far the devices of a task came, what became of the others, and what it cost.

    edgewise-coordinator tasks funnel digits-1
    """
    with connected(address, token_file) as operator:
        found = operator.get(f"/tasks/{part(name)}/funnel").tree
    show(as_json, found, print_funnel)


@tasks.command()
def watch(
    name: Name,
    every: Annotated[float, typer.Option(min=0.2, max=3600, help="Seconds between two looks.")] = 1.0,
    address: Address = "",
    token_file: TokenFile = None,
) -> None:
    """Watch a task until it ends: rounds, phases, reports, outcomes, pace, and about how long it takes.

    Ctrl-C ends the watching and leaves the task alone. Where no terminal is, a line is printed for whatever happens.

    Exit status: 0 if the task was completed, 1 if it was cancelled, 130 after Ctrl-C.

    edgewise-coordinator tasks watch digits-1
    """
    from coordinator.commands import watching

    try:
        with connected(address, token_file) as operator, watching.viewing() as view:
            ended = watching.watch(operator, name, view, every, time.sleep)
    except KeyboardInterrupt:
        say(f"{name} goes on; look again with: edgewise-coordinator tasks watch {name}")
        raise typer.Exit(130) from None
    if ended.state != TaskState.COMPLETED:
        raise typer.Exit(REFUSED)


def patch_of(given: list[str]) -> dict[str, Any]:
    """Settings as a merge patch: `stop.rounds=100` is {"stop": {"rounds": 100}}. What is not JSON is text.

    Raises:
        Mistake: One has no name or no value.
    """
    patch: dict[str, Any] = {}
    for one in given:
        dotted, equals, text = one.partition("=")
        names = dotted.split(".")
        if not equals or not all(names):
            raise Mistake(f"--set is a setting and its value, such as stop.rounds=100, not {one!r}")
        inner = patch
        for name in names[:-1]:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise Mistake(f"--set {one!r} goes into a setting that another --set gives a value")
        inner[names[-1]] = _value(text)
    return patch


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _given(patch: dict[str, Any]) -> str:
    return f"changed: {cell(patch)}"
