"""`edgewise-sim` from the command line: helps that read well, examples that can be typed, mistakes in one line."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup
from typer.testing import CliRunner

from device_sim.cli import app

COMMANDS = ("demo", "fleet", "baselines", "audit")


def help_of(command: str) -> str:
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_the_paragraphs_of_a_help_are_filled_to_the_width_of_a_terminal(command: str) -> None:
    """No line of a paragraph ends before the first word of the next would have fitted."""
    for paragraph in help_of(command).partition("Options:")[0].split("\n\n"):
        lines = paragraph.splitlines()
        if "edgewise-sim" not in paragraph:
            assert all(len(f"{line} {after.split()[0]}") > 78 for line, after in itertools.pairwise(lines)), paragraph
        assert all(len(line) < 80 for line in lines)


@pytest.mark.parametrize("command", ["demo", "audit"])
def test_the_examples_of_a_help_can_be_typed(command: str) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    shown = re.findall(r"^ +(edgewise-sim .*)$", re.sub(r"\\\n +", "", help_of(command)), re.MULTILINE)
    assert len(shown) >= 3
    for example in shown:
        _sim, name, *words = shlex.split(example)
        group.commands[name].make_context(name, words)


def test_a_report_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("")
    result = CliRunner().invoke(app, ["audit", "--out", str(taken)])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert f"edgewise-sim: the report cannot be written: {taken}: " in result.stderr
