"""What commands on the coordinator's own machine begin with: its settings, its database, its secret files."""

from __future__ import annotations

import contextlib
import difflib
import ipaddress
import os
import re
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError

from coordinator.commands.console import Mistake
from coordinator.settings import CONFIG, PREFIX, Settings, unknown_variables
from edge_runtime.protocol.errors import NotFound, Unavailable

if TYPE_CHECKING:
    from coordinator.store.database import Database


def read_settings(**given: Any) -> Settings:
    """The settings of options, environment and file.

    Raises:
        Mistake: A variable is unknown, the file cannot be read, or a value is wrong; it names which, and what to do.
    """
    for name, meant in unknown_variables():
        advice = f"did you mean {meant}?" if meant else "unset it, or see the settings in docs/operations.md"
        raise Mistake(f"{name} is not a setting; {advice}")
    return settings_as_they_are(**given)


def is_loopback(host: str) -> bool:
    """Whether what is sent to this host stays on this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def settings_as_they_are(**given: Any) -> Settings:
    """The settings, whatever unknown variables there are.

    Raises: As `read_settings`.
    """
    filed = read_config()
    chosen = {key: value for key, value in given.items() if value is not None}
    try:
        return Settings(**chosen)
    except ValidationError as problem:
        raise Mistake(_sentence(problem.errors()[0], filed, chosen)) from None
    except SettingsError as problem:
        raise Mistake(f"the settings cannot be read: {problem}") from None


def config_file() -> Path | None:
    """The settings file that `EDGEWISE_CONFIG` names."""
    named = os.environ.get(CONFIG)
    return Path(named) if named else None


def read_config() -> dict[str, Any]:
    """What the settings file says; nothing where none is named.

    Raises:
        Mistake: It is named, and cannot be read.
    """
    path = config_file()
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as problem:
        raise Mistake(f"{CONFIG} names {path}, which cannot be read: {problem.strerror}; correct or unset it") from None
    except ValueError as problem:
        raise Mistake(f"{CONFIG} names {path}, which is not TOML: {problem}") from None


def _sentence(error: ErrorDetails, filed: dict[str, Any], chosen: dict[str, Any]) -> str:
    name = str(error["loc"][0]) if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        close = next(iter(difflib.get_close_matches(name, Settings.model_fields, 1, 0.6)), None)
        advice = f"did you mean {close}?" if close else "the settings are in docs/operations.md"
        return f"{config_file()} has {name!r}, which is no setting; {advice}"
    variable = f"{PREFIX}{name.upper()}"
    if name in chosen:
        where = f"--{name.replace('_', '-')}"
    elif any(one.upper() == variable for one in os.environ) or name not in filed:
        where = variable
    else:
        where = f"{name} in {config_file()}"
    field = Settings.model_fields.get(name)
    meaning = f". It says: {field.description}" if field is not None and field.description else ""
    return f"{where} is wrong: {error['msg']}{meaning}"


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[Database]:
    """The database, while the block runs.

    Raises:
        Mistake: It cannot be used; the sentence names no password.
    """
    from sqlalchemy.exc import SQLAlchemyError

    from coordinator.store.database import Database

    try:
        database = Database(settings.sqlalchemy_url(), connections=settings.database_connections)
    except ValueError as problem:
        raise Mistake(f"EDGEWISE_DATABASE_URL is wrong: {problem}") from None
    try:
        yield database
    except SQLAlchemyError as problem:
        what_to_do = "; start it, or correct EDGEWISE_DATABASE_URL" if database.is_postgres else ""
        raise Mistake(f"the database cannot be used: {database_problem(problem)}{what_to_do}") from None
    finally:
        database.close()


def check_blobs(settings: Settings) -> None:
    """Return if the settings say where blobs are; of a bucket, if it can be written.

    A folder that is full or cannot be written is refused to devices, by name, as long as that lasts.

    Raises:
        Mistake: They say it wrongly, what it takes is not installed, or the bucket does not answer.
    """
    from coordinator.app import blobs_of

    if settings.blob_url:
        _check_endpoint()
    try:
        blobs = blobs_of(settings)
        if settings.blob_url:
            blobs.check()
    except (PermissionError, NotFound, Unavailable) as problem:
        do = "correct EDGEWISE_BLOB_URL, AWS_ENDPOINT_URL or the AWS keys, or start the service"
        raise Mistake(f"EDGEWISE_BLOB_URL cannot be used: {problem}; {do}") from None
    except ValueError as problem:
        raise Mistake(f"EDGEWISE_BLOB_URL is wrong: {problem}") from None
    except ModuleNotFoundError as problem:
        raise Mistake(f"{problem.name} is not installed; run: pip install 'edgewise[s3]'") from None


def _check_endpoint() -> None:
    """The library that speaks S3 reads this variable by itself, and ends the process where it is no address."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    if endpoint and not re.fullmatch(r"https?://[^/?#\s]+/?", endpoint):
        raise Mistake("AWS_ENDPOINT_URL is wrong: it is an address such as https://s3.example.com") from None


def database_problem(problem: Exception) -> str:
    """What a database says of itself, in one line."""
    cause = problem.__cause__ or getattr(problem, "orig", None) or problem
    return " ".join(str(cause).split())


def closest(kind: str, name: str, names: Sequence[str]) -> None:
    """Return if a name is one of those that there are.

    Raises:
        Mistake: It is not; the sentence has the one that was probably meant.
    """
    if name in names:
        return
    close = difflib.get_close_matches(name, names, 1, 0.5)
    there = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(map(repr, names)) or 'none'}"
    raise Mistake(f"there is no {kind} {name!r}; {there}")


def write_secret(path: Path, text: str) -> None:
    """Replace a file that only its owner may read, whole or not at all."""
    with written_whole(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file that only its owner may read; it is there, durably, when the block has ended well, and else not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
