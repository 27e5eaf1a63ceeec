"""Who this installation is: a key in the journal, and how a folder of an earlier version comes by one."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Final

from edge_runtime.device import KEY_BYTES
from edge_runtime.journal import Journal, StateFolder
from edge_runtime.journal.state import Identity, enrolled
from edge_runtime.protocol.errors import Malformed
from edge_runtime.protocol.keys import SigningKey, device_id

KEY_FILE: Final = "device.key"
"""Where versions before the journal kept the device key: 64 hex digits."""


def adopt_key(folder: StateFolder, journal: Journal, tenant: str) -> bool:
    """Take the device key of an earlier version into the journal, and then delete its file; whether there was one.

    A process killed in between does it again. A journal that has an identity, or whose owner opted out, keeps what it
    has: a file that holds another key is then left where it is.

    Raises:
        Malformed: The file is not a key.
        DeviceStorageFull: There is no room; the file is as it was.
    """
    path = folder.path / KEY_FILE
    try:
        seed = bytes.fromhex(path.read_text(encoding="ascii").strip())
        mine = Identity(seed=seed, tenant=tenant, device_id=device_id(tenant, SigningKey(seed).public))
    except FileNotFoundError:
        return False
    except (ValueError, Malformed):
        raise Malformed(f"{path} is not a device key; delete it to enrol as a new device") from None
    held = journal.state.identity
    if held is None and not journal.state.opted_out:
        journal.update(lambda state: enrolled(state, mine))
        held = mine
    if held is not None and held.seed == seed:
        path.unlink(missing_ok=True)
        return True
    return False


def own_identity(journal: Journal, tenant: str) -> Identity:
    """Who this device is; a key is made, and on disk, at the first call."""
    held = journal.state.identity
    if held is None:
        seed = os.urandom(KEY_BYTES)
        held = Identity(seed=seed, tenant=tenant, device_id=device_id(tenant, SigningKey(seed).public))
        made = held
        journal.update(lambda state: enrolled(state, made))
    return held


def now_known(journal: Journal) -> None:
    """Note that the coordinator enrolled this device."""
    held = journal.state.identity
    if held is not None:
        known = replace(held, known=True)
        journal.update(lambda state: enrolled(state, known))
