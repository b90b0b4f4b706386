"""How many jobs per second, end to end? No-op and spawning jobs in batches of 100, and single submissions.

Beside it, in the same run: a bare Flask route under the same gunicorn, bare process creation, and rows written by plain SQL.
Usage: python bench/throughput.py [JOBS]
"""

from __future__ import annotations

import http.client
import json
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

from common import Running, bare_server, show, wait_for

RUNS = 3


def submit(port: int, job: dict, count: int, *, batch: int = 100, path: str = "/api/v2/jobs") -> None:
    body = json.dumps({"jobs": [job] * batch} if batch > 1 else job)
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for _ in range(count // batch):
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 201:
            raise SystemExit(answer.read().decode())
        answer.read()


def end_to_end(house: Running, job: dict, count: int) -> float:
    """Jobs per second from the first submission to the last recorded result."""
    database = sqlite3.connect(house.dir / "state" / "cloudsched.db")
    began = time.monotonic()
    submit(house.port, job, count)
    wait_for(lambda: not database.execute(
        "SELECT 1 FROM job WHERE state IN ('queued', 'assigned', 'running') LIMIT 1").fetchone(), 600)
    took = time.monotonic() - began
    failed = database.execute("SELECT count(*) FROM job WHERE state <> 'succeeded'").fetchone()[0]
    if failed:
        raise SystemExit(f"{failed} jobs did not succeed")
    return count / took


def singles(port: int, count: int, *, connections: int = 16, path: str = "/api/v2/jobs") -> float:
    """Single submissions per second over several connections."""
    job = {"kind": "noop", "hold": True} if path != "/bare" else {"kind": "noop"}
    threads = [threading.Thread(target=submit, args=(port, job, count // connections), kwargs={"batch": 1, "path": path})
               for _ in range(connections)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count / (time.monotonic() - began)


def plain_sql(count: int = 20_000) -> float:
    """The reference below everything: insert, claim and finish rows of the same width with plain SQL, batches of 100."""
    with tempfile.TemporaryDirectory() as folder:
        database = sqlite3.connect(f"{folder}/x.db", isolation_level=None)
        database.executescript("PRAGMA journal_mode=wal; PRAGMA synchronous=full;"
                               "CREATE TABLE job (id INTEGER PRIMARY KEY, state TEXT, spec TEXT, node INTEGER, at REAL);"
                               "CREATE INDEX q ON job (state, id)")
        began = time.monotonic()
        for _ in range(count // 100):
            database.execute("BEGIN IMMEDIATE")
            database.executemany("INSERT INTO job (state, spec) VALUES ('queued', ?)", [("x" * 100,)] * 100)
            database.execute("COMMIT")
        for _ in range(count // 100):
            database.execute("BEGIN IMMEDIATE")
            ids = database.execute("UPDATE job SET state = 'running' WHERE id IN (SELECT id FROM job WHERE state = 'queued' "
                                   "LIMIT 100) RETURNING id").fetchall()
            database.execute("COMMIT")
            database.execute("BEGIN IMMEDIATE")
            database.executemany("UPDATE job SET state = 'done', at = 1.0 WHERE id = ?", ids)
            database.execute("COMMIT")
        return count / (time.monotonic() - began)


SPAWNER = """
import os, sys
for _ in range(int(sys.argv[1])):
    os.waitpid(os.posix_spawn("/bin/true", ["/bin/true"], {}, setsid=True), 0)
"""


def bare_spawns(count: int = 800, processes: int = 2) -> float:
    """The reference of the spawning jobs: that many processes a second started and reaped by bare loops on both cores."""
    began = time.monotonic()
    loops = [subprocess.Popen([sys.executable, "-c", SPAWNER, str(count)]) for _ in range(processes)]
    for one in loops:
        one.wait()
    return processes * count / (time.monotonic() - began)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    sql = [plain_sql() for _ in range(RUNS)]
    show("reference: plain SQL, batches of 100", sql, unit="jobs/s")
    with bare_server() as port:
        bare = [singles(port, 4000, path="/bare") for _ in range(RUNS)]
    spawns = [bare_spawns() for _ in range(RUNS)]
    show("reference: bare posix_spawn of /bin/true, 2 loops", spawns, unit="per s")
    show("reference: bare Flask POST, 16 connections", bare, unit="req/s")
    house = Running(slots=4)  # as many machines as the main job has; they share the cores
    try:
        end_to_end(house, {"kind": "noop"}, 2000)
        end_to_end(house, {"command": ["/bin/true"]}, 2000)  # until all of them are up
        time.sleep(5)  # and what is made in the background is there
        show("no-op jobs, end to end", [end_to_end(house, {"kind": "noop"}, count) for _ in range(RUNS)], unit="jobs/s",
             reference=sorted(sql)[RUNS // 2])
        show("jobs with one /bin/true each, end to end",
             [end_to_end(house, {"command": ["/bin/true"]}, count // 4) for _ in range(RUNS)], unit="jobs/s",
             reference=sorted(spawns)[RUNS // 2])
        show("single submissions, 16 connections", [singles(house.port, 4000) for _ in range(RUNS)], unit="req/s",
             reference=sorted(bare)[RUNS // 2])
    finally:
        house.stop()


if __name__ == "__main__":
    main()
