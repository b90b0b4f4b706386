"""What does a request ask? The raw path and its parts, the query, bodies with a limit; each mistake is named."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

import msgspec

from cloudsched.errors import FieldError, Invalid
from cloudsched.incoming import read_body

Environ = dict[str, Any]
# Where the path as it was asked for is kept in the environment.
ASKED = "cloudsched.dcluster.path"
NAME_MOST = 253
LIMIT_DEFAULT, LIMIT_MOST = 100, 1000
_BIGGEST = 2**63 - 1
_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")


def raw_path(environ: Environ) -> str:
    """The path as it was sent, still percent-encoded."""
    target = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if not target:
        return quote(environ.get("PATH_INFO", "/").encode("latin-1", "replace"), safe="/:@!$&'()*+,;=~-._") or "/"
    if not target.startswith("/"):  # absolute form, as proxies send it
        target = "/" + target.partition("://")[2].partition("/")[2]
    path = str(target).partition("?")[0]
    return path if path.isascii() else quote(path.encode("latin-1", "replace"), safe="/%:@!$&'()*+,;=~-._")


def number(raw: str, field: str) -> int:
    """An id from its raw path segment. Raises Invalid naming the field."""
    text = _decoded(raw, field)
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 0 < int(text) <= _BIGGEST):
        raise Invalid.at(field, f"{text[:100]!r} is no id", "a whole number from 1")
    return int(text)


def name(raw: str, field: str) -> str:
    """A name from its raw path segment, decoded once. Raises Invalid for what leads elsewhere or cannot be kept."""
    text = _decoded(raw, field)
    if not text.isprintable() or len(text) > NAME_MOST or "/" in text or "\\" in text or text in (".", "..") or not text.strip():
        raise Invalid.at(field, f"{text[:100]!r} is no name", f"1 to {NAME_MOST} printable characters without slashes")
    return text


def query(environ: Environ, *known: str) -> dict[str, str]:
    """The named parameters of the query; others are left alone. Raises Invalid for what is no text."""
    text = environ.get("QUERY_STRING", "")
    if _BAD_ESCAPE.search(text):
        raise Invalid("the query has a % that is no percent-encoded character")
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=100)
    except (UnicodeDecodeError, ValueError):
        raise Invalid("the query is no text, or has too many members") from None
    found: dict[str, str] = {}
    for key, value in pairs:
        if key in known:
            if "\0" in value:
                raise Invalid.at(key, "holds a NUL character")
            found.setdefault(key, value)
    return found


def whole(text: str | None, field: str, default: int, *, low: int, high: int) -> int:
    """A number of the query."""
    if text is None or text == "":
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19 and low <= int(text) <= high):
        raise Invalid.at(field, f"{text[:100]!r} is not right", f"a whole number from {low} to {high}")
    return int(text)


def fields(environ: Environ, limit: int) -> dict[str, Any]:
    """The JSON object of the body. Raises Invalid (no JSON, no object), TooLarge."""
    found = document(environ, limit)
    if not isinstance(found, dict):
        raise Invalid("the body is no JSON object", errors=[FieldError("body", "is no JSON object")])
    return found


def document(environ: Environ, limit: int) -> Any:
    """The JSON value of the body. Raises Invalid, TooLarge."""
    raw = read_body(environ, limit)
    if not raw.strip():
        raise Invalid("the body is empty: a JSON object is needed", errors=[FieldError("body", "is empty", "a JSON object")])
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"the body is not JSON: {error}", errors=[FieldError("body", str(error), "JSON")]) from None
    if b"\\u0000" in raw:
        _check_text(found, "")
    return found


def _decoded(raw: str, field: str) -> str:
    if _BAD_ESCAPE.search(raw):
        raise Invalid.at(field, "has a % that is no percent-encoded character")
    try:
        text = unquote(raw, errors="strict")
    except UnicodeDecodeError:
        raise Invalid.at(field, "is not UTF-8") from None
    if "\0" in text:
        raise Invalid.at(field, "holds a NUL character")
    return text


def _check_text(value: Any, field: str) -> None:
    """Raise Invalid where a text holds a NUL, which no database column takes."""
    if isinstance(value, str) and "\0" in value:
        raise Invalid.at(field or "body", "holds a NUL character")
    if isinstance(value, dict):
        for key, within in value.items():
            _check_text(key, field or "body")
            _check_text(within, f"{field}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, within in enumerate(value):
            _check_text(within, f"{field}[{index}]")
