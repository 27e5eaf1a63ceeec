"""`cohorts`: named parts of a population, by rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.commands.console import AsJson, Mistake, confirm, moment, print_facts, print_table, show
from coordinator.commands.files import read_json
from coordinator.commands.remote import Address, Operator, Refused, TokenFile, connected, part

cohorts = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Named parts of a population, by rules; tasks address them."
)

Population = Annotated[str, typer.Argument(help="The population.")]
Name = Annotated[str, typer.Argument(help="Of the cohort, within the population.")]
RULE_HELP = 'JSON file with the rule, such as {"version": 1, "where": {"platform": ["android"]}}; docs/programme.md.'


@cohorts.command("list")
def list_cohorts(
    population: Population, address: Address = "", token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """List the cohorts of a population.

    edgewise-coordinator cohorts list digits
    """
    with connected(address, token_file) as operator:
        found = operator.pages(f"/populations/{part(population)}/cohorts")
    show(
        as_json,
        found,
        lambda tree: print_table(
            ("cohort", "version", "changed", "where"),
            [(one["name"], one["version"], moment(one["changed_at"]), one["rule"]["where"]) for one in tree],
            f"{population} has no cohort yet; make one: edgewise-coordinator cohorts put {population} NAME RULE.json",
        ),
    )


@cohorts.command("show")
def show_cohort(
    population: Population, name: Name, address: Address = "", token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """Show a cohort. With --json, its rule alone is under `rule`.

    edgewise-coordinator cohorts show digits german
    """
    with connected(address, token_file) as operator:
        found = operator.get(_path(population, name)).tree
    show(as_json, found, _print)


@cohorts.command()
def put(
    population: Population,
    name: Name,
    rule: Annotated[Path, typer.Argument(help=RULE_HELP)],
    yes: Annotated[bool, typer.Option("--yes", help="Replace another rule without asking.")] = False,
    address: Address = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Save a cohort, and say whom it reaches. Devices follow it from their next check-in on.

    edgewise-coordinator cohorts put digits german german.json
    """
    with connected(address, token_file) as operator:
        content = read_json(rule)
        reached = operator.change("POST", f"/populations/{part(population)}/reach", content).tree
        etag = _held(operator, population, name)
        if etag is not None:
            confirm(f"Replace the rule of {name}? The new one matches {reached['matching']} devices.", yes)
        tree = operator.change("PUT", _path(population, name), content, if_match=etag).tree
    show(as_json, tree | {"reach": reached} if as_json else tree, _print)
    if not as_json:
        _print_reach(reached)


@cohorts.command()
def delete(
    population: Population,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    address: Address = "",
    token_file: TokenFile = None,
) -> None:
    """Delete a cohort that no task addresses any more.

    edgewise-coordinator cohorts delete digits german --yes
    """
    with connected(address, token_file) as operator:
        etag = operator.get(_path(population, name)).etag
        confirm(f"Delete the cohort {name} of {population}?", yes)
        operator.change("DELETE", _path(population, name), if_match=etag)
    typer.echo(f"the cohort {name} is deleted")


@cohorts.command()
def reach(
    population: Population,
    name: Annotated[str | None, typer.Argument(help="A cohort that exists.", show_default=False)] = None,
    rule: Annotated[Path | None, typer.Option(help=RULE_HELP + " Nothing is saved.", show_default=False)] = None,
    address: Address = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Say how many devices a cohort, or a rule that is not saved yet, reaches.

    edgewise-coordinator cohorts reach digits german

    edgewise-coordinator cohorts reach digits --rule german.json
    """
    with connected(address, token_file) as operator:
        if (name is None) == (rule is None):
            raise Mistake("name a cohort, or give a rule with --rule")
        if rule is None:
            found = operator.get(f"{_path(population, str(name))}/reach").tree
        else:
            found = operator.change("POST", f"/populations/{part(population)}/reach", read_json(rule)).tree
    show(as_json, found, _print_reach)


def _path(population: str, name: str) -> str:
    return f"/populations/{part(population)}/cohorts/{part(name)}"


def _held(operator: Operator, population: str, name: str) -> str | None:
    """The tag of a cohort; None if there is none."""
    try:
        return operator.get(_path(population, name)).etag
    except Refused as refused:
        if refused.code != "not-found":
            raise
        return None


def _print(tree: Any) -> None:
    rule = tree["rule"]
    print_facts(
        [
            ("cohort", tree["name"]),
            ("population", tree["population"]),
            ("version", tree["version"]),
            ("changed", moment(tree["changed_at"])),
            ("include", ", ".join(rule["include"]) or None),
            ("exclude", ", ".join(rule["exclude"]) or None),
        ]
    )
    typer.echo(json.dumps(rule["where"], indent=2))


def _print_reach(tree: Any) -> None:
    about = "" if tree["sampled"] is None else f" ± {tree['margin']}, from a sample of {tree['sampled']}"
    print_facts(
        [
            ("devices", tree["devices"]),
            ("matching", f"{tree['matching']}{about}"),
            ("seen this week", f"{tree['seen_this_week']}{about}"),
            ("expected an hour", tree["check_ins_per_hour"]),
        ]
    )
