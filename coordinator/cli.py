"""`edgewise-coordinator`: its commands, put together."""

from __future__ import annotations

import typer

from coordinator.commands import cohorts, devices, doctor, home, populations, privacy, releases, serving, tasks, tenants

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="""Samples devices, adds up their changes and releases better models.

    1. edgewise-coordinator init --tenant acme --tenant-key <64 hex digits>

    2. edgewise-coordinator serve

    3. edgewise-coordinator tasks new > order.toml

    4. edgewise-coordinator tasks create order.toml --tenant-key-file tenant.key --start

    5. edgewise-coordinator tasks watch digits-1

    init, serve, worker, migrate, doctor, keys and tenants work on this machine. Their settings come from EDGEWISE_*
    variables, or the TOML file that EDGEWISE_CONFIG names; without any, everything lives in ./edgewise-data. The others
    are calls of the operator API, from wherever you are: --address and --token-file, or EDGEWISE_ADDRESS and
    EDGEWISE_TOKEN_FILE.

    Exit status: 0 done; 1 the coordinator refused, or what was asked about is not well; 2 it could not be carried out.
    Every command explains itself: edgewise-coordinator COMMAND --help.""",
)

for _command in (home.init, serving.serve, serving.worker, home.migrate, doctor.doctor):
    app.command()(_command)
for _name, _group in (
    ("keys", home.keys),
    ("tenants", tenants.tenants),
    ("populations", populations.populations),
    ("cohorts", cohorts.cohorts),
    ("tasks", tasks.tasks),
    ("devices", devices.devices),
    ("releases", releases.releases),
    ("privacy", privacy.privacy),
):
    app.add_typer(_group, name=_name)


if __name__ == "__main__":
    app()
