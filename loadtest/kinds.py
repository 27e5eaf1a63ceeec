"""The kinds of request a phone sends: the names under which statistics are grouped."""

from __future__ import annotations

from enum import StrEnum

from edge_runtime.protocol.checkin import CHECK_IN_PATH, bundle_path, checkpoint_path
from edge_runtime.protocol.enrolment import ENROL_PATH
from edge_runtime.protocol.report import outcome_path, report_path


class Kind(StrEnum):
    """In the order of a visit."""

    ENROL = "enrol"
    CHECK_IN = "check-in"
    BUNDLE = "bundle"
    CHECKPOINT = "checkpoint"
    REPORT = "report"
    OUTCOME = "outcome"


_EXAMPLES = {
    ENROL_PATH: Kind.ENROL,
    CHECK_IN_PATH: Kind.CHECK_IN,
    bundle_path("*"): Kind.BUNDLE,
    checkpoint_path("*"): Kind.CHECKPOINT,
    report_path("*"): Kind.REPORT,
    outcome_path("*"): Kind.OUTCOME,
}


def kind_of(path: str) -> str:
    """Name the kind of a request by its path; a path of no known kind stands for itself."""
    for example, kind in _EXAMPLES.items():
        head, _star, tail = example.partition("*")
        if path == example or ("*" in example and path.startswith(head) and path.endswith(tail)):
            return kind
    return path
