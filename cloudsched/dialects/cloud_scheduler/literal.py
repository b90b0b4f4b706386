"""How does Python 2 write a dictionary of unicode strings? Contract K7: clients parse `{u'alice': 5}`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Value = int | str | Sequence["Value"]

_NAMED = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}


def dictionary(entries: Mapping[str, Value]) -> str:
    """`{u'east': [u'alpha', u'beta'], u'west': 5}`, in the order given."""
    return "{" + ", ".join(f"{string(key)}: {value(entry)}" for key, entry in entries.items()) + "}"


def value(entry: Value) -> str:
    """An int, a string, or a list of values."""
    if isinstance(entry, str):
        return string(entry)
    if isinstance(entry, int):
        return str(entry)
    return "[" + ", ".join(value(item) for item in entry) + "]"


def string(text: str) -> str:
    """`u'...'`; double quotes only around a text that has a single quote and no double one."""
    quote = '"' if "'" in text and '"' not in text else "'"
    return f"u{quote}{''.join(_escaped(char, quote) for char in text)}{quote}"


def _escaped(char: str, quote: str) -> str:
    if char == quote:
        return "\\" + char
    if char in _NAMED:
        return _NAMED[char]
    code = ord(char)
    if 0x20 <= code < 0x7F:
        return char
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
