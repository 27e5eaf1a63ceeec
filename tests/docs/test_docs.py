"""Documents are true: links lead somewhere, tables are the code's, commands and their options exist."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Final

import pytest
import typer
from fastapi import FastAPI
from typer.main import get_command

import coordinator.cli
import device_sim.cli
import edge_runtime
import edge_runtime.commands
import loadtest.cli
import model_export.cli
from coordinator.api.operator import TaskRequest, router
from coordinator.api.problems import STATUSES
from coordinator.core.task_settings import Says, ServerOptimiser, Stops, TaskSettings, changes, facts
from coordinator.core.tasks import Stop
from coordinator.settings import Settings
from device_sim.history import Summary
from edge_runtime.protocol.errors import REFUSALS
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.reasons import Abandonment, Outcome, Wait
from model_export.errors import SUPPORTED

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
PAGES: Final = (*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md")))
LONGEST_LINE: Final = 120

APPS: Final[dict[str, typer.Typer]] = {
    "edgewise-coordinator": coordinator.cli.app,
    "edgewise-device": edge_runtime.commands.app,
    "edgewise-export": model_export.cli.app,
    "edgewise-loadtest": loadtest.cli.app,
    "edgewise-sim": device_sim.cli.app,
}

NO_COMMANDS: Final = ("edgewise-data", "edgewise-edge")
"""A folder and a wheel."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in _HEADING.findall(prose(page))}


def table(page: str, first_column: str) -> list[list[str]]:
    """The rows of the table whose first column has this title, each cell without its code marks."""
    lines = iter((DOCS / page).read_text().splitlines())
    next(line for line in lines if line.startswith(f"| {first_column} |"))
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split(" | ")])
    return rows


def codes(rows: list[list[str]]) -> list[str]:
    """Every name in code marks of the first column; a row may hold several."""
    return [name for row in rows for name in re.split(r"`?, `?", row[0])]


def command_lines(page: Path) -> Iterator[list[str]]:
    """Every shell command that a page shows, in a fenced block or in a line, split into words."""
    text = page.read_text()
    blocks = [body for language, body in _FENCE.findall(text) if language == ""]
    shown = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in (*shown, *_SPAN.findall(prose(page))):
        if re.match(r"(make|edgewise-\w+)( |$)", line) and ": " not in line and not line.startswith(NO_COMMANDS):
            yield shlex.split(line.removesuffix(" &").replace("$(cat", "_").replace("<", "_").replace(">", "_"))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in _LINK.findall(prose(page)):
        if target.startswith("https://"):
            continue
        place, _mark, anchor = target.partition("#")
        found = (page.parent / place).resolve() if place else page
        assert found.exists(), f"{named(page)}: {target}"
        assert found.is_relative_to(ROOT)
        assert not anchor or anchor in anchors(found), f"{named(page)}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_exists_with_its_options(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for name, *words in command_lines(page):
        if name == "make":
            targets = [word for word in words if "=" not in word]
            assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets), (named(page), words)
            continue
        commands = getattr(get_command(APPS[name]), "commands", {})
        if not words:
            continue
        assert words[0] in commands, f"{named(page)}: {name} {words[0]}"
        command = commands[words[0]]
        if len(words) > 1 and words[1] in (below := getattr(command, "commands", {})):
            command = below[words[1]]
        options = {option for parameter in command.params for option in parameter.opts}
        used = {word.partition("=")[0] for word in words[1:] if word.startswith("--")}
        assert used <= options, f"{named(page)}: {name} {words[0]} {used - options}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_lines_are_wrapped(page: Path) -> None:
    long = [line for line in page.read_text().splitlines() if len(line) > LONGEST_LINE and not line.startswith("|")]
    assert not long


@pytest.mark.parametrize("example", sorted((DOCS / "examples").iterdir()), ids=named)
def test_an_example_is_shown_as_it_is(example: Path) -> None:
    blocks = [body for page in PAGES for language, body in _FENCE.findall(page.read_text()) if language == "python"]
    assert example.read_text() in blocks


def test_the_table_of_refusals_is_the_code() -> None:
    assert table("protocol.md", "code") == [
        [code, str(STATUSES[code]), REFUSALS[code].retry.value, REFUSALS[code].title] for code in sorted(REFUSALS)
    ]


@pytest.mark.parametrize(
    ("title", "reasons"),
    [
        ("why a check-in was not assigned", Wait),
        ("why a participation ended without a counted report", Outcome),
        ("why a round was abandoned", Abandonment),
        ("why a task ended", Stop),
    ],
)
def test_every_reason_code_is_explained_once(title: str, reasons: type[StrEnum]) -> None:
    assert sorted(codes(table("programme.md", title))) == sorted(reason.value for reason in reasons)


def test_the_table_of_settings_is_the_code() -> None:
    assert {row[0]: row[2] for row in table("operations.md", "variable")} == {
        f"EDGEWISE_{name.upper()}": "unset" if field.default is None else str(field.default) or "empty"
        for name, field in Settings.model_fields.items()
    }


def test_the_fields_of_plan_order_and_summary_are_explained() -> None:
    plan, order = _fields_tables()
    assert plan == {field.name for field in dataclasses.fields(Plan)}
    assert order == {*TaskRequest.model_fields, *changes()}
    assert set(codes(table("simulation.md", "key of `summary.json`"))) == {
        field.name for field in dataclasses.fields(Summary)
    }


def _fields_tables() -> tuple[set[str], set[str]]:
    """The two tables of the programme guide that begin with the column `field`."""
    before, after = (DOCS / "programme.md").read_text().split("### The order")
    return _first_column(before.split("### The plan")[1]), _first_column(after.split("\n## ")[0])


def _first_column(text: str) -> set[str]:
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in _SPAN.findall(cell)}


def test_the_table_of_task_settings_is_the_code() -> None:
    rows = {row[0]: row for row in table("programme.md", "setting")}
    assert {name: row[4] for name, row in rows.items()} == {name: one.value for name, one in changes().items()}
    said = {**facts(TaskSettings), **_prefixed("server_optimiser", ServerOptimiser), **_prefixed("stop", Stops)}
    for name, row in rows.items():
        least, most = said[name].least, said[name].most
        assert (row[1], row[2]) == (said[name].sentence, "" if least is None else f"{least:,} to {most:,}")


def _prefixed(prefix: str, kind: type) -> dict[str, Says]:
    return {f"{prefix}.{name}": one for name, one in facts(kind).items()}


def test_every_operator_call_is_listed() -> None:
    listed = {row[0].partition("?")[0] for row in table("programme.md", "call")}
    described = FastAPI()
    described.include_router(router)
    paths = described.openapi()["paths"]
    assert listed == {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}


def test_every_option_of_the_demo_is_explained() -> None:
    demo = getattr(get_command(device_sim.cli.app), "commands", {})["demo"]
    options = {option for parameter in demo.params for option in parameter.opts}
    assert set(codes(table("simulation.md", "option"))) == options - {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_file_of_ours_that_is_named_exists(page: Path) -> None:
    folders = "|".join(("coordinator", "device_sim", "docs", "edge_runtime", "loadtest", "model_export", "tests"))
    for name in _SPAN.findall(prose(page)):
        if re.fullmatch(rf"(\.ci|{folders})/[a-z0-9_./]*", name):
            assert (ROOT / name).exists(), f"{named(page)}: {name}"


def test_every_path_and_the_worked_signature_are_the_frozen_ones() -> None:
    text = (DOCS / "protocol.md").read_text()
    vectors = ROOT / "tests" / "vectors" / "v1"
    for path in json.loads((vectors / "paths.json").read_text()).values():
        assert path in text
    request = json.loads((vectors / "request.json").read_text())
    joined = re.sub(r";\n +", ";", text).replace('"ID"', f'"{request["device_id"]}"')
    joined = joined.replace('"NONCE"', f'"{request["nonce"]}"')
    for part in (
        bytes.fromhex(request["body"]).decode(),
        request["headers"]["content-digest"],
        request["headers"]["signature"],
        request["headers"]["signature-input"].removeprefix("edgewise="),
    ):
        assert part in joined


def test_every_exported_name_of_the_runtime_is_explained() -> None:
    rows = [row for row in table("app-teams.md", "name") if len(row) == 2]
    assert sorted(codes(rows)) == sorted(edge_runtime.__all__)


def test_every_decision_is_in_the_index() -> None:
    folder = DOCS / "decisions"
    listed = set(_LINK.findall((folder / "README.md").read_text()))
    assert listed == {page.name for page in folder.glob("0*.md")}


def test_supported_layers_are_the_exporters() -> None:
    assert SUPPORTED in " ".join((DOCS / "own-model.md").read_text().split())
