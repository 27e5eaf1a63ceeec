"""Statements about the rows of many ids, with all of the ids in one parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import JSON, ColumnElement, String, any_, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped

ByDialect = Mapping[str, Any]
"""One statement for each kind of database, by its name in SQLAlchemy."""

_IDS: Final = bindparam("ids", type_=ARRAY(String).with_variant(JSON(), "sqlite"))


def among_ids(statement: Any, column: ColumnElement[str] | Mapped[str]) -> ByDialect:
    """The statement, for rows whose `column` is one of the parameter `ids`, a list.

    A list of many parameters is written out anew for each execution, which takes longer than the database does.
    """
    listed = select(func.json_each(_IDS).table_valued("value").c.value)
    return {"sqlite": statement.where(column.in_(listed)), "postgresql": statement.where(column == any_(_IDS))}
