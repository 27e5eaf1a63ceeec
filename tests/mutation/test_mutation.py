"""The nightly asks about the mutants that it says, and its reviewed list is about code that is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutation import report, reviewed
from tests.mutation.__main__ import Notes
from tests.mutation.asking import Outcome
from tests.mutation.codes import changed_functions
from tests.mutation.mutants import Mutant, mutants_of
from tests.mutation.reviewed import Equivalent
from tests.mutation.runs import FOLDER, PACKAGE, SLOW, TESTS

SOURCE = '''"""A module."""
LIMIT = 3

def taken(size: int) -> bool:
    """Whether it fits."""
    if size > LIMIT:
        raise ValueError("a size is at most three")
    check(size)
    return size % 2 == 0
'''
ROOT = Path(__file__).parents[2]


def changes(source: str = SOURCE) -> dict[tuple[str, str], Mutant]:
    return {(one.before, one.after): one for one in mutants_of("module", source)}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ("if size > LIMIT:", "if size >= LIMIT:"),
        ("if size > LIMIT:", "if False:"),
        ("check(size)", "pass"),
        ("check(size)", "check(None)"),
        ("return size % 2 == 0", "return size % 3 == 0"),
        ("return size % 2 == 0", "return size % 2 != 0"),
    ],
)
def test_every_kind_of_change_is_made(before: str, after: str) -> None:
    mutant = changes()[before, after]
    assert mutant.source == SOURCE.replace(before, after)
    assert mutant.function == ("" if before.startswith("LIMIT") else "taken")


def test_sentences_and_annotations_are_left_alone() -> None:
    assert not [one for one in changes().values() if "three" in one.before or "def" in one.before]


def test_a_mutant_keeps_its_name_when_its_lines_move() -> None:
    moved = changes(SOURCE.replace('"""A module."""', '"""A module."""\n\n# and more'))
    assert {key: one.id for key, one in moved.items()} == {key: one.id for key, one in changes().items()}
    assert len({one.id for one in moved.values()}) == len(moved)


def test_a_change_inside_a_function_is_told_from_one_at_import() -> None:
    inside = changed_functions(SOURCE, changes()["check(size)", "pass"].source)
    assert inside is not None
    assert [(one.name, one.line) for one in inside] == [("taken", 4)]
    assert changed_functions(SOURCE, changes()["LIMIT = 3", "LIMIT = 4"].source) is None


def test_a_percentage_is_of_those_that_count() -> None:
    mutants = list(changes().values())[:4]
    last = Equivalent("module", mutants[3].function, mutants[3].before, (mutants[3].after,), "it is the same")
    ends = [Outcome.KILLED, Outcome.TIMED_OUT, Outcome.SURVIVED, Outcome.SURVIVED]
    outcomes = {mutant.id: end for mutant, end in zip(mutants, ends, strict=True)}
    found = report.score(mutants, outcomes, [last])
    assert (found.mutants, found.killed, found.timed_out, found.survived, found.equivalent) == (4, 1, 1, 1, 1)
    assert found.percent == 66.6
    assert "| all | 4 | 1 | 1 | 1 | 1 | 66.6 % |" in report.page(mutants, outcomes, [last])
    assert reviewed.stale([last], mutants) == []
    assert reviewed.stale([last], mutants[:3]) == [f"module {last.function}: {last.after[0]}"]


def test_a_run_goes_on_where_it_stopped_and_trusts_kills_alone_when_tests_changed(tmp_path: Path) -> None:
    path = tmp_path / "build" / "notes.jsonl"
    first = Notes(path, "state", again=False)
    first.add("one", Outcome.KILLED)
    first.add("two", Outcome.SURVIVED)
    first.read_again()
    everything = {"one": Outcome.KILLED, "two": Outcome.SURVIVED}
    assert first.outcomes == Notes(path, "state", again=False).outcomes == everything
    assert Notes(path, "another", again=True).outcomes == {"one": Outcome.KILLED}
    assert Notes(path, "a third", again=False).outcomes == {}


def test_the_reviewed_list_is_about_lines_that_are_there() -> None:
    for entry in reviewed.read():
        lines = (FOLDER / f"{entry.module}.py").read_text().splitlines()
        assert entry.before in " ".join(line.strip() for line in lines), entry
        assert entry.before not in entry.after
        assert len(entry.reason.split()) > 2


def test_what_is_asked_and_what_is_left_out_is_there() -> None:
    assert (ROOT / PACKAGE.replace(".", "/")) == FOLDER
    assert all((ROOT / place).exists() for place in TESTS)
    sums = (ROOT / TESTS[0] / "test_sums.py").read_text()
    assert all(part.split("[")[0] in sums for part in SLOW)
