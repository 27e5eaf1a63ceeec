"""What a demo is asked for, and how each dataset is trained in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from coordinator.core.privacy.settings import SMALLEST_COHORT
from edge_runtime.protocol.plan import Privacy, Summing


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a dataset is trained in the demo."""

    model: str
    """That the numbers below were chosen for."""
    rounds: int
    goal_share: float
    """Reports wanted, as a share of the training phones."""
    epochs: int
    batch_size: int
    learning_rate: float
    careful_rate: float
    """The learning rate that any other model begins with."""
    clipping_norm: float
    server_learning_rate: float
    noise_multiplier: float
    """Of the sum of one group, where the demo hides phones by noise."""


RECIPES: Final[Mapping[str, Recipe]] = {
    "digits": Recipe(
        model="zoo:cnn",
        rounds=10,
        goal_share=0.6,
        epochs=2,
        batch_size=10,
        learning_rate=0.2,
        careful_rate=0.1,
        clipping_norm=1.0,
        server_learning_rate=2.0,
        noise_multiplier=0.25,
    ),
    "watch": Recipe(
        model="zoo:mlp",
        rounds=20,
        goal_share=0.75,
        epochs=3,
        batch_size=20,
        learning_rate=0.1,
        careful_rate=0.03,
        clipping_norm=8.0,
        server_learning_rate=1.3,
        noise_multiplier=0.1,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What the user asked for."""

    dataset: str
    model: str
    rounds: int | None
    devices: int | None
    seed: int
    port: int
    out: Path
    epochs: int | None = None
    learning_rate: float | None = None
    summing: Summing = Summing.SECURE
    privacy: Privacy | None = None
    """None for what suits the number of phones."""
    exported: Path | None = None
    """Folder with `bundle.ewb`, `checkpoint.ewc` and `tenant.key`; nothing is exported then."""


def privacy_for(options: DemoOptions, training_phones: int) -> Privacy:
    """What noise hides a phone: unless it is said, the devices' own under secure summing, from so many phones on as
    a coordinator makes claims for.

    Raises:
        ValueError: The demo has no such mode, or the summing cannot give it.
    """
    if options.privacy is None:
        enough = options.summing is Summing.SECURE and training_phones >= SMALLEST_COHORT
        return Privacy.DISTRIBUTED if enough else Privacy.NONE
    if options.privacy not in (Privacy.NONE, Privacy.DISTRIBUTED):
        raise ValueError(f"the demo has no privacy {options.privacy}; choose none or distributed")
    if options.privacy is Privacy.DISTRIBUTED and options.summing is Summing.PLAIN:
        raise ValueError("distributed noise needs secure summing: leave --summing plain or --privacy distributed out")
    return options.privacy


def recipe_for(options: DemoOptions) -> Recipe:
    """The dataset's recipe, with what was asked for instead."""
    recipe = RECIPES[options.dataset]
    return replace(
        recipe,
        rounds=options.rounds or recipe.rounds,
        epochs=options.epochs or recipe.epochs,
        learning_rate=options.learning_rate
        or (recipe.learning_rate if options.model == recipe.model else recipe.careful_rate),
    )
