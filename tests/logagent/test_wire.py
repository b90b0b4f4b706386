"""Does the agent answer every route of the contract, in both styles? Over real HTTP."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cloudsched.logagent.config import check, load
from cloudsched.logagent.errors import CODES, BadConfig

from .harness import Caller, append, file_runner, running, sent, texts, wait_for


class Master:
    """Accepts registrations, or refuses them; asks back while it does, as a master under a lock would not."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.status = 200
        master = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/logkit/cluster/register"
                master.seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(master.status)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def master():
    found = Master()
    yield found
    found.close()


def cluster(*masters: str, **more: Any) -> dict[str, Any]:
    return {"cluster": {"enable": True, "master_url": list(masters), "tag": "first", **more}}


@pytest.fixture
def _speeds_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """No refresh but those that the test makes."""
    monkeypatch.setattr("cloudsched.logagent.agent.REFRESH_S", 3600.0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a.log"
    path.write_text("one\ntwo\n")
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out.json"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Caller]]:
    """One agent for all requests that change nothing."""
    folder = tmp_path_factory.mktemp("shared")
    with running(folder) as (_, caller):
        yield folder, caller


def both(caller: Caller, method: str, path: str, body: Any = None) -> tuple[tuple[int, Any], tuple[int, Any]]:
    return (caller.call(method, "/document" + path, body), caller.call(method, "/envelope" + path, body))


# ---- styles


READS = {"/logkit/status": {}, "/logkit/configs": {}, "/logkit/runners": [], "/logkit/errors": {},
         "/logkit/version": {"version": "0.1.0"}, "/logkit/errorcode": CODES, "/logkit/cluster/ismaster": False}


@pytest.mark.parametrize("path", READS)
def test_reads_bare_and_enveloped(shared: tuple[Path, Caller], path: str) -> None:
    _, caller = shared
    bare, enveloped = both(caller, "GET", path)
    assert bare == (200, READS[path])
    assert enveloped == (200, {"code": "L200", "data": READS[path]})


def test_success_without_data_has_no_data(shared: tuple[Path, Caller]) -> None:
    _, caller = shared
    assert both(caller, "GET", "/logkit/cluster/ping") == ((200, None), (200, {"code": "L200"}))


def test_the_style_is_chosen_by_prefix_then_header_then_configuration(tmp_path: Path) -> None:
    version = {"version": "0.1.0"}
    with running(tmp_path, response_style="document") as (_, caller):
        assert caller.call("GET", "/logkit/version")[1] == version
        header = {"X-Logkit-Style": "envelope"}
        assert caller.call("GET", "/logkit/version", headers=header)[1]["data"] == version
        assert caller.call("GET", "/document/logkit/version", headers=header)[1] == version
        status, answer = caller.call("GET", "/logkit/version", headers={"X-Logkit-Style": "xml"})
        assert status == 400 and "X-Logkit-Style" in answer["error"]


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/logkit/nothing", 404), ("GET", "/logkit/status/", 404), ("GET", "/", 404), ("GET", "/other/logkit/status", 404),
    ("POST", "/logkit/status", 405), ("PATCH", "/logkit/configs/r", 405), ("GET", "/logkit/configs/r/start", 405),
    ("GET", "/logkit/cluster/slaves", 404),
])
def test_unknown_routes_and_methods(shared: tuple[Path, Caller], method: str, path: str, status: int) -> None:
    words = {404: "Not Found", 405: "Method Not Allowed"}[status]
    _, caller = shared
    assert caller.call(method, path) == (status, {"message": words})
    assert caller.call(method, path, headers={"X-Logkit-Style": "document"})[0] == status


NOT_FOUND = "runner none not found"
ERRORS = [
    ("GET", "/logkit/configs/none", "L1001", "config none is not found"), ("POST", "/logkit/configs/none", "L1002", None),
    ("DELETE", "/logkit/configs/none", "L1003", NOT_FOUND),
    ("POST", "/logkit/configs/none/start", "L1004", NOT_FOUND),
    ("POST", "/logkit/configs/none/stop", "L1005", NOT_FOUND),
    ("POST", "/logkit/configs/none/reset", "L1006", NOT_FOUND),
    ("PUT", "/logkit/configs/none", "L1007", None), ("GET", "/logkit/errors/none", "L1008", NOT_FOUND),
    ("POST", "/logkit/cluster/register", "L2004", "this is not master"),
    ("POST", "/logkit/cluster/tag", "L2005", "cluster function not configed"),
]


@pytest.mark.parametrize(("method", "path", "code", "text"), ERRORS)
def test_errors_carry_code_and_text(shared: tuple[Path, Caller], method: str, path: str, code: str, text: str | None) -> None:
    _, caller = shared
    (bare_status, bare), (status, enveloped) = both(caller, method, path)
    assert bare_status == status == 400 and enveloped["code"] == code and set(enveloped) == {"code", "message"}
    assert bare == {"error": enveloped["message"]}
    assert enveloped["message"] and (text is None or text == enveloped["message"])


# ---- the life of a runner


@pytest.mark.parametrize("style", ["envelope", "document"])
def test_the_life_of_a_runner(tmp_path: Path, source: Path, target: Path, style: str) -> None:
    def call(method: str, path: str, body: Any = None) -> tuple[int, str]:
        status, answer = caller.call(method, f"/{style}/logkit{path}", body)
        if status == 200:
            assert answer == ({"code": "L200"} if style == "envelope" else None)
        return status, "" if status == 200 else answer["message" if style == "envelope" else "error"]

    stored = tmp_path / ".logkitconfs" / "r.conf"
    with running(tmp_path) as (_, caller):
        config = file_runner(source, target, batch_len=2)
        assert call("POST", "/configs/r", config) == (200, "")
        wait_for(lambda: texts(target) == ["one\n", "two\n"])
        assert call("POST", "/configs/r", config) == (400, "file r runner is running")
        assert call("POST", "/configs/r/start") == (400, f"runner {stored} has already started")
        assert call("POST", "/configs/r/stop") == (200, "")
        assert call("POST", "/configs/r/stop") == (400, f"runner {stored} has already stopped")
        assert json.loads(stored.read_text())["is_stopped"] is True
        status = caller.ok("GET", "/status")["r"]
        shown = [status[key] for key in ("runningStatus", "readDataCount", "senderStats", "logpath")]
        assert shown == ["stopped", 0, {}, ""]
        append(source, "three\nfour\n")
        assert call("POST", "/configs/r/start") == (200, "")
        wait_for(lambda: texts(target) == ["one\n", "two\n", "three\n", "four\n"])
        wait_for(lambda: caller.runner("r")["readDataCount"] == 4)
        assert "is_stopped" not in json.loads(stored.read_text())
        assert call("PUT", "/configs/r", {**config, "note": "second"}) == (200, "")
        assert caller.ok("GET", "/configs/r")["note"] == "second"
        assert len(sent(target)) == 4  # an update keeps the position
        assert call("POST", "/configs/r/stop") == (200, "")
        assert call("POST", "/configs/r/reset") == (200, "")  # of a stopped one: starts it, and stores it as started
        wait_for(lambda: len(sent(target)) == 8)
        assert "is_stopped" not in json.loads(stored.read_text())
        assert call("DELETE", "/configs/r") == (200, "")
        assert call("DELETE", "/configs/r") == (400, "runner r not found")
        assert not stored.exists() and caller.ok("GET", "/runners") == []
        assert list((tmp_path / ".logkitconfs" / "meta" / "runners").iterdir()) == []


def test_a_configuration_is_completed(tmp_path: Path, source: Path, target: Path) -> None:
    with running(tmp_path) as (_, caller):
        caller.add("r ü%", {**file_runner(source, target), "name": "other", "machineUrl": "kept", "batch_len": 7})
        config = caller.ok("GET", "/configs/r%20%C3%BC%25")
        assert (config["name"], config["machineUrl"], config["web_folder"], config["batch_len"]) == ("r ü%", "kept", True, 7)
        assert config["reader"]["runner_name"] == config["parser"]["runner_name"] == config["senders"][0]["runner_name"] == "r ü%"
        assert config["errors_list_cap"] == 100 and config["createtime"][:2] == "20"
        ((path, listed),) = caller.ok("GET", "/configs").items()
        assert Path(path) == tmp_path / ".logkitconfs" / "r ü%.conf" and listed == config
        assert json.loads(Path(path).read_text()) == config


@pytest.mark.usefixtures("_speeds_stand_still")
def test_the_status_of_a_running_runner(tmp_path: Path, source: Path, target: Path, master: Master) -> None:
    with running(tmp_path, **cluster(master.url)) as (agent, caller):
        caller.add("r", {**file_runner(source, target, batch_len=2), "transforms": [
            {"type": "rename", "key": "raw", "new_key_name": "text"}, {"type": "discard", "key": "timestamp"}]})
        wait_for(lambda: sent(target) == [{"text": "one\n"}, {"text": "two\n"}])
        status = wait_for(lambda: (found := caller.runner("r"))["lag"]["size"] == 0 and found)
        assert (status["tag"], status["url"]) == ("first", f"http://127.0.0.1:{agent.port}")
        stats = {"errors": 0, "success": 2, "speed": 0, "trend": "", "last_error": ""}
        assert status["readerStats"] == status["parserStats"] == stats
        assert status["senderStats"] == {f"fileSender:{target}": stats}
        assert status["transformStats"] == {"rename-0": stats, "discard-1": stats}
        assert (status["name"], status["logpath"], status["readDataSize"], status["readDataCount"]) == ("r", str(source), 8, 2)
        assert status["lag"] == {"size": 0, "sizeunit": "bytes", "ftlags": 0, "total": 8}
        assert status["elaspedtime"] > 0 and status["runningStatus"] == "running" and "error" not in status
        for key in ("readspeed", "readspeed_kb"):
            assert isinstance(status[key], int) and status[key.replace("speed", "speedtrend")] == ""


@pytest.mark.usefixtures("_speeds_stand_still")
def test_speeds_and_trends(tmp_path: Path, source: Path, target: Path) -> None:
    with running(tmp_path) as (agent, caller):
        caller.add("r", file_runner(source, target, batch_len=2))
        wait_for(lambda: len(sent(target)) == 2)
        run = agent.runners._entries["r"].run
        assert run
        run.stats._refreshed = time.monotonic() - 4
        agent.runners.refresh()
        assert (caller.runner("r")["readspeed_kb"], caller.runner("r")["readspeedtrend_kb"]) == (2, "up")
        run.stats._refreshed = time.monotonic() - 4
        agent.runners.refresh()
        assert (caller.runner("r")["readspeed_kb"], caller.runner("r")["readspeedtrend_kb"]) == (0, "down")


def test_errors_are_listed(tmp_path: Path, source: Path, target: Path) -> None:
    with running(tmp_path) as (_, caller):
        caller.add("r", {**file_runner(source, target, batch_len=2), "parser": {"type": "json"}})
        wait_for(lambda: len(sent(target)) == 2)
        errors = caller.ok("GET", "/errors")["r"]
        assert [item["count"] for item in errors["parse_errors"]] == [1, 1] and errors["read_errors"] is None
        assert errors["parse_errors"][0]["timestamp"] > 1e18 and "'one'" in errors["parse_errors"][0]["error"]
        assert caller.runner("r")["parserStats"]["errors"] == 2


# ---- what is refused


def _with(path: str, value: Any) -> dict[str, Any]:
    config: dict[str, Any] = {"reader": {"mode": "tailx", "log_path": "/tmp/*.log"}, "senders": [{"sender_type": "discard"}]}
    *above, last = path.split(".")
    holder: Any = config
    for part in above:
        holder = holder[int(part)] if part.isdecimal() else holder.setdefault(part, {})
    holder[last] = value
    return config


@pytest.mark.parametrize(("path", "value"), [
    ("reader.mode", "mysql"), ("reader.mode", 1), ("reader.log_path", ""), ("reader.read_from", "middle"),
    ("reader.encoding", "utf-16"),
    ("reader.head_pattern", "("), ("reader.max_open_files", "many"), ("reader.stat_interval", "soon"), ("parser.type", "nginx"),
    ("parser.type", True), ("transforms", {}), ("transforms", [{"type": "replace"}]), ("senders", []), ("senders", None),
    ("senders", [{"sender_type": "kafka"}]), ("senders", [{"sender_type": "file"}]),
    ("senders", [{"sender_type": "file", "file_send_path": 5}]),
    ("senders", [{"sender_type": "http", "http_sender_url": "ftp://x"}]),
    ("senders", [{"sender_type": "http", "http_sender_url": "http://u:p@x/"}]),
    ("senders", ["x"]), ("batch_len", "5"), ("batch_len", 1.5), ("batch_size", True), ("metric", [{}]), ("router", {"a": 1}),
    ("cleaner", {"delete_enable": "true"}), ("reader", "x"),
])
def test_what_cannot_work_is_refused_and_leaves_nothing(shared: tuple[Path, Caller], path: str, value: Any) -> None:
    tmp_path, caller = shared
    status, answer = caller.call("POST", "/logkit/configs/r", _with(path, value))
    assert (status, answer["code"]) == (400, "L1002")
    assert path.partition(".")[0] in answer["message"]
    assert caller.ok("GET", "/runners") == [] and list((tmp_path / ".logkitconfs").glob("*.conf")) == []


def test_a_missing_file_is_refused(tmp_path: Path, target: Path) -> None:
    with running(tmp_path) as (_, caller):
        status, answer = caller.call("POST", "/logkit/configs/r", file_runner(tmp_path / "none", target))
        assert status == 400 and "log_path" in answer["message"] and caller.ok("GET", "/configs") == {}


@pytest.mark.parametrize("name", ["..", ".", "a%2Fb", "..%2F..%2Fetc", "a%5Cb", "a%00", "a%0Ab", "a%7F", "x" * 201])
def test_names_that_are_no_file_names(shared: tuple[Path, Caller], name: str) -> None:
    tmp_path, caller = shared
    for method in ("POST", "PUT", "DELETE"):
        status, answer = caller.call(method, f"/logkit/configs/{name}", {})
        assert status == 400 and "runner name" in answer["message"], answer
    assert sorted(path.name for path in tmp_path.rglob("*.conf")) == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 10_000])
def test_bodies_that_are_no_object(shared: tuple[Path, Caller], body: bytes) -> None:
    _, caller = shared
    status, answer = caller.call("POST", "/logkit/configs/r", body)
    assert (status, answer["code"]) == (400, "L1002") and "body" in answer["message"]


def _raw(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        found = b""
        while piece := connection.recv(65536):
            found += piece
        return found


@pytest.mark.parametrize(("head", "status"), [
    (b"Content-Length: 99999999\r\n", b"413"), (b"Content-Length: -5\r\n", b"400"), (b"Content-Length: x\r\n", b"400"),
    (b"Transfer-Encoding: chunked\r\n", b"411"), (b"Content-Length: 10\r\n", b"400"),
    (b"Content-Length: 2\r\nOrigin: http://evil.example\r\n", b"403"), (b"X: " + b"y" * 70_000 + b"\r\n", b"431"),
])
def test_requests_with_wrong_heads(shared: tuple[Path, Caller], head: bytes, status: bytes) -> None:
    _, caller = shared
    answer = _raw(caller.port, b"POST /logkit/configs/r HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n{}")
    assert answer.split(b" ")[1] == status and b"Content-Type: application/json" in answer
    assert json.loads(answer.rpartition(b"\r\n\r\n")[2])
    assert caller.call("GET", "/logkit/cluster/ping")[0] == 200


def test_nonsense_instead_of_http(tmp_path: Path) -> None:
    with running(tmp_path) as (agent, caller):
        for data in (b"\r\n\r\n", b"hello\r\n\r\n", b"\x16\x03\x01\x00", b"GET /%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n"):
            _raw(agent.port, data)
        assert caller.call("GET", "/logkit/%FF")[0] == 400


def test_kept_alive_connections(tmp_path: Path) -> None:
    with running(tmp_path) as (agent, _):
        one = b"GET /logkit/version HTTP/1.1\r\nHost: x\r\n\r\n"
        assert _raw(agent.port, one * 3).count(b"HTTP/1.1 200") == 3


def test_folders_can_be_fenced(tmp_path: Path, source: Path, target: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(source)
    with running(tmp_path, read_roots=["in"], write_roots=["in"]) as (_, caller):
        for path in (source, tmp_path / "in" / "link", tmp_path / "in" / ".." / "a.log"):
            status, answer = caller.call("POST", "/logkit/configs/r", file_runner(path, target))
            assert status == 400 and "read_roots" in answer["message"]
        config = file_runner("/etc/*", target, reader={"mode": "tailx"})
        assert "read_roots" in caller.call("POST", "/logkit/configs/r", config)[1]["message"]
        (tmp_path / "in" / "b.log").write_text("x\n")
        config = file_runner(tmp_path / "in" / "b.log", target)
        assert "write_roots" in caller.call("POST", "/logkit/configs/r", config)[1]["message"]


def test_secrets_are_not_read_back_and_survive_an_edit(tmp_path: Path, source: Path, target: Path) -> None:
    sender = {"sender_type": "http", "http_sender_url": "http://127.0.0.1:1/", "http_sender_authorization": "Bearer s3cret"}
    with running(tmp_path) as (_, caller):
        caller.add("r", {**file_runner(source, target), "senders": [sender], "is_stopped": True})
        seen = caller.ok("GET", "/configs/r")
        assert "s3cret" not in json.dumps([seen, caller.ok("GET", "/configs"), caller.ok("GET", "/status")])
        caller.ok("PUT", "/configs/r", seen)
        stored = tmp_path / ".logkitconfs" / "r.conf"
        assert "s3cret" in stored.read_text() and stored.stat().st_mode & 0o077 == 0
        seen["senders"][0]["http_sender_url"] = "http://127.0.0.1:2/"
        caller.ok("PUT", "/configs/r", seen)
        assert "s3cret" not in stored.read_text()


def test_an_update_that_cannot_work_leaves_the_old_one_running(tmp_path: Path, source: Path, target: Path) -> None:
    with running(tmp_path) as (_, caller):
        caller.add("r", file_runner(source, target, batch_len=1))
        assert caller.call("PUT", "/logkit/configs/r", file_runner(tmp_path / "none", target))[1]["code"] == "L1007"
        wait_for(lambda: len(sent(target)) == 2)
        append(source, "three\n")
        wait_for(lambda: len(sent(target)) == 3)


def test_restored_at_start(tmp_path: Path, source: Path, target: Path) -> None:
    with running(tmp_path) as (_, caller):
        caller.add("on", file_runner(source, target, batch_len=2))
        caller.add("off", {**file_runner(source, tmp_path / "off.json"), "is_stopped": True})
        wait_for(lambda: len(sent(target)) == 2)
    (tmp_path / ".logkitconfs" / "broken.conf").write_text("{")
    (tmp_path / ".logkitconfs" / "wrong.conf").write_text('{"reader":{"mode":"mysql"},"senders":[{"sender_type":"discard"}]}')
    append(source, "three\nfour\n")
    with running(tmp_path) as (_, caller):
        wait_for(lambda: len(sent(target)) == 4)
        shown = {name: status["runningStatus"] for name, status in caller.ok("GET", "/status").items()}
        assert shown == {"on": "running", "off": "stopped", "wrong": "stopped"}
        assert "mysql" in caller.runner("wrong")["error"]
        assert not (tmp_path / "off.json").exists()


def test_connections_that_are_left_do_not_keep_the_next_agent_from_its_port(tmp_path: Path) -> None:
    with running(tmp_path) as (agent, _):
        left = socket.create_connection(("127.0.0.1", agent.port))
        left.sendall(b"GET /logkit/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        while left.recv(4096):  # the agent closes first, so the connection lingers on its side
            pass
        left.close()
    with running(tmp_path, bind_host=f"127.0.0.1:{agent.port}") as (_, caller):
        assert caller.call("GET", "/logkit/cluster/ping")[0] == 200


def test_only_one_agent_has_a_folder(tmp_path: Path) -> None:
    with running(tmp_path), pytest.raises(OSError, match="another agent"), running(tmp_path):
        pass


# ---- masters and tag


def test_heartbeats_go_to_every_master_though_one_is_dead(tmp_path: Path, master: Master) -> None:
    with running(tmp_path, **cluster("127.0.0.1:1", master.url, address="http://node1:3000/", heartbeat_s=1)):
        wait_for(lambda: len(master.seen) >= 2)
    assert master.seen[0] == {"url": "http://node1:3000", "tag": "first"}


def test_a_tag_is_registered_before_it_is_adopted_and_survives_a_restart(tmp_path: Path, master: Master) -> None:
    settings = cluster("127.0.0.1:1", master.url)
    with running(tmp_path, **settings) as (agent, caller):
        wait_for(lambda: master.seen)
        assert both(caller, "POST", "/logkit/cluster/tag", {"tag": "second"}) == ((200, None), (200, {"code": "L200"}))
        assert master.seen[-1]["tag"] == agent.masters.tag == "second"
        master.status = 500
        (bare_status, bare), (status, answer) = both(caller, "POST", "/logkit/cluster/tag", {"tag": "third"})
        assert bare_status == status == 503 and answer["code"] == "L2005" and bare == {"error": answer["message"]}
        assert agent.masters.tag == "second"
        for body in (b"x", b"[]", {"tag": 5}):
            assert caller.call("POST", "/logkit/cluster/tag", body)[0] == 400
    master.status = 200
    with running(tmp_path, **settings) as (agent, caller):
        assert agent.masters.tag == "second"
        caller.ok("POST", "/cluster/tag", {"tag": ""})
        assert agent.masters.tag == ""
    with running(tmp_path, **cluster(master.url, tag="from the file")) as (agent, _):
        assert agent.masters.tag == "from the file"


# ---- the configuration file


def test_comments_in_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "agent.conf"
    path.write_text('{ # a comment\n"bind_host": "http://127.0.0.1:4000", # "not this": 1\n'
                    '"cluster": {"enable": true, "tag": "a#\\"b", "master_url": ["m1:1", "https://m2"]}}')
    settings = load(str(path))
    assert (settings.port, settings.tag, settings.masters) == (4000, 'a#"b', ("http://m1:1", "https://m2"))
    assert settings.rest_dir == str(tmp_path / ".logkitconfs")


@pytest.mark.parametrize(("value", "words"), [
    ([], "JSON object"), ({"bind_host": "0.0.0.0:3000"}, "allow_networks"), ({"bind_host": "x"}, "bind_host"),
    ({"bind_host": 3000}, "bind_host"), ({"response_style": "xml"}, "response_style"), ({"cluster": []}, "cluster"),
    ({"cluster": {"enable": True}}, "master_url"), ({"cluster": {"enable": "yes"}}, "cluster.enable"),
    ({"cluster": {"master_url": "x"}}, "master_url"), ({"cluster": {"enable": True, "master_url": ["http://"]}}, "master_url"),
    ({"allow_networks": ["home"]}, "allow_networks"), ({"max_body_bytes": 0}, "max_body_bytes"),
    ({"cluster": {"tag": 1}}, "cluster.tag"),
])
def test_wrong_settings_name_their_key(value: Any, words: str) -> None:
    with pytest.raises(BadConfig) as error:
        check(value)
    assert words in str(error.value)
