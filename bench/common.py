"""What do the benchmarks share? An instance in a temporary directory, a bare reference under the same gunicorn, medians."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = """
[engine]
job_poller_interval_s = 1
machine_poller_interval_s = 1
node_poller_interval_s = 1
scheduler_interval_s = 1
cleanup_interval_s = 1

[[local.clouds]]
name = "bench"
slots = {slots}
cores = 1
memory_mb = 65536
keep_alive_s = 600
"""
# The reference: the same server and thread count, one Flask route that does nothing, one that parses JSON.
BARE = """
from flask import Flask, request
app = Flask(__name__)

@app.get("/bare")
def bare():
    return "ok"

@app.post("/bare")
def bare_post():
    return {"n": len(request.get_json())}, 201
"""


class Running:
    """`cloudsched up` in a directory of its own."""

    def __init__(self, *, slots: int = 2, url: str = "") -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="cloudsched-bench-"))
        self.offset = free_offset()
        (self.dir / "cloudsched.toml").write_text(SETTINGS.format(slots=slots))
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        if url:
            environ["CLOUDSCHED_DATABASE_URL"] = url
        command = [sys.executable, "-m", "cloudsched", "up", "--state", str(self.dir / "state"),
                   "--port-offset", str(self.offset), "--config", str(self.dir / "cloudsched.toml")]
        began = time.monotonic()
        self.process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                        start_new_session=True)
        self.port, self.info_port = 8100 + self.offset, 8111 + self.offset
        wait_for(lambda: get(self.port, "/healthz")[0] == 200, 30)
        self.start_s = time.monotonic() - began

    def processes(self) -> dict[str, int]:
        """Resident kB of `up` and everything below it but the agents, by command."""
        found = {}
        for pid in descendants(self.process.pid):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                if "cloudsched.agent" not in words:
                    name = words.split(" -m ")[-1][:30]
                    found[f"{pid} {name}"] = resident_kb(pid)
        return found

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=120)
        shutil.rmtree(self.dir, ignore_errors=True)


@contextlib.contextmanager
def bare_server(threads: int = 64) -> Iterator[int]:
    """The reference server; yields its port."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "bare.py").write_text(textwrap.dedent(BARE))
        port = free_port()
        process = subprocess.Popen([
            sys.executable, "-m", "gunicorn", "--chdir", folder, "-b", f"127.0.0.1:{port}", "-k", "gthread", "-w", "1",
            "--threads", str(threads), "--keep-alive", "75", "--log-level", "warning", "--no-control-socket", "bare:app"])
        try:
            wait_for(lambda: get(port, "/bare")[0] == 200, 20)
            yield port
        finally:
            process.terminate()
            process.wait()


def get(port: int, path: str) -> tuple[int, bytes]:
    """(status, body); (0, b"") when nobody answers."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return 0, b""


def wait_for(done, limit_s: float) -> None:
    until = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > until:
            raise SystemExit("not within the time limit")
        time.sleep(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def free_offset() -> int:
    while True:
        offset = free_port() - 8100
        with contextlib.suppress(OSError), contextlib.ExitStack() as held:
            if 1000 < offset < 50000:
                for port in (8080, 8081, 8082, 8088, 8090, 8100, 8111, 8112):
                    held.enter_context(socket.create_server(("127.0.0.1", port + offset)))
                return offset


def descendants(pid: int) -> list[int]:
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += descendants(int(child))
    return found


def resident_kb(pid: int) -> int:
    """Proportional set size where the kernel tells it (shared pages are counted once), else the resident set."""
    for name, key in ((f"/proc/{pid}/smaps_rollup", "Pss:"), (f"/proc/{pid}/status", "VmRSS:")):
        with contextlib.suppress(OSError):
            for line in Path(name).read_text().splitlines():
                if line.startswith(key):
                    return int(line.split()[1])
    return 0


def show(name: str, values: list[float], *, unit: str, reference: float | None = None) -> None:
    """One line: median, least and most, and the ratio to a reference measured in the same run."""
    median = statistics.median(values)
    ratio = f"   {median / reference:6.2f} x reference" if reference else ""
    print(f"{name:<52} {median:>10,.1f} {unit:<10} ({min(values):,.1f} .. {max(values):,.1f}){ratio}")


def as_json(port: int, path: str) -> dict:
    return json.loads(get(port, path)[1])
