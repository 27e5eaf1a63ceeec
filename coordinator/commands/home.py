"""`init`, `migrate`, `keys`: the coordinator's home, its database and its key."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.commands.console import REFUSED, AsJson, Mistake, one_line_errors, print_facts, show
from coordinator.commands.local import opened, read_settings, write_secret
from coordinator.settings import Settings
from edge_runtime.protocol.errors import Refusal
from edge_runtime.protocol.keys import PublicKey, SigningKey

if TYPE_CHECKING:
    from coordinator.store.database import Database

TENANT_KEY_HELP = "Its public key, 64 hex digits, as `edgewise-export keygen` prints it."
keys = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The key that signs every model version.")


def init(
    tenant: Annotated[str, typer.Option(help="Name of the organisation: a-z 0-9 . _ -")],
    tenant_key: Annotated[str, typer.Option(help=TENANT_KEY_HELP)],
    revoke: Annotated[bool, typer.Option("--revoke", help="Revoke the tenant's earlier operator tokens.")] = False,
) -> None:
    """Make the database, the coordinator's key and an operator token. Running it again issues a new token.

    edgewise-coordinator init --tenant acme --tenant-key <64 hex digits>
    """
    from coordinator.app import read_authority, read_key, utc_now
    from coordinator.services import catalogue
    from coordinator.store import migrate as migrations

    with one_line_errors():
        settings = read_settings()
        public_key = public_key_of(tenant_key, "--tenant-key")
        make_home(settings)
        public, authority = read_key(settings).public, read_authority(settings)
        with opened(settings) as database:
            migrations.upgrade(database)
            with database.writing() as session:
                catalogue.create_tenant(session, tenant, public_key, utc_now())
                session.flush()
                if revoke:
                    catalogue.revoke_tokens(session, tenant)
                token = catalogue.issue_token(session, tenant, utc_now())
        write_secret(settings.token_file(), token)
    typer.echo(f"coordinator key  {public.raw.hex()}   (compile it into the host app)")
    if authority is not None:
        typer.echo(f"authority key    {authority.public.raw.hex()}   (compile it in, too, to sum securely)")
    typer.echo(f"operator token   in {settings.token_file()}")


def make_home(settings: Settings) -> None:
    """Make the data folder, the coordinator's key and the enrolment authority's, where they are missing."""
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not settings.key_file().exists():
            write_secret(settings.key_file(), os.urandom(32).hex())
        if not settings.authority_file().exists():
            write_secret(settings.authority_file(), os.urandom(32).hex())
    except OSError as problem:
        raise Mistake(f"the data folder {settings.data_dir} cannot be used: {problem.strerror}") from None


def public_key_of(text: str, option: str) -> PublicKey:
    """Raises: Mistake: The text is not a public key."""
    try:
        return PublicKey(bytes.fromhex(text))
    except (ValueError, Refusal):
        raise Mistake(f"{option} is a public key of 64 hex digits; `edgewise-export keygen` prints it") from None


def signing_key(settings: Settings) -> SigningKey:
    """The coordinator's key.

    Raises:
        Mistake: There is none yet, or the file is not one.
    """
    from coordinator.app import read_key

    try:
        return read_key(settings)
    except FileNotFoundError:
        sentence = f"{settings.data_dir} is not a coordinator's home yet; run `edgewise-coordinator init` first"
        raise Mistake(sentence) from None
    except (OSError, Refusal) as problem:
        raise Mistake(f"the key file {settings.key_file()} cannot be used: {problem}") from None


def migrate(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit status 1 if any is missing.")] = False,
    to: Annotated[
        str | None,
        typer.Option(help="A revision, such as 0003: up to it, or back to it. `base` for none.", show_default=False),
    ] = None,
) -> None:
    """Show which migrations the database lacks, and apply them. Back it up before.

    Every process brings its database to the newest schema when it starts; with several processes, run this first.
    Going back deletes what later revisions brought.

    edgewise-coordinator migrate

    edgewise-coordinator migrate --check
    """
    from coordinator.store import migrate as migrations

    with one_line_errors(), opened(read_settings()) as database:
        missing = migrations.missing(database)
        said = {one.revision: one.doc for one in migrations.revisions()}
        for revision in missing:
            typer.echo(f"missing  {revision}  {said[revision]}")
        if check:
            if missing:
                raise Mistake("run `edgewise-coordinator migrate` to apply what is missing", REFUSED)
            typer.echo("the database has every migration")
        else:
            _migrate(database, to, list(said))


def _migrate(database: Database, to: str | None, known: list[str]) -> None:
    from coordinator.store import migrate as migrations

    before = migrations.applied(database)
    if to is not None and to not in (*known, "base", "head"):
        raise Mistake(f"--to is one of {', '.join(known)}, base, not {to!r}")
    back = to == "base" or (to in known and to in before)
    if back:
        migrations.downgrade(database, str(to))
    else:
        migrations.upgrade(database, to or "head")
    after = migrations.applied(database)
    moved = [f"applied  {one}" for one in after if one not in before]
    moved += [f"undone   {one}" for one in reversed(before) if one not in after]
    typer.echo("\n".join(moved) or "nothing was to be done")


@keys.command("show")
def show_key(as_json: AsJson = False) -> None:
    """Show the public half of the coordinator's key: compile it into the host app.

    There is no command that changes it. Installed apps accept model versions of the key that they hold alone, so a
    change is a release of the app that holds the new key, and a new home, with populations of its own, that signs with
    it; phones move as they update. Keep a copy of coordinator.key where the backups are not.

    edgewise-coordinator keys show
    """
    with one_line_errors():
        settings = read_settings()
        path = settings.key_file()
        public = signing_key(settings).public.raw.hex()
        found = {"public_key": public, "file": str(path), "mode": mode_of(path)}
    show(as_json, found, lambda tree: print_facts([(name.replace("_", " "), tree[name]) for name in tree]))


def mode_of(path: Path) -> str:
    """Who may do what with a file, in octal."""
    return f"{stat.S_IMODE(path.stat().st_mode):04o}"
