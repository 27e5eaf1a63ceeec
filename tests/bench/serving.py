"""The coordinator as a process of its own: `python -m tests.bench.serving FOLDER CORE [hold] [unsigned]`.

Prints its port. `hold` holds check-ins open, as a coordinator does by default. `unsigned` leaves out the verification
of check-ins: only here can that be done at all.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from coordinator.app import create_app
from coordinator.commands.draining import server_of
from coordinator.services import checkins
from coordinator.settings import Settings


def main() -> None:
    folder, core, *rest = sys.argv[1:]
    os.sched_setaffinity(0, {int(core)})
    if "unsigned" in rest:
        vars(checkins)["unproven"] = lambda *_request: None
    listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    settings = Settings(data_dir=Path(folder), hold_s=20 if "hold" in rest else 0, free_disk_bytes=0)
    server_of(create_app(settings), settings).run(sockets=[listening])


if __name__ == "__main__":
    main()
