"""What happens inside the process of one task? Its handler runs here, apart from the agent, and is killed with the process.

The task comes as JSON on standard input: {"kind", "payload", "allow_private", "checkpoint"}. What it leaves is a file in its
directory: {"data": ...} or {"error": ...}; its progress is another. The agent reads both.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time

from cloudsched.agent import expressions, fetching
from cloudsched.agent.tasks import PROGRESS_FILE, RESULT_FILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

EVAL_CPU_S, EVAL_MEMORY = 10, 512 * 1024 * 1024
STEP_S = 1.0


class Failed(Exception):
    """The task failed; the message is for the one who submitted it."""


def main() -> int:
    """Run the task on standard input; the exit status is 0 when it succeeded."""
    task = json.load(sys.stdin)
    try:
        result = {"data": HANDLERS[task["kind"]](task)}
        status = 0
    except (Failed, expressions.NotAllowed, fetching.Refused) as error:
        result, status = {"error": str(error)}, 1
    except OSError as error:
        result, status = {"error": "not reached: %s" % (error.strerror or error)}, 1
    except MemoryError:
        result, status = {"error": "out of memory"}, 1
    except (ArithmeticError, TypeError, ValueError, LookupError) as error:
        result, status = {"error": "%s: %s" % (type(error).__name__, str(error)[:500])}, 1
    write(RESULT_FILE, result)
    return status


def write(name: str, value: Any) -> None:
    """Put a file there whole or not at all."""
    with open(name + ".new", "w") as file:
        json.dump(value, file)
    os.replace(name + ".new", name)


def _sleep(task: dict[str, Any]) -> Any:
    """It says how far it is, so that another device need not begin anew."""
    wanted_s = float(task["payload"].get("duration", 1.0))
    checkpoint = task.get("checkpoint")
    done_s = min(wanted_s, float(checkpoint.get("slept_s", 0))) if isinstance(checkpoint, dict) else 0.0
    began = time.monotonic() - done_s
    while True:
        slept_s = time.monotonic() - began
        if slept_s >= wanted_s:
            return {"slept_for": wanted_s}
        if wanted_s > STEP_S:
            write(PROGRESS_FILE, {"slept_s": round(slept_s, 2)})
        time.sleep(min(STEP_S, wanted_s - slept_s))


def _python_eval(task: dict[str, Any]) -> Any:
    resource.setrlimit(resource.RLIMIT_CPU, (EVAL_CPU_S, EVAL_CPU_S + 1))
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
    try:
        resource.setrlimit(resource.RLIMIT_AS, (EVAL_MEMORY, EVAL_MEMORY))
    except (ValueError, OSError):
        pass  # not to be had on every system
    text = task["payload"]["expression"]
    value = expressions.evaluate(text)
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        value = repr(value)[: 1 << 19]
    return {"result": value, "expression": text}


def _http_request(task: dict[str, Any]) -> Any:
    return fetching.fetch(task["payload"], allow_private=bool(task.get("allow_private")))


HANDLERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "sleep": _sleep, "python_eval": _python_eval, "http_request": _http_request,
}  # fmt: skip
