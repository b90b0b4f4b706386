"""What must be ready before a process works? Settings, logs, the database, and what services are told once."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from types import FrameType

from cloudsched import logs, settings
from cloudsched.errors import CloudschedError, Unavailable
from cloudsched.sealed import Sealer
from cloudsched.settings import Settings

PARENT = "CLOUDSCHED_PARENT_PID"


def load(args: argparse.Namespace, more: Mapping[str, object] | None = None) -> Settings:
    """The settings from this command line; prints what is wrong and exits with 1."""
    names = {"state": "state", "port_offset": "port_offset", "config": "config", "log_level": "log.level"}
    flags = {key: getattr(args, name, None) for name, key in names.items()}
    try:
        found = settings.load({**(more or {}), **{key: value for key, value in flags.items() if value is not None}})
    except CloudschedError as error:
        print(f"cloudsched: {error}", file=sys.stderr)  # noqa: T201 - before logs are set up
        raise SystemExit(1) from None
    if found.database.is_sqlite:
        _leave_out_postgres()
    return found


def _leave_out_postgres() -> None:
    """peewee imports every Postgres driver it finds: 0.25 s and 10 MB that a process on SQLite does not need."""
    for name in ("psycopg", "psycopg2"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def prepare(found: Settings, *, migrate: bool = True) -> None:
    """Open the database of this process and tell the services what they need to know."""
    from cloudsched.services import defaults, fleet_config, fleet_health, registering, snapshot, waiters
    from cloudsched.services.agent_rules import rules
    from cloudsched.store import db, migrations

    logs.setup(found)
    if migrate:
        Sealer.load(found.state.dir)  # a key file that others can read stops the start, not the first secret
    database = db.open_database(found.database.url)
    if migrate:
        migrations.migrate(database)
    snapshot.configure(found)
    fleet_config.configure(found)
    registering.configure(found)
    fleet_health.configure(found)
    fleet_config.apply_logging()
    defaults.set_job_defaults(defaults.from_settings(found))
    rules.lease_s = found.agent.lease_s
    rules.heartbeat_s = found.agent.heartbeat_s
    rules.long_poll_s = min(found.agent.long_poll_s, found.web.long_poll_max_s)
    rules.output_limit = found.agent.output_limit_mb << 20
    rules.recheck_s = None if found.database.is_sqlite else 1.0
    waiters.configure(found.web.long_poll_waiting_max)


def make_state_dir(found: Settings) -> None:
    """The directory that holds everything; passable for the users that jobs run as, readable for nobody else."""
    os.makedirs(found.state.dir, mode=0o711, exist_ok=True)
    if os.geteuid() == 0 and os.stat(found.state.dir).st_uid == 0:
        os.chmod(found.state.dir, 0o711)  # noqa: S103 - passable, not readable


def follow_log_level(every_s: float = 5.0) -> None:
    """A level changed in one process holds in all of them a little later (a daemon thread)."""
    from cloudsched.services import fleet_config, pool_switches
    from cloudsched.store import db

    def follow() -> None:
        known = pool_switches.kept_log_level()
        while True:
            time.sleep(every_s)
            try:
                wanted = pool_switches.kept_log_level()
                fleet_config.apply_logging()
            except Unavailable:
                continue
            if wanted and wanted != known:
                logs.set_level(wanted)
            known = wanted
            db.current().close_thread()

    threading.Thread(target=follow, name="log-level", daemon=True).start()


def die_with_parent() -> None:
    """A process that `up` started gets SIGTERM when `up` is gone, however it went (Linux)."""
    parent = os.environ.get(PARENT)
    if not parent or not sys.platform.startswith("linux"):
        return
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGTERM)


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stopping = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stopping
