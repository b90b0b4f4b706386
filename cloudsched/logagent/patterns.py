"""Which names does a grok pattern know? Expressions of our own for what logs usually hold."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from re import Pattern
    from typing import Any

    Cast = Callable[[str], Any]

LIBRARY = {
    # numbers
    "INT": r"[+-]?\d+",
    "POSINT": r"[1-9]\d*",
    "NONNEGINT": r"\d+",
    "NUMBER": r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?",
    "BASE10NUM": r"%{NUMBER}",
    "BASE16NUM": r"(?:0[xX])?[0-9A-Fa-f]+",
    "BOOL": r"(?i:true|false|yes|no)",
    # text
    "WORD": r"\b\w+\b",
    "NOTSPACE": r"\S+",
    "SPACE": r"\s*",
    "DATA": r".*?",
    "GREEDYDATA": r".*",
    "QUOTEDSTRING": r'"(?:[^"\\]|\\.)*"|' + r"'(?:[^'\\]|\\.)*'",
    "QS": r"%{QUOTEDSTRING}",
    "UUID": r"[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}",
    "USERNAME": r"[\w.@$-]+",
    "USER": r"%{USERNAME}",
    "EMAILADDRESS": r"[\w.!#$%&'*+/=?^`{|}~-]+@%{HOSTNAME}",
    "LOGLEVEL": r"(?i:trace|debug|info(?:rmation)?|notice|warn(?:ing)?|err(?:or)?|crit(?:ical)?|alert|fatal|severe"
                r"|emerg(?:ency)?)",
    # network
    "IPV4": r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.]*\d)",
    "IPV6": r"(?:[0-9A-Fa-f]{0,4}:){2,7}(?:%{IPV4}|[0-9A-Fa-f]{0,4})(?:%\w+)?",
    "IP": r"%{IPV4}|%{IPV6}",
    "HOSTNAME": r"[0-9A-Za-z](?:[0-9A-Za-z_-]*[0-9A-Za-z])?(?:\.[0-9A-Za-z](?:[0-9A-Za-z_-]*[0-9A-Za-z])?)*\.?",
    "IPORHOST": r"%{IP}|%{HOSTNAME}",
    "HOSTPORT": r"%{IPORHOST}:%{POSINT}",
    "MAC": r"(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}",
    # paths
    "UNIXPATH": r"(?:/[^/\s]*)+",
    "WINPATH": r"(?:[A-Za-z]:|\\)(?:\\[^\\?*\s]*)+",
    "PATH": r"%{UNIXPATH}|%{WINPATH}",
    "URIPROTO": r"[A-Za-z][\w+.-]*",
    "URIPATH": r"(?:/[\w$.+!*'(){},~:;=@#%&|-]*)+",
    "URIPARAM": r"\?[^\s]*",
    "URIPATHPARAM": r"%{URIPATH}(?:%{URIPARAM})?",
    "URI": r"%{URIPROTO}://(?:[^\s/@]+@)?(?:%{HOSTPORT}|%{IPORHOST})?(?:%{URIPATHPARAM})?",
    # times
    "YEAR": r"\d{4}",
    "MONTHNUM": r"0?[1-9]|1[0-2]",
    "MONTHDAY": r"0[1-9]|[12]\d|3[01]|[1-9]",
    "MONTH": r"\b(?i:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:tember)?|oct(?:ober)?"
             r"|nov(?:ember)?|dec(?:ember)?)\b",
    "DAY": r"\b(?i:mon(?:day)?|tue(?:sday)?|wed(?:nesday)?|thu(?:rsday)?|fri(?:day)?|sat(?:urday)?|sun(?:day)?)\b",
    "HOUR": r"[01]\d|2[0-3]|\d",
    "MINUTE": r"[0-5]\d",
    "SECOND": r"(?:[0-5]\d|60)(?:[.,]\d+)?",
    "TIME": r"%{HOUR}:%{MINUTE}(?::%{SECOND})?",
    "TZ": r"[A-Z]{3,4}",
    "ISO8601_TIMEZONE": r"Z|[+-]\d\d:?\d\d",
    "TIMESTAMP_ISO8601": r"%{YEAR}-%{MONTHNUM}-%{MONTHDAY}[T ]%{HOUR}:?%{MINUTE}(?::?%{SECOND})?\s?(?:%{ISO8601_TIMEZONE})?",
    "DATE_US": r"%{MONTHNUM}[/-]%{MONTHDAY}[/-]\d{2,4}",
    "DATE_EU": r"%{MONTHDAY}[./-]%{MONTHNUM}[./-]\d{2,4}",
    "HTTPDATE": r"%{MONTHDAY}/%{MONTH}/%{YEAR}:%{TIME} %{INT}",
    "SYSLOGTIMESTAMP": r"%{MONTH} +%{MONTHDAY} %{TIME}",
    # whole lines
    "PROG": r"[\w./%-]+",
    "SYSLOGPROG": r"%{PROG:program}(?:\[%{POSINT:pid:long}\])?",
    "SYSLOGLINE": r"%{SYSLOGTIMESTAMP:timestamp} %{IPORHOST:logsource} %{SYSLOGPROG}: %{GREEDYDATA:message}",
    "COMMONAPACHELOG": r'%{IPORHOST:clientip} %{NOTSPACE:ident} %{NOTSPACE:auth} \[%{HTTPDATE:timestamp}\] '
                       r'"(?:%{WORD:verb} %{NOTSPACE:request}(?: HTTP/%{NUMBER:httpversion})?|%{DATA:rawrequest})" '
                       r'%{INT:response:long} (?:%{INT:bytes:long}|-)',
    "COMBINEDAPACHELOG": r"%{COMMONAPACHELOG} %{QS:referrer} %{QS:agent}",
}  # fmt: skip

_REFERENCE = re.compile(r"%\{(\w+)(?::([\w.@-]+))?(?::(\w+))?\}")
_NAME = re.compile(r"\w+", re.ASCII)
_DEPTH, _LONGEST = 20, 100_000
CASTS: dict[str, Cast] = {"string": str, "long": int, "int": int, "float": float, "date": str, "drop": str}


class Grok:
    """One compiled pattern: `%{NAME}`, `%{NAME:field}`, `%{NAME:field:type}` and plain regular expression between."""

    def __init__(self, text: str, custom: dict[str, str] | None = None) -> None:
        self._library = {**LIBRARY, **(custom or {})}
        self._fields: dict[str, tuple[str, str]] = {}
        expanded = self._expand(text, 0)
        try:
            self.regex: Pattern[str] = re.compile(expanded)
        except re.error as error:
            raise ValueError(f"pattern {text!r}: {error}") from None
        named = {name: (name, "string") for name in self.regex.groupindex if name not in self._fields}
        self._fields.update(named)
        if not self._fields:
            raise ValueError(f"pattern {text!r} names no field; write %{{NAME:field}}")

    def match(self, text: str) -> dict[str, Any] | None:
        """Fields of the first place that matches; a group that took no part is left out. ValueError: not its type."""
        found = self.regex.search(text)
        if found is None:
            return None
        record: dict[str, Any] = {}
        for group, value in found.groupdict().items():
            if value is not None:
                name, kind = self._fields[group]
                if kind != "drop" and name not in record:
                    record[name] = CASTS[kind](value)
        return record

    def _expand(self, text: str, depth: int) -> str:
        if depth > _DEPTH:
            raise ValueError("patterns refer to each other in a circle")
        return _REFERENCE.sub(lambda match: self._filled(match, depth), text)

    def _filled(self, match: re.Match[str], depth: int) -> str:
        name, field, kind = match[1], match[2], match[3] or "string"
        if name not in self._library:
            raise ValueError(f"pattern %{{{name}}} is unknown")
        if kind not in CASTS:
            raise ValueError(f"type {kind!r} in {match[0]}; allowed: {', '.join(CASTS)}")
        inner = self._expand(self._library[name], depth + 1)
        if len(inner) > _LONGEST:
            raise ValueError("the pattern becomes too long when its names are filled in")
        if not field:
            return f"(?:{inner})"
        group = f"_f{len(self._fields)}"
        self._fields[group] = (field, kind)
        return f"(?P<{group}>{inner})"


def custom_patterns(text: str) -> dict[str, str]:
    """`NAME expression` a line; ValueError names the line that is something else."""
    found = {}
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, _, expression = line.strip().partition(" ")
        if not _NAME.fullmatch(name) or not expression.strip():
            raise ValueError(f"custom pattern {line!r}; allowed: NAME expression")
        found[name] = expression.strip()
    return found
