"""The long form of the rules' tests: many examples of every operator, and every kind of model with any batch.

    python -m tests.model_export.nightly_rules [--count 25] [--seed 0]

It prints what is off and ends with status 1 if anything is. About ten minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from tests.model_export.comparison import Lot
from tests.model_export.test_lowering import FIXED, LONG
from tests.workers import Workers

ALWAYS_FIXED = ("normalized_twice", "batch_norm")
"""Statistics of a batch want a batch of known size."""
ROUND = 2
"""Examples of an operator in one file; one of many thousand operators takes TensorFlow long to convert."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    workers = Workers()
    try:
        lots = _lots(workers, chosen.count, chosen.seed)
        return int(sum(_checked(workers, what, make) for what, make in lots) > 0)
    finally:
        workers.close()


def _lots(workers: Workers, count: int, seed: int) -> list[tuple[str, Callable[[], Lot]]]:
    def operators(of_seed: int) -> Lot:
        found: Lot = workers["tensorflow"].run("tests.model_export.lots:of_operators", ROUND, of_seed)
        return found

    def models(names: Sequence[str], dynamic: bool) -> Lot:
        found: Lot = workers["tensorflow"].run("tests.model_export.lots:of_models", names, dynamic)
        return found

    kinds = [*FIXED, *LONG]
    parts = [tuple(kinds[begin::6]) for begin in range(6)]
    flexible = [tuple(name for name in part if name not in ALWAYS_FIXED) for part in parts]
    return [
        *((f"operators, seed {one}", lambda one=one: operators(one)) for one in range(seed, seed + count)),
        *((", ".join(part), lambda part=part: models(part, False)) for part in parts),
        *((f"{', '.join(part)} with any batch", lambda part=part: models(part, True)) for part in flexible),
    ]


def _checked(workers: Workers, what: str, make: Callable[[], Lot]) -> bool:
    """Whether something is off; says what."""
    lot = make()
    problems = list(lot.problems)
    for runtime in ("litert", "tflite"):
        found = workers[runtime].run("tests.model_export.comparison:on_interpreter", lot, runtime)
        problems += [f"{runtime}: {one}" for one in found]
    sys.stdout.write(f"{'off ' if problems else 'fine'} {what}\n" + "".join(f"     {one}\n" for one in problems))
    sys.stdout.flush()
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
