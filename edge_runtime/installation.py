"""What an app says of itself and its device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_runtime.protocol.checkin import AttributeValue, require_said


@dataclass(frozen=True, slots=True)
class Installation:
    """What an app says of itself when it enrols, and, but for the first three, at every check-in.

    The last three say which cohorts the device is in. They are classes that many devices share; nothing in them
    identifies a person. The coordinator keeps the attributes that the population declares, and drops the others.

    Attributes:
        region: A code for a place where many live, such as a country's: 1 to 32 of A-Z a-z 0-9 . _ -; None says
            nothing.
        hardware_class: A code in the app's words, such as "high"; None says nothing.
        attributes: At most 32; names are 1 to 32 of a-z 0-9 _, values text of at most 64 characters, whole numbers
            below 2^53 in size, or booleans.

    Raises:
        Malformed: One of the last three is not as it says.
    """

    tenant: str
    population: str
    app: str
    app_version: str
    platform: str
    region: str | None = None
    hardware_class: str | None = None
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_said(self.region, self.hardware_class, self.attributes)
