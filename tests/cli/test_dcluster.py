"""Do `cloudsched spark|flink` and `cloudsched hooks` ask what is meant, and say what was answered?"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from cloudsched.cli import dcluster, hooks
from cloudsched.cli.main import main

from .conftest import Said

T0 = "2026-01-02T03:04:05.000Z"
HOOK = {"id": 1, "name": "chat", "url": "https://x/***", "kinds": ["job."], "enabled": True, "position": 7, "failures": 0,
        "last_ok_at": T0, "last_error": None, "retry_at": None, "pending": 1, "delivered": 2, "dead": 3, "created_by": "local",
        "created_at": T0}
DELIVERY = {"id": 4, "event_id": 9, "kind": "webhook.test", "state": "delivered", "attempts": 1, "status": 204, "error": None,
            "took_s": 0.25, "created_at": T0, "tried_at": T0, "ended_at": T0}
JOB = {"jobId": 3, "jobStatus": "SUCCEEDED", "jobType": "spark", "client": "me", "module": "spark-pi", "clusterName": "c-1",
       "exitCode": 0, "reason": None, "created": T0, "ended": T0, "log": ["pi is about 3.14"]}


class Server:
    """Answers by (method, path) from a table; what was asked is kept."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.answers: dict[tuple[str, str], Any] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.asked.append((self.command, self.path, json.loads(body) if body else None))
                key = (self.command, unquote(urlsplit(self.path).path))
                found = outer.answers.get(key, (404, {"error": f"there is nothing at {self.path}", "title": "Not Found"}))
                found = found.pop(0) if isinstance(found, list) and found and isinstance(found[0], tuple) else found
                status, value = found if isinstance(found, tuple) else (200, found)
                raw = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain" if isinstance(value, bytes) else "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = do_DELETE = do_PUT = answer

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    made = Server()
    monkeypatch.setenv("CLOUDSCHED_STATE", str(tmp_path / "no-state"))
    monkeypatch.setenv("CLOUDSCHED_SERVER_URL", f"http://127.0.0.1:{made.http.server_address[1]}")
    monkeypatch.setenv("LOGNAME", "tess")
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setattr(dcluster, "POLL_S", 0.0)
    monkeypatch.setattr(hooks, "POLL_S", 0.0)
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def run(server: Server, capfdbinary: pytest.CaptureFixture[bytes]) -> Any:
    def run(*words: str) -> Said:
        status = main(words)
        out, err = capfdbinary.readouterr()
        return Said(status, out.decode(), err.decode())

    return run


def test_launch_asks_what_was_said_and_nothing_else(server: Server, run: Any) -> None:
    server.answers["POST", "/cluster/v2/launch/spark/cluster"] = 12
    assert run("spark", "launch").out == "12\n"
    assert server.asked[-1][2] == {"tenant": "tess", "type": "spark3"}
    run("spark", "launch", "--tenant", "t", "--workers", "2", "--worker-cpu", "500m", "--worker-memory", "1Gi", "--new-node",
        "--suffix", "x", "--conf", "spark.a=1", "--conf", "spark.b=c", "--field", "idleLimitSeconds=60")
    assert server.asked[-1][2] == {"tenant": "t", "type": "spark3", "workers": 2, "workerCpu": "500m", "workerMemory": "1Gi",
                                   "launchNewNode": True, "clusterSuffix": "x", "idleLimitSeconds": "60",
                                   "extraConfigs": '{"spark.a": "1", "spark.b": "c"}'}
    server.answers["POST", "/cluster/launch/flink/cluster"] = 13
    server.answers["GET", "/cluster/status/cluster/13"] = [(200, "PENDING"), (200, "LAUNCHING"), (200, "RUNNING")]
    assert run("flink", "launch", "--wait").out == "13 RUNNING\n"
    server.answers["GET", "/cluster/status/cluster/13"] = "FAILED"
    server.answers["GET", "/api/v2/clusters/13"] = {"id": 13, "reason": "it asks for 7 cores"}
    failed = run("flink", "launch", "--wait")
    assert failed.status == 1 and "cluster 13 is FAILED: it asks for 7 cores" in failed.err


def test_status_and_terminate(server: Server, run: Any) -> None:
    server.answers |= {
        ("GET", "/cluster/status/spark/cluster/12"): "RUNNING", ("GET", "/cluster/status/cluster/name/c-1"): "PENDING",
        ("DELETE", "/cluster/terminate/spark/12"): "TERMINATING", ("GET", "/cluster/terminate/flink/13"): "TERMINATED"}
    assert run("spark", "status", "12", "c-1").out == "12: RUNNING\nc-1: PENDING\n"
    assert run("spark", "terminate", "12").out == "12: TERMINATING\n"
    assert run("flink", "terminate", "13", "--json").json == {"id": "13", "status": "TERMINATED"}
    gone = run("flink", "status", "99", "13")
    assert gone.status == 4 and "99: there is nothing at /cluster/status/cluster/99" in gone.err


def test_terminate_takes_names_of_its_own_kind(server: Server, run: Any) -> None:
    server.answers |= {
        ("GET", "/api/v2/clusters/c-1"): {"id": 12, "kind": "spark"}, ("DELETE", "/cluster/terminate/spark/12"): "TERMINATING",
        ("GET", "/api/v2/clusters/f 1"): {"id": 13, "kind": "flink"}, ("GET", "/cluster/terminate/flink/13"): "TERMINATED"}
    assert run("spark", "terminate", "c-1").out == "c-1: TERMINATING\n"
    assert run("flink", "terminate", "f 1").out == "f 1: TERMINATED\n"
    other = run("spark", "terminate", "f 1", "c-1")
    assert (other.status, other.out) == (4, "c-1: TERMINATING\n") and "it is a flink cluster, not one of spark" in other.err
    gone = run("spark", "terminate", "no-such")
    assert gone.status == 4 and "no-such" in gone.err
    assert not any("no-such" in path for method, path, _ in server.asked if method == "DELETE")


def test_list_is_the_native_list(server: Server, run: Any) -> None:
    server.answers["GET", "/api/v2/clusters"] = {"next": None, "items": [{
        "id": 1, "key": "spark-1", "state": "running", "org": "t", "workers_ready": 1, "workers_wanted": 2, "address": "spark://x",
        "web_url": "http://x", "created_at": T0}]}
    said = run("spark", "list", "--of-state", "running", "--tenant", "t")
    assert said.lines[1].split("\t") == ["1", "spark-1", "running", "t", "1/2", "spark://x", "http://x", "2026-01-02 03:04:05"]
    assert server.asked[-1][1] == "/api/v2/clusters?kind=spark&state=running&org=t&limit=1000"


def test_submit_and_wait(server: Server, run: Any) -> None:
    server.answers |= {
        ("POST", "/cluster/job/submit"): {"jobId": 3, "jobStatus": "SUBMITTED", "clusterName": "c", "message": "m"},
        ("GET", "/cluster/job/status/3"): [(200, "SUBMITTED"), (200, "RUNNING"), (200, "SUCCEEDED")],
        ("GET", "/cluster/job/info/3"): JOB}
    assert run("spark", "submit", "spark-pi").out == "3\n"
    assert server.asked[-1][2] == {"client": "tess", "module": "spark-pi", "moduleType": "spark", "jobType": "spark"}
    said = run("spark", "submit", "spark-pi", "--config", "1000", "--cluster", "c", "--driver-memory", "1", "--email", "a@b.c",
               "--keep-alive", "--wait")
    assert (said.status, said.out) == (0, "pi is about 3.14\n")
    body = next(asked[2] for asked in reversed(server.asked) if asked[0] == "POST")
    assert {"pipelineConfig": "1000", "clusterName": "c", "driverMemGb": "1", "emailRecipients": "a@b.c",
            "keepAlive": True}.items() <= body.items()
    server.answers["GET", "/cluster/job/status/3"] = "FAILED"
    server.answers["GET", "/cluster/job/info/3"] = {**JOB, "jobStatus": "FAILED", "reason": "exit code 3"}
    said = run("spark", "submit", "spark-pi", "--wait")
    assert said.status == 1 and "job 3: FAILED (exit code 3)" in said.err
    assert run("spark", "submit", "x", "--cluster", "a", "--external").status == 2


def test_jobs_info_kill_logs_check_monitor(server: Server, run: Any) -> None:
    server.answers |= {
        ("GET", "/cluster/job/list"): [JOB], ("GET", "/cluster/job/info/3"): JOB,
        ("POST", "/cluster/job/terminate/3"): "TERMINATING", ("GET", "/api/v2/jobs/3/output"): b"a log\n",
        ("GET", "/cluster/cluster/check"): "Clusters: 0 running.",
        ("PUT", "/api/v2/alerts/clients/a b"): {"client": "a b", "on": False},
        ("GET", "/api/v2/alerts/clients/a b"): {"client": "a b", "on": True}}
    assert [line.split("\t")[0] for line in run("spark", "jobs", "--status", "succeeded").lines] == ["ID", "3"]
    assert server.asked[-1][1] == "/cluster/job/list?jobType=spark&limit=100&status=succeeded"
    run("flink", "jobs", "--limit", "2")
    assert server.asked[-1][1] == "/cluster/job/list?jobType=flink&limit=2"
    assert "pi is about" in run("spark", "info", "3").out and run("spark", "info", "3", "--json").json == JOB
    assert run("spark", "kill", "3").out == "3: TERMINATING\n"
    assert run("spark", "logs", "3").out == "a log\n"
    assert run("spark", "check").out == "Clusters: 0 running.\n"
    assert run("spark", "monitor", "a b").out == "a b: on\n"
    assert run("spark", "monitor", "a b", "off").out == "a b: off\n"
    assert server.asked[-1] == ("PUT", "/api/v2/alerts/clients/a%20b", {"on": False})


def test_refusals_are_said_in_the_servers_words(server: Server, run: Any) -> None:
    error = {"error": "workers: -1 is out of range (allowed: 1 to 1000)", "timestamp": T0, "path": "/x"}
    server.answers["POST", "/cluster/v2/launch/spark/cluster"] = (400, error)
    said = run("spark", "launch")
    assert said.status == 1 and said.err == f"cloudsched: {error['error']}\n"
    server.answers["POST", "/cluster/v2/launch/spark/cluster"] = (502, b"<html>no</html>")
    assert run("spark", "launch").status == 1


def test_a_server_that_is_away(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDSCHED_SERVER_URL", "http://127.0.0.1:1")
    said = run("spark", "launch")
    assert said.status == 3 and "no answer from http://127.0.0.1:1" in said.err


def test_hooks(server: Server, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page = {"next": None}
    server.answers |= {
        ("POST", "/api/v2/webhooks"): (201, {**HOOK, "secret": "s3"}), ("GET", "/api/v2/webhooks"): {**page, "items": [HOOK]},
        ("GET", "/api/v2/webhooks/chat"): HOOK, ("DELETE", "/api/v2/webhooks/chat"): (204, b""),
        ("POST", "/api/v2/webhooks/chat/disable"): HOOK, ("POST", "/api/v2/webhooks/chat/enable"): HOOK,
        ("POST", "/api/v2/webhooks/chat/retry"): {"retried": 3}, ("POST", "/api/v2/webhooks/chat/test"): (202, {**DELIVERY}),
        ("GET", "/api/v2/webhooks/chat/deliveries"): {**page, "items": [DELIVERY]}}
    monkeypatch.setenv("HOOK_SECRET", "from the environment")
    said = run("hooks", "add", "chat", "https://x/hook", "--kind", "job.", "--since", "0", "--secret-env", "HOOK_SECRET")
    assert said.lines[1] == "s3"
    assert server.asked[-1][2] == {"name": "chat", "url": "https://x/hook", "kinds": ["job."], "since": 0,
                                   "secret": "from the environment"}
    assert run("hooks", "list").lines[1].split("\t")[:7] == ["chat", "on", "https://x/***", "job.", "1", "2", "3"]
    assert "position\t7" in run("hooks", "show", "chat").out
    assert run("hooks", "disable", "chat").out == "chat: disabled\n" and run("hooks", "enable", "chat").out == "chat: enabled\n"
    assert run("hooks", "retry", "chat").out == "chat: 3 deliveries begin anew\n"
    assert run("hooks", "deliveries", "chat", "--of-state", "delivered").lines[1].split("\t")[:6] == [
        "4", "9", "webhook.test", "delivered", "1", "204"]
    assert run("hooks", "test", "chat").out == "chat: delivered (status 204, 0.25s)\n"
    assert run("hooks", "remove", "chat", "--yes").out == "chat: removed\n"
    assert run("hooks", "add", "x", "https://x", "--secret-env", "NOT_THERE").status == 2


def test_a_hook_that_does_not_answer(server: Server, run: Any) -> None:
    failed = {**DELIVERY, "state": "pending", "status": None, "error": "no answer: Connection refused"}
    server.answers |= {("POST", "/api/v2/webhooks/chat/test"): (202, failed),
                       ("GET", "/api/v2/webhooks/chat/deliveries"): {"next": None, "items": [failed]}}
    said = run("hooks", "test", "chat")
    assert said.status == 1 and "chat: no answer: Connection refused" in said.err
