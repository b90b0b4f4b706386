"""How does the log agent start beside the agent? In a process of its own that was forked by the guard, or by us.

The guard may be root, and read a program that the user of the jobs cannot. So everything is loaded first; then the process
becomes that user; only then it looks at what the agent has written for it.
"""

from __future__ import annotations

import codecs
import importlib
import json
import os
import sys

from cloudsched.agent import log, privileges
from cloudsched.agent.session import write_private

# What the log agent would load later, when it could not any more.
_CODECS = ("ascii", "latin-1", "idna", "utf-8-sig", "utf-16", "cp1252", "gbk", "gb18030", "big5", "shift_jis", "euc-kr")
_LATE = ("_strptime", "stringprep", "concurrent.futures.thread", "http.client", "ssl", "cloudsched.logagent.agent")


def run(work: str, user: str | None, *, guard: int) -> int:
    """Become the log agent of this work directory, until `guard` is gone; returns its exit status."""
    try:
        for module in _LATE:
            importlib.import_module(module)
        for codec in _CODECS:
            codecs.lookup(codec)
        if user:
            privileges.drop(user)
        folder = os.path.join(work, "logs")
        os.chdir(folder)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for number in (0, 1):
            os.dup2(null, number)
        with open(os.path.join(folder, "command.json")) as file:
            argv = [str(word) for word in json.load(file)]
        write_private(os.path.join(folder, "pid"), str(os.getpid()))
    except (OSError, ValueError, ImportError, privileges.CannotBecome) as error:
        log.say("error", "the log agent cannot be started", error=str(error))
        return 1
    from cloudsched.logagent import logagent_main

    try:
        return logagent_main([*argv, "--with-parent", str(guard)])
    finally:
        sys.stderr.flush()
