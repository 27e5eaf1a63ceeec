"""Runs the command line inside the TensorFlow worker."""

from __future__ import annotations

from typer.testing import CliRunner

from model_export.cli import app


def invoke(*arguments: str) -> tuple[int, str, str]:
    """Exit status, what was printed to stdout, and to stderr."""
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr
