"""The owner takes the device out: everything goes, and the coordinator is told.

First one change of the journal forgets all but the key that the coordinator is told with; then the files go; then,
when the coordinator has answered, the key and the folder too. A process killed anywhere leaves a state from which the
next one goes on with the removal, and nothing is trained or sent in between.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

from edge_runtime.device import Device
from edge_runtime.example_store import erase_store
from edge_runtime.exchange import Exchange
from edge_runtime.journal import state as now_is
from edge_runtime.protocol.errors import DeviceLeft, DeviceStorageFull, Refusal, UnknownDevice
from edge_runtime.session import Unreachable
from edge_runtime.session.enrol import leave
from edge_runtime.watch import never_stops

_KEPT = ("journal", "journal.seen", "lock")


def forget(device: Device) -> None:
    """Delete everything on the device but its identity. A full disk does not stop it."""
    with contextlib.suppress(DeviceStorageFull):
        device.journal.update(now_is.left)
    if device.store is not None:
        device.store.close()
        device.store = None
    device.collections.clear()
    erase_store(device.folder)
    delete_files(device.folder.path, but=_KEPT)
    if not device.state.opted_out:  # there was no room to say so; now there is
        device.journal.update(now_is.left)
    delete_files(device.folder.path, but=_KEPT)


def tell(device: Device) -> bool:
    """Tell the coordinator, whatever the conditions: the owner asked for it. Whether it knows now, or never knew."""
    if device.state.identity is None or not device.state.identity.known:
        return True
    try:
        Exchange(device, math.inf, never_stops).drive(leave(), watched=False)
    except (UnknownDevice, DeviceLeft):
        return True
    except (Unreachable, Refusal):
        return False
    return True


def delete_files(folder: Path, *, but: tuple[str, ...] = ()) -> None:
    """Delete the files of a state folder, apart from those of these names."""
    for path in folder.iterdir():
        if path.name not in but and path.is_file():
            path.unlink(missing_ok=True)


def delete_folder(device: Device) -> None:
    """Delete what is left: the identity, the lock, and the folder, unless the app keeps something of its own there."""
    delete_files(device.folder.path)
    with contextlib.suppress(OSError):
        device.folder.path.rmdir()
    device.folder.close()
