"""`sign` and `verify`: provenance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_runtime.protocol.bundle import verify_bundle
from edge_runtime.protocol.keys import digest
from model_export import keyfile
from model_export.commands.console import BUNDLE_FILE, CHECKPOINT_FILE, one_line_errors, write_whole
from model_export.provenance import checkpoint_for, public_key, signed_again, verified, verified_checkpoint


def sign(
    bundle: Annotated[Path, typer.Argument(help=f"A {BUNDLE_FILE}, signed by another key or by none.")],
    tenant_key: Annotated[Path, typer.Option(help="File that `edgewise-export keygen` wrote.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help=f"Its {CHECKPOINT_FILE}, which names the bundle's digest and is signed with it.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; beside the old files unless given.", show_default=False)
    ] = None,
) -> None:
    """Sign a bundle, and its checkpoint, with a tenant key, whoever signed them before.

    The graph is checked against the manifest; nothing says who made them. Sign only what you built or verified.

    edgewise-export sign model/bundle.ewb --checkpoint model/checkpoint.ewc --tenant-key tenant.key --out signed
    """  # fmt: skip
    with one_line_errors():
        key = keyfile.read(tenant_key)
        old = bundle.read_bytes()
        new = signed_again(old, key)
        old_checkpoint = checkpoint.read_bytes() if checkpoint is not None else None
        sha256 = digest(new).hex()
        files = {bundle: new}
        if checkpoint is not None and old_checkpoint is not None:
            files[checkpoint] = checkpoint_for(old_checkpoint, sha256, digest(old).hex(), key)
        verify_bundle(new, sha256, key.public)
        for file, raw in files.items():
            place = file if out is None else out / file.name
            place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(place, raw)
            typer.echo(f"{place}  {digest(raw).hex()}")


def verify(
    bundle: Annotated[Path, typer.Argument(help=f"A {BUNDLE_FILE}.")],
    tenant_key_public: Annotated[str, typer.Option(help="64 hex digits that `edgewise-export keygen` printed.")],
    checkpoint: Annotated[Path | None, typer.Option(help=f"A {CHECKPOINT_FILE} of it.", show_default=False)] = None,
    coordinator_key_public: Annotated[
        str | None,
        typer.Option(
            help="64 hex digits: of the coordinator, which signs every checkpoint but the first.", show_default=False
        ),
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(help="The digest that the bundle must have.", show_default=False)
    ] = None,
) -> None:
    """Verify a bundle and a checkpoint, and name the part that is wrong: header, manifest, graph, signature, digest.

    edgewise-export verify model/bundle.ewb --checkpoint model/checkpoint.ewc --tenant-key-public 64_HEX_DIGITS
    """  # fmt: skip
    with one_line_errors():
        tenant = public_key(tenant_key_public, "--tenant-key-public")
        found = verified(bundle.read_bytes(), tenant, sha256)
        typer.echo(f"bundle      {found.sha256}  {found.manifest.name}, by the tenant key")
        if checkpoint is None:
            return
        coordinator = public_key(coordinator_key_public, "--coordinator-key-public") if coordinator_key_public else None
        keys = (tenant,) if coordinator is None else (tenant, coordinator)
        weights = verified_checkpoint(checkpoint.read_bytes(), found, keys)
        typer.echo(f"checkpoint  {weights.sha256}  model version {weights.model_version}")
