"""`check`: the trainability report."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from edge_runtime.protocol.errors import InterpreterMissing
from model_export.asked import Asked
from model_export.check.report import Report
from model_export.check.stock import PACKAGES, installed
from model_export.commands.building import MODEL_HELP
from model_export.commands.console import one_line_errors, say, write_whole
from model_export.commands.options import with_spec_options
from model_export.load import where

HTML_FILE, JSON_FILE = "report.html", "report.json"


class Runtime(StrEnum):
    BOTH = "both"
    LITERT = "litert"
    TFLITE = "tflite"


@with_spec_options
def check(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    asked: Asked,
    out: Annotated[
        Path | None,
        typer.Option(
            help=f"Folder for {HTML_FILE} and {JSON_FILE}; build/check/NAME unless given.", show_default=False
        ),
    ] = None,
    runtime: Annotated[Runtime, typer.Option(help="The interpreters to try.")] = Runtime.BOTH,
    steps: Annotated[int, typer.Option(min=1, max=50, help="Training steps to compare with TensorFlow.")] = 5,
    tolerance: Annotated[
        float,
        typer.Option(min=1e-9, max=1.0, help="Largest error, relative to the larger of 1 and TensorFlow's values."),
    ] = 1e-6,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds for each process; more is a finding.")] = 600.0,
) -> None:
    """Say whether a model trains on a phone, and on which ones, before a phone is involved.

    The model is exported, and trained by TensorFlow and by every interpreter that is installed, each in a process of
    its own. A crash is a finding.

    Exit status: 0 if it trains; 1 if it is refused, is further from TensorFlow than allowed, or crashes an
    interpreter; 2 if the command line is wrong.

    edgewise-export check zoo:mlp

    edgewise-export check model.keras --out build/check

    edgewise-export check my_model.py:build --runtime litert --lora 4
    """
    from model_export.check.checking import check as report_on
    from model_export.check.console import text

    with one_line_errors():
        where(model)
        runtimes = tuple(PACKAGES) if runtime is Runtime.BOTH else (runtime.value,)
        if not set(runtimes) & set(installed()):
            raise InterpreterMissing(
                "no such TFLite interpreter is installed; run: pip install 'edgewise[litert,tflite]'"
            )
        report = report_on(
            model, asked, runtimes=runtimes, steps=steps, tolerance=tolerance, timeout_s=timeout, say=say
        )
        folder = out if out is not None else Path("build/check") / _plain(model)
        write_report(report, folder)
    typer.echo(text(report))
    typer.echo(f"\nreport  {folder / HTML_FILE}\njson    {folder / JSON_FILE}")
    if not report.trains:
        raise typer.Exit(1)


def write_report(report: Report, folder: Path) -> None:
    from model_export.check.page import page

    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / HTML_FILE, page(report).encode())
    write_whole(folder / JSON_FILE, (json.dumps(asdict(report), indent=2, allow_nan=False) + "\n").encode())


def _plain(model: str) -> str:
    """A name for a folder: `mlp` for zoo:mlp, `my_model_build` for path/my_model.py:build."""
    place, _colon, function = model.rpartition(":")
    name = function if place == "zoo" else f"{Path(place or function).stem}{'_' + function if place else ''}"
    return re.sub(r"\W+", "_", name).strip("_") or "model"
