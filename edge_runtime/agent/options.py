"""What the commands of `edgewise-device` share: options, settings, and how failures are said."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from edge_runtime.agent.home import settings_file
from edge_runtime.agent.settings import Settings, SettingsWrong, read_settings
from edge_runtime.example_store import Collection
from edge_runtime.protocol.errors import Refusal, UnknownCollection
from edge_runtime.session import Unreachable

State = Annotated[
    Path, typer.Option(envvar="EDGEWISE_DEVICE_STATE", help="Folder of everything that this device keeps")
]
Config = Annotated[
    Path | None,
    typer.Option(
        envvar="EDGEWISE_DEVICE_CONFIG",
        help="Settings (TOML); the file that `enrol` wrote into the state folder if not given",
    ),
]
Coordinator = Annotated[str | None, typer.Option(help="Its address, in place of the one in the settings")]
Json = Annotated[bool, typer.Option("--json", help="For programs: one JSON object a line")]
Wait = Annotated[float, typer.Option(help="Seconds to wait for another command that holds the state folder")]
Named = Annotated[str | None, typer.Option("--collection", help="Its name; the first of the settings if not given")]

HERE: Final = Path("edgewise-device")
WAIT_S: Final = 10.0


def settings_for(state: Path, config: Path | None, coordinator: str | None = None) -> Settings:
    """The settings of a command; what was said on the command line goes first.

    Raises:
        SettingsWrong: They cannot be used.
    """
    settings = read_settings(config or settings_file(state))
    if config is None:
        settings = dataclasses.replace(settings, state=state)
    if coordinator is not None:
        settings = dataclasses.replace(settings, network=dataclasses.replace(settings.network, coordinator=coordinator))
    return settings


def collection_of(settings: Settings, name: str | None) -> Collection:
    """The collection of that name, or the first.

    Raises:
        UnknownCollection: There is none.
    """
    for collection in settings.collections:
        if name in (None, collection.name):
            return collection
    what = "no collection" if name is None else f"no collection {name}"
    raise UnknownCollection(f"the settings declare {what}; run: edgewise-device examples declare NAME --features …")


@contextmanager
def failures_said() -> Iterator[None]:
    """Whatever is expected to go wrong is one line, and exit status 2."""
    try:
        yield
    except Refusal as refusal:
        fail(f"{refusal.detail} ({refusal.code})")
    except Unreachable as problem:
        fail(f"the coordinator did not answer: {problem}")
    except SettingsWrong as problem:
        fail(str(problem))
    except OSError as problem:
        where = f"{problem.filename}: " if problem.filename else ""
        fail(f"{where}{problem.strerror or problem}")


def fail(sentence: str) -> NoReturn:
    """Say what is wrong, and end."""
    typer.echo(f"edgewise-device: {sentence}", err=True)
    raise typer.Exit(2)
