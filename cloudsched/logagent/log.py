"""How does the log agent say what happens? One JSON object a line on stderr, never a secret, never a log line."""

from __future__ import annotations

import json
import sys
import time

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

_threshold = LEVELS["info"]


def set_level(name: str) -> None:
    """Drop what is below `name` (debug, info, warning, error)."""
    global _threshold
    _threshold = LEVELS[name]


def say(level: str, message: str, **facts: object) -> None:
    """Write one line; a closed stderr is no reason to fail."""
    if LEVELS[level] < _threshold:
        return
    now = time.time()
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + ".%03dZ" % int(now % 1 * 1000)
    line: dict[str, object] = {"time": at, "level": level, "source": "logagent", "message": message}
    line.update(facts)
    try:
        sys.stderr.write(json.dumps(line, default=str) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass
