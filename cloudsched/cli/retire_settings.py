"""Which server, with which key, in which form? Option, then variable, then the settings file (contract 14.3)."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMATS = ("table", "text", "json", "csv", "tsv")
DEFAULT_URL = "http://localhost:8081"
DEFAULT_TIMEOUT_S = 30.0


class SettingsError(Exception):
    """The settings file or a variable cannot be used as it is; the text says which and what is allowed."""


@dataclass(frozen=True)
class Connection:
    """What a command needs to know. `colour` None: as the terminal is."""

    url: str
    api_key: str | None
    form: str
    timeout_s: float
    no_color: bool


def file_path(environ: Mapping[str, str] = os.environ) -> Path:
    """`RETIRE_CLUSTER_CONFIG`, else `~/.retire-cluster/cli.json`."""
    given = environ.get("RETIRE_CLUSTER_CONFIG")
    return Path(given).expanduser() if given else Path.home() / ".retire-cluster" / "cli.json"


def read(path: Path) -> dict[str, Any]:
    """The file's values; none when there is no file. SettingsError when it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise SettingsError(f"{path} holds no JSON object")
    return found


def put(path: Path, name: str, text: str) -> Any:
    """Set one value, after checking it; the file is for its owner alone. Returns the value."""
    if name not in _CHECKS:
        raise SettingsError(f"there is no setting {name!r} (allowed: {', '.join(_CHECKS)})")
    value = _checked(name, text, name)
    found = {**read(path), name: value}
    _write(path, found)
    return value


def unset(path: Path, name: str) -> bool:
    """Forget one value; False when it was not there."""
    found = read(path)
    if name not in found:
        return False
    del found[name]
    _write(path, found)
    return True


def connection(args: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Connection:
    """The values in force for this command. SettingsError names what is wrong with one."""
    kept = read(file_path(environ))

    def value(name: str, option: str, variable: str, default: Any) -> Any:
        given = getattr(args, option, None)
        if given is not None:
            return _checked(name, given, f"--{option.replace('_', '-')}")
        if environ.get(variable):
            return _checked(name, environ[variable], variable)
        return _checked(name, kept[name], name) if name in kept else default

    return Connection(
        url=value("api_url", "server", "RETIRE_CLUSTER_SERVER", DEFAULT_URL),
        api_key=value("api_key", "api_key", "RETIRE_CLUSTER_API_KEY", None),
        form=value("format", "format", "RETIRE_CLUSTER_FORMAT", "table"),
        timeout_s=value("timeout", "timeout", "RETIRE_CLUSTER_TIMEOUT", DEFAULT_TIMEOUT_S),
        no_color=bool(getattr(args, "no_color", False) or environ.get("RETIRE_CLUSTER_NO_COLOR") or environ.get("NO_COLOR")))


def _write(path: Path, found: Mapping[str, Any]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o600)
        json.dump(found, file, indent=1)
    new.replace(path)


def _checked(name: str, value: Any, where: str) -> Any:
    try:
        return _CHECKS[name](value)
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{where}: {error}") from None


def _url(value: Any) -> str:
    text = str(value).strip()
    if "://" not in text:
        text = f"http://{text}"
    if not text.startswith(("http://", "https://")) or len(text.split("://", 1)[1]) == 0:
        raise ValueError(f"{value!r} is no URL (allowed: e.g. http://localhost:8081)")
    return text


def _key(value: Any) -> str:
    text = str(value).strip()
    if not text or not text.isascii() or not text.isprintable():
        raise ValueError("is no key (allowed: printable ASCII characters)")
    return text


def _form(value: Any) -> str:
    if value not in FORMATS:
        raise ValueError(f"{value!r} is no format (allowed: {', '.join(FORMATS)})")
    return str(value)


def _timeout(value: Any) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise ValueError(f"{value!r} is no time limit (allowed: seconds, up to 3600)")
    return seconds


_CHECKS: dict[str, Callable[[Any], Any]] = {"api_url": _url, "api_key": _key, "format": _form, "timeout": _timeout}
SECRET = frozenset({"api_key"})
