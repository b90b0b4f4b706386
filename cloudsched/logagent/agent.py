"""How does the log agent start, run and end?"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
import threading

from cloudsched.logagent import VERSION, disk, log
from cloudsched.logagent.config import advertised, check, load
from cloudsched.logagent.errors import BadConfig
from cloudsched.logagent.masters import Masters
from cloudsched.logagent.routes import Api
from cloudsched.logagent.runners import Runners
from cloudsched.logagent.server import listen
from cloudsched.logagent.stats import REFRESH_S

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from cloudsched.logagent.config import Settings
    from cloudsched.logagent.server import AgentServer

PARENT_LOOK_S = 0.5
EXIT_OK, EXIT_FAILED, EXIT_CONFIG = 0, 1, 2


class LogAgent:
    """The whole agent in one object; `start` returns when it listens and its runners run."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        disk.make_folder(settings.meta_dir)
        self._lock = _only_one(settings.meta_dir)
        self.server: AgentServer = listen(settings)
        self.port = int(self.server.server_address[1])
        self.masters = Masters(settings, advertised(settings, self.port))
        self.runners = Runners(settings)
        self.server.api = Api(settings, self.runners, self.masters)
        self._stop = threading.Event()

    def start(self) -> None:
        self.runners.restore()
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.1}, name="http", daemon=True).start()
        threading.Thread(target=self._tick, name="refresh", daemon=True).start()
        if self.settings.cluster_enabled:
            self.masters.start()
        log.say("info", "listening", url=self.masters.url, port=self.port, tag=self.masters.tag)

    def stop(self) -> None:
        self._stop.set()
        self.masters.stop()
        self.server.shutdown()
        self.server.server_close()
        self.runners.close()
        os.close(self._lock)

    def _tick(self) -> None:
        while not self._stop.wait(REFRESH_S):
            self.runners.refresh()
            self.runners.retry()


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: told to end; 1: cannot listen or another agent has the folder; 2: the configuration is wrong."""
    options = _parser().parse_args(argv)
    log.set_level(options.log_level)
    try:
        settings = load(options.config) if options.config else check({})
        if options.check:
            sys.stdout.write("the configuration is good\n")
            return EXIT_OK
        agent = LogAgent(settings)
    except BadConfig as error:
        log.say("error", str(error))
        return EXIT_CONFIG
    except OSError as error:
        log.say("error", f"cannot start: {error}")
        return EXIT_FAILED
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    agent.start()
    if options.port_file:
        disk.write_atomic(options.port_file, f"{agent.port}\n".encode())
    while not ending.wait(PARENT_LOOK_S if options.with_parent else 3600):
        if options.with_parent and os.getppid() != options.with_parent:
            log.say("warning", "ends: who started it is gone")
            break
    if options.drain and not agent.runners.drain(options.drain):
        log.say("warning", "ends with something left to deliver", limit_s=options.drain)
    agent.stop()
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cloudsched logagent", description="Collect logs on this machine, as a logkit master tells it.", allow_abbrev=False
    )
    add = parser.add_argument
    add("--config", metavar="FILE", help="JSON with # comments; without it: no masters, loopback, first free port from 3000")
    add("--check", action="store_true", help="check the configuration and end")
    add("--port-file", metavar="FILE", help="write the port here once requests are answered")
    add("--drain", type=float, default=0.0, metavar="S", help="at the end, read and deliver what there is, at most so long")
    add("--with-parent", type=int, metavar="PID", help="end when this process, which started it, is gone")
    add("--log-level", choices=sorted(log.LEVELS, key=log.LEVELS.__getitem__), default="info")
    add("--version", action="version", version="cloudsched logagent " + VERSION)
    return parser


def _only_one(folder: str) -> int:
    """Two agents on one folder would read and write the same positions. The kernel lets go when the process is gone."""
    fd = os.open(os.path.join(folder, "agent.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise OSError(f"another agent works in {folder}") from None
    return fd
