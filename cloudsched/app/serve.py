"""How are the listeners served? gunicorn with threads; each worker opens its own database connection after the fork."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
from types import FrameType
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication

from cloudsched import clock
from cloudsched.app import native_tcp, start, warmup
from cloudsched.app.streaming import StreamWorker
from cloudsched.settings import Settings, keys_always

if TYPE_CHECKING:
    from cloudsched.app.wsgi import Front

log = logging.getLogger(__name__)
SERVER_FILE = "server.json"


class Worker(StreamWorker):
    """A thread worker whose held requests (long polls, streams) end at once when it is told to stop."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        _let_go()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        _let_go()
        super().handle_quit(sig, frame)

    def is_parent_alive(self) -> bool:
        """When `serve` itself was killed: give up the ports at once, the next `serve` wants them."""
        alive = bool(super().is_parent_alive())
        if not alive:
            _let_go()
            self.set_accept_enabled(False)
            for listener in self.sockets:
                listener.close()
        return alive

    def run(self) -> None:
        super().run()
        # The grace is over. Leaving as usual would join the threads, and one that writes to a client that does not
        # read never ends.
        logging.shutdown()
        os._exit(0)


def _let_go() -> None:
    from cloudsched.services import waiters, watch

    waiters.stop()
    watch.stop()
    native_tcp.stop()
    warmup.stop()


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn with our settings and no files or sockets of its own elsewhere."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        super().__init__()

    def load_config(self) -> None:
        for name, value in _options(self.settings).items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        from cloudsched.app import wsgi

        return wsgi.make(self.settings)


def _options(settings: Settings) -> dict[str, Any]:
    return {
        "bind": [_address(item.host, item.port) for item in settings.http_listeners()],
        "workers": settings.web.workers, "threads": settings.web.threads, "worker_class": Worker,
        "worker_connections": 10_000, "keepalive": 75, "graceful_timeout": int(settings.web.shutdown_grace_s), "timeout": 120,
        "worker_tmp_dir": settings.state.dir, "control_socket_disable": True, "forwarded_allow_ips": "", "http_parser": "python",
        "limit_request_line": 8190, "loglevel": "warning", "proc_name": "cloudsched serve",
        "post_worker_init": lambda worker: _ready(settings, worker.wsgi),
        "post_fork": lambda server, worker: start.prepare(settings, migrate=False),
    }


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def _ready(settings: Settings, front: Front) -> None:
    """This worker answers: say where."""
    from cloudsched.store import system
    from cloudsched.store.db import write

    start.follow_log_level()
    native_tcp.start(settings)
    write(lambda tx: system.put_setting(tx, "serving_since", str(clock.now())))
    path = os.path.join(settings.state.dir, SERVER_FILE)
    found = {"native_url": settings.local_url, "pid": os.getppid(),
             "listeners": {item.name: f"{item.protocol}://{_address(item.host, item.port)}" for item in settings.listeners()}}
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(found, file, indent=1)
    os.replace(path + ".new", path)
    warmup.start(front.builds)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM; returns the exit status."""
    settings = start.load(args)
    start.die_with_parent()
    start.make_state_dir(settings)
    start.prepare(settings)
    _make_first_key(settings)
    _close()
    if not native_tcp.bind(settings):
        return 1
    try:
        Server(settings).run()
    except SystemExit as end:
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(settings.state.dir, SERVER_FILE))
        return int(end.code or 0) if isinstance(end.code, int) else 1
    return 0


def _make_first_key(settings: Settings) -> None:
    """Where keys are always asked for, somebody must be able to make the first one."""
    if settings.access.require_keys == "yes" or keys_always(settings):
        from cloudsched.services import keys

        log.info("the admin key is in %s", keys.ensure_admin_key_file(settings.state.dir))


def _close() -> None:
    """No open connection may cross the fork."""
    from cloudsched.store import db

    db.current().close()
