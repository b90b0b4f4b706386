"""How does the agent say what happens? One JSON object a line on stderr, never a secret."""

from __future__ import annotations

import json
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

_threshold = LEVELS["info"]
_tee: Callable[[str, str], None] | None = None


def set_level(name: str) -> None:
    """Drop what is below `name` (debug, info, warning, error)."""
    global _threshold
    _threshold = LEVELS[name]


def tee(to: Callable[[str, str], None] | None) -> None:
    """Give every line, as (level, text), to somebody else too; None: no more."""
    global _tee
    _tee = to


def enabled(level: str) -> bool:
    return LEVELS[level] >= _threshold


def say(level: str, message: str, **facts: object) -> None:
    """Write one line; a closed stderr is no reason to fail."""
    if LEVELS[level] < _threshold:
        return
    if _tee is not None:
        _tee(level, " ".join([message, *("%s=%s" % item for item in facts.items())]))
    line: dict[str, object] = {"time": _utc(), "level": level, "source": "agent", "message": message}
    line.update(facts)
    try:
        sys.stderr.write(json.dumps(line, default=str) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


def _utc() -> str:
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + ".%03dZ" % int(now % 1 * 1000)
