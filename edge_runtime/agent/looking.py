"""Why nothing is trained, seen from outside: while another process works on the folder, and holds it."""

from __future__ import annotations

from edge_runtime.agent.home import app_key
from edge_runtime.agent.settings import Settings
from edge_runtime.conditions import Assuming, unknown
from edge_runtime.conditions.linux import LinuxSource
from edge_runtime.journal import State, peek
from edge_runtime.outcomes import Why

NOT_COUNTED = -1
"""In place of the number of examples: the store is the other process's."""


def why_while_working(settings: Settings) -> Why:
    """What the journal says, with what the conditions are here and now.

    Raises:
        Refusal: The journal cannot be read.
    """
    state = peek(settings.state, key=app_key(settings)) or State()
    conditions = Assuming(LinuxSource(settings.state), settings.floors.assumed).read()
    return Why(
        reason=None,
        come_back_s=0.0,
        unknown=unknown(conditions),
        phase=state.participation.phase if state.participation else None,
        history=state.visits,
        restarted=state.restarted.why if state.restarted else None,
        examples=NOT_COUNTED,
    )
