"""What a slice spends and sends: its watch, its budget, and the coordinator at the other end."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from edge_runtime.device import Device, sending
from edge_runtime.journal import state as now_is
from edge_runtime.network import Meter
from edge_runtime.protocol.errors import Unavailable, UnknownDevice
from edge_runtime.protocol.keys import SigningKey
from edge_runtime.schedule import Activity, Day, spent
from edge_runtime.session import Request, Response, Session
from edge_runtime.session.enrol import enrol
from edge_runtime.training import Interrupted
from edge_runtime.watch import Watch

if TYPE_CHECKING:
    from edge_runtime.driver import Driver, Send

Result = TypeVar("Result")

_LOOK_S: Final = 0.5


class Exchange:
    """Drives sessions for as long as conditions hold, and books what a slice costs on the day on which it began."""

    def __init__(self, device: Device, deadline_s: float, stop: Callable[[], bool]) -> None:
        self._device = device
        self._stop = stop
        self._ends_at_s = device.monotonic() + deadline_s
        self._slice_ends_at_s = math.inf
        self.booked_seconds = 0.0
        """Of this watch, in the journal already."""
        self._booked_bytes = 0
        self._booked_battery = 0.0
        self.watch = self._begun()

    def begin_anew(self) -> None:
        """Go on under a new policy; the time and the costs so far still count."""
        self.book()
        self.booked_seconds, self._booked_bytes, self._booked_battery = 0.0, 0, 0.0
        self.watch = self._begun()

    def _begun(self) -> Watch:
        device = self._device
        self._began, self._zone = device.now(), device.local
        now_s = device.monotonic()
        self._slice_ends_at_s = min(self._slice_ends_at_s, now_s + device.policy.slice_s)
        return Watch(
            device.source,
            device.policy,
            device.usage,
            self._began,
            self._zone,
            limit_s=min(self._ends_at_s, self._slice_ends_at_s) - now_s,
            system_stops=self._stop,
            clock=device.monotonic,
        )

    def book(self) -> None:
        """Put on disk what was given since the last time, so that a killed app has paid too."""
        watch = self.watch
        seconds, battery = watch.seconds, watch.battery_share
        transferred = watch.transferred_bytes
        cost = Day(
            date=spent(self._device.usage, self._began, self._zone).date,
            seconds=max(0.0, seconds - self.booked_seconds),
            transferred_bytes=transferred - self._booked_bytes,
            battery_share=battery - self._booked_battery,
        )
        if (cost.seconds, cost.transferred_bytes, cost.battery_share) != (0.0, 0, 0.0):
            self._device.journal.update(lambda state: now_is.spent(state, cost))
        self.booked_seconds, self._booked_bytes, self._booked_battery = seconds, transferred, battery

    def drive(
        self, session: Session[Result], *, watched: bool = True, activity: Activity = Activity.TRANSFER
    ) -> Result:
        """Run a session with the coordinator, enrolling first where it does not know the device.

        Args:
            watched: Whether the conditions of the network are asked, before and between two parts of an answer.
            activity: What is done meanwhile: it decides which conditions count.

        Raises:
            Interrupted: One does not hold.
            Unreachable: No answer.
            Refusal: The session raised it.
        """
        from edge_runtime.driver import Driver

        device = self._device
        meter = _Watched(self.watch) if watched else _Counted(self.watch)
        self.watch.activity = activity
        try:
            meter.go_on()  # before a connection is made
            with sending(device.transport, meter) as send:
                driver = Driver(
                    SigningKey(device.identity().seed),
                    device.installation.tenant,
                    _asking(meter, send),
                    clock=lambda: device.now_s,
                    sleep=lambda seconds: self._sleep(seconds, meter),
                    monotonic=device.monotonic,
                )
                driver.clock_offset_s = device.clock_offset_s
                try:
                    self._enrol(driver)
                    return driver.run(session)
                finally:
                    device.clock_offset_s = driver.clock_offset_s
        except UnknownDevice:
            device.known(known=False)
            raise
        finally:
            session.close()
            self.watch.activity = Activity.TRAIN

    def _enrol(self, driver: Driver) -> None:
        device = self._device
        if device.identity().known:
            return
        enrolled = driver.run(enrol(device.installation, driver.key.public))
        device.known(known=True, certificate=enrolled.certificate)
        device.journal.update(lambda state: now_is.told(state, enrolled.policy))
        device.say("enrolled")
        if enrolled.retry_after_s > 0:
            raise Unavailable("enrolled; the first check-in is later", retry_after_s=enrolled.retry_after_s)

    def _sleep(self, seconds: float, meter: Meter) -> None:
        """Wait between two tries, and look at conditions meanwhile."""
        while seconds > 0:
            meter.go_on()
            self._device.sleep(min(seconds, _LOOK_S))
            seconds -= _LOOK_S


def _asking(meter: Meter, send: Send) -> Send:
    """Ask whether to go on before each request too: a session in a group has many, and lasts minutes."""

    def sending_on(request: Request, headers: dict[str, str]) -> Response:
        meter.go_on()
        return send(request, headers)

    return sending_on


class _Counted(Meter):
    """Adds what travels to a watch."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def count(self, transferred_bytes: int) -> None:
        self._watch.transferred_bytes += transferred_bytes


class _Watched(_Counted):
    """And ends the transfer when the watch says so."""

    def go_on(self) -> None:
        if outcome := self._watch():
            raise Interrupted(outcome)
