"""`python -m tests.bench [ids…]`: measure, print a table, and write `build/bench.json`."""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

from tests.bench import checkins, summing, training

OUT = Path("build/bench.json")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        rows = [row for part in (summing, checkins, training) for row in part.rows(Path(name))]
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=2) + "\n")
    for row in rows:
        verdict = "" if row.ratio <= row.bound else f"   above the bound of {row.bound}"
        sys.stdout.write(f"{row.id:28} {row.ours:>12} {row.limit:>12} {row.unit:<10} ratio {row.ratio:<6}{verdict}\n")
    sys.stdout.write(f"written to {OUT}\n")


if __name__ == "__main__":
    main()
