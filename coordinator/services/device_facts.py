"""What is known of a device: what its row holds, and what a check-in adds to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from coordinator.core.cohorts.declarations import Declared
from coordinator.core.cohorts.evaluation import DeviceFacts
from coordinator.core.cohorts.versions import version_key
from coordinator.store.tables import Device
from edge_runtime.protocol.checkin import AttributeValue, CheckIn


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A check-in's facts, and how many attributes were dropped from it."""

    facts: DeviceFacts
    unknown: int = 0
    """Attributes that the population does not declare."""
    misfits: int = 0
    """Attributes of another type than declared, or with a value outside the declared ones."""


def facts_in(row: Device) -> DeviceFacts:
    """What a device's row holds."""
    return DeviceFacts(
        device_id=row.id,
        app=row.app,
        app_version=row.app_version,
        app_version_key=row.app_version_key,
        platform=row.platform,
        region=row.region,
        hardware_class=row.hardware_class,
        attributes=row.attributes or {},
    )


def facts_of(check_in: CheckIn, held: DeviceFacts, declared: Declared) -> Heard:
    """What is known of a device once it has checked in.

    A check-in before version 3 says nothing: what is held stays, and an app version whose order was not known when it
    was written down gets its place. One of version 3 says everything anew: what it leaves
    out is unknown from now on. An attribute that is dropped is unknown.

    Args:
        held: What the device's row holds.
        declared: By the device's population (`core.cohorts.declarations.read_declared`).
    """
    if check_in.version < 3 or check_in.app_version is None or check_in.platform is None:
        return Heard(facts=_in_order(held))
    said = check_in.attributes or {}
    kept: dict[str, AttributeValue] = {}
    unknown = 0
    for name, value in said.items():
        declaration = declared.get(name)
        if declaration is None:
            unknown += 1
        elif declaration.fits(value):
            kept[name] = value
    misfits = len(said) - unknown - len(kept)
    if _says_nothing_new(check_in, kept, held):
        return Heard(facts=held, unknown=unknown, misfits=misfits)
    facts = replace(
        held,
        app_version=check_in.app_version,
        app_version_key=version_key(check_in.app_version),
        platform=check_in.platform,
        region=check_in.region,
        hardware_class=check_in.hardware_class,
        attributes=kept,
    )
    return Heard(facts=facts, unknown=unknown, misfits=misfits)


def _in_order(held: DeviceFacts) -> DeviceFacts:
    """Devices that enrolled before there were cohorts have no key for their app's version yet."""
    key = held.app_version_key or version_key(held.app_version)
    return held if key == held.app_version_key else replace(held, app_version_key=key)


def _says_nothing_new(check_in: CheckIn, kept: Mapping[str, AttributeValue], held: DeviceFacts) -> bool:
    """Whether all is held already: almost always, and much faster than making it anew."""
    return (
        check_in.app_version == held.app_version
        and held.app_version_key != ""
        and check_in.platform == held.platform
        and check_in.region == held.region
        and check_in.hardware_class == held.hardware_class
        and _same(kept, held.attributes)
    )


def changes(held: DeviceFacts, facts: DeviceFacts) -> Mapping[str, Any]:
    """What to write into the device's row, by column; empty in almost every check-in."""
    if facts is held:
        return {}
    found: dict[str, Any] = {
        name: getattr(facts, name)
        for name in ("app_version", "app_version_key", "platform", "region", "hardware_class")
        if getattr(facts, name) != getattr(held, name)
    }
    if not _same(facts.attributes, held.attributes):
        found["attributes"] = dict(facts.attributes)
    return found


def _same(one: Mapping[str, AttributeValue], other: Mapping[str, AttributeValue]) -> bool:
    """Equal in types too: 1 equals true in Python."""
    return one == other and all(type(value) is type(other[name]) for name, value in one.items())
