"""What a process of the tests makes once, for all the coordinators that it opens one after another.

The event loop, how the API's routes read their requests, and the SQL of every statement. Nothing that a coordinator
knows is in them: one that starts here remembers as little as one in a new process.
"""

from __future__ import annotations

from anyio.from_thread import BlockingPortalProvider
from fastapi import FastAPI
from sqlalchemy import Engine
from starlette.routing import BaseRoute, Route

LOOP = BlockingPortalProvider()
"""Runs while somebody has entered it. A session of tests has, so that each of them finds it running."""
_ROUTERS: list[BaseRoute] = []
_ENGINES: dict[str, Engine] = {}
"""The first of each kind of database."""
_STATEMENTS: dict[str, dict[object, object]] = {}


def warm(app: FastAPI) -> None:
    """Give a new application what an earlier one has worked out."""
    _share_routers(app)
    share_statements(app.state.parts.database.engine)


def _share_routers(app: FastAPI) -> None:
    """An application works out each route of the routers that it includes when the first request comes."""
    own = [one for one in app.router.routes if isinstance(one, Route)]
    included = [one for one in app.router.routes if not isinstance(one, Route)]
    if not _ROUTERS:
        _ROUTERS.extend(included)
    assert len(included) == len(_ROUTERS)
    app.router.routes[:] = [*own, *_ROUTERS]


def share_statements(engine: Engine) -> None:
    """What SQLAlchemy compiled belongs to a dialect; it is shared as soon as its engine has asked its database."""
    first = _ENGINES.setdefault(engine.dialect.name, engine)
    if first.dialect.server_version_info is not None:
        engine.dialect = first.dialect
        engine.update_execution_options(compiled_cache=_STATEMENTS.setdefault(engine.dialect.name, {}))
