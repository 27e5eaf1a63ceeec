"""The journal on a full or failing disk, in a folder that others want too."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.journal import Phase, StateFolder, open_folder
from edge_runtime.journal import state as now_is
from edge_runtime.journal.state import State
from edge_runtime.protocol.errors import (
    DeviceStorageFull,
    StateInUse,
)
from edge_runtime.protocol.reasons import Outcome
from tests.edge_runtime.store.journals import (
    ME,
    PROGRESS,
    enrolled,
    files,
    reopened,
    training,
    why_restarted,
)
from tests.edge_runtime.store.test_participation import HERE, NOW_S
from tests.workers import ROOT


def failing_at(number: int, code: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Let the n-th call that needs the disk fail, and all after it; returns how many there were."""
    calls = 0
    real = {name: getattr(os, name) for name in ("write", "fsync", "replace")}

    def guarded(name: str) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            nonlocal calls
            calls += 1
            if calls >= number:
                raise OSError(code, os.strerror(code))
            return real[name](*arguments)

        return call

    for name in real:
        monkeypatch.setattr(os, name, guarded(name))
    return lambda: calls


@pytest.mark.parametrize("number", range(1, 13))
def test_a_disk_that_fills_up_leaves_the_state_before_or_after(
    folder: StateFolder, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A savepoint is three files, each written, synced, renamed, and its folder synced: 12 calls."""
    journal = enrolled(folder)
    journal.update(lambda state: now_is.assigned(state, HERE, "pop", NOW_S))
    before = journal.state
    calls = failing_at(number, errno.ENOSPC, monkeypatch)
    if number <= 8:
        with pytest.raises(DeviceStorageFull):
            journal.save(PROGRESS)
    else:
        journal.save(PROGRESS)  # the change is on disk; that it was noted elsewhere can wait
    assert calls() >= number
    monkeypatch.undo()
    assert number >= 9 or not list(folder.path.glob("*.new"))
    happened = number >= 8
    assert (journal.state != before) == happened
    assert reopened(folder).state == journal.state
    assert bool(list(folder.path.glob("stored-*"))) == happened
    assert not list(folder.path.glob("*.new"))
    for off in (True, False):
        journal.update(lambda state, off=off: now_is.switched(state, off=off))  # type: ignore[misc]
    assert why_restarted(reopened(folder)) is None


def test_a_disk_that_fails_is_not_called_full(folder: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = enrolled(folder)
    failing_at(1, errno.EIO, monkeypatch)
    with pytest.raises(OSError, match="Input/output"):
        journal.update(lambda state: now_is.switched(state, off=True))
    monkeypatch.undo()
    assert not journal.state.switched_off
    assert reopened(folder).state.identity == ME


def test_nothing_is_sent_when_the_decision_cannot_be_written(
    folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = training(folder)
    journal.seal(b"report")
    failing_at(1, errno.ENOSPC, monkeypatch)
    with pytest.raises(DeviceStorageFull):
        journal.report_to_send()
    monkeypatch.undo()
    held = reopened(folder).state.participation
    assert held is not None
    assert held.phase is Phase.SEALED


def test_a_second_process_is_turned_away_at_once_and_let_in_after_the_first_died(tmp_path: Path) -> None:
    state = tmp_path / "state"
    holding = (
        "import sys; from pathlib import Path; from edge_runtime.journal import open_folder\n"
        "held = open_folder(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", holding, str(state)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert first.stdin is not None
    assert first.stdout is not None
    with first:
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(StateInUse):
            open_folder(state)
        first.kill()
        first.wait()
        with open_folder(state) as folder:
            assert reopened(folder).state == State()
        first.stdin.close()


def test_one_process_opens_a_folder_once_at_a_time(tmp_path: Path) -> None:
    with open_folder(tmp_path) as folder:
        with pytest.raises(StateInUse):
            open_folder(tmp_path)
        folder.close()
        open_folder(tmp_path).close()


def test_the_folder_and_its_files_are_the_owners_alone(folder: StateFolder) -> None:
    training(folder)
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.path.iterdir()} == {0o600}


def test_what_a_crash_left_half_written_is_cleared_away(folder: StateFolder) -> None:
    training(folder)
    held = set(files(folder))
    for name in ("journal.new", "journal.seen.new", f"stored-{'0' * 64}", f"stored-{'1' * 64}.new"):
        (folder.path / name).write_bytes(b"half")
    assert reopened(folder).progress() is not None
    assert set(files(folder)) == held


def test_a_state_folder_that_is_deleted_is_begun_anew(tmp_path: Path) -> None:
    with open_folder(tmp_path / "state") as folder:
        enrolled(folder)
    shutil.rmtree(tmp_path / "state")
    with open_folder(tmp_path / "state") as folder:
        assert reopened(folder).state == State()


def test_giving_up_is_on_disk_before_anybody_is_told(folder: StateFolder) -> None:
    training(folder).update(lambda state: now_is.given_up(state, Outcome.IN_USE))
    held = reopened(folder).state.participation
    assert held is not None
    assert (held.phase, held.outcome) == (Phase.GIVING_UP, Outcome.IN_USE)
