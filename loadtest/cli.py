"""`edgewise-loadtest`: a swarm of phones against a coordinator, and a verdict."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NoReturn
from urllib.parse import urlsplit

import typer

from edge_runtime.protocol.errors import Malformed
from edge_runtime.protocol.keys import PublicKey, SigningKey
from loadtest.children import Children, Interrupted
from loadtest.problems import SetUpError
from loadtest.programme import Target
from loadtest.run import LoadTest, run
from loadtest.table import table
from loadtest.verdict import Limits

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Lets a swarm of phones speak the device protocol to a coordinator, and says whether it held out.",
)


@app.callback()
def _commands() -> None:
    """Keep `run` a command of its own: others will follow."""


@app.command("run")
def run_command(
    seconds: Annotated[float, typer.Option(min=1, max=86_400, help="How long the swarm runs.")] = 20,
    phones: Annotated[int, typer.Option(min=1, max=100_000, help="Phones at the same time.")] = 100,
    spawn_rate: Annotated[float, typer.Option(min=0.1, max=10_000, help="Phones started in a second.")] = 50,
    parameters: Annotated[int, typer.Option(min=1, max=50_000_000, help="Of the made-up model.")] = 100_000,
    goal: Annotated[int | None, typer.Option(min=1, max=10_000, help="Reports wanted in a round.")] = None,
    dropouts: Annotated[float, typer.Option(min=0, max=1, help="Share of participants that drop out.")] = 0.08,
    speed_up: Annotated[
        float, typer.Option(min=1, help="Retry windows and training take so many times less than on a phone.")
    ] = 900,
    seed: Annotated[int, typer.Option(min=0, help="Of the made-up deltas, dropouts and durations.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for the verdict, statistics and logs.")] = Path("build/loadtest"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the coordinator it starts; 0: any free one.")] = 0,
    coordinator: Annotated[
        str | None, typer.Option(metavar="URL", help="Aim at this coordinator instead of starting one.")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="With --coordinator: the tenant to work for.")] = None,
    operator_token_file: Annotated[
        Path | None, typer.Option(help="With --coordinator: what `edgewise-coordinator init` wrote.")
    ] = None,
    tenant_key: Annotated[
        Path | None,
        typer.Option(help="With --coordinator: the tenant's signing key, as `edgewise-export keygen` writes."),
    ] = None,
    coordinator_key: Annotated[
        str | None, typer.Option(metavar="HEX", help="With --coordinator: its public key, as `init` prints it.")
    ] = None,
    max_failed_share: Annotated[float, typer.Option(min=0, max=1, help="Limit: failed requests.")] = 0.01,
    max_check_in_p95_ms: Annotated[
        float, typer.Option(min=0, help="Limit: 95th percentile of check-ins not held open.")
    ] = 1500,
    min_rounds: Annotated[int, typer.Option(min=0, help="Limit: rounds committed.")] = 2,
    min_reports: Annotated[int, typer.Option(min=0, help="Limit: reports in committed rounds.")] = 1,
) -> None:
    """Run a swarm without a window, 20 s by default, against a coordinator that it starts in a temporary folder.

    Phones enrol, check in, fetch bundle and checkpoint, report and drop out exactly as devices do; only their training
    is made up. Exit code: 0 when every check passed, 1 when one failed, 2 when the test could not run.
    """
    try:
        require_installed("locust")
        target = None
        if coordinator is not None:
            target = read_target(coordinator, tenant, operator_token_file, tenant_key, coordinator_key)
        limits = Limits(
            failed_share=max_failed_share,
            check_in_p95_ms=max_check_in_p95_ms,
            rounds_committed=min_rounds,
            reports_counted=min_reports,
        )
        test = LoadTest(
            target=target,
            port=port,
            phones=phones,
            spawn_rate=spawn_rate,
            seconds=seconds,
            parameters=parameters,
            goal=goal,
            seed=seed,
            dropout_share=dropouts,
            speed_up=speed_up,
            limits=limits,
            out=out,
        )
        with Children() as children:
            finished = run(test, children, typer.echo)
    except SetUpError as problem:
        _fail(str(problem))
    except Interrupted as interrupt:
        typer.echo(f"edgewise-loadtest: ended by {interrupt}; everything it started is stopped", err=True)
        raise typer.Exit(interrupt.exit_code) from None
    typer.echo(table(finished))
    raise typer.Exit(0 if finished.verdict.passed else 1)


def require_installed(package: str) -> None:
    """Return if a package is there, without importing it.

    Raises:
        SetUpError: It is not.
    """
    if find_spec(package) is None:
        raise SetUpError(f"{package} is not installed; run: pip install 'edgewise[loadtest]'")


def read_target(
    url: str, tenant: str | None, token_file: Path | None, tenant_key: Path | None, coordinator_key: str | None
) -> Target:
    """Read what opens a coordinator that already runs.

    Raises:
        SetUpError: Something is missing, or not what it should be.
    """
    if tenant is None or token_file is None or tenant_key is None or coordinator_key is None:
        raise SetUpError("--coordinator needs --tenant, --operator-token-file, --tenant-key and --coordinator-key")
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise SetUpError(f"--coordinator is an http or https address, not {url!r}")
    try:
        key = SigningKey(bytes.fromhex(_text(tenant_key)))
    except (ValueError, Malformed):  # what was read is a secret: it stays out of the message
        raise SetUpError(f"{tenant_key} does not hold a key of 64 hex digits") from None
    try:
        public = PublicKey(bytes.fromhex(coordinator_key))
    except (ValueError, Malformed):
        raise SetUpError("--coordinator-key is 64 hex digits; `edgewise-coordinator init` prints it") from None
    return Target(url.rstrip("/"), tenant, _text(token_file), key, public)


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except OSError as problem:
        raise SetUpError(f"{path} cannot be read: {problem.strerror}") from problem
    except UnicodeDecodeError:
        raise SetUpError(f"{path} holds something else") from None


def _fail(sentence: str) -> NoReturn:
    typer.echo(f"edgewise-loadtest: {sentence}", err=True)
    raise typer.Exit(2)


if __name__ == "__main__":
    app()
