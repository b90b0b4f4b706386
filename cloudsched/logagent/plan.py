"""Can this runner configuration work, and what does it ask for? (contract 9, 15)

Everything wrong is found here, before anything is stored or stopped; the text names the key and what is allowed.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from cloudsched.logagent.errors import BadConfig
from cloudsched.logagent.lines import MAX_LINE_BYTES, Framing, head_pattern, known_encoding
from cloudsched.logagent.parsers import KINDS as PARSERS
from cloudsched.logagent.parsers import Parser
from cloudsched.logagent.posting import HttpSender, Target
from cloudsched.logagent.reader import SCAN_S, Source
from cloudsched.logagent.senders import DiscardSender, FileSender, StdoutSender
from cloudsched.logagent.transforms import Transform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cloudsched.logagent.config import Settings
    from cloudsched.logagent.senders import Sender

    Config = dict[str, Any]
    Keys = dict[str, str]

READERS = ("file", "dir", "tailx")
SENDERS = ("file", "discard", "stdout", "http")
BATCH_BYTES, BATCH_INTERVAL_S = 2 << 20, 60
LARGEST_BATCH_BYTES, LARGEST_LINE_BYTES = 64 << 20, 16 << 20
# Present in every configuration that is read back (contract 9).
_ALWAYS = {
    "log_audit": False, "send_raw": False, "read_time": False, "is_block": False, "internal_key_prefix": "",
    "max_line_len": 0, "meta_dir": "", "errors_list_cap": 100,
}  # fmt: skip
_SECRETS = ("http_sender_authorization",)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_UNIT_S = {"ms": 0.001, "s": 1.0, None: 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Plan:
    """A checked configuration. `senders(folder)` makes them; `folder` is where they may keep what they accepted."""

    source: Source
    parser: Parser
    transforms: list[Transform]
    senders: Callable[[str], list[Sender]]
    sender_names: list[str]
    tag_field: str
    batch_len: int
    batch_size: int
    batch_interval_s: float
    tries: int
    sync_every: int
    errors_cap: int
    close_wait_s: float

    def logpath(self) -> str:
        return self.source.pattern


def plan(config: Config, settings: Settings, *, starting: bool = True) -> Plan:
    """BadConfig when it cannot work. starting: the file of a `file` reader and the folder of a file sender must be there;
    after a restart they are waited for."""
    config = expanded(config, settings.variables)
    number = _Numbers(config)
    if config.get("metric"):
        raise BadConfig("metric runners are not supported; allowed: reader, parser, transforms, senders")
    if config.get("router"):
        raise BadConfig("router is not supported; every sender gets every record")
    if config.get("cleaner"):
        raise BadConfig("cleaner is not supported; files are left to logrotate")
    reader = _strings(config, "reader")
    parser_keys = _strings(config, "parser")
    source = _source(reader, number("max_line_len", 0), settings, starting=starting)
    names, make = _senders(config, settings, number("batch_try_times", 0), starting=starting)
    return Plan(
        source=source,
        parser=_parser(parser_keys),
        transforms=_transforms(config),
        senders=make,
        sender_names=names,
        tag_field=reader.get("datasource_tag", ""),
        batch_len=number("batch_len", 0),
        batch_size=min(number("batch_size", 0) or BATCH_BYTES, LARGEST_BATCH_BYTES),
        batch_interval_s=number("batch_interval", 0) or BATCH_INTERVAL_S,
        tries=number("batch_try_times", 0),
        sync_every=max(1, number("sync_every", 0)),
        errors_cap=number("errors_list_cap", 0) or 100,
        close_wait_s=number("max_reader_close_wait_time", 0),
    )


def completed(config: Config, name: str, createtime: str) -> Config:
    """As it is stored and read back: what the agent adds (contract 9)."""
    found = {**_ALWAYS, **{key: value for key, value in config.items() if value is not None}}
    found.update(name=name, createtime=createtime, web_folder=True)
    found["reader"] = {"name": f"{name}_reader", **found.get("reader", {}), "runner_name": name}
    found["parser"] = {"type": "raw", **found.get("parser", {}), "runner_name": name}
    found["senders"] = [{**sender, "runner_name": name} for sender in found["senders"]]
    if not found.get("is_stopped"):
        found.pop("is_stopped", None)
    return found


def shown(config: Config) -> Config:
    """Without what only the agent may know."""
    senders = [{key: value for key, value in sender.items() if key not in _SECRETS} for sender in config.get("senders", [])]
    return {**config, "senders": senders}


def keep_secrets(config: Config, before: Config) -> None:
    """A configuration that was read, edited and sent back lacks the secrets: the old ones stay for the same target."""
    for new, old in zip(config["senders"], before.get("senders", [])):  # noqa: B905 - 3.8; the shorter decides
        same = new.get("sender_type") == old.get("sender_type") and new.get("http_sender_url") == old.get("http_sender_url")
        for key in _SECRETS:
            if same and key in old:
                new.setdefault(key, old[key])


def duration_s(text: str, where: str) -> float:
    """`500ms`, `10s`, `3m`, `24h`, `7d` or seconds."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise BadConfig(f"{where} is {text!r}; allowed: 500ms, 10s, 3m, 24h, 7d, or seconds")
    return float(match[1]) * _UNIT_S[match[2]]


def expanded(value: Any, variables: dict[str, str]) -> Any:
    """With `${NAME}` replaced, at every depth, where the agent's configuration has a variable of that name."""
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: variables.get(match[1], match[0]), value) if variables and "${" in value else value
    if isinstance(value, dict):
        return {key: expanded(item, variables) for key, item in value.items()}
    return [expanded(item, variables) for item in value] if isinstance(value, list) else value


class _Numbers:
    def __init__(self, config: Config) -> None:
        self._config = config

    def __call__(self, key: str, default: int) -> int:
        value = self._config.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadConfig(f"{key} must be a whole number")
        return max(0, value)


def _strings(config: Config, key: str) -> Keys:
    value = config.get(key)
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise BadConfig(f"{key} must be an object")
    return _all_strings(value, key)


def _all_strings(value: dict[str, Any], where: str) -> Keys:
    for key, item in value.items():
        if not isinstance(item, str):
            raise BadConfig(f"{where}.{key} must be a string: numbers and booleans are written as strings here")
    return value


def _source(keys: Keys, max_line: int, settings: Settings, *, starting: bool) -> Source:
    mode, path = keys.get("mode", ""), keys.get("log_path", "")
    if mode not in READERS:
        raise BadConfig(f"reader.mode {mode!r} is not supported; allowed: {', '.join(READERS)}")
    if not path or "\0" in path:
        raise BadConfig("reader.log_path is missing")
    newest = _choice(keys, "reader.read_from", ("oldest", "newest"), "oldest") == "newest"
    try:
        framing = Framing(known_encoding(keys.get("encoding", "")), head_pattern(keys.get("head_pattern", "")),
                          _line_bytes(max_line))  # fmt: skip
    except ValueError as error:
        raise BadConfig(f"reader.{error}") from None
    path = os.path.abspath(path)
    if mode == "dir":
        path = os.path.join(_escaped(path), keys.get("valid_file_pattern") or "*")
    allowed(_fixed_part(path, mode), settings.read_roots, "reader.log_path", "read_roots")
    if mode == "file" and starting and not os.path.isfile(path):
        raise BadConfig(f"reader.log_path {path} is not a file")
    if mode == "file" and starting and not os.access(path, os.R_OK):
        raise BadConfig(f"reader.log_path {path} cannot be read")
    suffixes = tuple(part.strip() for part in keys.get("ignore_file_suffix", "").split(",") if part.strip())
    return Source(
        pattern=path,
        literal=mode == "file",
        newest=newest,
        hidden=keys.get("ignore_hidden", "true").lower() == "false",
        ignored_suffixes=suffixes,
        scan_s=max(0.05, duration_s(keys["stat_interval"], "reader.stat_interval")) if keys.get("stat_interval") else SCAN_S,
        expire_s=duration_s(keys["expire"], "reader.expire") if keys.get("expire") else 0.0,
        max_open_files=_whole(keys, "reader.max_open_files", 256),
        framing=framing,
    )


def _line_bytes(max_line: int) -> int:
    return min(max_line, LARGEST_LINE_BYTES) if max_line else MAX_LINE_BYTES


def _parser(keys: Keys) -> Parser:
    kind = keys.get("type") or "raw"
    if kind not in PARSERS:
        raise BadConfig(f"parser.type {kind!r} is not supported; allowed: {', '.join(PARSERS)}")
    return Parser(kind, keys)


def _transforms(config: Config) -> list[Transform]:
    value = config.get("transforms")
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BadConfig("transforms must be an array of objects")
    return [Transform(index, item) for index, item in enumerate(value)]


def _senders(
    config: Config, settings: Settings, tries: int, *, starting: bool
) -> tuple[list[str], Callable[[str], list[Sender]]]:
    value = config.get("senders")
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        raise BadConfig("senders must be an array of at least one object")
    makers = [_sender(f"senders[{index}]", _all_strings(item, f"senders[{index}]"), settings, tries, starting=starting)
              for index, item in enumerate(value)]  # fmt: skip
    names: list[str] = []
    for index, item in enumerate(value):
        name = item.get("name") or _default_name(item)
        names.append(name if name not in names else f"{name}-{index}")

    def make(folder: str) -> list[Sender]:
        return [maker(name, os.path.join(folder, _folder(index, item)))
                for index, (maker, name, item) in enumerate(zip(makers, names, value))]  # noqa: B905  # fmt: skip

    return names, make


def _sender(where: str, keys: Keys, settings: Settings, tries: int, *, starting: bool) -> Callable[[str, str], Sender]:
    kind = keys.get("sender_type", "")
    if kind == "file":
        path = keys.get("file_send_path", "")
        if not path or "\0" in path:
            raise BadConfig(f"{where}.file_send_path is missing")
        path = os.path.abspath(path)
        allowed(path, settings.write_roots, f"{where}.file_send_path", "write_roots")
        if starting and (not os.path.isdir(os.path.dirname(path)) or os.path.isdir(path)):
            raise BadConfig(f"{where}.file_send_path {path}: its folder must exist, and it must not be a folder itself")
        return lambda name, folder: FileSender(name, path)
    if kind == "discard":
        return lambda name, folder: DiscardSender(name)
    if kind == "stdout":
        return lambda name, folder: StdoutSender(name)
    if kind == "http":
        target = _target(where, keys, tries)
        queued = keys.get("fault_tolerant", "true").lower() != "false"
        return lambda name, folder: HttpSender(name, target, folder, queued=queued)
    raise BadConfig(f"{where}.sender_type {kind!r} is not supported; allowed: {', '.join(SENDERS)}")


def _target(where: str, keys: Keys, tries: int) -> Target:
    url = keys.get("http_sender_url", "")
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and url.isprintable()
    except ValueError:
        good = False
    if not good or " " in url:
        raise BadConfig(f"{where}.http_sender_url must be http://host[:port]/path or https://...")
    if parts.username is not None:
        raise BadConfig(f"{where}.http_sender_url must hold no password; use http_sender_authorization")
    return Target(
        url=url,
        protocol=_choice(keys, f"{where}.http_sender_protocol", ("json", "ndjson"), "json"),
        gzip=keys.get("http_sender_gzip", "false").lower() == "true",
        timeout_s=max(0.1, duration_s(keys.get("http_sender_timeout") or "10s", f"{where}.http_sender_timeout")),
        authorization=_header(keys.get("http_sender_authorization", ""), where),
        authorization_file=keys.get("http_sender_authorization_file", ""),
        queue_bytes=_whole(keys, f"{where}.max_disk_used_bytes", 1 << 30),
        tries=tries,
        longest_pause_s=duration_s(keys.get("http_sender_max_pause") or "30s", f"{where}.http_sender_max_pause"),
    )


def _header(value: str, where: str) -> str:
    if not value.isascii() or (value and not value.isprintable()):
        raise BadConfig(f"{where}.http_sender_authorization must be one line of ASCII")
    return value


def _default_name(keys: Keys) -> str:
    kind = keys["sender_type"]
    if kind == "file":
        return f"fileSender:{keys['file_send_path']}"
    if kind == "http":
        parts = urlsplit(keys["http_sender_url"])
        return "httpSender:" + urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    return f"{kind}Sender"


def _folder(index: int, keys: Keys) -> str:
    """Where a sender keeps its queue: by its name if it has one, so that it may move in the list."""
    name = keys.get("name", "")
    return f"sender-{index}" if not name else "sender-" + re.sub(r"[^\w.-]", lambda match: f"%{ord(match[0]):x}", name)[:150]


def allowed(path: str, roots: tuple[str, ...], where: str, key: str) -> None:
    """BadConfig when the agent was told to keep to some folders and this is outside."""
    real = os.path.realpath(path)
    if roots and not any(os.path.commonpath([real, root]) == root for root in roots):
        raise BadConfig(f"{where} {path} is outside the folders that {key} allows")


def _fixed_part(pattern: str, mode: str) -> str:
    """The folder below which everything that a glob can match lies."""
    if mode == "file":
        return pattern
    parts = pattern.split("/")
    fixed = next((index for index, part in enumerate(parts) if re.search(r"[*?\[]", part)), len(parts))
    return "/".join(parts[:fixed]) or "/"


def _escaped(path: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", path)


def _choice(keys: Keys, where: str, choices: tuple[str, ...], default: str) -> str:
    value = keys.get(where.rpartition(".")[2]) or default
    if value not in choices:
        raise BadConfig(f"{where} is {value!r}; allowed: {', '.join(choices)}")
    return value


def _whole(keys: Keys, where: str, default: int) -> int:
    value = keys.get(where.rpartition(".")[2]) or str(default)
    if not value.isdecimal() or int(value) < 1:
        raise BadConfig(f"{where} is {json.dumps(value)}; allowed: a positive whole number, written as a string")
    return int(value)
