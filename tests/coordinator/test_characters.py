"""Text that one of the databases cannot keep is refused, on both: a mistake of the caller, never of the server."""

from __future__ import annotations

import pytest

from tests.programme import POPULATION, Home

NUL_ANYWHERE = [
    ("GET", "/populations/a%00b", None),
    ("GET", "/tasks/a%00b", None),
    ("GET", "/tasks?population=%00", None),
    ("POST", "/bundles/%00/checkpoints", None),
    *(("GET", f"/{of}?cursor=%00", None) for of in ("populations", "tasks")),
    *(("GET", f"/populations/{POPULATION}/{of}?cursor=%00", None) for of in ("cohorts", "devices", "quarantines")),
    ("PUT", f"/populations/{POPULATION}/cohorts/all", {"rule": {"attribute": "a", "is": "\0"}}),
    ("POST", "/tasks/a%00b/clone", {"name": "other"}),
]


@pytest.mark.parametrize(("method", "path", "body"), NUL_ANYWHERE, ids=[path for _method, path, _body in NUL_ANYWHERE])
def test_a_character_that_no_database_keeps_is_no_server_error(
    home: Home, method: str, path: str, body: dict[str, object] | None
) -> None:
    home.operator("PUT", f"/populations/{POPULATION}").raise_for_status()
    answer = home.operator(method, path, json=body)
    assert answer.status_code < 500, answer.text
    if answer.is_error:
        assert answer.json()["code"] in ("malformed", "not-found", "invalid-cohort")
