"""`edgewise-device examples`: what this device may learn from. It stays here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_runtime.agent import telling
from edge_runtime.agent.advice import span
from edge_runtime.agent.home import opened, settings_file
from edge_runtime.agent.options import (
    HERE,
    WAIT_S,
    Config,
    Json,
    Named,
    State,
    Wait,
    collection_of,
    fail,
    failures_said,
    settings_for,
)
from edge_runtime.agent.rows import examples_in
from edge_runtime.agent.settings import collection_text
from edge_runtime.example_store import Collection
from edge_runtime.protocol.bundle import Schema

app = typer.Typer(no_args_is_help=True, help="The examples of this device: they never leave it.")


@app.command()
def declare(
    name: Annotated[str, typer.Argument(help="Of the collection: a-z 0-9 . _ -")],
    features: Annotated[str, typer.Option(help="Shape of one example's features: 28x28x1, or 4")],
    low: Annotated[float, typer.Option(help="Least feature")] = 0.0,
    high: Annotated[float, typer.Option(help="Largest feature")] = 1.0,
    whole: Annotated[bool, typer.Option("--whole", help="Features are whole numbers (int32)")] = False,
    classes: Annotated[int | None, typer.Option(help="Labels are classes: 0 to one less than this")] = None,
    label_low: Annotated[float, typer.Option(help="Least label, if labels are no classes")] = 0.0,
    label_high: Annotated[float, typer.Option(help="Largest label, if labels are no classes")] = 1.0,
    max_rows: Annotated[int, typer.Option(help="Beyond it the oldest examples go")] = 10_000,
    max_bytes: Annotated[int, typer.Option(help="Likewise, on disk")] = 100_000_000,
    keep_days: Annotated[float | None, typer.Option(help="Older examples go; kept for ever if not given")] = None,
    state: State = HERE,
    config: Config = None,
) -> None:
    """Add a collection to the settings: what its examples look like, as the model's bundle has it."""
    with failures_said():
        settings = settings_for(state, config)
        if name in {collection.name for collection in settings.collections}:
            fail(f"collection {name} is declared already: change it in the settings")
        try:
            shape = tuple(int(side) for side in features.split("x"))
            found = Collection(
                name=name,
                features=Schema(shape=shape, dtype="int32" if whole else "float32", low=low, high=high),
                labels=Schema(shape=(), dtype="float32", low=label_low, high=label_high)
                if classes is None
                else Schema(shape=(), dtype="int32", low=0.0, high=float(classes - 1)),
                max_rows=max_rows,
                max_bytes=max_bytes,
                time_to_live_s=None if keep_days is None else keep_days * 86_400,
                dedupe=True,
            )
        except ValueError as problem:
            fail(f"this is no collection: {problem}")
        path = config or settings_file(state)
        with path.open("a", encoding="utf-8") as file:
            file.write(collection_text(found))
    typer.echo(f"declared {name} in {path}")


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="CSV or .f32: an example in a row, its features flat, then its label")],
    state: State = HERE,
    config: Config = None,
    collection: Named = None,
    wait: Wait = WAIT_S,
) -> None:
    """Add the examples of a file: all of them, or none if one does not fit. What is held already is not added again."""
    with failures_said():
        settings = settings_for(state, config)
        into = collection_of(settings, collection)
        count = sum(len(examples) for examples in examples_in(file, into))  # before any of them is added
        added = duplicates = evicted = 0
        with opened(settings, wait_s=wait) as runtime:
            for examples in examples_in(file, into):
                done = runtime.add(into.name, examples)
                added, duplicates = added + len(done.ids), duplicates + done.duplicates
                evicted += done.evicted
    typer.echo(f"{into.name}: {added} of {count} added, {duplicates} were there already, {evicted} older ones gave way")


@app.command("list")
def list_collections(state: State = HERE, config: Config = None, as_json: Json = False, wait: Wait = WAIT_S) -> None:
    """Count what each collection holds: examples, bytes, classes, ages. These numbers stay here too."""
    with failures_said():
        settings = settings_for(state, config)
        with opened(settings, wait_s=wait) as runtime:
            found = {one.name: runtime.statistics(one.name) for one in settings.collections}
    for name, held in found.items():
        if as_json:
            facts = {"count": held.count, "bytes": held.bytes, "classes": dict(held.classes)}
            ages = {"oldest_age_s": held.oldest_age_s, "newest_age_s": held.newest_age_s}
            typer.echo(telling.as_json({"collection": name, **facts, **ages}))
            continue
        ages_text = "" if held.oldest_age_s is None else f", the oldest {span(held.oldest_age_s)} old"
        typer.echo(f"{name}: {held.count} examples, {held.bytes / 1e6:.1f} MB{ages_text}")
        for label, count in sorted(held.classes.items()):
            typer.echo(f"  class {label}: {count}")


@app.command()
def expire(state: State = HERE, config: Config = None, wait: Wait = WAIT_S) -> None:
    """Delete what is older than its collection keeps it. Every slice of `run` does it too."""
    with failures_said(), opened(settings_for(state, config), wait_s=wait) as runtime:
        gone = runtime.expire()
    typer.echo(f"{gone} expired")


@app.command()
def delete(
    state: State = HERE,
    config: Config = None,
    collection: Named = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
    wait: Wait = WAIT_S,
) -> None:
    """Delete every example of a collection, for good, with the key that sealed them."""
    with failures_said():
        settings = settings_for(state, config)
        name = collection or collection_of(settings, None).name
        if not yes and not typer.confirm(f"Delete every example of {name}, for good?"):
            fail("nothing was done")
        with opened(settings, declares=False, wait_s=wait) as runtime:
            runtime.delete(name)
    typer.echo(f"{name}: deleted")
