"""kill -9 at writes of the journal, of savepoints and of the example store, spread evenly over a device's life.

After each kill what is on disk is held against the oracle, the life goes on, is killed a second time, and ends. Odd
points are lived with a key, even ones without.

    python -m tests.edge_runtime.store.kills --count 200      (0: every write there is)
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from edge_runtime.journal import AppKey, journal, opening, stored
from tests.edge_runtime.store import tracing
from tests.edge_runtime.store.lives import Outside, Wrong, check, live

KEYS: Final[tuple[AppKey | None, AppKey]] = (None, lambda: bytes(range(32)))
MEMORY: Final = Path("/dev/shm")


def history(kill_at: int | None, again_at: int | None, key: AppKey | None) -> tuple[int, int]:
    """Live one life with up to two kills; return how many there were, and the writes of the first part.

    Raises:
        Wrong: A promise is broken.
        tracing.Failed: The life raised.
    """
    path = Path(tempfile.mkdtemp(prefix="kills-", dir=MEMORY if MEMORY.is_dir() else None))
    outside = Outside()
    try:
        fates = []
        for at in (kill_at, again_at, None):
            fates.append(tracing.run(lambda: live(path, outside, key), at))
            if not fates[-1].killed:
                break
            check(path, outside, key, finished=False)
        check(path, outside, key, finished=True)
        return sum(fate.killed for fate in fates), fates[0].writes
    finally:
        outside.close()
        shutil.rmtree(path)


def spread(count: int, writes: int) -> list[int]:
    """So many points from 1 to the last write, evenly; all of them for 0 or too many."""
    if not 0 < count < writes:
        return list(range(1, writes + 1))
    return [1 + position * (writes - 1) // max(1, count - 1) for position in range(count)]


def run(count: int) -> int:
    """Kill at so many points; return how many kills there were.

    Raises:
        Wrong, tracing.Failed: A promise is broken.
    """
    writes = [history(None, None, key)[1] for key in KEYS]
    kills = 0
    for number, at in enumerate(spread(count, min(writes))):
        killed, _writes = history(at, 1 + at * 37 % min(writes), KEYS[number % 2])
        if not killed:
            raise Wrong(f"nothing was killed at write {at}")
        kills += killed
    return kills


def _in_place(path: Path, content: bytes) -> None:
    """The mistake that this test is there to find: a file that is written over."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(handle, content)
    os.fsync(handle)
    os.close(handle)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--in-place", action="store_true", help="write files over, to see that this is found")
    given = parser.parse_args()
    if given.in_place:
        for module in (journal, opening, stored):
            module.replace_file = _in_place  # type: ignore[attr-defined]
    try:
        kills = run(given.count)
    except (Wrong, tracing.Failed) as problem:
        print(f"broken: {problem}")
        return 1
    print(f"{kills} kills: nothing lost, nothing trained twice, nothing reported twice")
    return 0


if __name__ == "__main__":
    sys.exit(main())
