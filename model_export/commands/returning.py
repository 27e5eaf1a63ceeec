"""`weights` and `bake`: the way back from the phones."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from edge_runtime.protocol.bundle import Bundle
from edge_runtime.protocol.checkpoint import Checkpoint
from edge_runtime.protocol.errors import InterpreterFailed, InterpreterMissing, InvalidWeights
from model_export.asked import Asked
from model_export.commands.building import MODEL_HELP
from model_export.commands.console import CHECKPOINT_FILE, one_line_errors, say, sides, write_whole
from model_export.environment import quiet_tensorflow
from model_export.load import SAVED, where
from model_export.provenance import public_key, verified, verified_checkpoint

if TYPE_CHECKING:
    from model_export.verify import Answer

_TOLERANCE: Final = 1e-5
"""Largest relative difference of a baked graph's outputs: another order of sums, through all layers."""
_TRIES: Final = 8

_Checkpoint = Annotated[Path, typer.Argument(help=f"A {CHECKPOINT_FILE}, or one that the coordinator released.")]
_Bundle = Annotated[Path, typer.Option(help="The bundle that the checkpoint is for.")]
_TenantKey = Annotated[str, typer.Option(help="64 hex digits that `edgewise-export keygen` printed.")]
_CoordinatorKey = Annotated[
    str | None,
    typer.Option(
        help="64 hex digits: of the coordinator, who signs all checkpoints but the first.", show_default=False
    ),
]


def weights(
    checkpoint: _Checkpoint,
    bundle: _Bundle,
    into: Annotated[Path, typer.Option(help="A .keras file of the model that was exported.")],
    tenant_key_public: _TenantKey,
    coordinator_key_public: _CoordinatorKey = None,
    out: Annotated[
        Path | None, typer.Option(help="Another .keras file; --into itself unless given.", show_default=False)
    ] = None,
) -> None:
    """Put trained weights into the Keras model they came from, tensor by tensor.

    LoRA adapters are merged into their layers, as Keras does whenever it saves a model.

    edgewise-export weights round-30.ewc --bundle model/bundle.ewb --into model.keras --out trained.keras
    --tenant-key-public 64_HEX_DIGITS --coordinator-key-public 64_HEX_DIGITS
    """  # fmt: skip
    with one_line_errors():
        if into.suffix != SAVED or (out is not None and out.suffix != SAVED):
            raise InvalidWeights(f"--into and --out are {SAVED} files")
        where(str(into))
        found, trained = _verified(checkpoint, bundle, tenant_key_public, coordinator_key_public)
        quiet_tensorflow()
        say("loading TensorFlow")
        from model_export.load import load
        from model_export.weights import put_weights, save

        model, _spec = load(str(into))
        put_weights(model, found.manifest, trained.weights)
        save(model, out or into)
        count = len(found.manifest.tensors)
        typer.echo(f"{out or into}  {count} tensors of model version {trained.model_version}")


def bake(
    checkpoint: _Checkpoint,
    bundle: _Bundle,
    model: Annotated[str, typer.Option(help=MODEL_HELP)],
    out: Annotated[Path, typer.Option(help="The .tflite file to write.")],
    tenant_key_public: _TenantKey,
    coordinator_key_public: _CoordinatorKey = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples in one call of `infer`.")] = 1,
    input_shape: Annotated[str | None, typer.Option(help="As it was built with.", show_default=False)] = None,
    classes: Annotated[int | None, typer.Option(min=2, help="As it was built with.", show_default=False)] = None,
    lora: Annotated[int | None, typer.Option(min=1, help="As it was built with.", show_default=False)] = None,
) -> None:
    """Write a plain inference .tflite with trained weights: one signature, constants, no training.

    It is run beside the Keras model on random examples before it is written.

    edgewise-export bake round-30.ewc --bundle model/bundle.ewb --model my_model.py:build --out app.tflite
    --tenant-key-public 64_HEX_DIGITS --coordinator-key-public 64_HEX_DIGITS
    """
    with one_line_errors():
        where(model)
        found, trained = _verified(checkpoint, bundle, tenant_key_public, coordinator_key_public)
        quiet_tensorflow()
        say("loading TensorFlow")
        from model_export.load import load
        from model_export.weights import answers_of, inference_graph, put_weights

        shape = None if input_shape is None else sides(input_shape, "--input-shape")
        made, _spec = load(model, Asked(input_shape=shape, classes=classes, lora_rank=lora))
        put_weights(made, found.manifest, trained.weights)
        say("converting")
        graph = inference_graph(made, found.manifest, batch_size)
        say("comparing")
        package = _compared(graph, found, answers_of(made, found.manifest, batch_size, _TRIES))
        write_whole(out, graph)
        typer.echo(f"{out}  {len(graph)} bytes, model version {trained.model_version}, as Keras on {package}")


def _verified(checkpoint: Path, bundle: Path, tenant: str, coordinator: str | None) -> tuple[Bundle, Checkpoint]:
    key = public_key(tenant, "--tenant-key-public")
    found = verified(bundle.read_bytes(), key)
    keys = (key,) if coordinator is None else (key, public_key(coordinator, "--coordinator-key-public"))
    return found, verified_checkpoint(checkpoint.read_bytes(), found, keys)


def _compared(graph: bytes, bundle: Bundle, answers: tuple[Answer, ...]) -> str:
    """Run a graph in a process of its own; the package that ran it.

    Raises:
        InterpreterMissing: None is installed.
        InterpreterFailed: It died.
        InvalidWeights: It gives something else than Keras.
    """
    import json

    from model_export.check.case import write_case
    from model_export.check.children import run_module
    from model_export.check.stock import installed
    from model_export.verify import Difference, Recording

    runtimes = installed()
    if not runtimes:
        raise InterpreterMissing("no TFLite interpreter is installed; run: pip install 'edgewise[litert]'")
    runtime, package = next(iter(runtimes.items()))
    with tempfile.TemporaryDirectory(prefix="edgewise-bake-") as name:
        folder = Path(name)
        write_case(folder, graph, bundle.manifest, Recording(answers=answers))
        ended = run_module("model_export.check.probe", [runtime, name, str(folder / "out.jsonl")], 600.0)
        if ended.sentence:
            raise InterpreterFailed(f"{package} {ended.sentence}")
        lines = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    found = [Difference(**line["difference"]) for line in lines if "difference" in line]
    for one in found:
        if not one.within(_TOLERANCE):
            raise InvalidWeights(f"the baked graph's {one.name} are off by {one.error:.1e} on {package}")
    return package
