"""`edgewise-export`: a Keras model in, a signed bundle and its first checkpoint out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer

from edge_runtime.protocol.bundle import Manifest, Schema, verify_bundle
from edge_runtime.protocol.errors import Malformed, Refusal
from edge_runtime.protocol.keys import PublicKey, digest
from model_export import keyfile
from model_export.errors import SUPPORTED, UnsupportedModel
from model_export.load import load, where
from model_export.spec import Exported, ExportSpec, class_labels

BUNDLE_FILE: Final = "bundle.ewb"
CHECKPOINT_FILE: Final = "checkpoint.ewc"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=f"""Export a Keras model so that it trains on a phone, on a stock TFLite interpreter.

    1. edgewise-export keygen tenant.key

    2. edgewise-export build zoo:cnn --out build/model --tenant-key tenant.key

    The bundle is the graph; the checkpoint is its first weights. Both are signed by the tenant key, whose public half
    is compiled into the app. Supported layers: {SUPPORTED}.""",
)


@app.command()
def keygen(file: Annotated[Path, typer.Argument(help="Where to write the key; never overwritten.")]) -> None:
    """Write a fresh tenant key, readable by its owner only, and print its public half."""
    with _one_line_errors():
        typer.echo(keyfile.create(file).public.raw.hex())


@app.command()
def build(
    model: Annotated[
        str,
        typer.Argument(
            help="zoo:mlp, zoo:cnn, or path/file.py:function of your own. The function takes no argument, or "
            "input_shape and classes, and returns a built keras.Model."
        ),
    ],
    out: Annotated[Path, typer.Option(help=f"Folder for {BUNDLE_FILE} and {CHECKPOINT_FILE}; made if missing.")],
    tenant_key: Annotated[Path, typer.Option(help="File that `edgewise-export keygen` wrote.")],
    name: Annotated[str, typer.Option(help="Of the model, for people; by default the function's.")] = "",
    batch_size: Annotated[int, typer.Option(min=1, help="Examples in one call; shorter batches are padded.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Determines the initial weights, and so every byte.")] = 0,
    input_shape: Annotated[str, typer.Option(help="Of one example.")] = "28,28,1",
    low: Annotated[float, typer.Option(help="Smallest value of a feature; devices refuse others.")] = 0.0,
    high: Annotated[float, typer.Option(help="Largest value of a feature.")] = 1.0,
    classes: Annotated[int, typer.Option(min=2, help="How many; they are named 0, 1, 2 ...")] = 10,
    class_names: Annotated[str, typer.Option(help="Names instead: cat,dog,bird.")] = "",
) -> None:
    """Export a model: bundle and first checkpoint, signed by the tenant key."""
    with _one_line_errors():
        key = keyfile.read(tenant_key)
        names = tuple(class_names.split(",")) if class_names else tuple(str(label) for label in range(classes))
        features = Schema(shape=_sides(input_shape), dtype="float32", low=low, high=high)
        spec = ExportSpec(
            name=name or model.rpartition(":")[2],
            features=features,
            labels=class_labels(names),
            class_names=names,
            batch_size=batch_size,
        )
        where(model)
        _quiet_tensorflow()
        from model_export.convert import export

        exported = export(load(model, features.shape, len(names), seed), spec, key)
        _write(exported, out)
        typer.echo(_summary(exported, out))


@app.command()
def inspect(
    bundle: Annotated[Path, typer.Argument(help=f"A {BUNDLE_FILE}.")],
    tenant_key_public: Annotated[str, typer.Option(help="64 hex digits that `edgewise-export keygen` printed.")],
) -> None:
    """Verify a bundle's signature and print its manifest."""
    with _one_line_errors():
        raw = bundle.read_bytes()
        verified = verify_bundle(raw, digest(raw).hex(), _public_key(tenant_key_public))
        typer.echo(f"bundle      {verified.sha256}")
        typer.echo(describe(verified.manifest))


def describe(manifest: Manifest) -> str:
    """The manifest as lines for a person."""
    shape = "×".join(map(str, manifest.features.shape))
    lines = [
        f"name        {manifest.name}",
        f"features    {manifest.features.dtype} {shape}, {manifest.features.low:g} to {manifest.features.high:g}",
        f"classes     {', '.join(manifest.class_names)}",
        f"batch       {manifest.batch_size}",
        f"parameters  {manifest.parameters}, of which {manifest.shared_parameters} are trained and reported",
        *(
            f"  {tensor.name} {list(tensor.shape)}{'' if tensor.trainable else ' frozen'}"
            for tensor in manifest.tensors
        ),
        f"operators   {', '.join(f'{operator.name} {operator.version}' for operator in manifest.operators)}",
        f"runtime     TFLite {manifest.minimum_runtime} or later",
        f"exporter    {manifest.exporter}",
    ]
    return "\n".join(lines)


def _summary(exported: Exported, out: Path) -> str:
    weights_bytes = 4 * exported.manifest.parameters
    return "\n".join(
        [
            f"{out / BUNDLE_FILE}  {len(exported.bundle)} bytes, weights alone {weights_bytes}",
            f"{out / CHECKPOINT_FILE}  {len(exported.checkpoint)} bytes, model version 0",
            f"bundle      {exported.bundle_sha256}",
            f"checkpoint  {exported.checkpoint_sha256}",
            describe(exported.manifest),
        ]
    )


def _write(exported: Exported, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, raw in ((BUNDLE_FILE, exported.bundle), (CHECKPOINT_FILE, exported.checkpoint)):
        part = out / f"{name}.part"
        part.write_bytes(raw)
        part.replace(out / name)


def _sides(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(side) for side in text.split(","))
    except ValueError:
        raise Malformed(f"--input-shape is numbers with commas, such as 28,28,1, not {text!r}") from None


def _public_key(text: str) -> PublicKey:
    try:
        return PublicKey(bytes.fromhex(text))
    except ValueError:
        raise Malformed("--tenant-key-public is 64 hex digits") from None


def _quiet_tensorflow() -> None:
    """TensorFlow reads these when it is first imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever else the user's Keras is set to


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """End with status 2 and one line for everything a person can put right."""
    try:
        yield
    except (Refusal, UnsupportedModel) as problem:
        sentence = str(problem)
    except OSError as problem:
        sentence = f"{problem.filename or 'a file'}: {problem.strerror or problem}"
    except ModuleNotFoundError as problem:
        sentence = f"{problem.name} is not installed; run: pip install 'edgewise[export]'"
    else:
        return
    typer.echo(f"edgewise-export: {sentence}", err=True)
    raise typer.Exit(2)


if __name__ == "__main__":
    app()
