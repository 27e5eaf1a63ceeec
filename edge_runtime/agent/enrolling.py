"""Enrolment at once, on the owner's word: whatever the conditions are, and before the first slice."""

from __future__ import annotations

import time

from edge_runtime.agent.home import app_key, taken
from edge_runtime.agent.settings import Settings
from edge_runtime.driver import Driver, connected
from edge_runtime.identity import adopt_key, now_known, own_identity
from edge_runtime.journal import open_journal
from edge_runtime.journal import state as now_is
from edge_runtime.journal.state import Visited
from edge_runtime.protocol.errors import Unavailable
from edge_runtime.protocol.keys import SigningKey
from edge_runtime.session.enrol import enrol


def enrol_now(settings: Settings, wait_s: float = 0.0) -> str:
    """Make the device known and keep what the coordinator says of when to work; its id. Again is harmless.

    Raises:
        Refusal: The coordinator refused, or the folder cannot be worked on.
        Unreachable: No answer.
        OSError: The folder cannot be used.
    """
    with taken(settings.state, wait_s) as folder:
        now_s = time.time()
        journal = open_journal(folder, key=app_key(settings), now_s=now_s)
        journal.update(lambda state: now_is.installed(now_is.seen_at(state, now_s), now_s))
        adopt_key(folder, journal, settings.installation.tenant)
        identity = own_identity(journal, settings.installation.tenant)
        key = SigningKey(identity.seed)
        with connected(settings.network) as send:
            answer = Driver(key, identity.tenant, send).run(enrol(settings.installation, key.public))
        now_known(journal)
        journal.update(lambda state: now_is.told(state, answer.policy))
        if answer.retry_after_s > 0:
            visit = Visited(at_s=now_s, reason=Unavailable.code)
            journal.update(lambda state: now_is.visited(state, visit, answer.retry_after_s))
        return identity.device_id
