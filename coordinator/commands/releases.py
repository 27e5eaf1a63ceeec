"""`releases`: which model version devices use for inference."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from coordinator.commands.console import AsJson, Mistake, confirm, moment, print_table, short, show
from coordinator.commands.remote import Address, TokenFile, connected, part

releases = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Which model version devices use for inference: canary, rollout, rollback.",
)

Population = Annotated[str, typer.Argument(help="The population.")]
Number = Annotated[int, typer.Argument(min=1, help="Of the release.")]
Share = Annotated[float, typer.Option(help="Of the devices, above 0 to 1; a wider share keeps whom it had.")]


@releases.command("list")
def list_releases(
    population: Population, address: Address = "", token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """List the releases of a population, newest first.

    edgewise-coordinator releases list digits
    """
    with connected(address, token_file) as operator:
        found = operator.pages(f"/populations/{part(population)}/releases")
    show(as_json, found, lambda tree: _print(tree, population))


@releases.command()
def create(
    population: Population,
    share: Share,
    task: Annotated[
        str | None, typer.Option(help="Release this task's newest model version.", show_default=False)
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Or the model version of this digest, 64 hex digits.", show_default=False)
    ] = None,
    address: Address = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Offer a model version to a share of the devices, by a keyed hash of their ids.

    edgewise-coordinator releases create digits --task digits-1 --share 0.05
    """
    with connected(address, token_file) as operator:
        if (task is None) == (checkpoint is None):
            raise Mistake("name a task with --task, or a model version with --checkpoint")
        _check(share)
        sha256 = checkpoint
        if task is not None:
            found = operator.get(f"/tasks/{part(task)}").tree
            if found["population"] != population:
                raise Mistake(f"the task {task!r} is of the population {found['population']!r}, not of {population!r}")
            sha256 = found["checkpoint_sha256"]
        wanted = {"checkpoint_sha256": sha256, "share": share}
        tree = operator.change("POST", f"/populations/{part(population)}/releases", wanted).tree
    show(as_json, tree, lambda one: _print([one], population))


@releases.command("share")
def set_share(
    population: Population,
    number: Number,
    share: Annotated[float, typer.Argument(help="Of the devices, above 0 to 1.")],
    address: Address = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Widen a canary, or narrow it.

    edgewise-coordinator releases share digits 1 0.5
    """
    with connected(address, token_file) as operator:
        _check(share)
        path = f"/populations/{part(population)}/releases/{number}/share"
        tree = operator.change("PUT", path, {"share": share}).tree
    show(as_json, tree, lambda one: _print([one], population))


@releases.command()
def withdraw(
    population: Population,
    number: Number,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    address: Address = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Roll back: the devices of a release return to the one before.

    edgewise-coordinator releases withdraw digits 1 --yes
    """
    with connected(address, token_file) as operator:
        confirm(f"Withdraw release {number} of {population}?", yes)
        tree = operator.change("POST", f"/populations/{part(population)}/releases/{number}/withdraw").tree
    show(as_json, tree, lambda one: _print([one], population))


def _check(share: float) -> None:
    if not 0 < share <= 1:
        raise Mistake(f"a share is above 0 and at most 1, not {share:g}; to take a release back, withdraw it")


def _print(tree: Any, population: str) -> None:
    print_table(
        ("release", "checkpoint", "share", "made", "withdrawn"),
        [
            (
                one["number"],
                short(one["checkpoint_sha256"]),
                f"{100 * one['share']:g}%",
                moment(one["created_at"]),
                moment(one["withdrawn_at"]),
            )
            for one in tree
        ],
        f"{population} has no release yet: its devices use the newest model of its newest task",
    )
