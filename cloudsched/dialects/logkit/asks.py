"""What does a request ask? Its style, filters of the query (contract 6.1), a runner's name."""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_plus

from cloudsched.dialects.logkit.style import DOCUMENT, ENVELOPE
from cloudsched.errors import Invalid
from cloudsched.incoming import Environ

STYLES = (DOCUMENT, ENVELOPE)
_PREFIXES = {f"/{style}/logkit/": style for style in STYLES}
_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")


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
