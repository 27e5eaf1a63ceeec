"""What a runtime holds, and what its parts work with: the state folder, the app's choices, clocks and chance."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Final, TypeAlias

from edge_runtime.conditions import Source
from edge_runtime.downloads import Downloads
from edge_runtime.example_store import Collection, ExampleStore
from edge_runtime.journal import Journal, StateFolder
from edge_runtime.journal.state import Identity, State, enrolled
from edge_runtime.model import Engine
from edge_runtime.network import Network
from edge_runtime.protocol.errors import DeviceLeft, UntrustedDocument
from edge_runtime.protocol.group import LEAST_SLICE_S
from edge_runtime.protocol.keys import SigningKey, TrustRoots, device_id
from edge_runtime.protocol.policy import Policy
from edge_runtime.schedule import Floors, Usage, within
from edge_runtime.session.enrol import Installation
from edge_runtime.surroundings import Log, quiet, utc_now

if TYPE_CHECKING:
    import httpx

    from edge_runtime.driver import Meter, Send

Transport: TypeAlias = "Network | httpx.Client | Send"
"""The way to the coordinator: a description of it, an HTTP client whose base_url it is, or whatever sends a request."""

KEY_BYTES: Final = 32


@dataclass(slots=True, kw_only=True)
class Device:
    """Everything that belongs to one runtime. `store` is None once the owner has opted out."""

    folder: StateFolder
    journal: Journal
    store: ExampleStore | None
    downloads: Downloads
    transport: Transport
    installation: Installation
    roots: TrustRoots
    floors: Floors
    source: Source
    engine: Engine
    zone: tzinfo | None = None
    now: Callable[[], datetime] = utc_now
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    entropy: Callable[[int], bytes] = os.urandom
    log: Log = quiet
    collections: dict[str, Collection] = field(default_factory=dict)
    least_slice_s: float = LEAST_SLICE_S
    """A group is joined only with so much of the slice left."""
    clock_offset_s: int = 0
    """What the coordinator's clock is ahead; for signatures only."""

    @property
    def state(self) -> State:
        return self.journal.state

    @property
    def now_s(self) -> float:
        return self.now().timestamp()

    @property
    def local(self) -> tzinfo:
        """Where the device is, now."""
        return self.zone or self.now().astimezone().tzinfo or UTC

    @property
    def policy(self) -> Policy:
        """What holds now: the coordinator's, within the app's floors; the floors alone where it sent none."""
        sent = self.state.policy
        return self.floors.limits if sent is None else within(sent, self.floors)

    @property
    def usage(self) -> Usage:
        return self.state.usage or Usage(installed_at=self.now_s)

    @property
    def trains_on(self) -> Collection | None:
        """The collection that check-ins offer and plans train on: the first that the app declared."""
        return next(iter(self.collections.values()), None)

    @property
    def examples(self) -> ExampleStore:
        """The example store.

        Raises:
            DeviceLeft: The owner opted out; nothing is kept any more.
        """
        if self.store is None:
            raise DeviceLeft("the owner took this device out")
        return self.store

    def say(self, sentence: str) -> None:
        """Tell the app's log; what it raises is its own affair."""
        with contextlib.suppress(Exception):
            self.log(sentence)

    def chance(self) -> float:
        """A random number, 0 to 1."""
        return int.from_bytes(self.entropy(7), "big") / (1 << 56)

    def identity(self) -> Identity:
        """Who this device is; a key is made, and on disk, at the first call."""
        if self.state.identity is None:
            seed = self.entropy(KEY_BYTES)
            tenant = self.installation.tenant
            made = Identity(seed=seed, tenant=tenant, device_id=device_id(tenant, SigningKey(seed).public))
            self.journal.update(lambda state: enrolled(state, made))
        identity = self.state.identity
        if identity is None:
            raise RuntimeError("the journal forgot an identity")
        return identity

    def known(self, *, known: bool, certificate: bytes | None = None) -> None:
        """Note whether the coordinator has enrolled this device, and the certificate that it gave, if it is one."""
        identity = replace(self.identity(), known=known)
        if certificate is not None:
            identity = replace(identity, certificate=certificate if self._certifies(certificate) else b"")
        self.journal.update(lambda state: enrolled(state, identity))

    def is_certified(self) -> bool:
        """Whether it holds a certificate by the authority that the app pins."""
        return self._certifies(self.identity().certificate)

    def _certifies(self, certificate: bytes) -> bool:
        """Whether the authority that the app pins gave it to this device."""
        if self.roots.authority is None or not certificate:
            return False
        from edge_runtime.protocol.secure_sum.roster import verify_certificate

        public = SigningKey(self.identity().seed).public
        try:
            verify_certificate(self.roots.authority, self.installation.tenant, public, certificate)
        except UntrustedDocument:
            self.say("the certificate of this device is not by the authority that the app pins")
            return False
        return True


@contextlib.contextmanager
def sending(transport: Transport, meter: Meter) -> Iterator[Send]:
    """What carries requests, for as long as the block lasts; every byte is told to the meter."""
    from edge_runtime.driver import connected, metered, over_http

    if isinstance(transport, Network):
        with connected(transport, meter) as send:
            yield send
    elif callable(transport):
        yield metered(transport, meter)
    else:
        yield over_http(transport, meter)
