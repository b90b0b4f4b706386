"""What is made before somebody asks? The applications of the dialects, one after the other, while the worker serves.

A start does not wait for their imports, and most of the time no request does either. One that comes meanwhile waits for the
application that is being made (`incoming.Once`).
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Mapping

from cloudsched.garbage import uncollected

log = logging.getLogger(__name__)

# When everything else of the stack has been started.
FIRST_AFTER_S = 1.5
# Between two: requests and the loop have the interpreter to themselves.
PAUSE_S = 0.25

_stopping = threading.Event()


def start(builds: Mapping[str, Callable[[], object]]) -> threading.Thread:
    """Build them in this order on a daemon thread, which is returned. `builds`: a listener's name -> what builds its
    application."""
    waits = {"first_after_s": FIRST_AFTER_S, "pause_s": PAUSE_S}
    thread = threading.Thread(target=run, args=(builds, _stopping), kwargs=waits, name="warmup", daemon=True)
    thread.start()
    return thread


def stop() -> None:
    """Begin with no other one; may be called by a signal handler. Does not wait for the one under way."""
    _stopping.set()


def run(builds: Mapping[str, Callable[[], object]], stopping: threading.Event, *, first_after_s: float,
        pause_s: float) -> None:
    """Build one after the other until it is stopped. What fails is logged: the first request tries again and tells its error."""
    wait_s = first_after_s
    for name, build in builds.items():
        if stopping.wait(wait_s):
            return
        wait_s = pause_s
        try:
            with uncollected():  # modules are all new objects and no garbage
                build()
        except Exception:
            log.warning("the application of %s could not be made yet; its first request tries again", name, exc_info=True)
    gc.freeze()  # what is loaded stays: a full collection, during which nobody is answered, need not look at it
