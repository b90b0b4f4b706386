"""`retire_cluster_client` against a server that plays a script: errors, repeats that do no harm, streams that go on."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

import retire_cluster_client as library
from cloudsched.cli.retire_cluster import retire_cluster_main
from retire_cluster_client import ClusterClient, ClusterError, transport


class Script:
    """What the server does, one step for each request; the last is repeated. `asked`: what came."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.url = ""

    def ok(self, data: Any = None) -> None:
        self.steps.append((200, {}, {"status": "success", "data": {} if data is None else data}))

    def error(self, status: int, code: str, *, headers: dict[str, str] | None = None, **details: Any) -> None:
        body = {"status": "error", "error": {"code": code, "message": f"it is {code}", "details": details}, "error_code": code,
                "message": f"it is {code}", "data": None, "request_id": "r-1"}
        self.steps.append((status, headers or {}, body))

    @property
    def lines(self) -> list[str]:
        return [f"{method} {path}" for method, path, _, _ in self.asked]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    script: Script

    def log_message(self, *_: Any) -> None:
        pass

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        script = self.script
        headers = {name.lower(): value for name, value in self.headers.items()}
        script.asked.append((self.command, self.path, headers, json.loads(raw) if raw else None))
        step = script.steps.pop(0) if len(script.steps) > 1 else script.steps[0]
        if step == "cut":
            self.close_connection = True
            return
        if isinstance(step, list):
            self._stream(step)
            return
        status, more, body = step
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(text)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_DELETE = _serve

    def _stream(self, pieces: list[bytes]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(piece)
        self.close_connection = True


@pytest.fixture
def script() -> Iterator[Script]:
    made = Script()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"script": made}))
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses are noted, not made."""
    found: list[float] = []
    monkeypatch.setattr(transport.time, "sleep", found.append)
    return found


@pytest.fixture
def client(script: Script, waits: list[float]) -> Iterator[ClusterClient]:
    with ClusterClient(script.url, api_key="the-key") as made:
        yield made


# what is asked


def test_every_call_and_what_it_returns(client: ClusterClient, script: Script) -> None:
    def told(data: Any, call: Callable[[], Any]) -> tuple[str, Any, Any]:
        script.steps.clear()
        script.ok(data)
        found = call()
        method, path, headers, body = script.asked[-1]
        assert headers["x-api-key"] == "the-key" and headers["accept"].startswith("application/json")
        return f"{method} {path.removeprefix('/api/v1')}", body, found

    c = client
    assert told({"devices": [{"id": "a"}]}, lambda: c.devices.list(status="online", limit=5)) == (
        "GET /devices?view=document&status=online&limit=5", None, [{"id": "a"}])
    assert told({"device": {"id": "a/b"}}, lambda: c.devices.get("a/b")) == ("GET /devices/a%2Fb", None, {"id": "a/b"})
    assert told({"is_online": True}, lambda: c.devices.status("a"))[0] == "GET /devices/a/status"
    assert told({"total_devices": 1}, c.devices.summary)[2] == {"total_devices": 1}
    assert told({"ping_results": {"reachable": True}}, lambda: c.devices.ping("a", count=2)) == (
        "POST /devices/a/ping", {"count": 2}, {"reachable": True})
    assert told({"removed_device": "a"}, lambda: c.devices.remove("a", force=True))[0] == "DELETE /devices/a?force=true"
    assert told({"task_id": "t"}, lambda: c.tasks.submit("echo", {"message": "Hello"})) == (
        "POST /tasks", {"task_type": "echo", "payload": {"message": "Hello"}}, "t")
    body = {"task_type": "sleep", "payload": {}, "priority": "high", "device_id": "a", "requirements": {"min_cpu_cores": 2},
            "timeout": 5, "metadata": {"m": 1}}
    assert told({"task_id": "t"}, lambda: c.tasks.submit(
        "sleep", priority="high", device_id="a", requirements={"min_cpu_cores": 2}, timeout=5, metadata={"m": 1}))[1] == body
    several = [{"task_type": "echo", "payload": {}}, {"task_type": "sleep", "payload": {"duration": 1}}]
    assert told({"task_ids": ["t1", "t2"], "count": 2, "submitted_at": "x"}, lambda: c.tasks.submit_many(several)) == (
        "POST /tasks/batch", {"tasks": several}, ["t1", "t2"])
    assert told({"tasks": [{"task_id": "t"}]}, lambda: c.tasks.list("failed", device_id="a", task_type="echo", since=5)) == (
        "GET /tasks?view=document&status=failed&device_id=a&task_type=echo&since=5", None, [{"task_id": "t"}])
    assert told({"task": {"task_id": "t"}}, lambda: c.tasks.get("t")) == ("GET /tasks/t", None, {"task_id": "t"})
    assert told({"status": "success"}, lambda: c.tasks.result("t"))[0] == "GET /tasks/t/result"
    assert told({"cancelled_task": "t"}, lambda: c.tasks.cancel("t"))[0] == "DELETE /tasks/t"
    assert told({"new_task_id": "n"}, lambda: c.tasks.retry("t", priority="low")) == (
        "POST /tasks/t/retry", {"priority": "low"}, "n")
    assert told({"supported_types": []}, c.tasks.types)[0] == "GET /tasks/types"
    assert told({"queue_stats": {}}, c.tasks.statistics)[0] == "GET /tasks/statistics"
    assert told({"cluster_stats": {}}, c.cluster.status)[0] == "GET /cluster/status"
    assert told({"metrics": {}}, lambda: c.cluster.metrics("24h", "cpu"))[0] == "GET /cluster/metrics?period=24h&type=cpu"
    assert told({"logs": [1]}, lambda: c.logs.list("error", limit=3)) == ("GET /logs?level=error&limit=3", None, [1])
    assert told({"config": {"server": {}}}, c.config.get)[2] == {"server": {}}
    changes = {"cluster": {"heartbeat_interval": 30}}
    assert told({"updated_fields": []}, lambda: c.config.update(changes))[:2] == ("PUT /config", changes)
    assert told({"task_stats": {"a": 1}}, lambda: c.stats.tasks("7d", "hour"))[0] == "GET /stats/tasks?period=7d&group_by=hour"
    assert told({"device_stats": {"b": 1}}, c.stats.devices)[2] == {"b": 1}


@pytest.mark.parametrize("suffix", ["", "/", "/api/v1", "/api/v1/"])
def test_a_base_url_with_or_without_the_version(script: Script, suffix: str) -> None:
    script.ok({"supported_types": ["echo"]})
    script.steps.append((200, {}, {"status": "healthy"}))
    with ClusterClient(script.url + suffix) as client:
        assert client.tasks.types() == {"supported_types": ["echo"]}
        assert client.health() == {"status": "healthy"}
    assert script.lines == ["GET /api/v1/tasks/types", "GET /health"]
    assert "x-api-key" not in script.asked[0][2]


@pytest.mark.parametrize("text", ["localhost:8081", "ftp://x", "", "http://"])
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        ClusterClient(text)


# errors


@pytest.mark.parametrize(("status", "code", "kind"), [
    (404, "DEVICE_NOT_FOUND", library.DeviceNotFoundError), (404, "TASK_NOT_FOUND", library.TaskNotFoundError),
    (400, "INVALID_TASK_TYPE", library.InvalidTaskTypeError), (400, "DEVICE_OFFLINE", library.DeviceOfflineError),
    (400, "INSUFFICIENT_RESOURCES", library.InsufficientResourcesError),
    (401, "AUTHENTICATION_REQUIRED", library.AuthenticationRequiredError),
    (403, "PERMISSION_DENIED", library.PermissionDeniedError),
    (429, "RATE_LIMIT_EXCEEDED", library.RateLimitExceededError), (500, "INTERNAL_ERROR", library.InternalError),
    (409, "DEVICE_BUSY", ClusterError),
])  # fmt: skip
def test_each_code_has_its_class(script: Script, waits: list[float], status: int, code: str, kind: type[ClusterError]) -> None:
    script.error(status, code, device_id="a")
    with ClusterClient(script.url, retries=0) as client, pytest.raises(ClusterError) as caught:
        client.devices.get("a")
    error = caught.value
    assert type(error) is kind and isinstance(error, ClusterError)
    assert (error.code, error.http_status, error.details, error.request_id) == (code, status, {"device_id": "a"}, "r-1")
    assert error.message == str(error) == f"it is {code}" and len(script.asked) == 1 and not waits


def test_answers_of_another_server(client: ClusterClient, script: Script) -> None:
    script.steps = [(404, {"Content-Type": "text/html", "X-Request-ID": "h-1"}, b"<h1>Not here</h1>")]
    with pytest.raises(ClusterError) as caught:
        client.devices.list()
    assert (caught.value.code, caught.value.http_status, caught.value.request_id) == ("HTTP_404", 404, "h-1")
    script.steps = [(302, {"Location": "http://elsewhere.invalid/"}, b"")]
    with pytest.raises(ClusterError, match=r".") as caught:
        client.devices.list()  # the key must not go elsewhere
    assert caught.value.http_status == 302
    script.steps = [(200, {}, b"[1, 2]")]
    with pytest.raises(ClusterError, match="does not answer like"):
        client.devices.list()


def test_an_unhealthy_cluster_is_an_answer(client: ClusterClient, script: Script, waits: list[float]) -> None:
    script.steps = [(503, {}, {"status": "success", "data": {"overall_health": "unhealthy"}})]
    assert client.cluster.health() == {"overall_health": "unhealthy"} and not waits


# repeats


def test_too_many_requests_waits_as_long_as_it_is_told(client: ClusterClient, script: Script, waits: list[float]) -> None:
    script.error(429, "RATE_LIMIT_EXCEEDED", headers={"Retry-After": "7"})
    script.error(429, "RATE_LIMIT_EXCEEDED", headers={"Retry-After": "2"})
    script.ok({"task_id": "t"})
    assert client.tasks.submit("echo", {}) == "t"  # it was refused, so a repeat does no harm
    assert waits == [7.0, 2.0] and len(script.asked) == 3


def test_patience_has_an_end(script: Script, waits: list[float]) -> None:
    script.error(429, "RATE_LIMIT_EXCEEDED", headers={"Retry-After": "600"})
    with ClusterClient(script.url, patience=60) as client, pytest.raises(library.RateLimitExceededError) as caught:
        client.tasks.submit("echo", {})
    assert caught.value.retry_after_s == 600 and waits == [] and len(script.asked) == 1


def test_reads_are_repeated_over_broken_connections(client: ClusterClient, script: Script, waits: list[float]) -> None:
    script.steps = ["cut", (502, {}, b"bad gateway")]
    script.error(503, "UNAVAILABLE")
    script.ok({"supported_types": []})
    assert client.tasks.types() == {"supported_types": []}
    assert len(script.asked) == 4 and len(waits) == 3 and all(wait > 0 for wait in waits)


def test_reads_give_up_at_last(script: Script, waits: list[float]) -> None:
    script.steps = ["cut"]
    with ClusterClient(script.url, retries=2) as client, pytest.raises(library.ConnectionFailedError):
        client.tasks.types()
    assert len(script.asked) == 3


@pytest.mark.parametrize("step", ["cut", (502, {}, b""), (503, {}, b""), (500, {}, b"")])
def test_a_change_that_may_have_happened_is_not_repeated(client: ClusterClient, script: Script, waits: list[float],
                                                         step: Any) -> None:
    script.steps = [step]
    for call in (lambda: client.tasks.submit("echo", {}), lambda: client.tasks.retry("t"), lambda: client.devices.remove("a"),
                 lambda: client.config.update({})):
        with pytest.raises(ClusterError):
            call()
    assert len(script.asked) == 4 and not waits


def test_a_change_on_a_kept_connection_that_the_server_closed_is_not_lost(client: ClusterClient, script: Script) -> None:
    script.ok({"supported_types": []})
    client.tasks.types()
    script.steps = ["cut"]
    with pytest.raises(library.ConnectionFailedError, match="broke"):
        client.tasks.submit("echo", {})
    script.steps.clear()
    script.ok({"task_id": "t"})
    assert client.tasks.submit("echo", {}) == "t"


def test_a_change_that_was_never_sent_is_repeated(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens; before the second try somebody does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script.ok({"task_id": "t"})
    waits: list[float] = []
    servers: list[ThreadingHTTPServer] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            servers.append(ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"script": script})))
            threading.Thread(target=servers[0].serve_forever, args=(0.01,), daemon=True).start()

    monkeypatch.setattr(transport.time, "sleep", sleep)
    with ClusterClient(f"http://127.0.0.1:{port}") as client:
        assert client.tasks.submit("echo", {}) == "t"
    servers[0].shutdown()
    servers[0].server_close()
    assert len(waits) == 2 and len(script.asked) == 1


def test_nobody_there_and_no_answer(waits: list[float]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        with ClusterClient(f"http://127.0.0.1:{port}", retries=1) as client, \
                pytest.raises(library.ConnectionFailedError, match="cannot be reached") as caught:
            client.tasks.submit("echo", {})
        assert caught.value.code == "CONNECTION_FAILED" and len(waits) == 1
        silent.listen()
        with ClusterClient(f"http://127.0.0.1:{port}", retries=0, timeout=0.1) as client, \
                pytest.raises(library.RequestTimeoutError, match="within"):
            client.tasks.submit("echo", {})


# waiting


def test_wait_until_it_has_ended(client: ClusterClient, script: Script, waits: list[float]) -> None:
    for ended in (False, False, True):
        script.ok({"is_terminal": ended})
    script.ok({"task": {"task_id": "t", "status": "completed"}})
    assert client.tasks.wait("t")["status"] == "completed" and len(waits) == 2


def test_wait_gives_up(client: ClusterClient, script: Script, waits: list[float]) -> None:
    script.ok({"is_terminal": False})
    with pytest.raises(library.TaskWaitTimeoutError) as caught:
        client.tasks.wait("t", timeout=0)
    assert caught.value.code == "TIMEOUT" and caught.value.details == {"task_id": "t"}


# streams


def test_a_stream_goes_on_where_it_was_cut(client: ClusterClient, script: Script, waits: list[float]) -> None:
    script.steps = [
        [b": hello\nretry: 2000\n\n", b'id: 4\ndata: {"type": "task_submitted", "n": 1}\n\n',
         b'id: 5\ndata: {"type": "task_comp', b'leted", "n": 2}\n\n', b": keep-alive\n\n", b'id: 6\ndata: {"type": "half'],
        "cut",
        (503, {"Retry-After": "3"}, b""),
        [b'id: 7\r\ndata: {"type": "log_entry",\r\ndata: "n": 3}\r\n\r\n', b"data: no json\n\n",
         b'id: 8\ndata: {"n": 4, "id": "own"}\n\n'],
    ]
    stream = client.monitor.stream(["tasks", "logs"], device_id="a b")
    found = [next(stream) for _ in range(4)]
    assert [event["n"] for event in found] == [1, 2, 3, 4] and [event["id"] for event in found] == ["4", "5", "7", "own"]
    stream.close()
    assert len(script.asked) == 4 and 3.0 in waits
    assert parse_qs(urlsplit(script.asked[0][1]).query) == {"types": ["tasks,logs"], "device_id": ["a b"]}
    sent = [headers.get("last-event-id") for _, _, headers, _ in script.asked]
    assert sent == [None, "5", "5", "5"]  # what came half was not seen


def test_a_stream_that_is_refused_ends_at_once(client: ClusterClient, script: Script, waits: list[float]) -> None:
    script.error(400, "INVALID_PARAMETER")
    with pytest.raises(ClusterError, match="INVALID_PARAMETER"):
        next(client.monitor.stream(["nonsense"]))
    script.steps.clear()
    script.error(404, "DEVICE_NOT_FOUND")
    with pytest.raises(library.DeviceNotFoundError):
        next(client.monitor.stream(device_id="nobody"))
    assert not waits and script.lines[1] == "GET /api/v1/monitor/stream?device_id=nobody"


def test_a_stream_may_be_told_not_to_go_on(client: ClusterClient, script: Script) -> None:
    script.steps = [[b'id: 9\ndata: {"n": 1}\n\n']]
    stream = client.monitor.stream(last_event_id="8", reconnect=False)
    assert next(stream) == {"n": 1, "id": "9"} and script.asked[0][2]["last-event-id"] == "8"
    with pytest.raises(library.ConnectionFailedError, match="ended"):
        next(stream)


def test_a_key_shows_nowhere(script: Script, waits: list[float]) -> None:
    script.error(401, "AUTHENTICATION_REQUIRED")
    client = ClusterClient(script.url, api_key="very-secret", retries=0)
    with pytest.raises(ClusterError) as caught:
        client.devices.list()
    assert "very-secret" not in repr(caught.value) + str(caught.value) + repr(client) + script.asked[0][1]


def test_the_monitor_command(script: Script, waits: list[float], capsys: pytest.CaptureFixture[str],
                             monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RETIRE_CLUSTER_CONFIG", str(tmp_path / "none.json"))
    script.steps = [[b'id: 4\ndata: {"type": "task_submitted", "task_id": "t", "timestamp": "T1"}\n\n'],
                    [b'id: 5\ndata: {"type": "task_completed", "task_id": "t", "timestamp": "T2"}\n\n']]
    words = ["--server", script.url, "monitor", "tasks", "--count", "2"]
    assert retire_cluster_main(words) == 0  # over a lost connection
    assert capsys.readouterr().out == "T1 task_submitted task_id=t\nT2 task_completed task_id=t\n"
    assert script.lines[1] == "GET /api/v1/monitor/stream?types=tasks" and script.asked[1][2]["last-event-id"] == "4"
    assert retire_cluster_main([*words, "--count", "1", "-f", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "5"
