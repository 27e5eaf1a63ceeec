"""What the commands share: files, progress, and one line for every mistake."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import typer

from edge_runtime.protocol.bundle import Manifest
from edge_runtime.protocol.errors import Malformed, Refusal
from model_export.errors import UnsupportedModel
from model_export.spec import Exported

BUNDLE_FILE: Final = "bundle.ewb"
CHECKPOINT_FILE: Final = "checkpoint.ewc"


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """End with status 2 and one line for everything a person can put right."""
    try:
        yield
    except (Refusal, UnsupportedModel) as problem:
        sentence = str(problem)
    except OSError as problem:
        sentence = f"{problem.filename or 'a file'}: {problem.strerror or problem}"
    except ModuleNotFoundError as problem:
        sentence = f"{problem.name} is not installed; run: pip install 'edgewise[export]'"
    else:
        return
    typer.echo(f"edgewise-export: {sentence}", err=True)
    raise typer.Exit(2)


def say(text: str) -> None:
    """Progress, for a person who watches a terminal."""
    if sys.stderr.isatty():
        typer.echo(f"… {text}", err=True)


def write_whole(path: Path, raw: bytes) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(raw)
    part.replace(path)


def write_exported(exported: Exported, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / BUNDLE_FILE, exported.bundle)
    write_whole(out / CHECKPOINT_FILE, exported.checkpoint)


def sides(text: str, option: str) -> tuple[int, ...]:
    """A shape such as 28,28,1; the empty text is that of a number.

    Raises:
        Malformed: It is not whole numbers with commas.
    """
    try:
        return tuple(int(side) for side in text.split(",")) if text else ()
    except ValueError:
        raise Malformed(f"{option} is numbers with commas, such as 28,28,1, not {text!r}") from None


def describe(manifest: Manifest) -> str:
    """The manifest as lines for a person."""
    features, labels, plan = manifest.features, manifest.labels, manifest.default_plan
    names = ", ".join(manifest.class_names) or "none"
    batch = f"1 to {manifest.batch_size}" if manifest.dynamic_batch else f"{manifest.batch_size}, shorter ones padded"
    takes = [name for name, wanted in (("mu (FedProx)", manifest.proximal), ("seed", manifest.seeded)) if wanted]
    lines = [
        f"name        {manifest.name}",
        f"features    {_schema(features.dtype, features.shape, features.low, features.high)}",
        *(f"  {one.name} {list(one.shape)}" for one in (manifest.inputs if len(manifest.inputs) > 1 else ())),
        f"labels      {_schema(labels.dtype, labels.shape, labels.low, labels.high)}",
        f"classes     {names}",
        f"outputs     {', '.join(f'{one.name} {list(one.shape)}' for one in manifest.outputs)}",
        f"training    {manifest.loss}, {manifest.optimizer}; metrics: {', '.join(manifest.metrics) or 'none'}",
        f"batch       {batch}",
        *([f"takes       {', '.join(takes)}"] if takes else []),
        f"plan        {plan.epochs} × {plan.batch_size} at {plan.learning_rate:g}, suggested",
        f"parameters  {manifest.parameters}, of which {manifest.shared_parameters} are trained and reported",
        *(f"  {one.name} {list(one.shape)}{_kind(one.trainable, one.role)}" for one in manifest.tensors),
        f"operators   {', '.join(f'{operator.name} {operator.version}' for operator in manifest.operators)}",
        f"runtime     TFLite {manifest.minimum_runtime} or later",
        *([f"measured    {_measured(manifest)}"] if manifest.measured else []),
        f"exporter    {manifest.exporter}",
    ]
    return "\n".join(lines)


def _schema(dtype: str, shape: tuple[int, ...], low: float, high: float) -> str:
    return f"{dtype} {'×'.join(map(str, shape)) or 'number'}, {low:g} to {high:g}"


def _kind(trainable: bool, role: str) -> str:
    return (" frozen" if not trainable else "") + (f" {role}" if role != "base" else "")


def _measured(manifest: Manifest) -> str:
    found = manifest.measured
    if found is None:
        return ""
    return f"{found.step_ms:.1f} ms a step, {found.peak_memory_bytes / 1e6:.0f} MB, on {found.runtime}"
