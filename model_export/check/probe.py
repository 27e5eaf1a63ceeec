"""A child process with one interpreter: takes TensorFlow's steps with the bundle, and writes down how far it is off.

Each line of the file is JSON and on disk before the next call: what a crash was in, is the last one.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from model_export.check.case import GRAPH, read_manifest, read_recording
from model_export.check.stock import open_stock
from model_export.verify import Arrays, compare


def probe(runtime: str, folder: Path, out: Path) -> None:
    with out.open("w") as file:

        def note(line: dict[str, object]) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()

        note({"doing": "loading the graph"})
        stock = open_stock((folder / GRAPH).read_bytes(), runtime)

        def call(signature: str, inputs: Arrays) -> Arrays:
            note({"doing": signature})
            return stock(signature, inputs)

        for difference in compare(call, read_manifest(folder), read_recording(folder)):
            note({"difference": asdict(difference)})
        note({"done": True})


if __name__ == "__main__":
    probe(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
