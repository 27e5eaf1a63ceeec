"""Signals at the worst moments: while a child is being started, while children are stopped, twice, and too late."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from device_sim.interrupts import Interrupted, waiting_for_signals
from device_sim.processes import Children, Stopped

SLEEPER = (sys.executable, "-c", "import signal; signal.pause()")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); signal.pause()",
)
SENTENCE = "edgewise-sim: stopped; nothing is left running\n"


def to_me(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def hang_ups_count() -> Iterator[None]:
    """The tests themselves may run under `nohup`, and what ignores a hang-up then is right to."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_work_stops_every_child(number: signal.Signals, tmp_path: Path) -> None:
    children, started = Children(), []

    def work() -> None:
        with children.started(SLEEPER, tmp_path / "log") as child:
            started.append(child)
            to_me(number)
            child.wait()

    with pytest.raises(Interrupted), waiting_for_signals() as interrupts:
        interrupts.run(work, children.stop_all)
    assert [child.poll() for child in started] == [-signal.SIGTERM]


def test_a_signal_while_a_child_starts_does_not_lose_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    children, born, stopping = Children(), [], threading.Event()
    honest = subprocess.Popen

    def slow(*arguments: object, **options: object) -> subprocess.Popen[str]:
        child = honest(*arguments, **options)  # type: ignore[call-overload]
        born.append(child)  # the process is there, and nobody holds it yet
        to_me(signal.SIGTERM)
        stopping.wait(20)
        return child  # type: ignore[no-any-return]

    monkeypatch.setattr(subprocess, "Popen", slow)

    def stop() -> None:
        stopping.set()
        children.stop_all()

    def work() -> None:
        with children.started(SLEEPER, tmp_path / "log") as child:
            child.wait()

    with pytest.raises(Interrupted), waiting_for_signals() as interrupts:
        interrupts.run(work, stop)
    assert [child.poll() for child in born] == [-signal.SIGTERM]


def test_nothing_starts_after_the_stop(tmp_path: Path) -> None:
    before = psutil.Process().children()
    children = Children()
    children.stop_all()
    with pytest.raises(Stopped), children.started(SLEEPER, tmp_path / "log"):
        pass
    assert [child for child in psutil.Process().children() if child not in before] == []


def test_further_signals_do_not_cut_the_stop_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device_sim.processes.STOP_PATIENCE_S", 0.2)
    children, started = Children(), []

    def stop() -> None:
        to_me(signal.SIGINT)
        children.stop_all()
        to_me(signal.SIGTERM)

    def work() -> None:
        with children.started(STUBBORN, tmp_path / "log", stdout=subprocess.PIPE) as child:
            started.append(child)
            assert child.stdout is not None
            assert child.stdout.readline() == "deaf\n"
            to_me(signal.SIGINT)
            child.wait()

    with pytest.raises(Interrupted), waiting_for_signals() as interrupts:
        interrupts.run(work, stop)
    assert [child.poll() for child in started] == [-signal.SIGKILL]


BUSY = """
import threading
from device_sim.interrupts import Interrupted, leave, waiting_for_signals
stopped = threading.Event()
def work():
    print("at work", flush=True)
    while not stopped.is_set():
        sum(range(1000))
try:
    with waiting_for_signals() as interrupts:
        interrupts.run(work, stopped.set)
except Interrupted:
    leave()
"""


def test_of_many_signals_at_once_one_is_heard_even_when_every_thread_is_busy() -> None:
    """A handler that fills a queue fails this one time in seven."""
    for _ in range(20):
        with subprocess.Popen(
            [sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "at work\n"
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
                child.send_signal(number)
            try:
                _out, err = child.communicate(timeout=30)
            finally:
                child.kill()
        assert (child.returncode, err) == (130, SENTENCE)


def test_a_signal_after_the_work_is_heard_too() -> None:
    ended = []

    def whole() -> None:
        with waiting_for_signals() as interrupts:
            ended.append(interrupts.run(lambda: "done", lambda: None))
            to_me(signal.SIGTERM)

    with pytest.raises(Interrupted):
        whole()
    assert ended == ["done"]


def test_without_a_signal_the_work_returns_or_raises_what_it_did() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with waiting_for_signals() as interrupts:
        assert interrupts.run(lambda: 7, lambda: None) == 7
    with pytest.raises(LookupError), waiting_for_signals() as interrupts:
        interrupts.run(lambda: os.environ["NO_SUCH_NAME"], lambda: None)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


IMPORTING = """
import builtins, os, sys
honest = builtins.__import__
def hit(name, *rest):
    if name == "typer":
        os.kill(os.getpid(), {number})
        os.kill(os.getpid(), 15)
    return honest(name, *rest)
from device_sim.__main__ import main
builtins.__import__ = hit
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_during_the_imports_end_the_command_with_one_sentence(number: signal.Signals) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", IMPORTING.format(number=int(number)), "demo"], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr, ended.stdout) == (130, SENTENCE, "")


def test_nohup_keeps_its_promise() -> None:
    script = (
        "import signal; signal.signal(1, signal.SIG_IGN); from device_sim.interrupts import signals; print(*signals())"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert told == [str(int(signal.SIGINT)), str(int(signal.SIGTERM))]
