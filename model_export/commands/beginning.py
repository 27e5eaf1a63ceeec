"""`new` and `zoo`: where to begin."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from model_export.commands.console import one_line_errors


def new(file: Annotated[Path, typer.Argument(help="Such as my_model.py; never overwritten.")]) -> None:
    """Write a model to begin with: a function with comments that can be checked, built and trained as it is.

    edgewise-export new my_model.py
    """
    with one_line_errors():
        text = resources.files("model_export").joinpath("template.py").read_text(encoding="utf-8")
        with file.open("x", encoding="utf-8") as written:
            written.write(text.replace("my_model.py:build", f"{file.name}:build"))
        typer.echo(f"{file}\nnext: edgewise-export check {file}:build")


def zoo() -> None:
    """List the models of the zoo, which train on phones as they are."""
    from model_export.zoo import ZOO

    width = max(map(len, ZOO))
    for name, reference in ZOO.items():
        features = reference.spec.features
        shape = "×".join(map(str, features.shape))
        typer.echo(f"zoo:{name.ljust(width)}  {reference.summary} ({features.dtype} {shape})")
