"""A process in which the kernel lets no file grow beyond a limit: writes inside SQLite fail halfway.

python -m tests.edge_runtime.store.full_disk FOLDER
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_runtime.journal import open_folder
from edge_runtime.protocol.errors import DeviceStorageFull
from tests.edge_runtime.store.pairs import NOW_S, PAIRS, everything, open_pairs, same, some


@contextmanager
def files_end_at(limit_bytes: int) -> Iterator[None]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def main(path: Path) -> int:
    """Add under ever higher limits until it works; say how often it was refused."""
    refusals = 0
    with open_folder(path) as folder:
        store = open_pairs(folder)
        store.add("pairs", some(20), NOW_S)
        store.close()
        step = (path / "examples.db").stat().st_size // 8
        while True:
            store = open_pairs(folder)
            try:
                with files_end_at(refusals * step):
                    store.add("pairs", some(60, seed=1), NOW_S)
                break
            except DeviceStorageFull:
                refusals += 1
            finally:
                store.close()
            store = open_pairs(folder)
            if store.found_damaged or not same(everything(store), some(20)):
                raise SystemExit(f"after refusal {refusals} the examples are others")
            store.keep_snapshots()
            store.close()
        if open_pairs(folder).statistics(PAIRS.name, NOW_S).count != 80:
            raise SystemExit("what was added is not there")
    print(refusals)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
