"""The description of the API is whole and true: every operation explained, and no request that it allows is a bug.

`python -m tests.coordinator.test_openapi --examples 200` asks longer than the test does.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from jsonschema_rs import Draft202012Validator
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from coordinator.api.problems import STATUSES
from edge_runtime.protocol.errors import REFUSALS
from tests.coordinator.serving import Served, serving
from tests.programme import POPULATION, TASK

EXAMPLES: Final = 3
"""Requests of each operation in a test; hypothesis makes them from the description."""
CHECKS: Final = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served")) as found:
        found.home.start_task()
        found.home.phone(0)
        yield found


@pytest.fixture(scope="module")
def description(served: Served) -> dict[str, Any]:
    found: dict[str, Any] = served.home.request("GET", "/v1/openapi.json").raise_for_status().json()
    return found


def operations(description: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_operation_has_a_name_of_its_own_and_says_what_it_does(description: dict[str, Any]) -> None:
    names = [operation["operationId"] for _path, _method, operation in operations(description)]
    assert len(set(names)) == len(names)
    for path, method, operation in operations(description):
        assert operation["summary"], (method, path)
        assert operation["description"].startswith(operation["summary"].split("\n")[0][:20]), (method, path)
        assert operation["tags"]
        assert "Raises" not in operation["description"]
        assert operation["responses"]["default"] == {"$ref": "#/components/responses/Problem"}


def test_every_body_and_answer_has_an_example_that_fits_its_schema(description: dict[str, Any]) -> None:
    checked = 0
    for path, method, operation in operations(description):
        contents = dict(operation.get("requestBody", {}).get("content", {}))
        for status, response in operation["responses"].items():
            contents |= {f"{status} {kind}": content for kind, content in response.get("content", {}).items()}
        for kind, content in contents.items():
            if not kind.endswith("json") or path in ("/healthz", "/readyz", "/metrics"):
                continue
            assert "example" in content, (method, path, kind)
            valid(description, content["schema"], content["example"])
            checked += 1
    assert checked > 50


def test_the_examples_of_refusals_fit_their_schema(description: dict[str, Any]) -> None:
    content = description["components"]["responses"]["Problem"]["content"]["application/problem+json"]
    for code, example in content["examples"].items():
        assert example["value"]["status"] == STATUSES[code]
        valid(description, content["schema"], example["value"])


def test_every_code_is_in_the_description(description: dict[str, Any]) -> None:
    text = description["components"]["responses"]["Problem"]["description"]
    assert all(f"`{code}`" in text for code in REFUSALS)


def valid(description: dict[str, Any], schema: dict[str, Any], example: object) -> None:
    whole = {**schema, "components": description["components"]}
    Draft202012Validator(whole).validate(example)


def test_operators_calls_ask_for_a_token_and_devices_for_a_signature(description: dict[str, Any]) -> None:
    for path, _method, operation in operations(description):
        wanted = {"/v1/operator": "operatorToken", "/v1/device": "deviceSignature"}
        asked = next((name for prefix, name in wanted.items() if path.startswith(prefix)), None)
        assert operation.get("security") == ([{asked: []}] if asked else None)


@pytest.mark.timeout(120)
def test_no_request_that_the_description_allows_is_a_bug(served: Served) -> None:
    assert ask(served, EXAMPLES) > 100


def ask(served: Served, examples: int) -> int:
    """Send requests that the description allows, and some that it does not; how many were sent."""
    asked = 0
    for result in _schema(served).get_all_operations():
        operation = result.ok()

        def send(case: schemathesis.Case[Any]) -> None:
            nonlocal asked
            asked += 1
            call(served, case)

        strategy = operation.as_strategy() | operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
        phases = (Phase.generate,)
        profile = settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            phases=phases,
            suppress_health_check=list(HealthCheck),
        )
        profile(_given(strategy, send))()
    return asked


def _given(strategy: Any, send: Any) -> Any:
    from hypothesis import given

    @given(case=strategy)
    def asking(case: schemathesis.Case[Any]) -> None:
        send(case)

    return asking


def call(served: Served, case: schemathesis.Case[Any]) -> None:
    """Send a request with a valid token; sometimes to what exists, so that it gets further than to its door."""
    names = {"population": POPULATION, "name": TASK if "/tasks/" in case.path else POPULATION}
    if "/cohorts/" not in case.path and case.path != "/v1/operator/populations/{name}/switch":
        for name in names.keys() & (case.path_parameters or {}).keys():
            if zlib.crc32(str(case.path_parameters).encode()) % 2:
                case.path_parameters[name] = names[name]
    case.headers["authorization"] = f"Bearer {served.home.token}"
    case.call_and_validate(base_url=served.address, checks=list(CHECKS), excluded_checks=[unsupported_method])


def _schema(served: Served) -> Any:
    return schemathesis.openapi.from_dict(served.home.request("GET", "/v1/openapi.json").json())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=200)
    examples = parser.parse_args().examples
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as served:
        served.home.start_task()
        print(json.dumps({"requests": ask(served, examples), "server errors": 0}))


if __name__ == "__main__":
    main()
