"""What a demo says of itself while it runs, put together from the operator API and from the fleet's own words."""

from __future__ import annotations

import subprocess  # nosec B404
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import httpx

from device_sim.events import Diary, Enrolled, Evaluated, Event, Participated, read_event
from device_sim.processes import CommandFailed
from device_sim.programme import Operator

ABANDONED_IN_A_ROW: Final = 3


class Watcher:
    """Hears what the demo is doing. The default says nothing."""

    def stage(self, title: str) -> None:
        """A new part of the demo begins."""

    def enrolled(self, phones: int, of: int) -> None:
        """Phones are becoming known."""

    def round(self, number: int, of: int, resolved: int, chosen: int, accuracy: float | None) -> None:
        """A round moved."""

    def baselines(self, done: int, of: int) -> None:
        """Devices have trained alone."""

    def note(self, sentence: str) -> None:
        """Something worth knowing happened."""


@dataclass(slots=True)
class Heard:
    """What the fleet has told so far."""

    enrolled: int = 0
    evaluations: dict[int, Evaluated] = field(default_factory=dict)
    participations: dict[int, list[Participated]] = field(default_factory=dict)
    diary: list[Diary] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Enrolled):
            self.enrolled = max(self.enrolled, event.phones)  # told by many threads, in any order
        elif isinstance(event, Evaluated):
            self.evaluations[event.model_version] = event
        elif isinstance(event, Participated):
            self.participations.setdefault(event.round, []).append(event)
        elif isinstance(event, Diary):
            self.diary.append(event)


def listen(child: subprocess.Popen[str], hear: Callable[[Event], None]) -> None:
    if child.stdout is not None:
        for line in child.stdout:
            event = read_event(line)
            if event is not None:
                hear(event)


class Progress:
    """Turns what the operator API and the fleet say into what a watcher hears."""

    def __init__(self, operator: Operator, heard: Heard, phones: int, watcher: Watcher) -> None:
        self._operator = operator
        self._heard = heard
        self._phones = phones
        self._watcher = watcher
        self._training = False
        self._after = 0
        self.ordered = False
        """Whether there is a task to look at."""

    def look(self) -> None:
        """Tell what is new.

        Raises:
            CommandFailed: Round after round is abandoned.
        """
        if not self.ordered:
            self._watcher.enrolled(self._heard.enrolled, self._phones)
            return
        if not self._training:
            self._watcher.enrolled(self._phones, self._phones)
            self._watcher.stage("phones train")
            self._training = True
        try:
            task, rounds = self._operator.task("demo"), self._operator.rounds("demo", self._after)
        except httpx.TransportError:
            return  # it is being started again
        if [one["phase"] for one in rounds].count("abandoned") >= ABANDONED_IN_A_ROW:
            raise CommandFailed("three rounds in a row were abandoned: " + str(rounds[-1]["abandonment"]))
        newest = max(self._heard.evaluations, default=None)
        accuracy = self._heard.evaluations[newest].accuracy if newest is not None else None
        for one in rounds:
            resolved = one["reports"] + sum(one["outcomes"].values())
            self._watcher.round(task["rounds_committed"], task["rounds_wanted"], resolved, one["chosen"], accuracy)
            if one["phase"] == "committed":
                self._after = one["number"]
