"""Orders of tasks as people write them: a TOML file with comments, and how it becomes a signed plan and settings."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, time
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from coordinator.commands.console import Mistake
from coordinator.commands.files import read_toml, read_whole
from coordinator.core.task_settings import ServerOptimiser, Stops, TaskSettings, facts
from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import Manifest, verify_bundle
from edge_runtime.protocol.errors import InvalidPlan, Malformed
from edge_runtime.protocol.keys import PublicKey, digest, is_sha256
from edge_runtime.protocol.plan import Close, Plan, Privacy, Summing

_TOP: Final = {
    "name": "Of the task, within the tenant.",
    "tenant": "Whose devices: the organisation of the tenant key.",
    "population": "Devices of one app; `edgewise-coordinator populations create NAME` makes one.",
    "bundle": 'The graph: a file beside this one, or bundle_sha256 = "…" of one that the coordinator has.',
    "checkpoint": 'The first weights: a file, or checkpoint_sha256 = "…" of a model version that it has.',
    "seed": "Of the selection, 64 hex digits; random when absent.",
}
_HIDDEN: Final = ("version", "tenant", "population", "bundle_sha256")
"""Fields of the plan that stand elsewhere in the file, or nowhere."""
_BY_BUNDLE: Final = ("epochs", "batch_size", "learning_rate")
_DEFAULTS: Final[Mapping[str, Any]] = {
    "proximal_mu": 0.0,
    "lane_bits": 24,
    "close": Close.GOAL.value,
    "summing": Summing.SECURE.value,
    "privacy": Privacy.NONE.value,
    "min_examples": 1,
    "time_limit_s": 600.0,
}
"""Of fields of the plan that have none in the protocol."""
_PLAIN_LANE_BITS: Final = 32
"""Of plain summing, so that the plan is one of the first version."""
_SURVIVOR_PERCENT: Final = 80
"""Of the largest group: so many reports must be in a sum that is opened, unless the order says otherwise."""
_OF_GROUPS: Final[Mapping[str, str]] = {
    "survivors": f"{_SURVIVOR_PERCENT} % of max_participants",
    "fewest_members": "survivors",
}
"""What an order of secure summing may leave out, and what it is then."""
_SUGGESTED: Final[Mapping[str, Any]] = {
    "clipping_norm": 4.0,
    "expected_participants": 120,
    "max_participants": 130,
    "goal": 100,
    "min_reports": 50,
}
"""What a person must choose; these are examples."""
_CHOICES: Final[Mapping[str, tuple[str, type[StrEnum]]]] = {
    "close": ("When a round stops waiting for reports", Close),
    "summing": ("How the reports of a group are added up", Summing),
    "privacy": ("What noise hides a participant", Privacy),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a file says, before anything is signed or sent.

    Attributes:
        bundle, checkpoint: The bytes to bring; None if the coordinator has them.
        checkpoint_sha256: Of a model version that it has; None if one is brought.
    """

    name: str
    plan: Plan
    settings: TaskSettings
    seed: str | None
    bundle: bytes | None
    checkpoint: bytes | None
    checkpoint_sha256: str | None


def read_order(path: Path, tenant_key: PublicKey) -> Order:
    """Read an order, and hold its bundle against the tenant's key.

    Raises:
        Mistake: Something is missing, unknown or wrong; the sentence says where.
        UntrustedDocument, DigestMismatch, MalformedBundle: The bundle is not this tenant's.
    """
    tree = read_toml(path)
    _check_keys(str(path), tree, {*_TOP, "bundle_sha256", "checkpoint_sha256", "plan", "settings"})
    for name in ("name", "tenant", "population"):
        if not isinstance(tree.get(name), str):
            raise Mistake(f'{path} lacks {name} = "…". {_TOP[name]}')
    bundle, bundle_sha256 = _content(path, tree, "bundle")
    checkpoint, checkpoint_sha256 = _content(path, tree, "checkpoint")
    manifest = None if bundle is None else verify_bundle(bundle, bundle_sha256, tenant_key).manifest
    plan = _plan(path, tree, bundle_sha256, manifest)
    seed = tree.get("seed")
    if seed is not None and not (isinstance(seed, str) and is_sha256(seed)):
        raise Mistake(f"seed in {path} is 64 hex digits")
    return Order(
        name=tree["name"],
        plan=plan,
        settings=_settings(path, _table(path, tree, "settings"), plan),
        seed=seed,
        bundle=bundle,
        checkpoint=checkpoint,
        checkpoint_sha256=None if checkpoint is not None else checkpoint_sha256,
    )


def _content(path: Path, tree: Mapping[str, Any], kind: str) -> tuple[bytes | None, str]:
    """The bytes of a file that the order names, if it does, and their digest."""
    named, sha256 = tree.get(kind), tree.get(f"{kind}_sha256")
    if (named is None) == (sha256 is None):
        raise Mistake(f"{path} has either {kind} or {kind}_sha256. {_TOP[kind]}")
    if sha256 is not None:
        if not (isinstance(sha256, str) and is_sha256(sha256)):
            raise Mistake(f"{kind}_sha256 in {path} is 64 hex digits")
        return None, sha256
    if not isinstance(named, str):
        raise Mistake(f"{kind} in {path} is the name of a file")
    raw = read_whole(path.parent / named)
    return raw, digest(raw).hex()


def _plan(path: Path, tree: Mapping[str, Any], bundle_sha256: str, manifest: Manifest | None) -> Plan:
    given = _table(path, tree, "plan")
    names = {field.name for field in dataclasses.fields(Plan)}
    _check_keys(f"[plan] in {path}", given, names - set(_HIDDEN))
    default = {f.name: f.default for f in dataclasses.fields(Plan) if f.default is not dataclasses.MISSING}
    suggested = {} if manifest is None else dataclasses.asdict(manifest.default_plan)
    whole = {
        **json.loads(json.dumps(default, default=_as_text)),
        **_DEFAULTS,
        **suggested,
        **given,
        "tenant": tree["tenant"],
        "population": tree["population"],
        "bundle_sha256": bundle_sha256,
        "version": Plan.VERSION,
    }
    _complete_groups(whole, given)
    if missing := sorted(names - set(whole)):
        said = plan_facts()[missing[0]]
        raise Mistake(f"[plan] in {path} lacks {missing[0]}. {said} `edgewise-coordinator tasks new` shows all")
    try:
        return _oldest(wire.decode(Plan, json.dumps(whole, default=_as_text).encode()))
    except (Malformed, InvalidPlan) as problem:
        raise Mistake(f"[plan] in {path}: {problem.detail}") from None


def _complete_groups(whole: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Fill in what follows from how reports are added up."""
    if whole["summing"] != Summing.SECURE.value:
        whole["lane_bits"] = given.get("lane_bits", _PLAIN_LANE_BITS)
        return
    most = whole.get("max_participants")
    if whole["survivors"] is None and isinstance(most, int):
        whole["survivors"] = -(-most * _SURVIVOR_PERCENT // 100)
    if whole["fewest_members"] is None:
        whole["fewest_members"] = whole["survivors"]


def _oldest(plan: Plan) -> Plan:
    """The plan in the oldest version that can say it: the more devices understand it."""
    for version in range(Plan.OLDEST, Plan.VERSION):
        with contextlib.suppress(InvalidPlan):
            older = dataclasses.replace(plan, version=version)
            if wire.fits_version(older):
                return older
    return plan


def _settings(path: Path, given: Mapping[str, Any], plan: Plan) -> TaskSettings:
    where = f"[settings] in {path}"
    _check_keys(where, given, set(facts(TaskSettings)))
    if "pool_size" not in given:
        raise Mistake(f"{where} lacks pool_size. {facts(TaskSettings)['pool_size'].sentence}")
    whole = json.loads(wire.encode(TaskSettings(pool_size=1)))
    for name, value in given.items():
        if name in _NESTED and isinstance(value, dict):
            _check_keys(f"[settings.{name}] in {path}", value, set(facts(_NESTED[name])))
            whole[name] |= value
        else:
            whole[name] = value
    whole["kind"] = given.get("kind", plan.kind.value)
    try:
        return wire.decode(TaskSettings, json.dumps(whole, default=_as_text).encode())
    except Malformed as problem:
        raise Mistake(f"{where}: {problem.detail}") from None


_NESTED: Final[Mapping[str, type]] = {"server_optimiser": ServerOptimiser, "stop": Stops}


def _as_text(value: object) -> str:
    """What TOML and plans have, and JSON has not: dates and bytes."""
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise Mistake(f"{value!r} is not a value of an order")


def _table(path: Path, tree: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = tree.get(name, {})
    if not isinstance(found, dict):
        raise Mistake(f"{name} in {path} is a table: [{name}]")
    return found


def _check_keys(where: str, given: Mapping[str, Any], known: set[str]) -> None:
    for key in given:
        if key not in known:
            close = next(iter(difflib.get_close_matches(key, sorted(known), 1, 0.6)), None)
            advice = f"did you mean {close}?" if close else f"there are {', '.join(sorted(known))}"
            raise Mistake(f"{where} has an unknown {key!r}; {advice}")


# --- the template -------------------------------------------------------------------------------------------------


def plan_facts() -> Mapping[str, str]:
    """What the protocol says of each field of a plan."""
    lines = re.sub(r"\n {12,}", " ", Plan.__doc__ or "").splitlines()
    found = (re.fullmatch(r"\s+(\w+): (.+)", line) for line in lines)
    choices = {name: f"{said}: {', '.join(one.value for one in kind)}." for name, (said, kind) in _CHOICES.items()}
    return {**{one[1]: one[2] for one in found if one}, **choices}


def template() -> str:
    """An order to begin with: what must be chosen, and, as comments, what may be."""
    return "\n".join(_template_lines()) + "\n"


def _template_lines() -> Iterator[str]:
    yield "# An order for `edgewise-coordinator tasks create`. Lines that begin with # show a field and its default."
    yield ""
    values = ("digits-1", "acme", "digits", "model/bundle.ewb", "model/checkpoint.ewc")
    for (name, said), value in zip(_TOP.items(), values, strict=False):
        yield from (f"# {said}", f"{name} = {json.dumps(value)}", "")
    yield from (f"# {_TOP['seed']}", '# seed = "…"', "")
    yield "# What devices do. The tenant key signs it; the coordinator cannot change a byte of it."
    yield "[plan]"
    described = plan_facts()
    for field in dataclasses.fields(Plan):
        if field.name not in _HIDDEN:
            yield from _plan_lines(field, described[field.name])
    yield "# How rounds are run."
    yield "[settings]"
    yield from _settings_lines(TaskSettings, "settings")
    for name, kind in _NESTED.items():
        yield from (f"# {facts(TaskSettings)[name].sentence}.", f"[settings.{name}]")
        yield from _settings_lines(kind, f"settings.{name}")


def _plan_lines(field: dataclasses.Field[Any], said: str) -> Iterator[str]:
    yield f"# {said}"
    if field.name in _SUGGESTED:
        yield f"{field.name} = {_toml(_SUGGESTED[field.name])}"
    elif field.name in _BY_BUNDLE:
        yield f"# {field.name} = … (unless given, what the bundle suggests)"
    elif field.name in _OF_GROUPS:
        yield f"# {field.name} = … (unless given, {_OF_GROUPS[field.name]})"
    else:
        default = _DEFAULTS.get(field.name, field.default)
        yield f"# {field.name} = {_toml(default)}"
    yield ""


_TEMPLATE_SET: Final[Mapping[str, Any]] = {"settings.pool_size": 150, "settings.stop.rounds": 50}


def _settings_lines(kind: type, prefix: str) -> Iterator[str]:
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    for name, said in facts(kind).items():
        if name in _NESTED and kind is TaskSettings:
            continue
        span = "" if said.least is None else f", {said.least:,} to {said.most:,}"
        yield f"# {said.sentence}{span}. Changes: {said.change.value}."
        chosen = _TEMPLATE_SET.get(f"{prefix}.{name}")
        yield f"{name} = {_toml(chosen)}" if chosen is not None else f"# {name} = {_toml(defaults[name])}"
        yield ""


def _toml(value: Any) -> str:
    if value is None:
        return "… (unset)"
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    return json.dumps(value, default=_as_text)
