"""What is written about the running server, in which form, and what must never be in it?

    logs.setup(settings)
    log = logging.getLogger(__name__)
    with logs.bound(job=job_id):
        log.info("booted", extra={"cloud": "local-a"})

One JSON object a line, or readable text on a terminal. Every line carries the request, job and node it is
about (`bound`). Keys, tokens, passwords and Authorization headers are taken out of every line, tracebacks
included.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import logging.handlers
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from cloudsched.clock import rfc3339
from cloudsched.errors import Invalid

if TYPE_CHECKING:
    from cloudsched.settings import Settings

VERBOSE = 5
LEVELS = {"VERBOSE": VERBOSE, "DEBUG": logging.DEBUG, "INFO": logging.INFO, "WARNING": logging.WARNING,
          "ERROR": logging.ERROR, "CRITICAL": logging.CRITICAL}
MASK = "***"

# Loggers the level applies to; all others write from WARNING on.
_OURS = ("cloudsched", "gunicorn")
_MB = 1024 * 1024

_about: ContextVar[Mapping[str, Any]] = ContextVar("about", default={})  # noqa: B039 (never changed in place)

logging.addLevelName(VERBOSE, "VERBOSE")


def setup(settings: Settings, *, stream: TextIO | None = None) -> None:
    """Logging of this process as [log] says; a second call replaces the first. `stream` replaces stderr."""
    log = settings.log
    stream = stream or sys.stderr
    handlers = [_file(log.file, max_bytes=int(log.max_size_mb * _MB), keep=log.keep) if log.file
                else logging.StreamHandler(stream)]
    formatter = _formatter(log.format, pattern=log.pattern, terminal=not log.file and stream.isatty())
    for handler in handlers:
        handler.setFormatter(formatter)
    if log.syslog and Path("/dev/log").exists():
        syslog = logging.handlers.SysLogHandler("/dev/log", logging.handlers.SysLogHandler.LOG_DAEMON)
        syslog.ident = "cloudsched: "
        syslog.setFormatter(Text())
        handlers.append(syslog)
    _replace_handlers(handlers)
    logging.captureWarnings(True)
    logging.getLogger().setLevel(logging.WARNING)
    set_level(log.level)


def set_level(word: str) -> None:
    """The least level written from now on, in this process; any case. Raises Invalid for an unknown word."""
    level = LEVELS.get(word.strip().upper())
    if level is None:
        raise Invalid.at("log_level", f"unknown level {word!r}", ", ".join(LEVELS))
    for name in _OURS:
        logging.getLogger(name).setLevel(level)


def set_max_size(max_bytes: int) -> None:
    """The size at which the log file of this process is rotated from now on (0: never)."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _LogFile):
            handler._max_bytes = max_bytes


def level() -> str:
    """The level in force, as a word."""
    return logging.getLevelName(logging.getLogger(_OURS[0]).getEffectiveLevel())


@contextlib.contextmanager
def bound(**about: Any) -> Iterator[None]:
    """Every line written inside carries these fields (`request`, `job`, `node`, ...)."""
    token = _about.set({**_about.get(), **about})
    try:
        yield
    finally:
        _about.reset(token)


def about() -> Mapping[str, Any]:
    """The fields bound here and now."""
    return _about.get()


def reopen() -> None:
    """Opens every log file again under its name, for tools that moved it away."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _LogFile):
            handler.reopen()


def reopen_on_hangup() -> None:
    """SIGHUP reopens the log files. For the main thread of a process."""
    signal.signal(signal.SIGHUP, lambda number, frame: reopen())


def redact(text: str) -> str:
    """The text without secrets: keys, tokens, passwords, Authorization headers, passwords in URLs."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


class Json(logging.Formatter):
    """One JSON object: time, level, logger, message, then fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": rfc3339(record.created), "level": record.levelname, "logger": record.name,
                "message": redact(record.getMessage()), **_fields(record),
                "process": record.process, "thread": record.threadName}
        error = _error_text(self, record)
        if error:
            line["exception"] = error
        return json.dumps(line, ensure_ascii=False, default=str)


class Text(logging.Formatter):
    """A line for people; control characters are shown as escapes, so that a message stays one line."""

    def __init__(self, pattern: str = "") -> None:
        super().__init__(pattern or "%(asctime)s %(levelname)-8s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        return f"{moment}.{int(record.msecs):03d}"

    def format(self, record: logging.LogRecord) -> str:
        record = logging.makeLogRecord(record.__dict__)
        fields = "".join(f" {name}={_word(value)}" for name, value in _fields(record).items())
        record.msg, record.args = _one_line(redact(record.getMessage())) + fields, ()
        error = _error_text(self, record)
        record.exc_info = record.exc_text = record.stack_info = None
        line = super().format(record)
        return f"{line}\n{error}" if error else line


class _LogFile(logging.handlers.WatchedFileHandler):
    """A log file several processes append to; whoever finds it too large moves it on, under a lock."""

    def __init__(self, path: str, *, max_bytes: int, keep: int) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._max_bytes = max_bytes
        self._keep = keep
        super().__init__(path, encoding="utf-8", errors="backslashreplace")

    def emit(self, record: logging.LogRecord) -> None:
        if self._max_bytes and self.stream is not None and self.stream.tell() >= self._max_bytes:
            self._rotate()
        super().emit(record)

    def reopen(self) -> None:
        with self.lock or contextlib.nullcontext():
            self._close_stream()
            self.stream = self._open()
            self._statstream()

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        return open(descriptor, "a", encoding=self.encoding, errors=self.errors)

    def _rotate(self) -> None:
        with open(f"{self.baseFilename}.lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Another process may have moved it meanwhile; then the file under the name is small again.
            with contextlib.suppress(FileNotFoundError):
                if Path(self.baseFilename).stat().st_size >= self._max_bytes:
                    self._shift()
        self.reopen()

    def _shift(self) -> None:
        names = [self.baseFilename, *(f"{self.baseFilename}.{number}" for number in range(1, self._keep + 1))]
        for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
            with contextlib.suppress(FileNotFoundError):
                os.replace(newer, older)
        if self._keep == 0:
            os.truncate(self.baseFilename, 0)

    def _close_stream(self) -> None:
        if self.stream is not None:
            self.stream.flush()
            self.stream.close()


def _file(path: str, *, max_bytes: int, keep: int) -> logging.Handler:
    return _LogFile(path, max_bytes=max_bytes, keep=keep)


def _formatter(word: str, *, pattern: str, terminal: bool) -> logging.Formatter:
    if word == "text" or (word == "auto" and (terminal or pattern)):
        return Text(pattern)
    return Json()


def _replace_handlers(handlers: list[logging.Handler]) -> None:
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if getattr(handler, "of_cloudsched", False)]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.of_cloudsched = True  # type: ignore[attr-defined]
        root.addHandler(handler)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What is bound, and the `extra` of this record, redacted. None is left out."""
    extra = {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
    given = {**_about.get(), **extra}
    return {name: _clean(name, value) for name, value in given.items() if value is not None}


def _clean(name: str, value: Any) -> Any:
    if _SECRET_NAME.search(name):
        return MASK
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {str(key): _clean(str(key), item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_clean("", item) for item in value]
    return value if isinstance(value, (int, float, bool)) else redact(str(value))


def _error_text(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    return redact("\n".join(parts))


def _word(value: Any) -> str:
    text = _one_line(value if isinstance(value, str) else json.dumps(value, default=str))
    return json.dumps(text, ensure_ascii=False) if not text or " " in text else text


def _one_line(text: str) -> str:
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SENSITIVE = (r"(?:pass(?:word|wd|phrase)?|secret(?:_?(?:access_?)?key)?|(?:access_?|refresh_?|join_?)?token"
              r"|api[_-]?key|x-api-key|private_?key|credentials?)")
_SECRET_NAME = re.compile(rf"(?i)(?:^|[_-]){_SENSITIVE}$|^authorization$|^cookie$")
_SECRETS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"(?i)((?:proxy-)?authorization['\"]?\s*[:=]\s*['\"]?)(?:(\w+)\s+)?[^\s'\",;]+"),
     lambda match: f"{match[1]}{match[2] + ' ' if match[2] else ''}{MASK}"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}"), rf"\1 {MASK}"),
    (re.compile(rf"(?i)(\b[\w-]*{_SENSITIVE}['\"]?\s*[:=]\s*)"
                r"(?:\"[^\"]*\"|'[^']*'|[^\s'\",;&})\]]+)"), rf"\1{MASK}"),
    (re.compile(r"(?i)(--[\w-]*(?:password|token|secret|key)[ =])\S+"), rf"\1{MASK}"),
    (re.compile(r"\b([a-zA-Z][a-zA-Z0-9+.-]*://[^\s/:@'\"]*):[^\s/@'\"]+@"), rf"\1:{MASK}@"),
)
