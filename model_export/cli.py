"""`edgewise-export`: a Keras model in, a signed bundle and its first checkpoint out, and the way back."""

from __future__ import annotations

import typer

from model_export.commands import beginning, building, checking, returning, signing
from model_export.errors import SUPPORTED

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=f"""Export a Keras model so that it trains on a phone, on a stock TFLite interpreter.

    1. edgewise-export new my_model.py

    2. edgewise-export check my_model.py:build

    3. edgewise-export keygen tenant.key

    4. edgewise-export build my_model.py:build --out build/model --tenant-key tenant.key

    A model is zoo:NAME, a saved model.keras, or a function in a file. The bundle is the graph; the checkpoint is its
    first weights. Both are signed by the tenant key, whose public half is compiled into the app. Trained weights come
    back with `weights` and `bake`. Every command explains itself: edgewise-export COMMAND --help.

    Supported layers: {SUPPORTED}.""",
)

for _command in (
    beginning.new,
    beginning.zoo,
    checking.check,
    building.keygen,
    building.build,
    building.inspect,
    signing.sign,
    signing.verify,
    returning.weights,
    returning.bake,
):
    app.command()(_command)


if __name__ == "__main__":
    app()
