"""`edgewise-device`: one device from the command line, for a laptop, a Raspberry Pi or a first look."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; Typer is not among the edge's dependencies, so its absence is said in one line."""
    try:
        from edge_runtime.commands import app
    except ModuleNotFoundError as problem:
        if problem.name != "typer":
            raise
        sys.stderr.write("edgewise-device: Typer is not installed; run: pip install typer\n")
        sys.exit(2)
    app()


if __name__ == "__main__":
    main()
