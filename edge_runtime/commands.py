"""The commands of `edgewise-device`. Needs Typer, which an app that bundles the runtime does not."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from edge_runtime.agent import example_commands, telling
from edge_runtime.agent.home import has_left, mark_left, opened, settings_file, take_back
from edge_runtime.agent.looking import why_while_working
from edge_runtime.agent.loop import Ending
from edge_runtime.agent.loop import run as run_loop
from edge_runtime.agent.options import (
    HERE,
    WAIT_S,
    Config,
    Coordinator,
    Json,
    Named,
    State,
    Wait,
    collection_of,
    fail,
    failures_said,
    settings_for,
)
from edge_runtime.agent.settings import APP, settings_of, settings_text
from edge_runtime.interpreters import runtime_name
from edge_runtime.outcomes import Happened, SliceEnd
from edge_runtime.protocol.errors import NotFound, Refusal, StateInUse
from edge_runtime.protocol.keys import PublicKey, TrustRoots
from edge_runtime.session.enrol import Installation

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="A device that trains for a coordinator, on its own examples, when it is idle. "
    "Begin with `enrol`, then `examples declare` and `examples add`, then `doctor`, then `run`. "
    "`why` says why nothing is trained.",
)

app.add_typer(example_commands.app, name="examples")


@app.command()
def info() -> None:
    """Say which interpreter this device would train with."""
    with failures_said():
        typer.echo(f"interpreter  {runtime_name()}")


@app.command("enrol")
def enrol_command(
    state: State = HERE,
    config: Config = None,
    coordinator: Annotated[str | None, typer.Option(help="Its address: https://fl.example.com")] = None,
    tenant: Annotated[str | None, typer.Option(help="The organisation whose device this is")] = None,
    population: Annotated[str | None, typer.Option(help="The population to enrol in")] = None,
    tenant_key: Annotated[str | None, typer.Option(help="Trust root of bundles and plans, 64 hex digits")] = None,
    coordinator_key: Annotated[str | None, typer.Option(help="Trust root of checkpoints, 64 hex digits")] = None,
    authority_key: Annotated[str | None, typer.Option(help="Who certifies devices for secure summing")] = None,
    again: Annotated[bool, typer.Option("--again", help="Take part anew after an opt-out, as a new device")] = False,
) -> None:
    """Make this device known. The first time, with all of the options, it also writes the settings."""
    from edge_runtime.agent.enrolling import enrol_now

    with failures_said():
        path, text = config or settings_file(state), None
        if not path.exists():
            options = (coordinator, tenant, population, tenant_key, coordinator_key)
            text = _new_settings(path, state, config, options, authority_key)
            settings = dataclasses.replace(settings_of(text, path.absolute().parent), state=state)
        elif any((tenant, population, tenant_key, coordinator_key, authority_key)):
            fail(f"{path} is there already: change it there, and leave these options out")
        else:
            settings = settings_for(state, config, coordinator)
        if has_left(settings) and not again:
            fail("the owner took this device out; --again takes part anew, as a new device")
        device = enrol_now(settings, WAIT_S)
        take_back(settings)
        if text is not None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    typer.echo(f"enrolled as {device}; settings in {path}")


@app.command()
def run(
    state: State = HERE,
    config: Config = None,
    coordinator: Coordinator = None,
    once: Annotated[bool, typer.Option("--once", help="One slice of work, and end: for timers")] = False,
    quiet_: Annotated[bool, typer.Option("--quiet", help="Only how each slice ended")] = False,
    as_json: Json = False,
) -> None:
    """Work whenever conditions allow, and sleep in between, until SIGTERM or Ctrl-C. Nothing is lost by a kill."""
    log = _Log(as_json=as_json, sentences=not quiet_)
    with failures_said():
        settings = settings_for(state, config, coordinator)
        ending = Ending()
        with ending.listening():
            end = run_loop(settings, ending, log.slice_ended, log.say, once=once)
    if ending.asked():
        log.say("stopped")
    if once and end.happened is Happened.REFUSED:
        raise typer.Exit(1)


@app.command()
def why(state: State = HERE, config: Config = None, as_json: Json = False) -> None:
    """Say why nothing is trained just now, and how the last slices ended."""
    with failures_said():
        settings = settings_for(state, config)
        working = False
        try:
            with opened(settings) as runtime:
                found = runtime.why()
        except StateInUse:
            working, found = True, why_while_working(settings)
    typer.echo(
        telling.as_json({**dataclasses.asdict(found), "working": working})
        if as_json
        else telling.why_text(found, working=working)
    )


@app.command()
def infer(
    file: Annotated[Path, typer.Argument(help="CSV or .f32: the features of one example in a row")],
    state: State = HERE,
    config: Config = None,
    collection: Named = None,
    own: Annotated[bool, typer.Option("--own", help="With the weights that this device trained for itself")] = False,
    fetch: Annotated[bool, typer.Option("--fetch", help="Ask for the newest released model first")] = False,
    wait: Wait = WAIT_S,
) -> None:
    """Run the released model on examples of a file; one JSON object a row, with every output of the model."""
    from edge_runtime.agent.rows import features_in

    with failures_said():
        settings = settings_for(state, config)
        features = collection_of(settings, collection).features
        with opened(settings, wait_s=wait) as runtime:
            if fetch:
                runtime.renew()
            try:
                for x in features_in(file, features):
                    outputs = runtime.infer(x, personalised=own)
                    for row in range(len(x)):
                        typer.echo(json.dumps({name: values[row].tolist() for name, values in outputs.items()}))
            except NotFound as refusal:
                fail(f"{refusal.detail}; --fetch does it now")


@app.command("opt-out")
def opt_out(
    state: State = HERE,
    config: Config = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
    wait: Wait = WAIT_S,
) -> None:
    """Take this device out: delete every example and all it keeps, and tell the coordinator."""
    with failures_said():
        settings = settings_for(state, config)
        if not yes and not typer.confirm(f"Delete everything in {settings.state}, for good?"):
            fail("nothing was done")
        with opened(settings, declares=False, leaving=True, wait_s=wait) as runtime:
            mark_left(settings)
            known = runtime.opt_out()
    if known:
        typer.echo("out: everything is deleted, and the coordinator knows")
    else:
        typer.echo("out: everything is deleted; the coordinator gave no answer, and `run` or `opt-out` tells it later")


@app.command()
def doctor(state: State = HERE, config: Config = None, coordinator: Coordinator = None, as_json: Json = False) -> None:
    """Look at every part of this device, and say what to fix. Exit status 1 if something must be fixed."""
    from edge_runtime.agent.doctor import Health, examine

    with failures_said():
        settings = settings_for(state, config, coordinator)
        bad = False
        for finding in examine(settings):
            bad = bad or finding.health is Health.FAIL
            if as_json:
                typer.echo(telling.as_json(dataclasses.asdict(finding)))
                continue
            typer.echo(f"{finding.health:4}  {finding.part:13} {finding.found}")
            if finding.fix and finding.health is not Health.OK:
                typer.echo(f"{'':20}fix: {finding.fix}")
    if bad:
        raise typer.Exit(1)


class _Log:
    """Prints what happens, a line each, as it happens."""

    def __init__(self, *, as_json: bool, sentences: bool) -> None:
        self._as_json, self._sentences = as_json, sentences

    def say(self, sentence: str) -> None:
        """A sentence of the runtime; how a slice ended is told by `slice_ended`."""
        if self._sentences and not sentence.startswith("slice: "):
            self._line(sentence, {"event": "said", "text": sentence})

    def slice_ended(self, end: SliceEnd) -> None:
        self._line(telling.slice_text(end), {"event": "slice", **dataclasses.asdict(end)})

    def _line(self, text: str, facts: dict[str, object]) -> None:
        at = telling.stamp(time.time())
        typer.echo(telling.as_json({"at": at, **facts}) if self._as_json else f"{at}  {text}")


def _new_settings(
    path: Path, state: Path, config: Path | None, options: tuple[str | None, ...], authority_key: str | None
) -> str:
    """The first settings, from the options; their values are checked when they are read."""
    names = ("--coordinator", "--tenant", "--population", "--tenant-key", "--coordinator-key")
    if missing := [name for name, value in zip(names, options, strict=True) if value is None]:
        fail(f"there is no {path} yet, and so {', '.join(missing)} must be given")
    coordinator, tenant, population, tenant_key, coordinator_key = map(str, options)
    try:
        authority = None if authority_key is None else PublicKey(bytes.fromhex(authority_key))
        roots = TrustRoots(PublicKey(bytes.fromhex(tenant_key)), PublicKey(bytes.fromhex(coordinator_key)), authority)
    except (ValueError, Refusal):
        fail("--tenant-key, --coordinator-key and --authority-key are 64 hex digits each")
    installation = Installation(tenant, population, APP, "0.1.0", sys.platform)
    return settings_text(Path("..") if config is None else state.absolute(), installation, coordinator, roots)
