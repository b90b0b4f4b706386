"""How is a route declared, and what does its handler get? Rows of one table: served, guarded and described alike.

Order of checks: network, key, limit, route's level, query, body, then the handler (contract 5, 6, 9.4).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgspec

from cloudsched import incoming
from cloudsched.dialects.retire_cluster import params
from cloudsched.dialects.retire_cluster.access import Who
from cloudsched.dialects.retire_cluster.envelope import Headers, Refused
from cloudsched.incoming import Environ
from cloudsched.services.caller import Caller

# Numbers with more digits than any field here has, and texts that a database does not take.
_SUSPECT = re.compile(rb"[0-9]{19}|\\u0000|\\u[dD][89a-fA-F]")


@dataclass(slots=True)
class Answer:
    """What a handler found. `data` goes into the envelope, unless `body` is a whole answer of its own."""

    data: Any = None
    status: int = 200
    message: str = ""
    more: dict[str, Any] = field(default_factory=dict)
    headers: Headers = field(default_factory=list)
    body: Iterable[bytes] | None = None


@dataclass(slots=True)
class Call:
    """One request: who asks, what the path and the query say, and its body on demand."""

    environ: Environ
    who: Who
    parts: dict[str, str]
    query: params.Values
    request_id: str
    max_body: int
    given: Any = None

    @property
    def caller(self) -> Caller:
        return self.who.caller

    def raw_body(self) -> bytes:
        """The whole body. Raises TooLarge, Invalid."""
        return incoming.read_body(self.environ, self.max_body)

    def json(self, kept: Iterable[str] = ()) -> dict[str, Any]:
        """The body as an object; an empty one is `{}` (contract 2). `kept`: see `decoded`. Raises Refused."""
        return dict(self.given) if self.given is not None else decoded(self.raw_body(), kept)


Handler = Callable[[Call], Answer]


class Route(NamedTuple):
    """A row. `answer`: the Struct of `data` (`bare`: of the whole body), `media`: of an answer that is no JSON object,
    `body`: a JSON schema, or a Struct that has one."""

    method: str
    rule: str
    level: str
    handler: Handler
    answer: Any = None
    query: tuple[params.Param, ...] = ()
    status: int = 200
    bare: bool = False
    media: str = "application/json"
    body: Any = None
    needs_body: bool = False
    codes: tuple[str, ...] = ()
    text: str = ""
    counted: bool = True
    anyway: bool = False
    """The level is asked for even where no keys are."""


def decoded(raw: bytes, kept: Iterable[str] = ()) -> dict[str, Any]:
    """A JSON object. Raises Refused: INVALID_JSON, VALIDATION_ERROR.

    `kept`: members that a database will hold: what it cannot hold is refused.
    """
    if not raw.strip():
        return {}
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refused("INVALID_JSON", "the body is not valid JSON") from None
    if not isinstance(found, dict):
        raise Refused("VALIDATION_ERROR", "the body must be a JSON object",
                      details={"field": [], "message": "must be a JSON object"})
    if kept and _SUSPECT.search(raw):
        check_kept({name: found[name] for name in kept if name in found}, [])
    return found


def check_kept(value: Any, path: list[str | int]) -> None:
    """Refuse what could be read here but not be kept."""
    wrong = ""
    if isinstance(value, str) and ("\0" in value or any("\ud800" <= char <= "\udfff" for char in value)):
        wrong = "holds a character that cannot be kept"
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        wrong = "is a number that cannot be kept"
    if wrong:
        shown = ".".join(map(str, path)) or "body"
        raise Refused("VALIDATION_ERROR", f"{shown}: {wrong}", details={"field": path, "message": wrong})
    if isinstance(value, dict):
        for name, inner in value.items():
            check_kept(name, path)
            check_kept(inner, [*path, name])
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            check_kept(inner, [*path, index])


def raw_path(environ: Environ) -> str:
    """The path as it was sent, without a slash at its end (contract 2)."""
    path = incoming.raw_path(environ)
    return path[:-1] if path.endswith("/") and path != "/" else path


def segment(raw: str) -> str:
    """A path segment as text; what is no UTF-8 becomes U+FFFD, as no id has it."""
    return unquote(raw, errors="replace").replace("\0", "\ufffd")
