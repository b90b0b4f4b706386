"""How does one command start everything? A small parent that starts, watches and stops the processes of an instance."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from types import FrameType
from urllib.parse import urlsplit

from cloudsched import settings as settings_module
from cloudsched.app import start
from cloudsched.settings import Settings

READY_S = 30.0
RESTARTS_PER_MINUTE = 10
# One instance by itself reacts in a second instead of the five of a large installation.
QUICK = ("job_poller", "machine_poller", "node_poller", "scheduler", "cleanup")


@dataclass
class Child:
    """One process of ours: its command is started again when it ends by itself."""

    name: str
    process: subprocess.Popen[bytes] | None = None
    starts: list[float] = field(default_factory=list)


def run(args: argparse.Namespace) -> int:
    """Start all, print where it answers, stay until Ctrl-C; returns the exit status."""
    settings = _quick(args, start.load(args))
    start.make_state_dir(settings)
    busy = _busy_ports(settings)
    if busy:
        print(f"cloudsched: {busy}\nuse --port-offset N (and --state DIR) to run beside it", file=sys.stderr)  # noqa: T201
        return 1
    stopping = start.stop_on_signals()
    children = [Child("serve"), Child("engine")]
    _hear_hangup(children, stopping)
    try:
        for child in children:
            _start(child, settings)
        if not _wait_ready(settings, children, stopping):
            return 1
        _say(_welcome(settings))
        if getattr(args, "demo", False):
            _demo(settings, stopping)
        return _watch(children, settings, stopping)
    finally:
        _stop(children, settings)


def _quick(args: argparse.Namespace, settings: Settings) -> Settings:
    wanted = {f"engine.{name}_interval_s": 1.0 for name in QUICK
              if settings.origin(f"engine.{name}_interval_s") == "default"}
    return start.load(args, wanted) if wanted else settings


def _busy_ports(settings: Settings) -> str:
    for item in settings.listeners():
        family = socket.AF_INET6 if ":" in item.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((item.host.strip("[]"), item.port))
            except OSError as error:
                return f"{item.host}:{item.port} ({item.name}) cannot be used: {error.strerror}"
    return ""


def _hear_hangup(children: list[Child], stopping: threading.Event) -> None:
    """A terminal that closes stops all of it; to a service SIGHUP means: open the log files again."""
    on_terminal = os.isatty(0)

    def handle(_number: int, _frame: FrameType | None) -> None:
        if on_terminal:
            stopping.set()
            return
        for child in children:
            if child.process is not None and child.process.poll() is None:
                child.process.send_signal(signal.SIGHUP)

    signal.signal(signal.SIGHUP, handle)


def _start(child: Child, settings: Settings) -> None:
    environ = {**os.environ, **settings_module.hand_over(settings), start.PARENT: str(os.getpid())}
    log_path = os.path.join(settings.state.dir, f"{child.name}.log")
    command = [sys.executable, "-m", "cloudsched", child.name]
    with open(log_path, "ab") as log:
        os.chmod(log_path, 0o600)
        child.process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                         start_new_session=True)
    child.starts.append(time.monotonic())


def _wait_ready(settings: Settings, children: list[Child], stopping: threading.Event) -> bool:
    until = time.monotonic() + READY_S
    while not stopping.is_set() and time.monotonic() < until:
        if _answers(settings):
            return True
        for child in children:
            if child.process is not None and child.process.poll() is not None:
                _say_log(child, settings)
                return False
        time.sleep(0.03)
    if not stopping.is_set():
        print(f"cloudsched: no answer within {READY_S:.0f} s; see {settings.state.dir}/serve.log", file=sys.stderr)  # noqa: T201
    return False


def _answers(settings: Settings) -> bool:
    parts = urlsplit(settings.local_url)
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=5)
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    return False


def _say_log(child: Child, settings: Settings) -> None:
    path = os.path.join(settings.state.dir, f"{child.name}.log")
    with open(path, encoding="utf-8", errors="replace") as log:
        tail = log.readlines()[-15:]
    print(f"cloudsched: `{child.name}` ended; the end of {path}:\n" + "".join(tail), file=sys.stderr)  # noqa: T201


_SHOWN = {
    "native": "dashboard and native API", "cloud_scheduler_info": "Cloud Scheduler, info",
    "cloud_scheduler_admin": "Cloud Scheduler, admin", "retire_cluster": "Retire-Cluster",
    "retire_cluster_tcp": "Retire-Cluster, workers", "dcluster": "dCluster, Spark and Flink", "kboss": "kboss, compute centres",
    "logkit": "logkit, log agents"}


def _welcome(settings: Settings) -> str:
    lines = [f"  {_SHOWN.get(item.name, item.name):<26} {item.protocol}://{item.host}:{item.port}/" for item in
             sorted(settings.listeners(), key=lambda item: item.name != "native")]
    return "\n".join(["cloudsched is up", *lines, f"  {'state':<26} {settings.state.dir}", "Ctrl-C stops all of it.", ""])


def _demo(settings: Settings, stopping: threading.Event) -> None:
    """The main job, as a process of its own so that Ctrl-C ends it at once."""
    environ = {**os.environ, **settings_module.hand_over(settings), "CLOUDSCHED_SERVER_URL": settings.local_url,
               "CLOUDSCHED_PORT_OFFSET": str(settings.listen.port_offset)}
    demo = subprocess.Popen([sys.executable, "-m", "cloudsched", "demo"], env=environ)
    while demo.poll() is None:
        if stopping.wait(0.1):
            demo.terminate()
            demo.wait()
            return
    _say(f"\nThe server stays up: {settings.local_url}/  (Ctrl-C stops all of it)\n")


def _watch(children: list[Child], settings: Settings, stopping: threading.Event) -> int:
    """Start again what ends by itself, up to a limit; returns the exit status."""
    while not stopping.wait(0.2):
        for child in children:
            if child.process is None or child.process.poll() is None:
                continue
            child.starts = [at for at in child.starts if at > time.monotonic() - 60]
            if len(child.starts) >= RESTARTS_PER_MINUTE:
                _say_log(child, settings)
                return 1
            print(f"cloudsched: `{child.name}` ended with {child.process.returncode}; it is started again", file=sys.stderr)  # noqa: T201
            _start(child, settings)
    return 0


def _stop(children: list[Child], settings: Settings) -> None:
    """The engine first (it destroys the machines, and their agents still talk to the server), then the server."""
    if any(child.process is not None for child in children):
        _say("stopping: the machines first (kept when quick shutdown is set), then the server")
    for child in reversed(children):
        process = child.process
        if process is None or process.poll() is not None:
            continue
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=150 if child.name == "engine" else settings.web.shutdown_grace_s + 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(settings.state.dir, "server.json"))


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        print(text, flush=True)  # noqa: T201


