"""`tenants`: organisations and their tokens, on the coordinator's own machine."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.commands.console import AsJson, Mistake, confirm, moment, one_line_errors, print_table, show
from coordinator.commands.home import TENANT_KEY_HELP, public_key_of, signing_key
from coordinator.commands.local import check_blobs, closest, opened, read_settings, write_secret, written_whole
from coordinator.settings import Settings

if TYPE_CHECKING:
    from coordinator.store.database import Database

tenants = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Organisations and their tokens. These commands work on the database, on the coordinator's own machine.",
)

Name = Annotated[str, typer.Argument(help="Of the tenant.")]
Out = Annotated[
    Path | None,
    typer.Option(help="Where to write it; unless given, NAME.token in the data folder.", show_default=False),
]


@tenants.command("list")
def list_tenants(as_json: AsJson = False) -> None:
    """List the tenants.

    edgewise-coordinator tenants list
    """
    with one_line_errors(), opened(read_settings()) as database:
        found = _facts(database)
    show(
        as_json,
        found,
        lambda tree: print_table(
            ("tenant", "made", "tokens", "populations", "tasks", "public key"),
            [
                (one["name"], moment(one["created_at"]), one["tokens"], one["populations"], one["tasks"], one["key"])
                for one in tree
            ],
            "there is no tenant yet; make one: edgewise-coordinator tenants create NAME --tenant-key KEY",
        ),
    )


def _facts(database: Database) -> list[dict[str, Any]]:
    from coordinator.services import tenants as service

    with database.reading() as session:
        return [
            {
                "name": one.name,
                "created_at": one.created_at.isoformat(),
                "tokens": one.tokens,
                "populations": one.populations,
                "tasks": one.tasks,
                "key": one.public_key.hex(),
            }
            for one in service.tenants(session)
        ]


@tenants.command()
def create(
    name: Annotated[str, typer.Argument(help="1 to 64 of a-z 0-9 . _ -, a letter or digit first.")],
    tenant_key: Annotated[str, typer.Option(help=TENANT_KEY_HELP)],
    out: Out = None,
) -> None:
    """Make a tenant known with the key that signs its bundles and plans, and write an operator token for it.

    edgewise-coordinator tenants create beta --tenant-key <64 hex digits> --out beta.token
    """
    from coordinator.app import utc_now
    from coordinator.services import catalogue

    with one_line_errors():
        settings = read_settings()
        key = public_key_of(tenant_key, "--tenant-key")
        with opened(settings) as database:
            with database.writing() as session:
                catalogue.create_tenant(session, name, key, utc_now())
            path = _issue(database, settings, name, out, utc_now())
    typer.echo(f"tenant          {name}\noperator token  in {path}")


@tenants.command()
def token(name: Name, out: Out = None) -> None:
    """Write one more operator token for a tenant. Earlier ones stay valid.

    edgewise-coordinator tenants token acme --out acme.token
    """
    from coordinator.app import utc_now

    with one_line_errors():
        settings = read_settings()
        with opened(settings) as database:
            _check_exists(database, name)
            path = _issue(database, settings, name, out, utc_now())
    typer.echo(f"operator token  in {path}")


@tenants.command()
def revoke(name: Name, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Make every operator token of a tenant worthless, at once. Its tasks go on.

    edgewise-coordinator tenants revoke acme --yes
    """
    from coordinator.services import catalogue

    with one_line_errors(), opened(read_settings()) as database:
        _check_exists(database, name)
        confirm(f"Revoke every operator token of {name}?", yes)
        with database.writing() as session:
            catalogue.revoke_tokens(session, name)
    typer.echo(f"no operator token of {name} is valid any more; `edgewise-coordinator tenants token {name}` writes one")


@tenants.command("export")
def export_tenant(
    name: Name,
    file: Annotated[Path, typer.Argument(help="Where to write it; never overwritten.")],
) -> None:
    """Write everything of a tenant into one file, signed by the coordinator's key. Tokens stay behind.

    It is one moment, also while the coordinator runs. Keep the file as you keep a backup: devices' data is in it.

    edgewise-coordinator tenants export acme acme.export
    """
    from coordinator.app import blobs_of
    from coordinator.services import transfer

    with one_line_errors():
        settings = read_settings()
        key = signing_key(settings)
        check_blobs(settings)
        if file.exists():
            raise Mistake(f"{file} is there already; choose another name")
        with opened(settings) as database, written_whole(file) as writing:
            _check_exists(database, name)
            with database.reading() as session:
                for line in transfer.export_tenant(session, blobs_of(settings), name, key):
                    writing.write(line)
    typer.echo(f"tenant  {name}\nfile    {file}, {file.stat().st_size:,} bytes")


@tenants.command("import")
def import_tenant(file: Annotated[Path, typer.Argument(help="As `tenants export` wrote it.")]) -> None:
    """Take a tenant in, whole or not at all. The coordinator's key must be that of the export: bring coordinator.key.

    edgewise-coordinator tenants import acme.export
    """
    from coordinator.app import blobs_of
    from coordinator.services import transfer

    with one_line_errors():
        settings = read_settings()
        key = signing_key(settings).public
        check_blobs(settings)
        with opened(settings) as database, file.open("rb") as raw:

            def lines() -> Iterator[bytes]:
                raw.seek(0)
                yield from raw

            with database.writing() as session:
                name = transfer.import_tenant(session, blobs_of(settings), lines, key)
    typer.echo(f"tenant  {name}\nnext    edgewise-coordinator tenants token {name}")


def _check_exists(database: Database, name: str) -> None:
    closest("tenant", name, [one["name"] for one in _facts(database)])


def _issue(database: Database, settings: Settings, name: str, out: Path | None, now: datetime) -> Path:
    from coordinator.services import catalogue

    path = out or settings.data_dir / f"{name}.token"
    if not path.parent.is_dir():  # before a token exists that nobody gets
        raise NotADirectoryError(20, "there is no such folder", str(path.parent))
    with database.writing() as session:
        issued = catalogue.issue_token(session, name, now)
    write_secret(path, issued)
    return path
