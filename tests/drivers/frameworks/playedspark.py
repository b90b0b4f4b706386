"""What would Spark do here? A small stand-in for its master, worker and spark-submit, started by a script `spark-class`.

Run as a program: `playedspark.py CLASS WORDS...`. Workers hold a connection to their master while they live; the master shows
those it has, and the applications of drivers, under `/json/`. A driver runs its Python file with the same arguments.
"""

from __future__ import annotations

import json
import os
import runpy
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def settings(words: list[str]) -> dict[str, str]:
    with open(option(words, "--properties-file"), encoding="utf-8") as file:
        return dict(line.rstrip("\n").split("=", 1) for line in file)


class Master:
    known: ClassVar[dict[str, dict[int, dict[str, Any]]]] = {"worker": {}, "app": {}}
    count = 0

    @classmethod
    def hold(cls, link: socket.socket) -> None:
        file = link.makefile("rw")
        hello = json.loads(file.readline() or "{}")
        if not hello:
            return
        cls.count += 1
        number = cls.count
        cls.known[hello["what"]][number] = hello
        file.write(f"app-20260101000000-{number:04d}\n")
        file.flush()
        try:
            file.readline()
        except OSError:
            pass
        del cls.known[hello["what"]][number]

    @classmethod
    def told(cls, url: str) -> dict[str, Any]:
        return {"url": url, "status": "ALIVE",
                "workers": [{"port": one["port"], "state": "ALIVE"} for one in cls.known["worker"].values()],
                "activeapps": [{"id": f"app-20260101000000-{number:04d}", "state": one["state"]}
                               for number, one in cls.known["app"].items()],
                "cores": 2, "coresused": 0, "memory": 1024, "memoryused": 0}


def master(words: list[str]) -> None:
    url = f"spark://127.0.0.1:{option(words, '--port')}"
    listening = socket.create_server(("127.0.0.1", int(option(words, "--port"))))

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(Master.told(url)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    pages = ThreadingHTTPServer(("127.0.0.1", int(option(words, "--webui-port"))), Page)
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    while True:
        link, _ = listening.accept()
        threading.Thread(target=Master.hold, args=(link,), daemon=True).start()


def connected(url: str, hello: dict[str, Any]) -> tuple[socket.socket, str]:
    """A connection, and the id that the master gives to the other side."""
    host, _, port = url.removeprefix("spark://").partition(":")
    link = socket.create_connection((host, int(port)))
    link.sendall(json.dumps(hello).encode() + b"\n")
    return link, link.makefile().readline().strip()


def worker(words: list[str]) -> None:
    while True:  # a master that died comes back
        try:
            link, _ = connected(words[-1], {"what": "worker", "port": int(option(words, "--port"))})
            link.recv(1)
        except OSError:
            pass
        time.sleep(0.05)


def submit(words: list[str]) -> None:
    given = settings(words)
    state = given.get("spark.played.state", "RUNNING")
    link, name = connected(given["spark.master"].replace("\\", ""), {"what": "app", "state": state})
    sys.stderr.write(f"2026-01-01 INFO StandaloneSchedulerBackend: Connected to Spark cluster with app ID {name}\n")
    sys.stderr.flush()
    at = words.index("--properties-file") + 2
    if words[at : at + 1] == ["--class"]:
        at += 2
    sys.argv = words[at:]
    sys.path[0] = os.path.dirname(words[at])
    try:
        runpy.run_path(words[at], run_name="__main__")
    finally:
        link.close()


if __name__ == "__main__":
    {"Master": master, "Worker": worker, "SparkSubmit": submit}[sys.argv[1].rpartition(".")[2]](sys.argv[2:])
