"""What does a line mean? raw, json, csv, grok and regex (contract 9, 15).

A line that cannot be parsed is counted and still sent, as `{"pandora_stash": line}`, unless `disable_record_errdata`.
"""

from __future__ import annotations

import csv
import json
import re

from cloudsched.logagent.errors import BadConfig
from cloudsched.logagent.patterns import Grok, custom_patterns
from cloudsched.logagent.times import now_text, to_rfc3339

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cloudsched.logagent.stats import Stage

    Record = dict[str, Any]
    Parse = Callable[[str], Record | None]
    Keys = dict[str, str]

STASH = "pandora_stash"
# Backtracking costs grow with the length of a line; longer ones are not matched.
LONGEST_MATCHED = 64 * 1024
_SHOWN = 200


class Parser:
    """Texts of one file to records. `parse_line` returns None for a line that holds nothing."""

    def __init__(self, kind: str, keys: Keys) -> None:
        self.kind = kind
        self._line: Parse = _KINDS[kind](keys)
        self._keep_bad = keys.get("disable_record_errdata", "").lower() != "true"
        self._labels = parse_labels(keys.get("labels", ""))

    def parse(self, texts: list[str], stage: Stage, extra: Record) -> list[Record]:
        """Records for `texts`; labels and `extra` are added where a record has no such field itself."""
        records = _raw_all(texts) if self.kind == "raw" else self._parse_each(texts, stage)
        if self.kind == "raw":
            stage.ok(len(texts))
        added = {**self._labels, **extra}
        if added:
            records = [{**added, **record} for record in records]
        return records

    def _parse_each(self, texts: list[str], stage: Stage) -> list[Record]:
        records, bad, parse = [], 0, self._line
        for text in texts:
            try:
                record = parse(text)
            except (ValueError, RecursionError, LookupError, csv.Error) as error:
                bad += 1
                stage.failed(f"{error} in line {text[:_SHOWN].rstrip()!r}")
                record = {STASH: text.rstrip("\r\n")} if self._keep_bad else None
            if record is not None:
                records.append(record)
        if len(texts) > bad:
            stage.success.total += len(texts) - bad
        return records


def parse_labels(text: str) -> dict[str, str]:
    """`k v,k v`; BadConfig when a part has no value."""
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, _, value = part.partition(" ")
        if not value.strip():
            raise BadConfig(f"parser.labels: {part!r}; allowed: key value,key value")
        found[key] = value.strip()
    return found


def _raw(keys: Keys) -> Parse:
    return lambda text: {"raw": text, "timestamp": now_text()}


def _raw_all(texts: list[str]) -> list[Record]:
    now = now_text()
    return [{"raw": text, "timestamp": now} for text in texts]


def _json(keys: Keys) -> Parse:
    decode = json.JSONDecoder(parse_constant=_no_constant).decode

    def parse(text: str) -> Record | None:
        text = text.strip("\ufeff \t\r\n")
        if not text:
            return None
        value = decode(text)
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
        return value

    return parse


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _csv(keys: Keys) -> Parse:
    """`csv_schema`: `name type,name type` (string, long, float, date, json); `csv_splitter`: one character, default tab."""
    splitter = keys.get("csv_splitter", "\t").replace("\\t", "\t")
    if len(splitter) != 1:
        raise BadConfig("parser.csv_splitter must be one character")
    columns = _columns(keys.get("csv_schema", ""))
    trim = keys.get("csv_auto_trim", "").lower() == "true"

    def parse(text: str) -> Record | None:
        text = text.rstrip("\r\n")
        if not text.strip():
            return None
        rows = list(csv.reader(text.splitlines(keepends=True), delimiter=splitter, strict=True))
        if len(rows) != 1 or len(rows[0]) != len(columns):
            raise ValueError(f"{sum(map(len, rows))} columns instead of {len(columns)}")
        return {name: cast(cell.strip() if trim else cell) for (name, cast), cell in zip(columns, rows[0])}  # noqa: B905

    return parse


def _columns(schema: str) -> list[tuple[str, Callable[[str], Any]]]:
    columns = []
    for part in filter(None, (part.strip() for part in schema.split(","))):
        name, _, kind = part.partition(" ")
        cast = _CELLS.get(kind.strip() or "string")
        if cast is None:
            raise BadConfig(f"parser.csv_schema: type {kind.strip()!r} of {name}; allowed: {', '.join(_CELLS)}")
        columns.append((name, cast))
    if not columns:
        raise BadConfig("parser.csv_schema is missing; write: name type,name type")
    return columns


_CELLS: dict[str, Callable[[str], Any]] = {
    "string": str, "long": int, "float": float, "date": to_rfc3339, "json": json.loads, "jsonmap": json.loads,
}  # fmt: skip


def _grok(keys: Keys) -> Parse:
    """`grok_patterns`: patterns, tried in order, separated by commas or newlines outside brackets."""
    try:
        custom = custom_patterns(keys.get("grok_custom_patterns", ""))
        groks = [Grok(pattern, custom) for pattern in split_patterns(keys.get("grok_patterns", ""))]
    except ValueError as error:
        raise BadConfig(f"parser.grok_patterns: {error}") from None
    if not groks:
        raise BadConfig("parser.grok_patterns is missing; e.g. %{COMMONAPACHELOG}")

    def parse(text: str) -> Record | None:
        text = _matchable(text)
        for grok in groks:
            record = grok.match(text)
            if record is not None:
                return record
        raise ValueError("no pattern matches")

    return parse


def split_patterns(text: str) -> list[str]:
    """At commas and newlines that stand outside (), [] and {}."""
    parts, depth, escaped = [""], 0, False
    for character in text:
        if character in ",\n" and not depth and not escaped:
            parts.append("")
            continue
        if not escaped:
            depth += (character in "([{") - (character in ")]}" and depth > 0)
        escaped = character == "\\" and not escaped
        parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _regex(keys: Keys) -> Parse:
    """`regex`: a regular expression with named groups, found anywhere in the line."""
    try:
        pattern = re.compile(keys.get("regex", ""))
    except re.error as error:
        raise BadConfig(f"parser.regex is not a regular expression: {error}") from None
    if not pattern.groupindex:
        raise BadConfig("parser.regex needs named groups: (?P<name>...)")

    def parse(text: str) -> Record | None:
        found = pattern.search(_matchable(text))
        if found is None:
            raise ValueError("the expression does not match")
        return {name: value for name, value in found.groupdict().items() if value is not None}

    return parse


def _matchable(text: str) -> str:
    if len(text) > LONGEST_MATCHED:
        raise ValueError(f"longer than {LONGEST_MATCHED} characters")
    return text.rstrip("\r\n")


_KINDS: dict[str, Callable[[Keys], Parse]] = {
    "raw": _raw, "json": _json, "csv": _csv, "grok": _grok, "regex": _regex,
}  # fmt: skip
KINDS = tuple(_KINDS)
