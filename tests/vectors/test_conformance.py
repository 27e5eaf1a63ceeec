"""The kit for ports: the Python device passes it, and a device with any one mistake does not."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.vectors import conformance
from tests.vectors.conformance import FOLDER, PortFailed, mistakes, questions
from tests.vectors.ports.mistaken import MISTAKES
from tests.vectors.ports.reference import ANSWERS

NOT_FOR_DEVICES = {"blob-keys.json", "settings.json"}
LISTS = {"domains.json", "paths.json", "reasons.json", "refusals.json"}
"""Names that a port copies; what is asked uses them."""


def python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"tests.vectors.ports.{module}", *arguments]


def small(tmp_path: Path, program: str) -> list[str]:
    """A port in one line of Python."""
    script = tmp_path / "port.py"
    script.write_text(program)
    return [sys.executable, str(script)]


def test_the_python_device_conforms() -> None:
    assert mistakes(python("reference"), questions()) == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_device_with_a_mistake_does_not_conform(mistake: str) -> None:
    found = mistakes(python("mistaken", mistake), questions())
    assert found
    assert len(found) < len(questions())


def test_every_frozen_vector_of_a_device_is_asked_about() -> None:
    asked = questions()
    names = [question.name for question in asked]
    assert len(set(names)) == len(names)
    assert {question.vector for question in asked} == set(ANSWERS)
    for name in sorted({path.name for path in FOLDER.iterdir()} - NOT_FOR_DEVICES - LISTS):
        content = json.loads((FOLDER / name).read_text())
        for one in content.get("wrong", []) if isinstance(content, dict) else []:
            assert any(one["what"] in asked_name for asked_name in names), (name, one["what"])


def test_the_port_in_javascript_knows_every_message_that_is_asked_about() -> None:
    """It runs every night; without Node.js, this alone tells by day that a new message passed it by."""
    port = (Path(__file__).parent / "ports" / "port.mjs").read_text()
    asked = {question.input["message"] for question in questions() if question.vector == "message.rewrite"}
    assert {message for message in asked if f"\n  {message}: '" not in port} == set()
    assert {vector for vector in ANSWERS if f"\n  '{vector}': " not in port} == set()


def test_every_vector_is_explained() -> None:
    lines = (Path(__file__).parents[2] / "docs/protocol/conformance.md").read_text().splitlines()
    begin = next(index for index, line in enumerate(lines) if line.startswith("| vector |"))
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[begin + 2 :])
    told = {cells[1].strip(" `"): set(re.findall(r"`(\w+)`", cells[2])) for cells in (row.split("|") for row in rows)}
    assert told == {question.vector: set(question.input) for question in questions()}


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("raise SystemExit(3)", "status 3, 0 answers"),
        ("import sys; sys.stdin.read()", "0 answers"),
        ("import sys\nfor line in sys.stdin: print('yes')", "not a line of JSON"),
        ("import sys\nfor line in sys.stdin: print('[]')", "not a JSON object"),
        ("import sys\nfor line in list(sys.stdin)[1:]: print('{}')", "answers to"),
    ],
)
def test_a_port_that_does_not_answer_fails(tmp_path: Path, program: str, sentence: str) -> None:
    with pytest.raises(PortFailed, match=sentence):
        mistakes(small(tmp_path, program), questions())


def test_a_port_that_is_not_there_or_hangs_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PortFailed, match="did not run"):
        mistakes([str(tmp_path / "nothing")], questions())
    monkeypatch.setattr(conformance, "TIMEOUT_S", 0.5)
    with pytest.raises(PortFailed, match="did not run"):
        mistakes(small(tmp_path, "import threading; threading.Event().wait(30)"), questions())


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--only", "device.id"], 0, "1 questions, 0 answered wrongly"),
        (["--only", "float.write,report.open"], 0, "0 answered wrongly"),
        ([], 0, "0 answered wrongly"),
    ],
)
def test_the_command_says_how_many_were_wrong(
    capsys: pytest.CaptureFixture[str], arguments: Sequence[str], status: int, said: str
) -> None:
    assert conformance.main([*arguments, "--", *python("reference")]) == status
    assert said in capsys.readouterr().out


def test_the_command_names_each_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--only", "device.id", "--", *python("mistaken", "forgets_the_tenant")]
    assert conformance.main(command) == 1
    assert capsys.readouterr().out.startswith("device.id, a device id: expected ")


def test_the_command_refuses_a_vector_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        conformance.main(["--only", "device.ids", "--", "true"])
    assert "there is no vector device.ids" in capsys.readouterr().err
