"""What does a request ask? The raw path, filters of the query (contract 6.1), bodies with a limit."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote, unquote_plus

from cloudsched.dialects.logkit.style import DOCUMENT, ENVELOPE
from cloudsched.errors import Invalid, TooLarge

Environ = dict[str, Any]
STYLES = (DOCUMENT, ENVELOPE)
_PREFIXES = {f"/{style}/logkit/": style for style in STYLES}
_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
_PIECE = 1 << 16


def raw_path(environ: Environ) -> str:
    """The path as it was sent, still percent-encoded."""
    target = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if not target:
        return quote(environ.get("PATH_INFO", "/").encode("latin-1"), safe="/:@!$&'()*+,;=~-._") or "/"
    if not target.startswith("/"):  # absolute form, as proxies send it
        target = "/" + target.partition("://")[2].partition("/")[2]
    path = str(target).partition("?")[0]
    return path if path.isascii() else quote(path.encode("latin-1", "replace"), safe="/%:@!$&'()*+,;=~-._")


def styled(environ: Environ, path: str, default: str) -> tuple[str, str, str | None]:
    """(path without the style's prefix, style, the header's unknown value or None); contract 4.2, first match wins."""
    for prefix, style in _PREFIXES.items():
        if path.startswith(prefix):
            return path[len(style) + 1:], style, None
    asked = environ.get("HTTP_X_LOGKIT_STYLE")
    if asked is None:
        return path, default, None
    return (path, asked, None) if asked in STYLES else (path, default, asked[:100])


def filters(query: str) -> tuple[str, str]:
    """(tag, url) of a query string. Raises Invalid for a bad percent-escape."""
    if not query:
        return "", ""
    if _BAD_ESCAPE.search(query):
        raise Invalid("the query has a % that is no percent-encoded character")
    found: dict[str, str] = {}
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        found.setdefault(unquote_plus(name), unquote_plus(value))
    return found.get("tag", ""), found.get("url", "")


def name(segment: str) -> str:
    """A runner's name from its raw path segment, decoded once. Raises Invalid."""
    if _BAD_ESCAPE.search(segment):
        raise Invalid("the path has a % that is no percent-encoded character")
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise Invalid("the runner's name is not UTF-8") from None


def body(environ: Environ, limit: int) -> bytes:
    """The whole body. Raises TooLarge before more than the limit is read, Invalid when it was cut off."""
    length = environ.get("CONTENT_LENGTH")
    stream = environ["wsgi.input"]
    if length:
        if not length.isdigit():
            raise Invalid(f"Content-Length: {length[:40]!r} is no number")
        wanted = int(length) if len(length) < 19 else limit + 1
        if wanted > limit:
            raise TooLarge(f"the body has {length[:40]} bytes; at most {limit} are taken")
        found: bytes = stream.read(wanted)
        if len(found) < wanted:
            raise Invalid("the body ended before its announced length")
        return found
    if not environ.get("wsgi.input_terminated"):
        return b""
    pieces, size = [], 0
    while piece := stream.read(_PIECE):
        size += len(piece)
        if size > limit:
            raise TooLarge(f"the body has more than {limit} bytes")
        pieces.append(piece)
    return b"".join(pieces)
