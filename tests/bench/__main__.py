"""`python -m tests.bench [parts…]`: measure, print a table, and write `build/bench.json`.

Parts are summing, secsum, privacy, checkins, training, exporting and edge; all of them by default.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.bench import coordinator, edge, exporting, privacy, secsum, summing, training
from tests.bench.measure import Row

OUT = Path("build/bench.json")
PARTS: dict[str, Callable[[Path], list[Row]]] = {
    "summing": summing.rows,
    "secsum": secsum.rows,
    "privacy": privacy.rows,
    "coordinator": coordinator.rows,
    "training": training.rows,
    "exporting": exporting.rows,
    "edge": edge.rows,
}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        rows = [row for part in sys.argv[1:] or PARTS for row in PARTS[part](Path(name))]
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=2) + "\n")
    for row in rows:
        verdict = "" if row.ratio <= row.bound else f"   above the bound of {row.bound}"
        sys.stdout.write(f"{row.id:28} {row.ours:>12} {row.limit:>12} {row.unit:<10} ratio {row.ratio:<6}{verdict}\n")
    sys.stdout.write(f"written to {OUT}\n")


if __name__ == "__main__":
    main()
