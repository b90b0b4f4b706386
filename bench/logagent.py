"""How many lines a second does the log agent carry on one core, and what do 50 rotating files at 5,000 lines/s cost?

Beside it, in the same run, the reference: a loop that reads the same file line by line and appends it to another. Agent,
writer and receiver are processes of their own; CPU seconds are the agent's alone, so that what else runs does not count.
Usage: python bench/logagent.py [LINES] [SECONDS]
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, resident_kb, wait_for

LINE = ('{"level":"info","host":"node-%02d","request":%d,"path":"/api/v2/jobs?limit=100","status":200,"ms":%.2f,'
        '"user":"someone"}\n')
TICKS = os.sysconf("SC_CLK_TCK")


class Agent(contextlib.AbstractContextManager):
    def __init__(self, folder: Path) -> None:
        (folder / "agent.conf").write_text(json.dumps({"bind_host": "127.0.0.1:0"}))
        command = [sys.executable, "-m", "cloudsched.logagent", "--config", str(folder / "agent.conf"),
                   "--port-file", str(folder / "port"), "--log-level", "error"]
        self.process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
        wait_for((folder / "port").exists, 20)
        self.port = int((folder / "port").read_text())

    def call(self, method: str, path: str, body: object = None) -> object:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, "/document/logkit" + path, body=None if body is None else json.dumps(body))
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status != 200:
            raise SystemExit(text.decode())
        return json.loads(text)

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)


RECEIVER = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *args): pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


def reference(source: Path, target: Path) -> float:
    """Lines a second of CPU: read a line, write a line."""
    before = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    count = 0
    with source.open("rb") as lines, target.open("wb") as out:
        for line in lines:
            out.write(line)
            count += 1
        out.flush()
        os.fsync(out.fileno())
    return count / (sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - before)


def through(name: str, config: dict, lines: int, bare: float) -> None:
    """One file, already written, through a runner."""
    with tempfile.TemporaryDirectory(prefix="logagent-bench-") as text, Agent(Path(text)) as agent:
        cpu, began = agent.cpu_s(), time.monotonic()
        agent.call("POST", "/configs/r", config)
        wait_for(lambda: _done(agent, lines), 300)
        wall, used = time.monotonic() - began, agent.cpu_s() - cpu
        memory = resident_kb(agent.process.pid)
    print(f"{name:<24} {lines / used:>10,.0f} lines/s of one core  {lines / wall:>10,.0f} lines/s by the clock"
          f"  {memory / 1024:>5.0f} MB   {lines / used / bare:.3f} x reference")


def _done(agent: Agent, lines: int) -> bool:
    time.sleep(0.1)
    (stats,) = agent.call("GET", "/status")["r"]["senderStats"].values()
    return stats["success"] >= lines


def rotating(seconds: float, rate: int, files: int) -> None:
    """50 files at 5,000 lines/s in all, each renamed every 2,000 lines; the agent's share of one core."""
    with tempfile.TemporaryDirectory(prefix="logagent-bench-") as text, Agent(Path(text)) as agent:
        folder = Path(text)
        logs = folder / "logs"
        logs.mkdir()
        agent.call("POST", "/configs/r", {
            "batch_len": 1000, "batch_interval": 1, "parser": {"type": "raw"},
            "reader": {"mode": "tailx", "log_path": f"{logs}/*.log"},
            "senders": [{"sender_type": "file", "file_send_path": str(folder / "out")}]})
        written = 0
        handles = [_opened(logs, number) for number in range(files)]
        cpu, began = agent.cpu_s(), time.monotonic()
        while time.monotonic() - began < seconds:
            for number, handle in enumerate(handles):
                handle.write("".join(LINE % (number, written + n, 1.5) for n in range(10)).encode())
                written += 10
                if written // 10 % 200 == 0:
                    os.rename(logs / f"{number}.log", logs / f"{number}.log.{written}")
                    handle.close()
                    handles[number] = _opened(logs, number)
            time.sleep(max(0.0, began + written / rate - time.monotonic()))
        wait_for(lambda: _done(agent, written), 30)
        wall, used = time.monotonic() - began, agent.cpu_s() - cpu
        arrived = sum(len(json.loads(line)) for line in (folder / "out").open())
    print(f"{files} rotating files, {written / wall:,.0f} lines/s: {used / wall:.1%} of one core; {written:,} lines written, "
          f"{arrived:,} arrived")


def _opened(logs: Path, number: int) -> io.FileIO:
    return io.FileIO(logs / f"{number}.log", "ab")


def main() -> None:
    lines = int(sys.argv[1]) if len(sys.argv) > 1 else 500_000
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 10.0
    with tempfile.TemporaryDirectory(prefix="logagent-bench-") as text:
        source, target = Path(text, "a.log"), Path(text, "out")
        with source.open("w") as file:
            file.writelines(LINE % (n % 50, n, n / 7) for n in range(lines))
        receiver = subprocess.Popen([sys.executable, "-c", RECEIVER], stdout=subprocess.PIPE, text=True)
        assert receiver.stdout
        url = f"http://127.0.0.1:{int(receiver.stdout.readline())}/"
        bare = reference(source, target)
        print(f"{'bare read-write loop':<24} {bare:>10,.0f} lines/s of one core")
        reader = {"mode": "file", "log_path": str(source)}
        try:
            through("file -> raw -> file", {"batch_len": 5000, "batch_interval": 1, "reader": reader,
                    "senders": [{"sender_type": "file", "file_send_path": str(target)}]}, lines, bare)
            through("file -> json -> http", {"batch_len": 5000, "batch_interval": 1, "reader": reader, "parser": {"type": "json"},
                    "senders": [{"sender_type": "http", "http_sender_url": url}]}, lines, bare)
        finally:
            receiver.kill()
            receiver.wait()
    rotating(seconds, 5000, 50)


if __name__ == "__main__":
    main()
