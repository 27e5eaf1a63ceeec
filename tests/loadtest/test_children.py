"""Whatever ends a load test, its children end too."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest.children import Children, Interrupted


def waiting_child(children: Children, folder: Path) -> subprocess.Popen[bytes]:
    """A Python console, which waits for its stdin for ever."""
    return children.start("code", output=subprocess.DEVNULL, errors=folder / "log", environment=os.environ)


def with_a_child(folder: Path, ending: Callable[[], None], started: list[subprocess.Popen[bytes]]) -> None:
    with Children() as children:
        started.append(waiting_child(children, folder))
        ending()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_children_and_then_the_parent_may_go_on(number: int, tmp_path: Path) -> None:
    before = signal.getsignal(number)
    started: list[subprocess.Popen[bytes]] = []
    with pytest.raises(Interrupted) as ended:
        with_a_child(tmp_path, lambda: os.kill(os.getpid(), number), started)
    assert ended.value.exit_code == 128 + number
    assert started[0].returncode is not None
    assert signal.getsignal(number) == before


def test_an_error_ends_the_children(tmp_path: Path) -> None:
    started: list[subprocess.Popen[bytes]] = []
    with pytest.raises(ZeroDivisionError):
        with_a_child(tmp_path, lambda: print(1 // 0), started)
    assert started[0].returncode is not None


def test_a_signal_raises_in_the_middle_of_nothing() -> None:
    done: list[str] = []

    def start_something() -> None:
        with Children() as children:
            os.kill(os.getpid(), signal.SIGTERM)
            children.stack.callback(done.append, "undone")
            done.append("arranged")

    with pytest.raises(Interrupted):
        start_something()
    assert done == ["arranged", "undone"]


def test_a_signal_ends_what_the_load_test_waits_for(tmp_path: Path) -> None:
    """A child that says nothing until it ends: reading from it would last for ever."""
    said: list[bytes] = []

    def listen() -> None:
        with Children() as children:
            child = children.start("code", output=subprocess.PIPE, errors=tmp_path / "log", environment=os.environ)
            os.kill(os.getpid(), signal.SIGINT)
            assert child.stdout is not None
            said.extend(child.stdout)
            raise OSError("the swarm ended before its time")

    with pytest.raises(Interrupted) as ended:
        listen()
    assert isinstance(ended.value.__context__, OSError)
    assert said == []


def test_after_a_signal_no_child_is_started(tmp_path: Path) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start_two() -> None:
        with Children() as children:
            started.append(waiting_child(children, tmp_path))
            os.kill(os.getpid(), signal.SIGTERM)
            started.append(waiting_child(children, tmp_path))

    with pytest.raises(Interrupted):
        start_two()
    assert len(started) == 1
    assert started[0].returncode is not None


def test_a_second_signal_does_not_disturb_the_tidying_up() -> None:
    undone: list[str] = []

    def undo() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        undone.append("all of it")

    def interrupt() -> None:
        with Children() as children:
            children.stack.callback(undo)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        interrupt()
    assert undone == ["all of it"]
