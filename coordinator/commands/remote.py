"""What commands of the operator API share: where the coordinator is, the token, and calls that answer in one line."""

from __future__ import annotations

import contextlib
import difflib
import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote, urlsplit

import typer

from coordinator.commands.console import REFUSED, Mistake, one_line_errors, plain, say
from coordinator.commands.local import is_loopback, settings_as_they_are

if TYPE_CHECKING:
    import httpx

_PREFIX: Final = "/v1/operator"
_TIMEOUT_S: Final = 60.0
_PAGE: Final = 500
_COLLECTIONS: Final = ("populations", "cohorts", "tasks")
"""Whose objects have names that people type."""

Address = Annotated[
    str,
    typer.Option(
        envvar="EDGEWISE_ADDRESS",
        help="Of the coordinator, such as https://edgewise.example; unless given, where `serve` listens here.",
        show_default=False,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar="EDGEWISE_TOKEN_FILE",
        help="Holds the operator token; unless given, operator.token in the data folder.",
        show_default=False,
    ),
]


class Refused(Mistake):
    """The coordinator refused, with a permanent code."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence, REFUSED)
        self.code = code


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the tree of JSON (None for no content) and the object's tag."""

    tree: Any
    etag: str | None
    server_time: datetime


class Operator:
    """Calls of the operator API. Every change names itself, so that a proxy may send it twice.

    Args:
        client: With the address and the token.
        source: Where the token is from, for people.
    """

    def __init__(self, client: httpx.Client, source: str) -> None:
        self._client = client
        self._source = source

    def get(self, path: str, **query: object) -> Answer:
        """One object."""
        return _answer(self._send("GET", _PREFIX + path, {}, params=_given(query)))

    def get_if_changed(self, path: str, etag: str | None) -> Answer | None:
        """One object; None if it still has this tag."""
        headers = {} if etag is None else {"if-none-match": etag}
        response = self._send("GET", _PREFIX + path, headers)
        return None if response.status_code == HTTPStatus.NOT_MODIFIED else _answer(response)

    def pages(self, path: str, most: int | None = None, **query: object) -> list[Any]:
        """The items of a list, page by page, so many at most."""
        limit = _PAGE if most is None else min(_PAGE, most)
        response = self._send("GET", _PREFIX + path, {}, params=_given({**query, "limit": limit}))
        found: list[Any] = _answer(response).tree
        while "next" in response.links and (most is None or len(found) < most):
            response = self._send("GET", response.links["next"]["url"], {})
            found += _answer(response).tree
        return found if most is None else found[:most]

    def change(
        self, method: str, path: str, body: object = None, *, content: bytes | None = None, if_match: str | None = None
    ) -> Answer:
        """Change something.

        Args:
            body: A tree of JSON; None for no body.
            content: A body that is no JSON, instead.
            if_match: Only if the object still has this tag.
        """
        headers = {"idempotency-key": secrets.token_hex(16)}
        if if_match is not None:
            headers["if-match"] = if_match
        if body is not None:
            content, headers["content-type"] = json.dumps(body).encode(), "application/json"
        return _answer(self._send(method, _PREFIX + path, headers, content=content))

    def _send(self, method: str, url: str, headers: Mapping[str, str], **request: Any) -> httpx.Response:
        import httpx  # `serve` needs none of it

        where = self._client.base_url
        try:
            response = self._client.request(method, url, headers=dict(headers), **request)
        except httpx.ConnectError as problem:
            advice = "start it with `edgewise-coordinator serve`, or say where it is with --address"
            raise Mistake(f"no coordinator answers at {where}: {_cause(problem)}; {advice}") from None
        except httpx.TimeoutException:
            raise Mistake(f"{where} did not answer within {_TIMEOUT_S:g} s; look at its log, then try again") from None
        except httpx.HTTPError as problem:
            raise Mistake(f"the connection to {where} failed: {problem}; try again") from None
        if response.status_code < HTTPStatus.BAD_REQUEST:
            return response
        raise self._refused(response, url)

    def _refused(self, response: httpx.Response, url: str) -> Mistake:
        where = self._client.base_url
        try:
            problem = response.json()
            code, detail = str(problem["code"]), str(problem["detail"])
        except (ValueError, KeyError, TypeError):
            status = response.status_code
            return Mistake(f"what answers at {where} is not an Edgewise coordinator (status {status}); check --address")
        if code == "operator-unauthorised":
            advice = "`edgewise-coordinator tenants token NAME` on the coordinator's machine writes another"
            return Mistake(f"{where} does not know the token in {self._source}; {advice}")
        if code == "precondition-failed":
            return Refused(code, "somebody else changed it meanwhile; look at it, then do this again")
        if code == "not-found":
            return Refused(code, detail + self._closest(url))
        return Refused(code, detail)

    def _closest(self, url: str) -> str:
        """What was probably meant by a name that is not there."""
        parts = urlsplit(url).path.removeprefix(f"{_PREFIX}/").split("/")
        path = ""
        for kind, name in zip(parts[::2], parts[1::2], strict=False):
            if kind not in _COLLECTIONS:
                return ""
            path += f"/{kind}"
            with contextlib.suppress(Refused):
                names = [one["name"] for one in self.pages(path, most=_PAGE)]
                if name not in names:
                    close = difflib.get_close_matches(name, names, 1, 0.5)
                    return f"; did you mean {close[0]!r}?" if close else _listed(kind, names)
            path += f"/{name}"
        return ""


def _given(query: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in query.items() if value is not None}


def _listed(kind: str, names: list[str]) -> str:
    if not names:
        return f"; there are no {kind} yet"
    return f"; there are {', '.join(map(repr, names[:5]))}" + (" and others" if len(names) > 5 else "")


def _answer(response: httpx.Response) -> Answer:
    try:
        tree = response.json() if response.content else None
    except ValueError:
        raise Mistake(f"what answers at {response.url} is not an Edgewise coordinator; check --address") from None
    said = response.headers.get("date")
    time = parsedate_to_datetime(said) if said else datetime.now(UTC)
    return Answer(tree, response.headers.get("etag"), time)


def _cause(problem: Exception) -> str:
    return plain(str(problem.__cause__ or problem)).removeprefix("[Errno ").partition("] ")[2] or str(problem)


def part(name: str) -> str:
    """A name as a part of a path."""
    return quote(name, safe="")


@contextlib.contextmanager
def connected(address: str, token_file: Path | None) -> Iterator[Operator]:
    """The operator API, while the block runs; whatever goes wrong in it is one line."""
    import httpx

    with one_line_errors():
        where = _address(address)
        path = token_file or settings_as_they_are().token_file()
        with httpx.Client(
            base_url=where,
            headers={"authorization": f"Bearer {_token(path)}", "user-agent": "edgewise-coordinator"},
            timeout=_TIMEOUT_S,
            trust_env=not is_loopback(urlsplit(where).hostname or ""),  # a proxy does not lead to this machine
        ) as client:
            yield Operator(client, str(path))


def _address(given: str) -> str:
    if not given:
        settings = settings_as_they_are()
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # nosec B104
        return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    try:
        parts = urlsplit(given)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.path in ("", "/")
        _port = parts.port
    except ValueError:
        named = False
    if not named:
        raise Mistake(f"--address is such as https://edgewise.example or http://127.0.0.1:8470, not {given!r}")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        say(f"edgewise-coordinator: the token goes to {parts.hostname} unencrypted; use https:// beyond this machine")
    return given


def _token(path: Path) -> str:
    try:
        token = path.read_bytes().decode("ascii", "replace").strip()
    except OSError as problem:
        advice = "`edgewise-coordinator init` writes it; bring it here and name it with --token-file"
        raise Mistake(f"the operator token cannot be read from {path}: {problem.strerror}; {advice}") from None
    if not token or not (token.isascii() and token.isprintable()) or " " in token:
        raise Mistake(f"{path} does not hold an operator token; `edgewise-coordinator init` writes one")
    return token
