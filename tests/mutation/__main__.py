"""Mutation testing of secure summing: at least 90 % of its mutants are killed by its tests.

    python -m tests.mutation [--again] [--only MODULE ...]

It goes on where it was stopped, writes docs/mutation.md, and ends with status 1 below 90 % or if the reviewed list of
equivalent mutants is not true any more. About half an hour of processor time, one process at a time.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.mutation import report, reviewed
from tests.mutation.asking import Outcome, ask
from tests.mutation.mutants import Mutant, mutants_of
from tests.mutation.runs import FOLDER, PACKAGE, TESTS, survey

ROOT: Final = Path(__file__).parents[2]
NOTES: Final = ROOT / "build" / "mutation.jsonl"
LEAST_PERCENT: Final = 90.0
_SHOWN_EVERY: Final = 50
_LOADED: Final = (
    "numpy", "xdist.scheduler", "cryptography.hazmat.primitives.ciphers.aead",
    "cryptography.hazmat.primitives.asymmetric.ed25519", "cryptography.hazmat.primitives.asymmetric.x25519",
    "cryptography.hazmat.primitives.kdf.hkdf", "edge_runtime.protocol.keys", "edge_runtime.protocol.wire",
)  # fmt: skip
"""What every fork would load again; nothing of the package."""


class Notes:
    """What is known already, a line each, of one state of code and tests."""

    def __init__(self, path: Path, state: str, *, again: bool) -> None:
        lines = path.read_text().splitlines() if path.exists() else []
        same = lines[:1] == [state]
        known = [(name, Outcome(outcome)) for name, outcome in map(json.loads, lines[1:])]
        self.path = path
        self.outcomes = {name: one for name, one in known if (one is not Outcome.SURVIVED if again else same)}
        path.parent.mkdir(exist_ok=True)
        kept = [json.dumps([name, outcome]) for name, outcome in self.outcomes.items()]
        path.write_text("\n".join([state, *kept]) + "\n")

    def add(self, name: str, outcome: Outcome) -> None:
        """Add a line; who wants it in `outcomes` reads again: it may have been added in another process."""
        with self.path.open("a") as out:
            out.write(json.dumps([name, outcome]) + "\n")

    def read_again(self) -> None:
        for line in self.path.read_text().splitlines()[1:]:
            name, outcome = json.loads(line)
            self.outcomes[name] = Outcome(outcome)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--again", action="store_true", help="ask only about what is new or survived the last time")
    parser.add_argument("--only", nargs="+", default=[], metavar="MODULE", help="as in `--only masks`; writes no page")
    chosen = parser.parse_args()
    os.chdir(ROOT)
    sources = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.py"))}
    if unknown := set(chosen.only) - sources.keys():
        parser.error(f"there is no module {', '.join(sorted(unknown))} in {PACKAGE}")
    mutants = [one for name in (chosen.only or sources) for one in mutants_of(name, sources[name])]
    entries = reviewed.read()
    notes = Notes(NOTES, _state(sources), again=chosen.again)
    if chosen.again:
        same = [mutant for mutant in mutants if any(entry.has(mutant) for entry in entries)]
        notes.outcomes |= {mutant.id: Outcome.SURVIVED for mutant in same}
    _ask(mutants, sources, notes)
    return _concluded(mutants, notes.outcomes, entries, whole=not chosen.only)


def _ask(mutants: Sequence[Mutant], sources: Mapping[str, str], notes: Notes) -> None:
    left = [one for one in mutants if one.id not in notes.outcomes]
    places = {mutant.id: place for place, mutant in enumerate(left)}
    print(f"{len(mutants)} mutants, {len(left)} of them to ask about", flush=True)
    if not left:
        return
    for name in _LOADED:
        importlib.import_module(name)
    if PACKAGE in sys.modules:
        raise RuntimeError(f"{PACKAGE} was imported before it could be changed")

    def told(mutant: Mutant, outcome: Outcome) -> None:
        notes.add(mutant.id, outcome)
        if outcome is Outcome.SURVIVED:
            print(f"survived: {mutant.module} {mutant.function}\n  - {mutant.before}\n  + {mutant.after}", flush=True)
        if (places[mutant.id] + 1) % _SHOWN_EVERY == 0:
            print(f"{mutant.module}: {places[mutant.id] + 1} of {len(left)} in this order", flush=True)

    ask(left, sources, survey(), told)
    notes.read_again()


def _concluded(
    mutants: Sequence[Mutant], outcomes: Mapping[str, Outcome], entries: Sequence[reviewed.Equivalent], *, whole: bool
) -> int:
    if whole:
        report.PAGE.write_text(report.page(mutants, outcomes, entries))
    found = report.score(mutants, outcomes, entries)
    wrong = reviewed.stale(entries, mutants) if whole else []
    wrong += [
        f"{one.module} {one.function}: {one.after}"
        for one in mutants
        if outcomes[one.id] is not Outcome.SURVIVED and any(entry.has(one) for entry in entries)
    ]
    for line in wrong:
        print(f"not equivalent, or not there: {line}; take it out of {reviewed.REVIEWED.name}")
    print(f"{found.percent:.1f} % killed of {found.mutants - found.equivalent}; {LEAST_PERCENT:.0f} % are wanted")
    return 1 if wrong or found.percent < LEAST_PERCENT else 0


def _state(sources: Mapping[str, str]) -> str:
    """One name for the code, the tests and this driver."""
    files = [path for folder in (*TESTS, "tests/mutation") for path in _files(ROOT / folder)]
    parts = [*sources.values(), *(path.read_text() for path in files)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _files(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(place.rglob("*.py"))


if __name__ == "__main__":
    sys.exit(main())
