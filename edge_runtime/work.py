"""What an open runtime does, and how it is opened. Loaded with the first `Runtime`, not with the names of an app."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from edge_runtime import removal
from edge_runtime.conditions import Assuming, Source, unknown
from edge_runtime.device import Device, Transport
from edge_runtime.downloads import Downloads
from edge_runtime.example_store import open_store
from edge_runtime.examples import Features
from edge_runtime.exchange import Exchange
from edge_runtime.inference import Inference, Outputs, renewed
from edge_runtime.journal import AppKey, Witness, open_folder, open_journal
from edge_runtime.journal import state as now_is
from edge_runtime.model import Engine, Installed
from edge_runtime.outcomes import SliceEnd, Why
from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import DeviceStorageFull, StateDamaged
from edge_runtime.protocol.keys import TrustRoots
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.reasons import Blocker, Outcome
from edge_runtime.returning import activity_of, appointment_in_s, backs_off_s, come_back_s, zeroed_as
from edge_runtime.schedule import Activity, Floors, blocker
from edge_runtime.session.enrol import Installation
from edge_runtime.slices import Slice
from edge_runtime.surroundings import Log, Surroundings, quiet
from edge_runtime.watch import never_stops


def open_device(
    state: Path,
    transport: Transport,
    installation: Installation,
    roots: TrustRoots,
    *,
    source: Source,
    key: AppKey | None,
    floors: Floors,
    engine: Engine | None,
    witness: Witness | None,
    log: Log | None,
    around: Surroundings | None,
) -> Device:
    """Open the state folder, made if need be. Arguments and errors are those of `Runtime`."""
    around = around or Surroundings()
    folder = open_folder(state)
    try:
        now_s = around.now().timestamp()
        journal = open_journal(folder, key=key, now_s=now_s, witness=witness)
        journal.update(lambda held: now_is.installed(now_is.seen_at(held, now_s), now_s))
        store = None if journal.state.opted_out else open_store(folder, key=key, now_s=now_s)
    except BaseException:
        folder.close()
        raise
    return Device(
        folder=folder,
        journal=journal,
        store=store,
        downloads=Downloads(folder.path),
        transport=transport,
        installation=installation,
        roots=roots,
        floors=floors,
        source=Assuming(source, floors.assumed),
        engine=engine or Installed(),
        zone=around.zone,
        now=around.now,
        monotonic=around.monotonic,
        sleep=around.sleep,
        entropy=around.entropy,
        least_slice_s=around.least_slice_s,
        log=log or quiet,
    )


class Work:
    """The work of one runtime. `run`, `renew`, `forget`, `left` and `close` are called one at a time."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._inference = Inference(device)

    def run(self, deadline_s: float, stop: Callable[[], bool]) -> SliceEnd:
        """One slice, up to its end."""
        return Slice(self._device, deadline_s, stop).run()

    def why(self, *, closed: bool) -> Why:
        """What stands in the way of the next step, and how the last slices ended."""
        device, state = self._device, self._device.state
        held, now, policy, usage = state.participation, device.now(), device.policy, device.usage
        conditions = device.source.read()
        fetched = held is not None and all(
            device.downloads.holds(sha256)
            for sha256 in (wire.decode(Plan, held.plan).bundle_sha256, held.checkpoint_sha256)
        )
        activity = activity_of(held, fetched=fetched)
        reason: str | None = blocker(conditions, policy, usage, now, device.local, activity)
        after_s = come_back_s(Blocker(reason), policy, usage, now, device.local) if reason else 0.0
        backs_off = backs_off_s(usage, policy, now)
        if reason is None and activity is Activity.TRANSFER and backs_off > 0:
            reason, after_s = Blocker.TOO_SOON, backs_off
        ahead = appointment_in_s(held, device.now_s)
        if reason is None and ahead > 0:
            reason, after_s = Blocker.APPOINTMENT_AHEAD, ahead
        if state.switched_off:
            reason, after_s = Outcome.SWITCHED_OFF, max(after_s, backs_off)
        if state.opted_out or closed:
            reason = Outcome.OPTED_OUT
        collection = device.trains_on
        count = 0 if collection is None else device.examples.eligible(collection.name, 0, None, device.now_s).count
        return Why(
            reason=reason,
            come_back_s=after_s,
            unknown=unknown(conditions),
            phase=held.phase if held else None,
            history=state.visits,
            restarted=state.restarted.why if state.restarted else None,
            examples=count,
            appointment_at_s=device.now_s + ahead if ahead > 0 else None,
            zeroed=zeroed_as(held),
        )

    def infer(self, x: Features, *, own: bool) -> Outputs:
        """Every output by name. The text of `Runtime.infer` says the rest."""
        return self._inference.infer(x, own=own)

    def renew(self) -> int:
        """Fetch the released model now; its version. The text of `Runtime.renew` says the rest."""
        device = self._device
        exchange = Exchange(device, float("inf"), never_stops)
        try:
            found = exchange.drive(renewed(device), watched=False)
        finally:
            exchange.book()
        now_s = device.now_s
        device.journal.update(lambda state: now_is.released(now_is.wanting_release(state), found, now_s))
        return found.model_version

    def forget(self) -> None:
        """Delete everything on the device but its identity."""
        self._inference.close()
        removal.forget(self._device)

    def left(self) -> bool:
        """Tell the coordinator that the owner opted out and, once it knows, forget the identity; whether it does."""
        if not removal.tell(self._device):
            return False
        removal.delete_folder(self._device)
        return True

    def close(self) -> None:
        """Let go of memory, files and the folder."""
        self._inference.close()
        if self._device.store is not None:
            self._device.store.close()
        self._device.folder.close()

    def tidy(self) -> None:
        """Delete what is no longer needed: old examples, snapshots, bundles and checkpoints. A full disk waits."""
        device, state = self._device, self._device.state
        held = state.participation
        needed = {state.personal.bundle_sha256} if state.personal else set()
        if state.release is not None:
            needed |= {state.release.bundle_sha256, state.release.checkpoint_sha256}
        if held is not None:
            needed |= {wire.decode(Plan, held.plan).bundle_sha256, held.checkpoint_sha256}
        device.downloads.keep_only(needed)
        if device.store is not None:
            with contextlib.suppress(DeviceStorageFull, StateDamaged):
                device.store.expire(device.now_s)
                device.store.keep_snapshots(*([held.savepoint.snapshot] if held and held.savepoint else []))
