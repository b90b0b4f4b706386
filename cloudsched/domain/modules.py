"""What may a job run? The module catalogue as text: TOML or INI, one section per module, with every mistake named.

    [data-processing]
    type = "spark"                      # or "flink"
    entry = "process.py"                # a .py or .jar file below the catalogue's directory
    main_class = "com.example.Process"  # of a jar
    versions = "data-processing"        # entry is in data-processing/VERSION/ then; the job's codeVersion says which
    default_version = "v1.1"
    arguments = ["--config", "{pipelineConfig}", "--who", "{client:nobody}"]
    settings = { "spark.ui.showConsoleProgress" = "false" }
    time_limit_s = 7200
    alert_after_s = 3600
"""

from __future__ import annotations

import configparser
import re
import shlex
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from cloudsched.errors import FieldError, Invalid

KINDS = ("spark", "flink")
PLACEHOLDERS = ("pipelineConfig", "pipelineVersion", "client", "module", "codeVersion")
MODULES_MOST = 10_000
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?\Z")
_VERSION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._+-]{0,98}[A-Za-z0-9+])?\Z")
_CLASS = re.compile(r"[A-Za-z_$][\w$]*(?:\.[A-Za-z_$][\w$]*)*\Z")
_SETTING = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,199}\Z")
_PLACE = re.compile(r"\{\{|\}\}|\{([A-Za-z]+)(?::([^{}]*))?\}|[{}]")
_WORDS = re.compile(r"\{([A-Za-z]+)\*\}\Z")
RETRIES_MOST = 100
_SECONDS_MOST = 366 * 86400.0


@dataclass(frozen=True, slots=True)
class Module:
    """One module. `entry` and `versions` are paths below the directory of the catalogue; limits are None when not said."""

    name: str
    kind: str
    entry: str
    main_class: str = ""
    versions: str = ""
    default_version: str = ""
    arguments: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    time_limit_s: float | None = None
    alert_after_s: float | None = None
    max_retries: int = 0
    backoff_s: float = 10.0
    description: str = ""


def parse(text: str, *, form: str) -> dict[str, Module]:
    """The modules of a catalogue; `form`: toml or ini. Raises Invalid that names every section and key in question."""
    sections = _toml(text) if form == "toml" else _ini(text)
    if len(sections) > MODULES_MOST:
        raise Invalid(f"{len(sections)} modules; at most {MODULES_MOST} are taken")
    found: dict[str, Module] = {}
    errors: list[FieldError] = []
    for name, values in sections.items():
        try:
            found[name] = module(name, values)
        except Invalid as error:
            errors += error.errors
    if errors:
        raise Invalid("; ".join(_told(error) for error in errors[:5]), errors=errors)
    return found


def module(name: str, values: Mapping[str, Any]) -> Module:
    """One module of a section's values. Raises Invalid naming each bad key."""
    errors: list[FieldError] = []
    taken: dict[str, Any] = {}
    if not is_name(name):
        errors.append(FieldError(name[:100], "is no name of a module", "up to 100 of A-Z, a-z, 0-9, . _ -"))
    for key, value in values.items():
        column, check = _KEYS.get(key, ("", _unknown))
        try:
            taken[column] = check(value)
        except ValueError as error:
            errors.append(FieldError(f"{name}.{key}", "is not right", str(error)))
    errors += [FieldError(f"{name}.{key}", "is missing", allowed) for key, allowed in (("type", ", ".join(KINDS)),
               ("entry", "a .py or .jar file")) if key not in values]
    if not errors:
        errors += _together(name, taken)
    if errors:
        raise Invalid("; ".join(_told(error) for error in errors), errors=errors)
    return Module(name=name, **taken)


def is_name(text: str) -> bool:
    """May a module be called so?"""
    return bool(_NAME.match(text)) and ".." not in text


def is_version(text: str) -> bool:
    """May a code version be called so? It is the name of a directory."""
    return bool(_VERSION.match(text)) and ".." not in text


def arguments(template: Sequence[str], values: Mapping[str, str]) -> tuple[str, ...]:
    """The template with its placeholders filled. `{name:text}` is the text when there is no value; `{name*}` alone becomes the
    words of the value, split as a shell does. Raises Invalid naming the field whose words cannot be split."""

    def fill(match: re.Match[str]) -> str:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        return values.get(match[1]) or match[2] or ""

    made: list[str] = []
    for one in template:
        words = _WORDS.match(one)
        made += _split(words[1], values.get(words[1], "")) if words else [_PLACE.sub(fill, one)]
    return tuple(made)


def _split(name: str, value: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError as error:
        raise Invalid.at(name, f"cannot be split into words: {error}", "words as in a shell") from None


def _toml(text: str) -> dict[str, Mapping[str, Any]]:
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise Invalid(f"is no TOML: {error}") from None
    for name, values in found.items():
        if not isinstance(values, dict):
            raise Invalid.at(name, "stands outside of a section", "[MODULE] sections alone")
    return found


def _ini(text: str) -> dict[str, Mapping[str, Any]]:
    parser = configparser.RawConfigParser(default_section="", strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise Invalid(f"is no INI: {' '.join(str(error).split())}") from None
    return {name: {key: _of_ini(name, key, value) for key, value in parser.items(name)} for name in parser.sections()}


def _of_ini(section: str, key: str, value: str) -> Any:
    """The value as TOML would give it: words as a shell splits them, `K=V` words for settings."""
    try:
        if key == "arguments":
            return shlex.split(value)
        if key == "settings":
            return dict(word.split("=", 1) for word in shlex.split(value))
    except ValueError as error:
        raise Invalid.at(f"{section}.{key}", "cannot be read", f"words as in a shell ({error})") from None
    if key in ("time_limit_s", "alert_after_s", "backoff_s", "max_retries"):
        try:
            return int(value) if key == "max_retries" else float(value)
        except ValueError:
            return value
    return value


def _unknown(_: Any) -> Any:
    raise ValueError("one of " + ", ".join(_KEYS))


def _kind(value: Any) -> str:
    if value not in KINDS:
        raise ValueError(", ".join(KINDS))
    return str(value)


def _path(*suffixes: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        path = PurePosixPath(value) if isinstance(value, str) and value.isprintable() else None
        if path is None or not path.parts or path.is_absolute() or ".." in path.parts or "\\" in value:
            raise ValueError("a path below the catalogue's directory, without ..")
        if suffixes and path.suffix not in suffixes:
            raise ValueError(f"a file that ends in {' or '.join(suffixes)}")
        return str(path)

    return check


def _matching(pattern: re.Pattern[str], allowed: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not pattern.match(value) or ".." in value:
            raise ValueError(allowed)
        return value

    return check


def _template(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and "\0" not in one for one in value):
        raise ValueError("a list of texts")
    for one in value:
        words = _WORDS.match(one)
        if words and words[1] in PLACEHOLDERS:
            continue
        for match in _PLACE.finditer(one):
            if match[0] not in ("{{", "}}") and match[1] not in PLACEHOLDERS:
                raise ValueError(", ".join(f"{{{name}}}" for name in PLACEHOLDERS) + f" ({{{{ for a brace); not {match[0]}")
    return tuple(value)


def _settings(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError("a table of settings")
    for key, text in value.items():
        if not _SETTING.match(key) or isinstance(text, (dict, list)) or not str(text).isprintable():
            raise ValueError(f"names and plain values; {key[:100]!r} is not")
    return {key: str(text).lower() if isinstance(text, bool) else str(text) for key, text in value.items()}


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value <= _SECONDS_MOST:
        raise ValueError(f"seconds from 1 to {_SECONDS_MOST:.0f}")
    return float(value)


def _retries(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= RETRIES_MOST:
        raise ValueError(f"a whole number from 0 to {RETRIES_MOST}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 1000 or not value.isprintable():
        raise ValueError("a line of text")
    return value


# Key of a section -> (member of Module, check that returns the value or raises what is allowed).
_KEYS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "type": ("kind", _kind), "entry": ("entry", _path(".py", ".jar")),
    "main_class": ("main_class", _matching(_CLASS, "the full name of a Java class")), "versions": ("versions", _path()),
    "default_version": ("default_version", _matching(_VERSION, "the name of a directory")), "arguments": ("arguments", _template),
    "settings": ("settings", _settings), "time_limit_s": ("time_limit_s", _seconds), "alert_after_s": ("alert_after_s", _seconds),
    "max_retries": ("max_retries", _retries), "backoff_s": ("backoff_s", _seconds), "description": ("description", _text),
}


def _together(name: str, taken: Mapping[str, Any]) -> list[FieldError]:
    errors = []
    if taken["kind"] == "flink" and not taken["entry"].endswith(".jar"):
        errors.append(FieldError(f"{name}.entry", "cannot be run by Flink here", "a .jar file"))
    if taken.get("main_class") and not taken["entry"].endswith(".jar"):
        errors.append(FieldError(f"{name}.main_class", "is for a .jar entry alone", "leave it out"))
    if taken.get("default_version") and not taken.get("versions"):
        errors.append(FieldError(f"{name}.default_version", "needs `versions`, the directory of the versions"))
    return errors


def _told(error: FieldError) -> str:
    return f"{error.field}: {error.message}" + (f" (allowed: {error.allowed})" if error.allowed else "")
