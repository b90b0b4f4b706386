"""How does the engine process run? Loops until SIGTERM, then a graceful stop."""

from __future__ import annotations

import argparse
import logging
import signal
from types import FrameType

from cloudsched import logs
from cloudsched.app import start
from cloudsched.errors import CloudschedError

log = logging.getLogger(__name__)


def run(args: argparse.Namespace) -> int:
    """Run the loops until told to stop; returns the exit status (1: nodes are left that should be gone)."""
    settings = start.load(args)
    start.die_with_parent()
    start.make_state_dir(settings)
    stopping = start.stop_on_signals()
    start.prepare(settings)
    logs.reopen_on_hangup()
    from cloudsched.engine.run import Engine, serve
    from cloudsched.services import pool_sync

    signal.signal(signal.SIGUSR1, _only_say_so)
    signal.signal(signal.SIGUSR2, _toggle_quick)
    try:
        pool_sync.start(settings)
    except CloudschedError as error:
        log.error("%s", error)
        return 1
    start.follow_log_level()
    return serve(Engine(settings), stopping)


def _only_say_so(_number: int, _frame: FrameType | None) -> None:
    log.info("reconfig by signal is disabled: POST /?action=reconfig on the admin port does it")


def _toggle_quick(_number: int, _frame: FrameType | None) -> None:
    from cloudsched.services import pool_switches

    pool_switches.toggle_quick_shutdown(actor="SIGUSR2")
