"""What a device is told once: a TOML file of the coordinator, the trust roots, the examples, and what is never allowed.

Every mistake is one sentence that names the table and the key.
"""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from edge_runtime.conditions import UNKNOWN, Conditions
from edge_runtime.example_store import Collection
from edge_runtime.journal.sealing import KEY_BYTES
from edge_runtime.network import Network
from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import Schema
from edge_runtime.protocol.enrolment import is_label, is_name
from edge_runtime.protocol.errors import Malformed, WrongStorageKey
from edge_runtime.protocol.keys import PublicKey, TrustRoots
from edge_runtime.protocol.policy import Policy
from edge_runtime.protocol.secure_sum.transcript import Floors as GroupFloors
from edge_runtime.schedule import DEFAULT_POLICY, Floors
from edge_runtime.session.enrol import Installation

Value = TypeVar("Value")

APP: Final = "edgewise-device"
_KINDS: Final[Mapping[type, str]] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


class SettingsWrong(Exception):
    """The file cannot be used; the text says where and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One device.

    Attributes:
        state: The folder of everything it keeps.
        key_file: Holds the 32 bytes that seal what is stored, raw or as 64 hex digits; None stores in the clear.
    """

    state: Path
    network: Network
    installation: Installation
    roots: TrustRoots
    floors: Floors
    collections: tuple[Collection, ...]
    key_file: Path | None

    def storage_key(self) -> bytes:
        """The key of `key_file`.

        Raises:
            WrongStorageKey: The file cannot be read, holds no key, or can be read by others.
        """
        if self.key_file is None:
            raise WrongStorageKey("there is no key file")
        try:
            raw = self.key_file.read_bytes()
            shared = self.key_file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
        except OSError as problem:
            raise WrongStorageKey(f"the key file {self.key_file} cannot be read: {problem.strerror}") from None
        if shared:
            raise WrongStorageKey(f"others may read the key file; run: chmod 600 {self.key_file}")
        if len(raw) == KEY_BYTES:
            return raw
        try:
            key = bytes.fromhex(raw.decode("ascii").strip())
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise WrongStorageKey(f"the key file {self.key_file} holds neither 32 bytes nor 64 hex digits")
        return key


def read_settings(path: Path) -> Settings:
    """Read a file of settings; paths in it are taken from its folder.

    Raises:
        SettingsWrong: It is not there, or something in it is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8"
        raise SettingsWrong(f"{path} cannot be read: {reason}; `edgewise-device enrol` writes one") from None
    try:
        return settings_of(text, path.absolute().parent)
    except SettingsWrong as problem:
        raise SettingsWrong(f"{path}: {problem}") from None


def settings_of(text: str, folder: Path) -> Settings:
    """Read settings from TOML.

    Args:
        folder: What relative paths are relative to.

    Raises:
        SettingsWrong: It is not TOML, or a key is missing, unknown or wrong.
    """
    try:
        top = _Table("", tomllib.loads(text))
    except tomllib.TOMLDecodeError as problem:
        raise SettingsWrong(f"this is not TOML: {problem}") from None
    settings = Settings(
        state=Path(os.path.normpath(folder / top.take("state", str))),
        key_file=_path(top.option("key_file", str), folder),
        installation=_installation(top.table("installation")),
        network=_network(top.table("network"), folder),
        roots=_roots(top.table("trust")),
        floors=Floors(
            limits=_limits(top.option("limits", dict) or {}),
            assumed=_assumed(top.option("assumed", dict) or {}),
            groups=_groups(top.option("groups", dict)),
        ),
        collections=tuple(
            _collection(_Table(f"collections[{position}]", tree))
            for position, tree in enumerate(top.option("collections", list) or [])
        ),
    )
    top.end()
    return settings


class _Table:
    """One table of the file; keys that nobody took are refused at the end."""

    def __init__(self, name: str, tree: object) -> None:
        if not isinstance(tree, dict):
            raise SettingsWrong(f"{name} is not a table")
        self._name = name
        self._tree: dict[str, object] = dict(tree)

    def take(self, key: str, kind: type[Value]) -> Value:
        """A value that must be there."""
        value = self.option(key, kind)
        if value is None:
            raise SettingsWrong(f"{self.place(key)} is missing")
        return value

    def option(self, key: str, kind: type[Value]) -> Value | None:
        """A value, or None."""
        value = self._tree.pop(key, None)
        if kind is float and type(value) is int:
            value = float(value)
        if value is None or type(value) is kind:
            return value
        raise SettingsWrong(f"{self.place(key)} is not {_KINDS[kind]}")

    def table(self, key: str) -> _Table:
        return _Table(self.place(key), self.take(key, dict))

    def place(self, key: str) -> str:
        return f"{self._name}.{key}" if self._name else key

    def end(self) -> None:
        if self._tree:
            raise SettingsWrong(f"{self.place(min(self._tree))} is not a setting")


def _installation(table: _Table) -> Installation:
    try:
        found = Installation(
            tenant=table.take("tenant", str),
            population=table.take("population", str),
            app=table.option("app", str) or APP,
            app_version=table.option("app_version", str) or "0.1.0",
            platform=table.option("platform", str) or "linux",
            region=table.option("region", str),
            hardware_class=table.option("hardware_class", str),
            attributes=table.option("attributes", dict) or {},
        )
    except Malformed as problem:
        raise SettingsWrong(f"installation: {problem}") from None
    table.end()
    for key in ("tenant", "population"):
        if not is_name(getattr(found, key)):
            raise SettingsWrong(f"{table.place(key)} is 1 to 64 of a-z 0-9 . _ -, a letter or digit first")
    for key in ("app", "app_version", "platform"):
        if not is_label(getattr(found, key)):
            raise SettingsWrong(f"{table.place(key)} has 1 to 128 printable characters")
    return found


def _network(table: _Table, folder: Path) -> Network:
    addresses = [table.take("coordinator", str), *map(str, table.option("fallbacks", list) or [])]
    if any(not address.startswith(("http://", "https://")) for address in addresses):
        raise SettingsWrong(f"{table.place('coordinator')} begins with https:// (or http:// for a first look)")
    pins = [_hex(str(pin), table.place("pins")) for pin in table.option("pins", list) or []]
    try:
        network = Network(
            coordinator=addresses[0],
            fallbacks=tuple(addresses[1:]),
            proxy=table.option("proxy", str),
            ca_file=_path(table.option("ca_file", str), folder),
            pins=tuple(pins),
            connect_s=_or(table.option("connect_s", float), 10.0),
            read_s=_or(table.option("read_s", float), 60.0),
        )
    except ValueError as problem:
        raise SettingsWrong(f"network: {problem}") from None
    table.end()
    return network


def _roots(table: _Table) -> TrustRoots:
    keys = [_hex(table.take(key, str), table.place(key)) for key in ("tenant_key", "coordinator_key")]
    authority = table.option("authority_key", str)
    certifies = None if authority is None else PublicKey(_hex(authority, table.place("authority_key")))
    table.end()
    return TrustRoots(tenant=PublicKey(keys[0]), coordinator=PublicKey(keys[1]), authority=certifies)


def _groups(tree: dict[str, object] | None) -> GroupFloors | None:
    """Whatever is not named is the protocol's default."""
    return (
        None
        if tree is None
        else _decoded(GroupFloors, {**dataclasses.asdict(GroupFloors()), **tree}, "groups", "Floors")
    )


def _limits(tree: dict[str, object]) -> Policy:
    """Whatever is not named is the protocol's default."""
    return _decoded(Policy, {**json.loads(wire.encode(DEFAULT_POLICY)), **tree}, "limits", "Policy")


def _assumed(tree: dict[str, object]) -> Conditions:
    blank = dict.fromkeys(field.name for field in dataclasses.fields(UNKNOWN))
    return _decoded(Conditions, {**blank, **tree}, "assumed", "Conditions")


def _collection(table: _Table) -> Collection:
    """A collection; 10,000 examples or 100 MB, whichever is less, if nothing is said."""
    labels = table.option("labels", dict) or {}
    try:
        found = Collection(
            name=table.take("name", str),
            features=_schema(table.take("features", dict), table.place("features")),
            labels=_schema(labels, table.place("labels")),
            max_rows=_or(table.option("max_rows", int), 10_000),
            max_bytes=_or(table.option("max_bytes", int), 100_000_000),
            time_to_live_s=table.option("time_to_live_s", float),
            dedupe=_or(table.option("dedupe", bool), True),
        )
    except ValueError as problem:
        raise SettingsWrong(f"{table.place('name')}: {problem}") from None
    table.end()
    return found


def _schema(tree: dict[str, object], place: str) -> Schema:
    blank = {"shape": [], "dtype": "float32"}
    return _decoded(Schema, {**blank, **tree}, place, "Schema")


def _decoded(kind: type[Value], tree: dict[str, object], place: str, name: str) -> Value:
    """A value of the protocol or the runtime, with its own checks."""
    try:
        return wire.decode(kind, json.dumps(tree).encode())
    except (Malformed, ValueError, TypeError) as problem:
        raise SettingsWrong(f"{place}: {str(problem).replace(name + '.', '').replace(name + ' ', '')}") from None


def _hex(text: str, place: str) -> bytes:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != KEY_BYTES:
        raise SettingsWrong(f"{place} is 64 hex digits")
    return raw


def _path(text: str | None, folder: Path) -> Path | None:
    return None if text is None else folder / text


def _or(value: Value | None, default: Value) -> Value:
    return default if value is None else value


_SAYS_NOTHING: Final = """\
# region = "DE"              # what cohorts ask for: classes that many devices share, nothing that identifies a person
# hardware_class = "board"
# attributes = { indoors = true, language = "de", sensors = 4 }
"""


def settings_text(state: Path, installation: Installation, coordinator: str, roots: TrustRoots) -> str:
    """Settings that `settings_of` reads, with what most boards want to change as comments."""
    quoted = {name: json.dumps(value) for name, value in dataclasses.asdict(installation).items()}
    said = "".join(f"{name} = {quoted[name]}\n" for name in ("region", "hardware_class") if quoted[name] != "null")
    if installation.attributes:
        pairs = ", ".join(
            f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in installation.attributes.items()
        )
        said += f"attributes = {{ {pairs} }}\n"
    return f"""# Of edgewise-device. Paths are relative to this file.
state = {json.dumps(str(state))}
# key_file = "storage.key"   # 32 secret bytes that seal what is stored; without it, it is stored in the clear

[installation]
tenant = {quoted["tenant"]}
population = {quoted["population"]}
app = {quoted["app"]}
app_version = {quoted["app_version"]}
platform = {quoted["platform"]}
{said or _SAYS_NOTHING}
[network]
coordinator = {json.dumps(coordinator)}
# ca_file = "ca.pem"         # authorities to trust instead of the public ones
# proxy = "http://10.0.0.1:3128"

[trust]
tenant_key = "{roots.tenant.raw.hex()}"
coordinator_key = "{roots.coordinator.raw.hex()}"
{_authority(roots)}
[limits]                     # the loosest policy that this device accepts; the coordinator can only tighten it
# needs_idle = false         # also while other programs are busy, or somebody is logged in

[assumed]                    # what you know of this board where Linux cannot tell; `doctor` names what is unknown
# metered = false
# thermal = "none"

[groups]                     # the loosest terms on which this device lets a group sum its reports
# smallest_group = 64        # lower it to try secure summing with a few devices
# fewest_survivors = 52
"""


def _authority(roots: TrustRoots) -> str:
    """The key that certifies members of groups, or how to give it."""
    if roots.authority is None:
        return '# authority_key = ""         # who certifies devices: without it, no part in secure summing\n'
    return f'authority_key = "{roots.authority.raw.hex()}"\n'


def collection_text(collection: Collection) -> str:
    """A table of settings to append for one more collection."""
    schemas = "".join(
        f"{name} = {{ shape = {list(one.shape)}, dtype = {json.dumps(str(one.dtype))}, low = {one.low}, "
        f"high = {one.high} }}\n"
        for name, one in (("features", collection.features), ("labels", collection.labels))
    )
    live = "" if collection.time_to_live_s is None else f"time_to_live_s = {collection.time_to_live_s}\n"
    return (
        f'\n[[collections]]\nname = "{collection.name}"\n{schemas}max_rows = {collection.max_rows}\n'
        f"max_bytes = {collection.max_bytes}\n{live}dedupe = {str(collection.dedupe).lower()}\n"
    )
