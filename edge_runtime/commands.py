"""The commands of `edgewise-device`. Needs Typer, which an app that bundles the runtime does not."""

from __future__ import annotations

import random
import secrets
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import numpy.typing as npt
import typer

from edge_runtime.driver import Driver, Unreachable, http_client, over_http, time_limit
from edge_runtime.examples import Examples
from edge_runtime.identity import load_identity
from edge_runtime.interpreters import runtime_name
from edge_runtime.model import open_model
from edge_runtime.privacy import private_report
from edge_runtime.protocol.bundle import Manifest, Schema
from edge_runtime.protocol.errors import InvalidExamples, Refusal
from edge_runtime.protocol.keys import PublicKey, TrustRoots
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.session.enrol import Installation, enrol
from edge_runtime.session.visit import Offer, VisitEnd, Work, visit
from edge_runtime.training import Interrupted, train

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="One device: enrols, checks in, trains on its own examples, reports.",
)


@app.command()
def info() -> None:
    """Say which interpreter this device would train with."""
    try:
        typer.echo(f"interpreter  {runtime_name()}")
    except Refusal as refusal:
        _fail(refusal.detail)


@app.command("visit")
def visit_once(
    coordinator: Annotated[str, typer.Option(help="Its address: http://127.0.0.1:8470")],
    tenant: Annotated[str, typer.Option(help="The organisation whose app this is")],
    population: Annotated[str, typer.Option(help="The population to enrol in")],
    tenant_key: Annotated[str, typer.Option(help="Trust root of bundles and plans, 64 hex digits")],
    coordinator_key: Annotated[str, typer.Option(help="Trust root of checkpoints, 64 hex digits")],
    examples: Annotated[Path, typer.Option(help="CSV: an example in a row, its features flat and then its label")],
    state: Annotated[Path, typer.Option(help="Folder of the device key, made at the first visit")] = Path(
        "edgewise-device"
    ),
) -> None:
    """Enrol if need be, and make one visit; says how it ended and when to come back."""
    try:
        roots = TrustRoots(PublicKey(bytes.fromhex(tenant_key)), PublicKey(bytes.fromhex(coordinator_key)))
        rows = _rows(examples)
        key = load_identity(state)
        with http_client(coordinator) as client:
            driver = Driver(key=key, tenant=tenant, send=over_http(client))
            driver.run(enrol(Installation(tenant, population, "edgewise-device", "0.1.0", sys.platform), key.public))
            offer = Offer(
                tenant=tenant,
                population=population,
                visit=secrets.token_hex(16),
                runtime=runtime_name(),
                examples=len(rows),
            )
            end = _visit(driver, offer, roots, rows)
    except Refusal as refusal:
        _fail(f"{refusal.detail} ({refusal.code})")
    except Unreachable as problem:
        _fail(f"the coordinator did not answer: {problem}")
    except (OSError, ValueError) as problem:
        _fail(str(problem))
    again_s = end.after_s + end.spread_s * random.SystemRandom().random()
    typer.echo(f"{end.reason}; come back in {again_s:.0f} s")


def _visit(driver: Driver, offer: Offer, roots: TrustRoots, rows: list[list[float]]) -> VisitEnd:
    def run_plan(work: Work) -> bytes | Outcome:
        rng = np.random.default_rng()
        local, stop = examples_of(rows, work.bundle.manifest), time_limit(work.plan.time_limit_s)
        try:
            trained = train(open_model(work.bundle), work.checkpoint.weights, work.plan, local, rng, stop=stop)
        except Interrupted as interrupted:
            return interrupted.outcome
        return private_report(work.participation, trained.delta, work.plan, rng)

    return driver.run(visit(offer, roots, {}, run_plan))


def _rows(path: Path) -> list[list[float]]:
    """Read a CSV of numbers.

    Raises:
        ValueError: A row is not numbers, or too short; the text names the line.
    """
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            row = [float(cell) for cell in line.split(",")]
        except ValueError:
            raise ValueError(f"{path}, line {number}: not numbers separated by commas") from None
        if len(row) < 2:
            raise ValueError(f"{path}, line {number}: a row is features and, last, a label")
        rows.append(row)
    return rows


def examples_of(rows: list[list[float]], manifest: Manifest) -> Examples:
    """Shape rows as the bundle wants them; whether they fit is checked before training.

    Raises:
        InvalidExamples: A row has another number of values, or a fraction where the bundle wants whole numbers.
    """
    width, labels = manifest.features.size, manifest.labels.size
    if any(len(row) != width + labels for row in rows):
        wanted = "a label" if labels == 1 else f"{labels} labels"
        raise InvalidExamples(f"a row has {width} features and {wanted} for this bundle")
    table = np.array(rows, np.float64).reshape(len(rows), width + labels)
    return Examples(
        _typed(table[:, :width], manifest.features, "feature"), _typed(table[:, width:], manifest.labels, "label")
    )


def _typed(values: npt.NDArray[np.float64], schema: Schema, word: str) -> npt.NDArray[Any]:
    """Shape one row an example; no number silently becomes another one, but for float32's rounding."""
    if schema.dtype == "int32" and not ((np.rint(values) == values) & (np.abs(values) < 2**31)).all():
        raise InvalidExamples(f"a {word} is not a whole number of 32 bits")
    with np.errstate(over="ignore"):
        return values.reshape(len(values), *schema.shape).astype(schema.dtype)


def _fail(sentence: str) -> NoReturn:
    typer.echo(f"edgewise-device: {sentence}", err=True)
    raise typer.Exit(2)
