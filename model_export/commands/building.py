"""`keygen`, `build` and `inspect`: from a key to a signed bundle."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from edge_runtime.protocol.bundle import Measured
from edge_runtime.protocol.errors import InterpreterFailed, InterpreterMissing
from edge_runtime.protocol.keys import SigningKey
from model_export import keyfile
from model_export.asked import Asked
from model_export.commands.console import (
    BUNDLE_FILE,
    CHECKPOINT_FILE,
    describe,
    one_line_errors,
    say,
    write_exported,
)
from model_export.commands.options import with_spec_options
from model_export.environment import quiet_tensorflow
from model_export.load import where
from model_export.provenance import public_key, take_apart, verified, with_measured
from model_export.spec import Exported

MODEL_HELP = (
    "zoo:NAME, model.keras, or path/file.py:function. The function takes no argument, or input_shape and classes, and "
    "returns a built keras.Model, a tf.Module, or a pair of one and its ExportSpec."
)


def keygen(file: Annotated[Path, typer.Argument(help="Where to write the key; never overwritten.")]) -> None:
    """Write a fresh tenant key, readable by its owner only, and print its public half."""
    with one_line_errors():
        typer.echo(keyfile.create(file).public.raw.hex())


@with_spec_options
def build(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    out: Annotated[Path, typer.Option(help=f"Folder for {BUNDLE_FILE} and {CHECKPOINT_FILE}; made if missing.")],
    tenant_key: Annotated[Path, typer.Option(help="File that `edgewise-export keygen` wrote.")],
    asked: Asked,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure a step here, and write its time and memory into the manifest.")
    ] = False,
) -> None:
    """Export a model: bundle and first checkpoint, signed by the tenant key.

    Options overrule what the model's own spec says, or what its inputs and outputs tell.

    edgewise-export build zoo:cnn --out model --tenant-key tenant.key

    edgewise-export build model.keras --out model --tenant-key tenant.key --optimizer adam --learning-rate 0.001

    edgewise-export build my_model.py:build --out model --tenant-key tenant.key --lora 4 --private-steps
    """
    with one_line_errors():
        key = keyfile.read(tenant_key)
        where(model)
        exported = _exported(model, asked, key)
        if measure:
            say("measuring")
            exported = with_measured(exported, _measured(exported), key)
        write_exported(exported, out)
        typer.echo(_summary(exported, out))


def inspect(
    bundle: Annotated[Path, typer.Argument(help=f"A {BUNDLE_FILE}.")],
    tenant_key_public: Annotated[str, typer.Option(help="64 hex digits that `edgewise-export keygen` printed.")],
) -> None:
    """Verify a bundle's signature and print its manifest."""
    with one_line_errors():
        found = verified(bundle.read_bytes(), public_key(tenant_key_public, "--tenant-key-public"))
        typer.echo(f"bundle      {found.sha256}")
        typer.echo(describe(found.manifest))


def _exported(name: str, asked: Asked, key: SigningKey) -> Exported:
    say("loading TensorFlow")
    quiet_tensorflow()
    from model_export.convert import export
    from model_export.load import load

    say(f"building {name}")
    model, spec = load(name, asked)
    say("tracing and converting")
    return export(model, spec, key)


def _measured(exported: Exported) -> Measured:
    """What a step costs on the preferred runtime, in a process of its own.

    Raises:
        InterpreterMissing: None is installed.
        InterpreterFailed: It died.
    """
    import json

    import numpy as np

    from model_export.check.case import write_case
    from model_export.check.children import run_module
    from model_export.check.stock import installed
    from model_export.verify import Recording, Step

    runtimes = installed()
    if not runtimes:
        raise InterpreterMissing("no TFLite interpreter is installed; run: pip install 'edgewise[litert]'")
    runtime, package = next(iter(runtimes.items()))
    manifest = exported.manifest
    size = manifest.batch_size
    inputs = {
        "x": np.full((size, *manifest.features.shape), manifest.features.low, manifest.features.dtype),
        "y": np.full((size, *manifest.labels.shape), manifest.labels.low, manifest.labels.dtype),
        "mask": np.ones(size, np.float32),
        "lr": np.array(0.0, np.float32),
        **({"mu": np.array(0.0, np.float32)} if manifest.proximal else {}),
        **({"seed": np.array(0, np.int32)} if manifest.seeded else {}),
    }
    with tempfile.TemporaryDirectory(prefix="edgewise-measure-") as folder:
        step = Step(inputs=inputs, outputs={}, before={}, after={}, slots_before={}, slots_after={})
        write_case(Path(folder), take_apart(exported.bundle).graph, manifest, Recording(steps=(step,)))
        ended = run_module("model_export.check.measure", [runtime, folder], 600.0)
    if ended.sentence:
        raise InterpreterFailed(f"{package} {ended.sentence} while it was measured")
    found = json.loads(ended.printed.splitlines()[-1])
    return Measured(
        runtime=package, step_ms=round(found["step_ms"], 3), peak_memory_bytes=int(found["peak_memory_bytes"])
    )


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
