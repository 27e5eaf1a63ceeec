"""Asks the tests about mutants, each in a fork of a process that has collected the tests already.

A change inside a function replaces its code in the fork, and the tests that call it run, the quickest first, until one
fails. A change that runs at import needs a fork that has imported nothing of the package yet.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from types import CodeType, FunctionType, ModuleType
from typing import TypeAlias

import pytest

from tests.mutation.codes import Changed, changed_functions
from tests.mutation.mutants import Mutant
from tests.mutation.runs import FOLDER, PACKAGE, Survey, forked, run


class Outcome(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    TIMED_OUT = "timed out"
    SURVIVED = "survived"


Told: TypeAlias = Callable[[Mutant, Outcome], None]


def ask(mutants: Sequence[Mutant], sources: Mapping[str, str], known: Survey, told: Told) -> None:
    """Ask about each mutant, and tell at once what became of it.

    Args:
        sources: Of the modules as they are, by name.
        told: Called in another process for changes inside functions: what it keeps in memory alone is lost.
    """
    inside, anew = [], []
    for mutant in mutants:
        changed = changed_functions(sources[mutant.module], mutant.source)
        if changed is None:
            anew.append(mutant)
        else:
            inside.append((mutant, changed))
    if inside:
        _apart(lambda: run(_Asking(inside, known, told)))
    for mutant in anew:
        told(mutant, _asked_anew(mutant, known))


def _apart(work: Callable[[], int]) -> None:
    """Work in a child, so that this process has imported nothing afterwards either.

    Raises:
        RuntimeError: The child failed.
    """
    if status := _ended(forked(work, silent=False)):
        raise RuntimeError(f"the process that asks ended with status {status}")


class _Asking:
    """A pytest plugin that forks for each mutant, once the tests are collected, instead of running them."""

    def __init__(self, mutants: Sequence[tuple[Mutant, Sequence[Changed]]], known: Survey, told: Told) -> None:
        self.mutants, self.known, self.told = mutants, known, told
        self.failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or report.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        functions = _functions()
        for mutant, changed in self.mutants:
            keys = [(f"{PACKAGE}.{mutant.module}", one.name, one.line) for one in changed]
            if missing := [key for key in keys if key not in functions]:
                raise LookupError(f"nothing is left of {missing} by which it could be changed")
            callers = [self.known.callers.get((mutant.module, one.name), frozenset[str]()) for one in changed]
            names = self.known.quickest(set().union(*callers))
            codes = [
                (function, one.code) for key, one in zip(keys, changed, strict=True) for function in functions[key]
            ]
            asked = partial(self._asked, codes, [items[name] for name in names])
            self.told(mutant, _outcome(forked(asked, self.known.allowed(names))))
        return True

    def _asked(self, codes: Sequence[tuple[FunctionType, CodeType]], items: Sequence[pytest.Item]) -> int:
        for function, code in codes:
            function.__code__ = code
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed:
                return 1
        return 0


def _functions() -> Mapping[tuple[str, str, int], list[FunctionType]]:
    """Every function of the package that there is, by module, name and first line."""
    found = defaultdict(list)
    for one in gc.get_objects():
        if isinstance(one, FunctionType) and str(one.__module__).startswith(PACKAGE):
            found[one.__module__, one.__code__.co_qualname, one.__code__.co_firstlineno].append(one)
    return found


def _asked_anew(mutant: Mutant, known: Survey) -> Outcome:
    names = known.quickest(set(known.seconds))

    def work() -> int:
        sys.meta_path.insert(0, _Finder(mutant))
        return run(_Sorted(names))

    return _outcome(forked(work, known.allowed(names)))


class _Sorted:
    """A pytest plugin that runs the quickest tests first."""

    def __init__(self, names: Sequence[str]) -> None:
        self.places = {name: place for place, name in enumerate(names)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self.places.get(item.nodeid, -1))


class _Finder:
    """Finds one module as its mutant."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(self, name: str, _path: object = None, _target: ModuleType | None = None) -> ModuleSpec | None:
        if name != f"{PACKAGE}.{self.mutant.module}":
            return None
        path = str(FOLDER / f"{self.mutant.module}.py")
        return spec_from_file_location(name, path, loader=_Loader(name, path, self.mutant.source))


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self.source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.source, self.path, "exec", dont_inherit=True)


def _ended(pid: int) -> int:
    try:
        return os.waitpid(pid, 0)[1]
    except KeyboardInterrupt:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _outcome(pid: int) -> Outcome:
    status = _ended(pid)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGALRM):
        return Outcome.TIMED_OUT
    return Outcome.KILLED if status else Outcome.SURVIVED
