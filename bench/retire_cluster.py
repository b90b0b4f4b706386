"""What do devices cost, and how fast are tasks through the Retire-Cluster API?

1. CPU time of the server's processes under simulated devices (1,000 and 10,000 at 10 s heartbeats), and heartbeats per second
at most; 2. from the submission of a task to its start on an idle device; 3. echo tasks in batches, end to end, beside no-op
jobs of the native API and plain SQL; 4. single submissions at 200 a second, beside a bare Flask route.
Usage: python bench/retire_cluster.py [cpu] [start] [tasks] [singles] [--seconds S]
"""

from __future__ import annotations

import http.client
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import common
from common import ROOT, Running, bare_server, descendants, show, wait_for
from throughput import end_to_end, plain_sql

RUNS, SAMPLES, TASKS, BATCH, RATE, RATE_S = 3, 200, 10_000, 100, 200, 10
SECONDS = 30.0
PORT = 8081 - 8100  # the retire_cluster listener, beside the native one
SETTINGS = common.SETTINGS + """
[retire_cluster]
rate_limit = false
heartbeat_interval_s = 10
"""
ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT)}
ECHO = {"task_type": "echo", "payload": {"a": 1}}
HEADERS = {"Content-Type": "application/json"}


def cpu_s(house: Running) -> float:
    """CPU seconds of `up`, `serve`, its workers and `engine` until now, without agents."""
    total = 0.0
    for pid in descendants(house.process.pid):
        try:
            if b"cloudsched.agent" in Path(f"/proc/{pid}/cmdline").read_bytes():
                continue
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def fleet(house: Running, count: int, *more: str) -> subprocess.Popen[str]:
    """Simulated devices, joined and beating."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cloudsched.testing.devicefleet", "--server", f"http://127.0.0.1:{house.port}",
         "--count", str(count), *more], env=ENVIRON, stdout=subprocess.PIPE, text=True)  # fmt: skip
    print("   " + process.stdout.readline().strip())
    return process


def shares(house: Running, count: int, seconds: float) -> None:
    """The share of one core that `count` devices cost."""
    process = fleet(house, count, "--heartbeat", "10", "--seconds", str(seconds + 14))
    time.sleep(12)
    before, began = cpu_s(house), time.monotonic()
    time.sleep(seconds)
    share = 100 * (cpu_s(house) - before) / (time.monotonic() - began)
    allowed = 30 if count <= 1000 else 100 * (os.cpu_count() or 1)
    load = os.getloadavg()[0]
    print(f"{f'{count} devices, a heartbeat every 10 s':<52} {share:>10.1f} % of one core (allowed: {allowed}); load {load:.1f}")
    print("   " + process.communicate()[0].strip().splitlines()[-1])


def cpu(seconds: float) -> None:
    house = Running(slots=2)
    try:
        before, began = cpu_s(house), time.monotonic()
        time.sleep(10)
        idle = 100 * (cpu_s(house) - before) / (time.monotonic() - began)
        print(f"{'reference: nobody there':<52} {idle:>10.1f} % of one core")
        shares(house, 1000, seconds)
        process = fleet(house, 1000, "--heartbeat", "0", "--in-flight", "256", "--seconds", "12")
        print(f"{'heartbeats as fast as they are answered':<52} " + process.communicate()[0].strip().splitlines()[-1])
        shares(house, 10_000, seconds)
    finally:
        house.stop()


def device(house: Running, name: str, slots: int) -> subprocess.Popen[bytes]:
    """A real agent as a device."""
    return subprocess.Popen(
        [sys.executable, "-m", "cloudsched", "agent", "--server", f"http://127.0.0.1:{house.port}", "--device-id", name,
         "--slots", str(slots), "--work-dir", str(house.dir / name)], env=ENVIRON, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)  # fmt: skip


def with_devices(count: int, slots: int, work: Callable[[Running], None]) -> None:
    house, agents = Running(slots=2), []
    try:
        agents = [device(house, f"device-{number}", slots) for number in range(count)]
        database = sqlite3.connect(house.dir / "state" / "cloudsched.db")
        wait_for(lambda: database.execute("SELECT count(*) FROM device").fetchone()[0] == count, 60)
        work(house)
    finally:
        for agent in agents:
            agent.terminate()
        for agent in agents:
            agent.wait()
        house.stop()


def post(connection: http.client.HTTPConnection, path: str, body: dict) -> dict:
    connection.request("POST", path, json.dumps(body), HEADERS)
    answer = connection.getresponse()
    raw = answer.read()
    if answer.status != 201:
        raise SystemExit(f"{path}: {answer.status} {raw[:500]!r}")
    return json.loads(raw)


def start(house: Running) -> None:
    """From the moment before the request to the start that the record has, one task at a time."""
    connection = http.client.HTTPConnection("127.0.0.1", house.port + PORT)
    database = sqlite3.connect(house.dir / "state" / "cloudsched.db")
    times = []
    for number in range(SAMPLES + 10):
        asked = time.time()
        post(connection, "/api/v1/tasks", {"task_type": "echo", "payload": {"number": number}})
        wait_for(lambda: database.execute("SELECT state FROM job ORDER BY id DESC LIMIT 1").fetchone()[0] == "succeeded", 30)
        times.append(1000 * (database.execute("SELECT started_at FROM job ORDER BY id DESC LIMIT 1").fetchone()[0] - asked))
        time.sleep(0.05)
    times = sorted(times[10:])  # the first ones import
    print(f"{f'submit to start on an idle device, {SAMPLES} tasks':<52} {statistics.median(times):>10.1f} ms p50 (allowed: 50), "
          f"{times[int(0.99 * len(times))]:.1f} ms p99; load {os.getloadavg()[0]:.1f}")


def tasks(house: Running) -> None:
    sql = [plain_sql() for _ in range(RUNS)]
    show("reference: plain SQL, batches of 100", sql, unit="jobs/s")
    noop = [end_to_end(house, {"kind": "noop"}, TASKS) for _ in range(RUNS)]
    show("no-op jobs through the native API, end to end", noop, unit="jobs/s", reference=statistics.median(sql))
    show("echo tasks in batches, end to end", [echoes(house) for _ in range(RUNS)], unit="tasks/s",
         reference=statistics.median(noop))
    print(f"   load {os.getloadavg()[0]:.1f}")


def echoes(house: Running) -> float:
    """Echo tasks per second from the first submission to the last recorded result."""
    connection = http.client.HTTPConnection("127.0.0.1", house.port + PORT)
    database = sqlite3.connect(house.dir / "state" / "cloudsched.db")
    began = time.monotonic()
    for _ in range(TASKS // BATCH):
        post(connection, "/api/v1/tasks/batch", {"tasks": [ECHO] * BATCH})
    wait_for(lambda: not database.execute(
        "SELECT 1 FROM job WHERE state IN ('queued', 'assigned', 'running') LIMIT 1").fetchone(), 600)
    return TASKS / (time.monotonic() - began)


def singles(house: Running) -> None:
    with bare_server() as port:
        told("reference: bare Flask POST at 200/s", paced(port, "/bare"))
    told("reference: held no-op jobs, native API, at 200/s", paced(house.port, "/api/v2/jobs", {"kind": "noop", "hold": True}))
    told("single submissions at 200/s (allowed: p99 50 ms)", paced(house.port + PORT, "/api/v1/tasks"))


def paced(port: int, path: str, body: dict = ECHO, connections: int = 16) -> list[float]:
    """Milliseconds of each of RATE requests a second, from the moment it was due."""
    times, began = [], time.monotonic() + 0.5

    def send(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for number in range(first, RATE * RATE_S, connections):
            due = began + number / RATE
            time.sleep(max(0.0, due - time.monotonic()))
            post(connection, path, body)
            times.append(1000 * (time.monotonic() - due))

    threads = [threading.Thread(target=send, args=(first,)) for first in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(times)


def told(name: str, times: list[float]) -> None:
    print(f"{name:<52} {statistics.median(times):>10.1f} ms p50, {times[int(0.99 * len(times))]:.1f} ms p99, "
          f"{times[-1]:.1f} ms at most; load {os.getloadavg()[0]:.1f}")


def main(words: list[str]) -> None:
    common.SETTINGS = SETTINGS
    seconds = float(words[words.index("--seconds") + 1]) if "--seconds" in words else SECONDS
    chosen = [word for word in words if word in ("cpu", "start", "tasks", "singles")] or ["cpu", "start", "tasks", "singles"]
    if "cpu" in chosen:
        cpu(seconds)
    if "start" in chosen:
        with_devices(1, 2, start)
    if "tasks" in chosen:
        with_devices(2, 64, tasks)
    if "singles" in chosen:
        with_devices(1, 64, singles)


if __name__ == "__main__":
    main(sys.argv[1:])
