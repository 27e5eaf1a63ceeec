"""Check-ins: signed, and committed to the database."""

from __future__ import annotations

from pathlib import Path

from coordinator.services import checkins, devices
from edge_runtime.protocol.checkin import CheckIn
from edge_runtime.protocol.keys import device_id
from edge_runtime.protocol.signing import claimed, sign_request, verify_request
from tests.bench.measure import Row, rate_row
from tests.programme import POPULATION, START, TENANT, Clock, make_home, open_home

COUNT = 200


def rows(folder: Path) -> list[Row]:
    home_folder = folder / "home"
    home_folder.mkdir()
    with open_home(home_folder, Clock(), make_home(home_folder)) as home:
        home.start_task(pool_size=10_000)
        parts = home.app.state.parts
        key = home.phone(0).driver.key
        name, now = device_id(TENANT, key.public), int(START.timestamp())
        nonces = iter(range(1, 1 << 62))
        body = CheckIn(version=1, population=POPULATION, visit="ab" * 16, runtime="bench", examples=32)

        def signed() -> dict[str, str]:
            nonce = next(nonces).to_bytes(16, "big")
            return sign_request(key, name, "POST", "/v1/device/check-in", b"{}", created=now, nonce=nonce)

        def batch() -> list[dict[str, str]]:
            return [signed() for _ in range(COUNT)]

        waiting = [batch() for _ in range(40)]

        def ours() -> None:
            for headers in waiting.pop():
                with parts.database.writing() as session:
                    claim = claimed(headers)
                    device = devices.authenticate(session, claim, "POST", "/v1/device/check-in", START)
                    checkins.check_in(session, device, body, START)

        def limit() -> None:
            for headers in waiting[0]:
                verify_request(claimed(headers), key.public, "POST", "/v1/device/check-in", now=now)

        return [
            rate_row(
                "checkin.committed_signed",
                ours,
                limit,
                bound=1.67,
                how="authenticate, remember the nonce, answer a check-in, commit on SQLite with full sync; "
                "limit: verifying the same signatures alone",
                count=COUNT,
            )
        ]
