"""What an app says of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Installation:
    """What an app says of itself when it enrols."""

    tenant: str
    population: str
    app: str
    app_version: str
    platform: str
