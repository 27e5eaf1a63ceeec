"""`populations`: devices of one app that share an example schema and a model family."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.commands.console import AsJson, Mistake, confirm, print_facts, print_table, say, show
from coordinator.commands.files import read_json
from coordinator.commands.remote import Address, TokenFile, connected, part

populations = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Devices of one app that share an example schema and a model family.",
)

Name = Annotated[str, typer.Argument(help="Of the population, within the tenant.")]


@populations.command("list")
def list_populations(address: Address = "", token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """List the tenant's populations.

    edgewise-coordinator populations list

    edgewise-coordinator populations list --address https://edgewise.example --token-file acme.token --json
    """
    with connected(address, token_file) as operator:
        found = operator.pages("/populations")
    show(
        as_json,
        found,
        lambda tree: print_table(
            ("population", "devices", "policy", "model family", "attributes"),
            [
                (one["name"], _switch(one), _policy(one), one["model_family"], ", ".join(one["attributes"] or {}))
                for one in tree
            ],
            "there is no population yet; make one: edgewise-coordinator populations create NAME",
        ),
    )


@populations.command("show")
def show_population(name: Name, address: Address = "", token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Show a population: what its devices are told, and what they may say of themselves.

    edgewise-coordinator populations show digits
    """
    with connected(address, token_file) as operator:
        found = operator.get(f"/populations/{part(name)}").tree
    show(as_json, found, _print)


@populations.command("create")
def create_population(
    name: Annotated[str, typer.Argument(help="1 to 64 of a-z 0-9 . _ -, a letter or digit first.")],
    declares: Annotated[
        Path | None,
        typer.Option(
            help="JSON file with model_family, example_schema and attributes: what cohorts may ask for.",
            show_default=False,
        ),
    ] = None,
    address: Address = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a population; again changes nothing. With --declares, say what its devices have in common.

    edgewise-coordinator populations create digits

    edgewise-coordinator populations create digits --declares digits.json
    """
    with connected(address, token_file) as operator:
        declared = None if declares is None else read_json(declares)
        operator.change("PUT", f"/populations/{part(name)}", declared)
        found = operator.get(f"/populations/{part(name)}").tree
    show(as_json, found, _print)


@populations.command()
def policy(
    name: Name,
    file: Annotated[
        Path | None, typer.Argument(help="JSON file with the policy; without it, it is shown.", show_default=False)
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Leave it to the apps.")] = False,
    address: Address = "",
    token_file: TokenFile = None,
) -> None:
    """Show or change when the devices of a population may work, within what their apps allow.

    Devices learn it at their next check-in. What is printed may be edited and given back.

    edgewise-coordinator populations policy digits > policy.json

    edgewise-coordinator populations policy digits policy.json

    edgewise-coordinator populations policy digits --clear
    """
    with connected(address, token_file) as operator:
        found = operator.get(f"/populations/{part(name)}")
        if file is not None and clear:
            raise Mistake("a file and --clear are both given; give one")
        if file is None and not clear:
            shown = found.tree["policy"] if found.tree["policy"] is not None else _suggestion()
            typer.echo(json.dumps(shown, indent=2))
            return
        content = b"null" if file is None else file.read_bytes()
        operator.change("PUT", f"/populations/{part(name)}/policy", content=content, if_match=found.etag)
    typer.echo(f"{name}: {'left to the apps' if clear else 'the policy is set'}; devices learn it when they check in")


def _suggestion() -> Any:
    from edge_runtime.protocol import wire
    from edge_runtime.protocol.policy import Policy

    say("there is no policy: it is left to the apps; these are the defaults of the protocol")
    return json.loads(wire.encode(Policy()))


class Position(StrEnum):
    ON = "on"
    OFF = "off"


@populations.command()
def switch(
    name: Name,
    position: Annotated[Position, typer.Argument(help="Where it is to be.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    address: Address = "",
    token_file: TokenFile = None,
) -> None:
    """Switch the devices of a population off, or on again. Who is off does nothing but ask now and then.

    edgewise-coordinator populations switch digits off --yes

    edgewise-coordinator populations switch digits on
    """
    with connected(address, token_file) as operator:
        off = position is Position.OFF
        found = operator.get(f"/populations/{part(name)}")
        if off and not found.tree["switched_off"]:
            confirm(f"Switch all devices of {name} off?", yes)
        operator.change("PUT", f"/populations/{part(name)}/switch", {"off": off}, if_match=found.etag)
    typer.echo(f"{name} is switched {position}; devices learn it at their next contact")


def _print(tree: Any) -> None:
    facts = [
        ("population", tree["name"]),
        ("devices", _switch(tree)),
        ("model family", tree["model_family"]),
        ("example schema", tree["example_schema"]),
        ("attributes", tree["attributes"]),
    ]
    policy_facts = [(f"policy {key}", value) for key, value in (tree["policy"] or {}).items()]
    print_facts([*facts, *(policy_facts or [("policy", "left to the apps")])])


def _switch(tree: Any) -> str:
    return "switched off" if tree["switched_off"] else "on"


def _policy(tree: Any) -> str:
    return "of the apps" if tree["policy"] is None else "set"
