"""What members of a group ask for again and again: read for the first of them, and kept for the others."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, TypeVar

from sqlmodel import Session

Fact = TypeVar("Fact")
_HERE: Final = "edgewise.facts"
_KEPT: Final = "edgewise.kept-facts"
MOST_GROUPS: Final = 64
"""Whose facts a process keeps: those that were asked for last."""


class Kept:
    """Facts of groups that can never change again, for all transactions of one database in this process.

    A roster that is fixed, who shared and whose report counts: each is committed before it is asked for, and nothing
    but the end of its round takes it away.
    """

    def __init__(self) -> None:
        self._groups: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._changing = threading.Lock()

    def lend(self, session: Session) -> None:
        """Let a transaction use them, and add to them."""
        session.info[_KEPT] = self

    def of(self, group_id: str) -> dict[str, Any]:
        with self._changing:
            facts = self._groups.setdefault(group_id, {})
            self._groups.move_to_end(group_id)
            if len(self._groups) > MOST_GROUPS:
                self._groups.popitem(last=False)
        return facts


def once(session: Session, id_: str, what: str, read: Callable[[], Fact]) -> Fact:
    """What does not change while a transaction lasts."""
    facts: dict[tuple[str, str], Fact] = session.info.setdefault(_HERE, {})
    if (id_, what) not in facts:
        facts[id_, what] = read()
    return facts[id_, what]


def for_ever(session: Session, group_id: str, what: str, read: Callable[[], Fact]) -> Fact:
    """What never changes again, of a group; ask only for what an earlier transaction fixed."""
    kept: Kept | None = session.info.get(_KEPT)
    if kept is None:
        return once(session, group_id, what, read)
    facts: dict[str, Fact] = kept.of(group_id)
    if what not in facts:
        facts[what] = read()
    return facts[what]
