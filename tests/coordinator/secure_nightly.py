"""Many stories of secure summing: `python -m tests.coordinator.secure_nightly [--histories N] [--scenes N] …`.

Histories of rounds, drawn groups against plain integers, phones that lie at random, and a group on a regular graph,
each over real HTTP.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import Phase, given, seed, settings

from tests.coordinator.secure_histories import beginning, play
from tests.coordinator.secure_stories import (
    Scene,
    scenes,
    tell,
    tell_of_a_liar,
    tell_of_a_regular_group,
    told_afresh,
)
from tests.programme import make_home
from tests.warm import LOOP


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.coordinator.secure_nightly")
    parser.add_argument("--histories", type=int, default=2000)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--liars", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    began = time.perf_counter()
    with TemporaryDirectory() as name, LOOP:
        folder = Path(name) / "made"
        folder.mkdir()
        made = folder, make_home(folder)
        _draw(made, asked.scenes, asked.seed)
        _each(asked.liars, asked.seed, lambda seed_: told_afresh(made, partial(tell_of_a_liar, seed=seed_, tries=10)))
        with beginning() as begun:
            _each(asked.histories, asked.seed, partial(play, begun))
        told_afresh(made, tell_of_a_regular_group)
    what = f"{asked.histories} histories, {asked.scenes} groups, {asked.liars} liars and a regular graph"
    sys.stdout.write(f"{what} in {time.perf_counter() - began:.0f} s: all as promised\n")


def _each(count: int, first: int, story: Callable[[int], object]) -> None:
    for number in range(first, first + count):
        try:
            story(number)
        except BaseException as problem:
            problem.add_note(f"of the seed {number}")
            raise


def _draw(made: tuple[Path, str], count: int, seed_: int) -> None:
    @seed(seed_)
    @settings(max_examples=max(1, count), deadline=None, database=None, phases=[Phase.generate])
    @given(scene=scenes(most=12))
    def story(scene: Scene) -> None:
        told_afresh(made, lambda home: tell(home, scene))

    story()


if __name__ == "__main__":
    main()
