"""What the description of the API (`/v1/openapi.json`) says beyond what the routes know of themselves.

Bodies that are read by hand, messages of the device protocol, refusals, credentials, the headers that all operators'
calls share, and an example of everything that is sent or answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from coordinator.api.examples import PATCH, examples, problems
from coordinator.api.operator import PREFIX
from coordinator.api.problems import STATUSES
from edge_runtime.protocol.checkin import CheckIn, CheckInAnswer
from edge_runtime.protocol.enrolment import Enrol, Enrolled, Left, Problem
from edge_runtime.protocol.errors import REFUSALS
from edge_runtime.protocol.group import Appointment, StepTaken, Trained
from edge_runtime.protocol.header import SignedRound
from edge_runtime.protocol.policy import Policy
from edge_runtime.protocol.release import Released, ReleaseQuery
from edge_runtime.protocol.report import OutcomeNote, OutcomeNoted, Receipt, ReportComplete, ReportHeld

Tree = dict[str, Any]

_BYTES: Final[Tree] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_REF: Final = "#/components/schemas/{model}"
_METHODS: Final = ("get", "put", "post", "patch", "delete")

_MESSAGES: Final[Mapping[str, tuple[type | None, type | None]]] = {
    "enrol": (Enrol, Enrolled),
    "leave": (None, Left),
    "check_in": (CheckIn, CheckInAnswer),
    "release": (ReleaseQuery, Released),
    "bundle": (None, bytes),
    "checkpoint": (None, bytes),
    "round_header": (None, SignedRound),
    "report": (bytes, Receipt),
    "report_held": (None, ReportHeld),
    "report_part": (bytes, ReportHeld),
    "report_complete": (ReportComplete, Receipt),
    "outcome": (OutcomeNote, OutcomeNoted),
    "trained": (Trained, Appointment),
    "take_step": (bytes, StepTaken),
    "what_follows": (None, bytes),
    "put_bundle": (bytes, None),
    "post_checkpoint": (bytes, None),
    "get_checkpoint": (None, bytes),
}
"""What is sent and answered by operations whose routes read and write bytes themselves."""

_TAGGED: Final = ("get_population", "get_task", "get_cohort")
"""Their answers have an `ETag` that may be sent back."""

_ABOUT: Final = """The coordinator samples devices, adds up their changes and releases better models.

Devices sign every request; operators send a bearer token and see their own tenant alone. A refusal is a problem
document (RFC 9457) with a permanent code. A change may be sent again: with an `Idempotency-Key` it is answered as
before. Lists come in pages, and the `Link` header names the next one. Objects have an `ETag`; a change with `If-Match`
is refused when somebody was faster."""


def operation_id(route: APIRoute) -> str:
    """The name of an operation: that of its function, so that generated clients read well."""
    return route.name


def describe(app: FastAPI) -> None:
    """Let an application describe itself in full, when it is first asked."""

    def description() -> Tree:
        if app.openapi_schema is None:
            plain = get_openapi(title=app.title, version=app.version, description=_ABOUT, routes=app.routes)
            app.openapi_schema = described(plain)
        return app.openapi_schema

    app.openapi = description  # type: ignore[method-assign]


def described(tree: Tree) -> Tree:
    """The description that the routes give, with everything that they do not know."""
    schemas = tree.setdefault("components", {}).setdefault("schemas", {})
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    for kind in (Problem, Policy, *(kind for pair in _MESSAGES.values() for kind in pair)):
        if kind is not None and kind is not bytes:
            _add_schema(schemas, kind)
    for name, example in examples().items():
        if name in schemas:
            schemas[name]["examples"] = [example]
    tree["components"] |= {"responses": {"Problem": _problem()}, "securitySchemes": _credentials()}
    tree["tags"] = [{"name": name, "description": said} for name, said in _TAGS.items()]
    for path, methods in tree["paths"].items():
        for method in _METHODS:
            if method in methods:
                _complete(methods[method], path, method)
    return tree


_TAGS: Final = {
    "device": "What devices ask; every request is signed (docs/protocol.md).",
    "populations": "Devices of one app that share an example schema and a model family.",
    "cohorts": "Named parts of a population, by rules.",
    "models": "Bundles (graphs) and checkpoints (model versions).",
    "tasks": "Training and evaluation: ordered, approved, started, watched, ended.",
    "devices": "Devices as operators see them.",
    "privacy": "Budgets, ledgers, what may be said of privacy, and plans for it.",
    "releases": "Which model version devices use for inference.",
    "health": "For whoever watches the process.",
}


def _add_schema(schemas: Tree, kind: type) -> None:
    schema = TypeAdapter(kind).json_schema(ref_template=_REF)
    for name, nested in schema.pop("$defs", {}).items():
        schemas.setdefault(name, nested)
    schemas[kind.__name__] = schema


def _complete(operation: Tree, path: str, method: str) -> None:
    name = operation["operationId"]
    said = operation.get("description", "").split("Raises:")[0].strip()
    operation["description"] = said
    operation["summary"] = said.split("\n\n")[0].replace("\n", " ").split(". ")[0].rstrip(".")
    operation["responses"].pop("422", None)
    operation["responses"]["default"] = {"$ref": "#/components/responses/Problem"}
    sent, answered = _MESSAGES.get(name, (None, None))
    if sent is not None:
        operation["requestBody"] = {"required": True, "content": _content(sent)}
    if answered is not None:
        operation["responses"]["200"] = {"description": "Done", "content": _content(answered)}
    if name in _BODIES:
        operation["requestBody"] = {"required": True, "content": {"application/json": _BODIES[name]}}
    if path.startswith(PREFIX):
        operation["security"] = [{"operatorToken": []}]
        _add_headers(operation, name, method)
    elif path.startswith("/v1/device"):
        operation["security"] = [{"deviceSignature": []}]
    for content in _contents(operation):
        _add_example(content)


_BODIES: Final[Mapping[str, Tree]] = {
    "put_policy": {
        "schema": {"anyOf": [{"$ref": "#/components/schemas/Policy"}, {"type": "null"}]},
    },
    "patch_task": {
        "schema": {"type": "object", "description": "Some of the fields of TaskSettings, nested as there."},
        "example": PATCH,
    },
}


def _content(kind: type) -> Tree:
    if kind is bytes:
        return _BYTES
    return {"application/json": {"schema": {"$ref": _REF.format(model=kind.__name__)}}}


def _add_headers(operation: Tree, name: str, method: str) -> None:
    parameters = operation.setdefault("parameters", [])
    if method != "get":
        about = "Names this request: when it comes again, it gets the same answer for a day."
        schema = {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]+$"}
        parameters.append({"name": "Idempotency-Key", "in": "header", "description": about, "schema": schema})
    if name in _TAGGED:
        about = "An ETag; the answer is 304, without a body, while the object still has it."
        parameters.append({"name": "If-None-Match", "in": "header", "description": about, "schema": {"type": "string"}})
        operation["responses"]["304"] = {"description": "It is as it was."}


def _contents(operation: Tree) -> Iterator[Tree]:
    yield from operation.get("requestBody", {}).get("content", {}).values()
    for response in operation["responses"].values():
        yield from response.get("content", {}).values()


def _add_example(content: Tree) -> None:
    """Show an example beside the schema; of a list, a list of one."""
    schema = content.get("schema", {})
    arms = schema.get("anyOf", [schema])
    found = examples().get(_model(arms[0]))
    listed = examples().get(_model(schema.get("items", {})))
    if found is not None:
        content.setdefault("example", found)
    elif listed is not None:
        content.setdefault("example", [listed])


def _model(schema: Tree) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _problem() -> Tree:
    codes = ", ".join(f"`{code}` ({status})" for code, status in sorted(STATUSES.items()) if code in REFUSALS)
    more = "One of privacy also has `reason` and `nearest`."
    return {
        "description": f"A refusal. Its code never changes its meaning: {codes}. {more}",
        "content": {
            "application/problem+json": {
                "schema": {"$ref": _REF.format(model="Problem")},
                "examples": {name: {"value": value} for name, value in problems().items()},
            }
        },
    }


def _credentials() -> Tree:
    signature = (
        "HTTP Message Signatures (RFC 9421), Ed25519, over method, path, digest, time and nonce: docs/protocol.md"
    )
    return {
        "operatorToken": {"type": "http", "scheme": "bearer", "description": "`edgewise-coordinator init` writes it."},
        "deviceSignature": {"type": "apiKey", "in": "header", "name": "Signature", "description": signature},
    }
