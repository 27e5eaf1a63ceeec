"""`devices`: what their apps say, when they came, and how to take one out for its owner."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from coordinator.commands.console import AsJson, confirm, moment, print_facts, print_table, say, short, show
from coordinator.commands.remote import Address, TokenFile, connected, part

devices = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Installations of the app: what they say, and when they came."
)

Population = Annotated[str, typer.Argument(help="The population.")]
Device = Annotated[str, typer.Argument(help="Its id, 32 hex digits.")]


@devices.command("list")
def list_devices(
    population: Population,
    most: Annotated[int, typer.Option(min=1, max=1_000_000, help="So many at most.")] = 100,
    address: Address = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """List the devices of a population, by id.

    edgewise-coordinator devices list digits --most 1000
    """
    with connected(address, token_file) as operator:
        found = operator.pages(f"/populations/{part(population)}/devices", most + 1)
    if len(found) > most:
        say(f"there are more than {most}; --most shows them")
    show(as_json, found[:most], lambda tree: _print_list(tree, population))


def _print_list(tree: Any, population: str) -> None:
    print_table(
        ("device", "app", "version", "platform", "region", "class", "seen", "took part"),
        [
            (
                one["id"],
                one["app"],
                one["app_version"],
                one["platform"],
                one["region"],
                one["hardware_class"],
                "left" if one["left_at"] else moment(one["seen_at"]),
                one["participations"],
            )
            for one in tree
        ],
        f"no device has enrolled in {population} yet",
    )


@devices.command("show")
def show_device(
    population: Population, device: Device, address: Address = "", token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """Show what is known of one device.

    edgewise-coordinator devices show digits <device>
    """
    with connected(address, token_file) as operator:
        found = operator.get(_path(population, device)).tree
    show(as_json, found, lambda tree: print_facts([(name.replace("_", " "), tree[name]) for name in tree]))


@devices.command()
def delete(
    population: Population,
    device: Device,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    address: Address = "",
    token_file: TokenFile = None,
) -> None:
    """Take a device out for its owner, for ever, with everything that can still be told apart.

    edgewise-coordinator devices delete digits <device> --yes
    """
    with connected(address, token_file) as operator:
        operator.get(_path(population, device))
        confirm(f"Take the device {short(device)} out for ever?", yes)
        operator.change("DELETE", _path(population, device))
    typer.echo(f"the device {short(device)} is taken out")


@devices.command()
def quarantined(
    population: Population, address: Address = "", token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """List the devices that are kept out for what they did to groups that sum securely; --json has the evidence.

    edgewise-coordinator devices quarantined digits --json
    """
    with connected(address, token_file) as operator:
        found = operator.pages(f"/populations/{part(population)}/quarantines")
    show(
        as_json,
        found,
        lambda tree: print_table(
            ("device", "because", "since", "until", "faults"),
            [
                (one["device"], one["because"], moment(one["at"]), moment(one["until"]), len(one["faults"]))
                for one in tree
            ],
            f"no device of {population} is kept out",
        ),
    )


@devices.command()
def release(
    population: Population,
    device: Device,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    address: Address = "",
    token_file: TokenFile = None,
) -> None:
    """Let a device that is kept out take part again.

    edgewise-coordinator devices release digits <device> --yes
    """
    with connected(address, token_file) as operator:
        operator.get(_path(population, device))
        confirm(f"Let the device {short(device)} take part again?", yes)
        operator.change("DELETE", f"/populations/{part(population)}/quarantines/{part(device)}")
    typer.echo(f"the device {short(device)} may take part again")


def _path(population: str, device: str) -> str:
    return f"/populations/{part(population)}/devices/{part(device)}"
