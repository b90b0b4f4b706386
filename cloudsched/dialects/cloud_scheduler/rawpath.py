"""Which path did the caller really write? Routing works on the raw request target, so that `%2F` inside a name
survives; each piece is decoded once, by the view (contract 1.2, B2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote, unquote

Environ = dict[str, Any]
Wsgi = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

# What gunicorn and werkzeug call the request target as it came in.
_TARGETS = ("RAW_URI", "REQUEST_URI")


class RawPath:
    """WSGI middleware: PATH_INFO becomes the undecoded path, in ASCII."""

    def __init__(self, app: Wsgi) -> None:
        self._app = app

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["PATH_INFO"] = raw_path(environ)
        return self._app(environ, start_response)


def raw_path(environ: Environ) -> str:
    """The path as written; bytes beyond ASCII are percent-encoded. Under a server that hands over the decoded path
    alone, that path encoded again (only `%2F` is lost)."""
    target = environ.get(_TARGETS[0]) or environ.get(_TARGETS[1])
    if not target:
        return quote(environ.get("PATH_INFO", "").encode("latin-1"), safe="/") or "/"
    path: str = target.partition("?")[0]
    if not path.startswith("/") and "://" in path:
        path = "/" + path.partition("://")[2].partition("/")[2]
    path = path.removeprefix(environ.get("SCRIPT_NAME") or "")
    if path.startswith("//"):
        # The router would fold leading slashes and redirect; an empty first piece is no route of ours.
        path = "/%2F" + path[2:]
    if path.isascii():
        return path
    return quote(path.encode("latin-1", errors="replace"), safe="/%!\"#$&'()*+,:;<=>@[\\]^`{|}~")


def decoded(piece: str) -> str:
    """One piece of the raw path as text; bytes that are no UTF-8 become replacement characters."""
    return unquote(piece, errors="replace")
