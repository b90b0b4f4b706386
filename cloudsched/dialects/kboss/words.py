"""How is a sentence of services, drivers or hosts told in the caller's language?

Most errors bring the key of their sentence (`details["say"]`). Others are sentences only: what rows keep (why an operation or an
instance failed) and what another server's executor said. Those are English; in Chinese they are told by the templates of
`words_zh`. What nobody here wrote (a command's last line, a Kubernetes message) is quoted as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from cloudsched.dialects.kboss.words_zh import ALL

# Values of texts that are sentences themselves.
SENTENCES = frozenset({"reason", "why", "where", "allowed", "left"})
_MOST_CHARS, _DEEPEST = 2000, 8
_HAN = re.compile("[\u3400-\u9fff]")
_HAN_RUN = re.compile("(?<!['\u3400-\u9fff])[\u3400-\u9fff]+(?!['\u3400-\u9fff])")
_ENGLISH = re.compile(r"[A-Za-z][A-Za-z'’]*(?: [A-Za-z][A-Za-z'’]*){2}")
# What programs put before what they say: it belongs to that.
_SPEAKER = re.compile(r"(?:s(?:batch|run|queue|info|control|cancel|acct)|slurm\w*|munge\w*|kube\w+|[a-z]+_\w+|error|fatal)\Z")
_QUOTED = re.compile("「[^「」]*」")
_INSIDE = ("why", "rest", "allowed")
# What stands in braces, where it is not just any text: numbers, one word, a value with the field it was given for.
_NUMBER, _WORD = r"[-+]?[\w.]*\d[\w.]*", r"\S+"
_FORMS = {
    **dict.fromkeys(("low", "high", "count", "number", "port", "seconds", "code", "times", "most", "places", "line", "column",
                     "size", "rows", "more"), _NUMBER),
    **dict.fromkeys(("kind", "path", "server", "url", "node", "user", "role", "image", "verb", "file", "same", "id", "unit",
                     "other"), _WORD),
    "value": r"(?:[\w.\[\]-]+: )?(?:'.*'|\".*\"|\S+)",
}


def told(text: str, language: str) -> str:
    """A sentence (or several, divided by `; `) in a language."""
    return _chinese(text[:_MOST_CHARS]) if language == "zh" else english(text)


def values(given: Mapping[str, Any], language: str) -> dict[str, Any]:
    """What is put into a text, with the sentences among it in a language."""
    return {name: told(value, language) if name in SENTENCES and isinstance(value, str) else value
            for name, value in given.items()}


def english(text: str) -> str:
    """An English sentence stays; what is Chinese is quoted: a sentence of somebody else, or a value within one of ours."""
    if not _HAN.search(text) or "“" in text:
        return text
    return _HAN_RUN.sub(r"“\g<0>”", text) if _ENGLISH.search(text) or ":" in text else f"“{text}”"


def steps(rows: Sequence[Mapping[str, Any]], language: str) -> list[dict[str, Any]]:
    """The steps of an operation, or of a plan, as they are told."""
    return [{name: told(value, language) if name in ("name", "step", "detail") and isinstance(value, str) else value
             for name, value in row.items()} for row in rows]


@lru_cache(maxsize=2048)
def _chinese(text: str, depth: int = 0) -> str:
    if not text or depth > _DEEPEST:
        return text
    parts = text.split("; ")
    if len(parts) > 1 and all(_is_told(part, depth) for part in parts):
        return "; ".join(_chinese(part, depth + 1) for part in parts)
    found = _by_template(text, depth)
    if found is None:
        found = _in_pieces(text, depth)
    return quoted(text) if found is None else found


def quoted(text: str) -> str:
    """An English sentence within Chinese, as it is."""
    if _HAN.search(text) or not _ENGLISH.search(_QUOTED.sub("", text)):
        return text
    return f"「{text}」"


def _by_template(text: str, depth: int) -> str | None:
    plain = _plain().get(text)
    if plain is not None:
        return plain
    for pattern, chinese in _templates():
        found = pattern.fullmatch(text)
        if found is not None:
            return chinese.format(**{name: _put_in(name, value, chinese, depth) for name, value in found.groupdict().items()})
    return None


def _put_in(name: str, value: str, chinese: str, depth: int) -> str:
    if name in _INSIDE:
        return _chinese(value, depth + 1)
    return value if f"「{{{name}}}」" in chinese else quoted(value)


def _in_pieces(text: str, depth: int) -> str | None:
    """`what (allowed: x)`; `field: what`; one sentence after another."""
    if text.endswith(")") and " (allowed: " in text:
        what, _, allowed = text[:-1].rpartition(" (allowed: ")
        return f"{_chinese(what, depth + 1)} (允许: {_chinese(allowed, depth + 1)})"
    prefix, colon, rest = text.partition(": ")
    if colon and rest and (" " not in prefix or _is_told(prefix, depth)):
        said = _chinese(rest, depth + 1)
        if _SPEAKER.match(prefix) and said == f"「{rest}」":
            return f"「{text}」"
        return f"{_chinese(prefix, depth + 1)}: {said}"
    parts = text.split("; ")
    if len(parts) > 1 and any(_is_told(part, depth) for part in parts):
        return "; ".join(_chinese(part, depth + 1) for part in parts)
    return None


def _is_told(text: str, depth: int) -> bool:
    return _chinese(text, depth + 1) not in (text, f"「{text}」")


@lru_cache(maxsize=1)
def _plain() -> dict[str, str]:
    return {english: chinese for english, chinese in ALL if "{" not in english}


@lru_cache(maxsize=1)
def _templates() -> tuple[tuple[re.Pattern[str], str], ...]:
    """Those that say most by themselves come first."""
    rows = sorted((row for row in ALL if "{" in row[0]), key=lambda row: -len(re.sub(r"\{\w+\}", "", row[0])))
    return tuple((_pattern(english), chinese) for english, chinese in rows)


def _pattern(english: str) -> re.Pattern[str]:
    pieces = re.split(r"\{(\w+)\}", english)
    return re.compile("".join(f"(?P<{piece}>{_FORMS.get(piece, '.+?')})" if place % 2 else re.escape(piece)
                              for place, piece in enumerate(pieces)), re.DOTALL)
