"""What would Flink do here? A small stand-in for its job manager and task managers, started by a script `java`.

Run as a program: `playedflink.py MACHINE-WORDS... CLASS WORDS...`. A jar is a text file: its first word says what becomes of a
job: `FINISHED`, `FAILED`, `RUNNING` (until cancelled), `REFUSED` (the program fails) or `BUSY` (the job manager cannot yet).
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

STAMP = "2026-01-01 00:00:00.000 INFO  "


def configuration(words: list[str]) -> dict[str, str]:
    text = (Path(words[words.index("--configDir") + 1]) / "config.yaml").read_text(encoding="utf-8")
    return dict(json.loads(f"[{line.replace(': ', ', ', 1)}]") for line in text.splitlines())


class State:
    workers: ClassVar[set[str]] = set()
    jars: ClassVar[dict[str, str]] = {}
    jobs: ClassVar[dict[str, dict[str, Any]]] = {}


def said(job: str, text: str) -> None:
    sys.stderr.write(f"{STAMP}<{job}> Played: {text}\n")
    sys.stderr.flush()


class Rest(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.strip("/").split("/")
        if path == ["overview"]:
            running = sum(job["state"] == "RUNNING" for job in State.jobs.values())
            free = len(State.workers)
            return self.answer({"taskmanagers": free, "slots-total": free, "slots-available": free, "jobs-running": running})
        if path == ["taskmanagers"]:
            return self.answer({"taskmanagers": [{"id": one} for one in sorted(State.workers)]})
        if path == ["jars"]:
            return self.answer({"files": [{"id": key, "name": key.partition("_")[2]} for key in State.jars]})
        if path[0] == "jobs" and path[1] in State.jobs:
            job = State.jobs[path[1]]
            if path[2:] == ["exceptions"]:
                trace = "java.lang.RuntimeException: outer\n\tat x.Y\nCaused by: java.io.IOException: the inner cause\n\tat x.Z"
                entries = [{"stacktrace": trace}] if job["state"] == "FAILED" else []
                return self.answer({"exceptionHistory": {"entries": entries}})
            return self.answer(job)
        return self.answer({"errors": ["not found"]}, status=404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.strip("/").split("/")
        if path == ["jars", "upload"]:
            name = re.search(rb'filename="([^"]+)"', body)[1].decode()  # type: ignore[index]
            key = f"{len(State.jars) + 1:08d}_{name}"
            State.jars[key] = body.split(b"\r\n\r\n", 1)[1].split()[0].decode()
            return self.answer({"filename": f"/tmp/flink-web-upload/{key}", "status": "success"})
        return self.run(State.jars.get(path[1], ""), json.loads(body))

    def run(self, word: str, asked: dict[str, Any]) -> None:
        if word == "BUSY":
            return self.answer({"errors": ["the dispatcher is not there yet"]}, status=503)
        if word == "REFUSED":
            text = "RestHandlerException: Could not execute.\nCaused by: java.lang.IllegalArgumentException: usage: X\n"
            return self.answer({"errors": ["Internal server error.", text]}, status=400)
        job = asked["jobId"]
        if job in State.jobs:
            return self.answer({"errors": ["DuplicateJobSubmissionException"]}, status=500)
        said(job, f"run {json.dumps(asked, sort_keys=True)}")
        said("f" * 32, "another job's line")
        sys.stdout.write("printed by a task\n")
        sys.stdout.flush()
        State.jobs[job] = {"jid": job, "state": word, "start-time": 1000, "end-time": -1 if word == "RUNNING" else 2500,
                           "status-counts": {"RUNNING": 1}}
        return self.answer({"jobid": job})

    def do_PATCH(self) -> None:
        job = State.jobs[self.path.strip("/").split("/")[1].partition("?")[0]]
        job.update({"state": "CANCELED", "end-time": 3000})
        self.answer({}, status=202)

    def do_DELETE(self) -> None:
        State.jars.pop(self.path.strip("/").split("/")[1], None)
        self.answer({})

    def answer(self, body: dict[str, Any], status: int = 200) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


def hold(link: socket.socket) -> None:
    name = link.makefile().readline().strip()
    if not name:
        return
    State.workers.add(name)
    try:
        link.recv(1)
    except OSError:
        pass
    State.workers.discard(name)


def job_manager(words: list[str]) -> None:
    given = configuration(words)
    listening = socket.create_server((given["jobmanager.bind-host"], int(given["jobmanager.rpc.port"])))
    pages = ThreadingHTTPServer((given["rest.bind-address"], int(given["rest.port"])), Rest)
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    while True:
        link, _ = listening.accept()
        threading.Thread(target=hold, args=(link,), daemon=True).start()


def task_manager(words: list[str]) -> None:
    given = configuration(words)
    name = next(word.partition("=")[2] for word in words if word.startswith("taskmanager.resource-id="))
    while True:  # a job manager that died comes back
        try:
            link = socket.create_connection((given["jobmanager.rpc.address"], int(given["jobmanager.rpc.port"])))
            link.sendall(name.encode() + b"\n")
            link.recv(1)
        except OSError:
            pass
        time.sleep(0.05)


if __name__ == "__main__":
    at = next(number for number, word in enumerate(sys.argv) if word.startswith("org.apache.flink."))
    {"StandaloneSessionClusterEntrypoint": job_manager, "TaskManagerRunner": task_manager}[
        sys.argv[at].rpartition(".")[2]](sys.argv[at + 1 :])
