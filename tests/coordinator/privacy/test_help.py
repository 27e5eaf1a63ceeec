"""What the helps of `edgewise-coordinator privacy` show as examples runs, exactly as it is printed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.core.privacy import ledger as decisions
from coordinator.core.privacy.ledger import Purpose
from coordinator.core.privacy.participation import ParticipationLimits
from coordinator.core.privacy.statement import Mode
from coordinator.services import ledger
from tests.coordinator.privacy.spending import WHOSE
from tests.coordinator.serving import Served, complaint, run, serving

COMMANDS = ((), ("plan",), ("budget",), ("budget", "set"), ("budget", "show"), ("ledger",), ("statement",))
_EXAMPLE = re.compile(r"^ *(?:\d+\. )?(edgewise-coordinator .*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A population `keyboard` whose ledger knows the task `words`, as the examples have them."""
    with serving(tmp_path_factory.mktemp("served")) as found:
        found.home.publish()
        found.out("privacy", "budget", "set", WHOSE.population, "coordinator", "--epsilon", "8")
        with found.home.app.state.parts.database.writing() as session:
            book = ledger.open_to_write(session, WHOSE)
            began = decisions.begin_task(
                book.account, "words", Purpose.TRAINING, ParticipationLimits(), Mode.DISTRIBUTED, None
            )
            ledger.add(session, book, began, found.home.clock())
        yield found


@pytest.fixture(autouse=True)
def _as_typed(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of one's own, at a terminal of 80 columns, with the coordinator's address in the surroundings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("EDGEWISE_ADDRESS", served.address)
    monkeypatch.setenv("EDGEWISE_TOKEN_FILE", str(served.token_file))
    monkeypatch.delenv("EDGEWISE_CONFIG", raising=False)


def shown_by(command: tuple[str, ...]) -> list[str]:
    """The examples of a command's help, as a person copies them."""
    result = run("privacy", *command, "--help")
    assert result.exit_code == 0, result.output
    return _EXAMPLE.findall(re.sub(r"\\\n +", "", result.stdout))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_example_of_a_help_runs_as_it_is_printed(command: tuple[str, ...]) -> None:
    examples = shown_by(command)
    assert examples
    for example in examples:
        result = run(*shlex.split(example)[1:])
        assert result.exit_code == 0, f"{example}\n{result.output}"
        assert "Not reachable" not in result.stdout, example


def test_an_example_that_does_not_run_would_be_found() -> None:
    """By the refusal that the planner gives to what a help once showed."""
    words = "--population 900 --rounds 50 --goal 100 --parameters 300 --epsilon-coordinator 8 --separation 10 --most 3"
    assert "cannot meet a goal" in complaint(run("privacy", "plan", *words.split()))


def test_every_command_of_privacy_is_among_those_whose_help_is_tried() -> None:
    def listed(*words: str) -> set[str]:
        text = run("privacy", *words, "--help").stdout.partition("Commands:")[2]
        return set(re.findall(r"^  (\w+) ", text, re.MULTILINE))

    assert {words[-1] for words in COMMANDS if words} == listed() | listed("budget")
