"""`python -m tests.device_sim.audit.nightly`: audits that take long; ends with 1 where one finds what it must not."""

from __future__ import annotations

import sys
from typing import Final

from coordinator.core.privacy.statement import Mode
from device_sim.audit.mechanisms import Bug, audit
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.plan import Privacy
from tests.device_sim.audit import planted

MODES: Final = tuple(mode for mode in Mode if mode is not Mode.NONE)
RUNS: Final = 100
MOST_WRONG: Final = 12
"""Of 100 runs with 5 % doubt, more are wrong with probability 1e-3 at most; the bound is loose, so there are none."""


def main() -> None:
    problems = []
    for mode in MODES:
        wrong = sum(audit(mode, 2.4, 1e-5, 20_000, digest(b"night", bytes([run]))).disproved for run in range(RUNS))
        sys.stdout.write(f"{mode}: {wrong} of {RUNS} right runs disproved\n")
        if wrong > MOST_WRONG:
            problems.append(f"{mode} is disproved too often")
        for bug in Bug:
            found = audit(mode, 2.4, 1e-5, 100_000, digest(b"night"), bug)
            sys.stdout.write(f"{mode}, {bug}: {found.sentence()}\n")
            problems += [] if found.disproved else [f"{mode} hides {bug}"]
    problems += _of_the_product() + _of_examples()
    few = audit(Mode.CENTRAL, 5.2, 1e-6, 10_000, digest(b"few"), Bug.HALF_NOISE)
    many = audit(Mode.CENTRAL, 5.2, 1e-6, 100_000, digest(b"many"), Bug.HALF_NOISE)
    sys.stdout.write(
        f"half the noise at ε = 5.2: {few.bound:.2f} with 10,000 canaries, {many.bound:.2f} with 100,000\n"
    )
    if few.disproved:
        problems.append("10,000 canaries find half the noise at ε = 5.2: the documents say otherwise")
    if not many.disproved:
        problems.append("100,000 canaries miss half the noise at ε = 5.2")
    for problem in problems:
        sys.stderr.write(problem + "\n")
    sys.exit(bool(problems))


def _of_the_product() -> list[str]:
    """Every fault in the code of phones and coordinator itself, in every mode that it can weaken."""
    problems = []
    for mode in planted.MODES:
        devices = mode in (Privacy.DISTRIBUTED, Privacy.LOCAL)
        wrong = sum(planted.verdict_of(planted.audit_of(mode), f"night {run}").disproved for run in range(RUNS // 5))
        sys.stdout.write(f"the product, {mode}: {wrong} of {RUNS // 5} right runs disproved\n")
        problems += [f"a right task in mode {mode} is disproved too often"] if wrong > MOST_WRONG // 4 else []
        for fault in planted.Fault:
            if devices and fault is planted.Fault.DOUBLE_COUNT:
                continue  # its noise is added twice with it
            rounds = 6 if fault is planted.Fault.NO_LIMITS else 2
            asked = planted.audit_of(mode, canaries=50_000, rounds=rounds, separation=rounds)
            found = planted.verdict_of(asked, "night", fault)
            sys.stdout.write(f"the product, {mode}, {fault}: {found.sentence()}\n")
            problems += [] if found.disproved else [f"the product in mode {mode} hides {fault}"]
    return problems


def _of_examples() -> list[str]:
    """The same of the steps that hide examples on a phone."""
    problems = []
    runs = RUNS // 5
    wrong = sum(planted.verdict_of(planted.audit_of_examples(), f"night {run}").disproved for run in range(runs))
    sys.stdout.write(f"the product, example-level: {wrong} of {runs} right runs disproved\n")
    problems += ["right steps that hide examples are disproved too often"] if wrong > MOST_WRONG // 4 else []
    for fault in planted.OF_EXAMPLES:
        asked = planted.audit_of_examples(50_000, rounds=6 if fault is planted.Fault.NO_LIMITS else 1)
        found = planted.verdict_of(asked, "night", fault)
        sys.stdout.write(f"the product, example-level, {fault}: {found.sentence()}\n")
        problems += [] if found.disproved else [f"the steps that hide examples hide {fault}"]
    return problems


if __name__ == "__main__":
    main()
