"""How is the rest of a request read below Flask? Path segments, query parameters by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from cloudsched.errors import Invalid
from cloudsched.incoming import Environ

StartResponse = Callable[..., Any]
Answer = tuple[int, list[tuple[str, str]], Iterable[bytes]]

JSON = [("Content-Type", "application/json")]
BIG = 2**63 - 1
_UNSTORABLE = re.compile("[\\0\\ud800-\\udfff]")


def decoded(segment: str) -> str:
    """A path segment as text; bytes that are no UTF-8 become U+FFFD. Raises Invalid for what no name can hold."""
    text = unquote(segment, errors="replace")
    if "\0" in text:
        raise Invalid("the path holds a NUL character")
    return text


def attachment(name: str) -> str:
    """A `Content-Disposition` with the file's own name, without its directories (RFC 6266)."""
    last = name.rpartition("/")[2]
    plain = "".join(char if char.isascii() and char.isprintable() and char not in '"\\%' else "_" for char in last)
    encoded = "" if plain == last else f"; filename*=UTF-8''{quote(last, safe='', errors='replace')}"
    return f'attachment; filename="{plain}"{encoded}'


def query(environ: Environ, allowed: Collection[str]) -> list[tuple[str, str]]:
    """The query parameters in order. Raises Invalid naming one that is unknown."""
    text = environ.get("QUERY_STRING", "")
    if not text:
        return []
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="replace", max_num_fields=1000)
    except ValueError:
        raise Invalid.at("query", "has too many members", "at most 1000") from None
    for name, value in pairs:
        if name not in allowed:
            raise Invalid.at(name[:100], "unknown query parameter", ", ".join(sorted(allowed)) or "none")
        if _UNSTORABLE.search(value):
            raise Invalid.at(name, "holds a character that no value can have")
    return pairs


def single(pairs: list[tuple[str, str]], name: str) -> str | None:
    """The value of a parameter that may be given once. Raises Invalid when it is there twice."""
    found = [value for key, value in pairs if key == name]
    if len(found) > 1:
        raise Invalid.at(name, "is given more than once")
    return found[0] if found else None


def integer(pairs: list[tuple[str, str]], name: str, default: int, *, low: int = 0, high: int = BIG) -> int:
    """A whole-number parameter within bounds."""
    text = single(pairs, name)
    return default if text is None else whole(name, text, low=low, high=high)


def whole(name: str, text: str, *, low: int = 0, high: int = BIG) -> int:
    """A decimal number within bounds. Raises Invalid."""
    if not re.fullmatch(r"-?[0-9]{1,19}", text) or not low <= int(text) <= high:
        raise Invalid.at(name, f"{text[:40]!r} is no such number", f"{low} to {high}")
    return int(text)


def number(pairs: list[tuple[str, str]], name: str, default: float, *, high: float) -> float:
    """A parameter in seconds, from 0 to `high`."""
    text = single(pairs, name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) or float(text) > high:
        raise Invalid.at(name, f"{text[:40]!r} is no such number", f"0 to {high:g}")
    return float(text)


def flag(pairs: list[tuple[str, str]], name: str, *, default: bool = False) -> bool:
    """A parameter that is 1 or 0 (also true/false, yes/no; empty is 1)."""
    text = single(pairs, name)
    if text is None:
        return default
    word = text.lower()
    if word in ("1", "true", "yes", "on", ""):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise Invalid.at(name, f"{text[:40]!r} is neither", "1, 0")


def words(pairs: list[tuple[str, str]], name: str) -> list[str]:
    """The values of a parameter that may be repeated or hold a comma list, each once."""
    found = [word for key, value in pairs if key == name for word in value.split(",") if word]
    return list(dict.fromkeys(found))
