"""The kinds of request a phone sends: the names under which statistics are grouped.

A coordinator holds a check-in open while a round chooses, so how long such a one takes says nothing of its speed.
Check-ins are therefore told apart by their answer: some answers are never held back.
"""

from __future__ import annotations

from enum import StrEnum

from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import CHECK_IN_PATH, CheckInAnswer, bundle_path, checkpoint_path
from edge_runtime.protocol.enrolment import ENROL_PATH
from edge_runtime.protocol.errors import Refusal
from edge_runtime.protocol.reasons import Wait
from edge_runtime.protocol.report import outcome_path, report_path


class Kind(StrEnum):
    """In the order of a visit."""

    ENROL = "enrol"
    CHECK_IN = "check-in"
    """Answered at once, or refused."""
    HELD_CHECK_IN = "check-in-held"
    """Answered with an assignment, or about a selection: it may have been held open."""
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


_MAY_BE_HELD = frozenset({Wait.SELECTION_PENDING, Wait.NOT_SELECTED})


def kind_of(path: str) -> str:
    """Name the kind of a request by its path; a path of no known kind stands for itself."""
    for example, kind in _EXAMPLES.items():
        head, _star, tail = example.partition("*")
        if path == example or ("*" in example and path.startswith(head) and path.endswith(tail)):
            return kind
    return path


def kind_of_check_in(answer: bytes) -> Kind:
    """Tell by a check-in's answer whether it may have been held open."""
    try:
        retry = wire.decode(CheckInAnswer, answer).retry
    except Refusal:
        return Kind.CHECK_IN
    return Kind.HELD_CHECK_IN if retry is None or retry.reason in _MAY_BE_HELD else Kind.CHECK_IN
