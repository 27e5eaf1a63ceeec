"""How a coordinator is reached, and what that costs. The driver acts on it, and is loaded on first use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

PIN_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The way to a coordinator.

    Attributes:
        coordinator: Its address, such as https://fl.example.com.
        fallbacks: Addresses of the same coordinator that are tried, in order, when that one gives no answer.
        proxy: Address of a proxy, such as http://10.0.0.1:3128; None goes directly. The environment is not asked.
        ca_file: PEM of the authorities that are trusted; None for those that come with httpx.
        pins: SHA-256 of the public keys (DER, SubjectPublicKeyInfo) that the coordinator's own certificate may have,
            32 bytes each; empty pins nothing. Give the next key's too, or the app is cut off when the key changes.
        connect_s: Longest wait for a connection.
        read_s: Longest wait for the next bytes; longer than a coordinator holds a check-in, which is at most 45 s.

    Raises:
        ValueError: A pin has another length, or an address is not HTTPS although there are pins.
    """

    coordinator: str
    fallbacks: tuple[str, ...] = ()
    proxy: str | None = None
    ca_file: Path | None = None
    pins: tuple[bytes, ...] = ()
    connect_s: float = 10.0
    read_s: float = 60.0

    def __post_init__(self) -> None:
        if any(len(pin) != PIN_BYTES for pin in self.pins):
            raise ValueError(f"a pin is the SHA-256 of a public key, {PIN_BYTES} bytes")
        if self.pins and not all(address.startswith("https://") for address in self.addresses):
            raise ValueError("pins need addresses that begin with https://")
        if not (self.connect_s > 0 and self.read_s > 0):
            raise ValueError("connect_s and read_s are above 0")

    @property
    def addresses(self) -> tuple[str, ...]:
        """In the order in which they are tried."""
        return (self.coordinator, *self.fallbacks)


class Meter:
    """Told of every byte that travels, and asked whether to go on. This one counts, and never stops."""

    transferred_bytes = 0

    def count(self, transferred_bytes: int) -> None:
        """So much went up or came down, headers included."""
        self.transferred_bytes += transferred_bytes

    def go_on(self) -> None:
        """Raise to end the transfer; asked between two parts of an answer that is not complete."""
