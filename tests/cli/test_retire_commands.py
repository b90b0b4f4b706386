"""`retire-cluster`, `retire-cluster-status`, `-main` and `-api` as they are typed, against the real API and the real protocol.

The server runs in a thread; devices and their work are played by the test.
"""

from __future__ import annotations

import csv
import io
import json
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import WSGIRequestHandler, make_server

from cloudsched.app.native_tcp import NativeServer, listen
from cloudsched.cli import retire_servers
from cloudsched.cli.retire_cluster import COMMANDS, parser, retire_cluster_main
from cloudsched.cli.retire_status import retire_status_main
from cloudsched.dialects.retire_cluster import make_app, native
from cloudsched.store.db import Database
from tests.fleet import Fleet, made

from .conftest import Said

KEY, READER = "k" * 20, "r" * 20
Type = Callable[..., Said]


@pytest.fixture
def fleet(sqlite_database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    yield from made(sqlite_database, tmp_state, monkeypatch)


class _Quiet(WSGIRequestHandler):
    def log(self, *_: Any) -> None:
        pass


@pytest.fixture
def serve(fleet: Fleet) -> Iterator[Callable[..., str]]:
    """`serve(auth="yes", ...)`: the API with these settings; returns its URL."""
    running: list[Any] = []

    def start(**settings: Any) -> str:
        fleet.set(**settings)
        server = make_server("127.0.0.1", 0, make_app(fleet.settings), threaded=True, request_handler=_Quiet)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def type_(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Type:
    """`type_("devices", "list")`: types it; home and variables are the test's own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("SERVER", "API_KEY", "FORMAT", "NO_COLOR", "TIMEOUT", "CONFIG"):
        monkeypatch.delenv(f"RETIRE_CLUSTER_{name}", raising=False)

    def run(*words: str, main: Callable[[list[str]], int] = retire_cluster_main) -> Said:
        capsys.readouterr()
        try:
            status = main(list(words))
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = capsys.readouterr()
        return Said(status, out, err)

    return run


@pytest.fixture
def at(serve: Callable[..., str], type_: Type, monkeypatch: pytest.MonkeyPatch) -> Type:
    """The same, at a server without keys."""
    monkeypatch.setenv("RETIRE_CLUSTER_SERVER", serve(rate_limit=False))
    return type_


def work(fleet: Fleet, device: str = "box", status: str = "success", **result: Any) -> str:
    """The worker takes one task and ends it."""
    task = fleet.ask(device).task
    assert task is not None
    fleet.report(device, task["task_id"], status, execution_time_seconds=0.5, **result)
    return str(task["task_id"])


# devices and tasks


def test_devices_in_every_form(at: Type, fleet: Fleet) -> None:
    fleet.register("box", hostname="attic")
    fleet.register("phone-1", role="mobile", platform="android")
    fleet.beat("box", cpu_usage=12.5, memory_usage=50.0)
    table = at("devices", "list")
    assert table.status == 0 and table.lines[0].split() == [
        "ID", "STATUS", "ROLE", "PLATFORM", "CORES", "CPU%", "MEMORY_GB", "TASKS", "LAST_SEEN"]
    assert table.lines[1].split()[:6] == ["box", "online", "compute", "linux", "8", "12.5"] and len(table.lines) == 3
    assert [one["id"] for one in at("devices", "list", "--output", "json").json] == ["box", "phone-1"]
    rows = list(csv.reader(io.StringIO(at("devices", "list", "-f", "csv", "--role", "mobile").out)))
    assert rows[0][0] == "id" and [row[0] for row in rows[1:]] == ["phone-1"]
    assert at("-f", "tsv", "devices", "list", "--status", "offline").out.startswith("id\tstatus\trole")
    assert at("devices", "list", "--format=text").lines[0].startswith("box|online|compute|linux|8|12.5|16.0|0|2023-")
    shown = at("devices", "show", "box", "-f", "text")
    assert "hostname: attic" in shown.lines and "cpu_usage: 12.5" in shown.lines
    assert at("devices", "show", "box", "-o", "json").json["id"] == "box"
    assert "total_devices" in at("devices", "summary").out and "box" in at("devices", "stats").out
    assert at("cluster", "status", "-f", "text").lines[1] == "devices: 2/2 online"
    assert at("cluster", "health").status == 0 and "memory" in at("cluster", "metrics", "--period", "24h").out
    assert at("devices", "remove", "phone-1").out == "phone-1 removed, 0 tasks cancelled\n"
    assert [one["id"] for one in at("devices", "list", "-o", "json").json] == ["box"]


def test_a_task_from_submission_to_result(at: Type, fleet: Fleet, tmp_path: Path) -> None:
    fleet.register("box", supported_task_types=["echo", "sleep"])
    words = tmp_path / "payload.json"
    words.write_text('{"message": "from a file"}')
    first = at("tasks", "submit", "echo", "--payload", '{"message": "test"}')
    second = at("tasks", "submit", "echo", '--payload={"message": "test"}', "--priority", "urgent", "--device", "box",
                "--requirements", '{"min_cpu_cores": 2}', "--metadata", '{"for": "me"}', "--task-timeout", "60")
    third = at("tasks", "submit", "echo", "--payload", f"@{words}", "--quiet")
    ids = [said.out.strip() for said in (first, second, third)]
    assert [said.status for said in (first, second, third)] == [0, 0, 0] and all(one.startswith("task-") for one in ids)
    shown = at("tasks", "show", ids[1], "-o", "json").json
    assert (shown["payload"], shown["priority"], shown["timeout"], shown["metadata"]) == (
        {"message": "test"}, "urgent", 60, {"for": "me"}) and shown["requirements"]["min_cpu_cores"] == 2
    assert work(fleet, result_data={"echo": {"message": "test"}}) == ids[1]
    assert work(fleet, result_data={"echo": {"message": "test"}}) == ids[0]
    assert at("tasks", "result", ids[0]).out == "test\n"
    assert at("tasks", "wait", ids[0], "-f", "text").lines[2] == "status: completed"
    assert at("tasks", "result", ids[0], "-o", "json").json["status"] == "success"
    assert at("tasks", "result", ids[2]).status == 6  # it has none yet
    assert [row["task_id"] for row in at("tasks", "list", "--status", "completed", "-f", "json").json] == [ids[1], ids[0]]
    assert any("device" in line or "submitted" in line for line in at("tasks", "logs", ids[0]).lines)
    assert at("tasks", "cancel", ids[2]).out == f"{ids[2]} cancelled\n" and at("tasks", "cancel", ids[2]).status == 1
    new = at("tasks", "retry", ids[2], "--priority", "high").out.strip()
    work(fleet, status="failed", error_message="it broke")
    failed = at("tasks", "wait", new)
    assert failed.status == 1 and "it broke" in failed.out and at("tasks", "result", new).err == "retire-cluster: it broke\n"
    assert at("tasks", "wait", at("tasks", "submit", "echo").out.strip(), "--wait-limit", "0.01").status == 8
    assert "echo" in at("tasks", "types").out and "success_rate" in at("tasks", "stats", "--group-by", "hour").out
    lines = at("export", "tasks").lines
    assert lines[0].split(",")[0] == "id" and len(lines) == 6
    assert at("export", "logs", "--output", str(tmp_path / "out.csv")).out == ""
    assert (tmp_path / "out.csv").read_text().startswith("time,level,component,device,message\n")
    assert at("logs", "list", "--level", "info", "--limit", "2").status == 0


def test_every_refusal_has_its_exit_status(type_: Type, serve: Callable[..., str], tmp_path: Path) -> None:
    url = serve(auth="yes", api_keys=f"{KEY},{READER}:read")
    both = ("--server", url, "--api-key")
    assert type_(*both, KEY, "devices", "list").status == 0
    assert type_(*both, KEY, "tasks", "submit", "nonsense").status == 1
    for words in (("tasks", "submit"), ("devices", "dance"), (), ("tasks", "submit", "echo", "--priority", "asap"),
                  ("tasks", "submit", "echo", "--payload", "{"), ("tasks", "submit", "echo", "--payload", "[1]"),
                  ("tasks", "submit", "echo", "--requirements", "@/does/not/exist"), ("export", "cats")):
        said = type_(*both, KEY, *words)
        assert said.status == 2 and said.err, words
    assert type_("--server", "ftp://x", "devices", "list").status == 3
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert type_("--server", nobody, "tasks", "submit", "echo").status == 4
        silent.listen()
        assert type_("--server", nobody, "--timeout", "0.05", "tasks", "submit", "echo").status == 8
    refused = type_("--server", url, "devices", "list")
    assert refused.status == 5 and "AUTHENTICATION_REQUIRED" in refused.err and refused.out == ""
    missing = type_(*both, KEY, "devices", "show", "nobody")
    assert missing.status == 6 and "DEVICE_NOT_FOUND" in missing.err and "available_devices" in missing.err
    assert type_(*both, KEY, "tasks", "show", "task-0").status == 6
    assert type_(*both, READER, "tasks", "submit", "echo").status == 7
    said = type_(*both, READER, "-v", "devices", "remove", "x")
    assert said.status == 7 and " request " in said.err and READER not in said.out + said.err
    assert type_(*both, KEY, "export", "devices", "-o", str(tmp_path / "no" / "file")).status == 1


def test_settings_and_their_precedence(type_: Type, serve: Callable[..., str], tmp_path: Path,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    url = serve(auth="yes", api_keys=KEY)
    assert type_("config", "set", "api_url", "localhost:1").out.startswith("api_url = http://localhost:1 (")
    said = type_("config", "set", "api_key", KEY)
    path = tmp_path / ".retire-cluster" / "cli.json"
    assert said.status == 0 and KEY not in said.out and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert type_("config", "set", "format", "json").status == 0
    assert type_("config", "show", "-o", "json").json == {"api_url": "http://localhost:1", "api_key": "***", "format": "json"}
    monkeypatch.setenv("RETIRE_CLUSTER_SERVER", url)  # variable over file
    assert type_("devices", "list").json == []
    monkeypatch.setenv("RETIRE_CLUSTER_FORMAT", "csv")
    assert type_("devices", "list").out.startswith("id,status")
    assert type_("devices", "list", "--format", "tsv").out.startswith("id\tstatus")  # option over variable
    monkeypatch.setenv("RETIRE_CLUSTER_API_KEY", "x" * 20)
    assert type_("devices", "list").status == 5 and type_("-k", KEY, "devices", "list").status == 0
    for name, value in (("timeout", "-1"), ("format", "xml"), ("api_url", "ftp://x"), ("colour", "red"), ("api_key", "a\nb")):
        said = type_("config", "set", name, value)
        assert said.status == 3 and "allowed" in said.err, (name, said)
    assert type_("config", "unset", "format").status == 0 and type_("config", "unset", "format").status == 6
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("{")
    assert type_("devices", "list").status == 3
    monkeypatch.setenv("RETIRE_CLUSTER_CONFIG", str(tmp_path / "other.json"))
    assert type_("-k", KEY, "devices", "list").status == 0
    monkeypatch.setenv("RETIRE_CLUSTER_TIMEOUT", "soon")
    assert type_("devices", "list").status == 3


def test_every_command_has_a_help_text(type_: Type) -> None:
    for noun, verb, text, _, _ in COMMANDS:
        said = type_(noun, verb, "--help")
        assert said.status == 0 and text.split("%")[0][:20] in " ".join(said.out.split()), (noun, verb)
    assert "exit status: 0 ok" in parser().format_help() and type_("--version").status == 0


# retire-cluster-status


@pytest.fixture
def native_port(fleet: Fleet) -> Iterator[int]:
    sock = listen("127.0.0.1", 0)
    server = NativeServer(sock, native.answer, most=lambda: 20)
    server.start()
    yield sock.getsockname()[1]
    server.stop()
    sock.close()


def test_the_status_command(native_port: int, type_: Type, fleet: Fleet) -> None:
    def status(*words: str) -> Said:
        return type_(f"127.0.0.1:{native_port}", *words, main=retire_status_main)

    for number in range(40):
        fleet.register(f"box-{number:02d}", role="compute" if number % 2 else "storage", hostname=f"host-{number}")
    overview = status()
    assert overview.status == 0 and "40 online, 0 offline, 40 in all" in overview.out and "compute 20, storage 20" in overview.out
    listed = status("--devices")
    assert listed.status == 0 and len(listed.lines) == 41 and listed.lines[1].split()[0] == "box-00"
    assert len(status("--devices", "--role", "storage").lines) == 21
    shown = status("--device", "box-07")
    assert shown.status == 0 and "host-7" in shown.out
    assert status("--device", "nobody").status == 1 and "nobody" in status("--device", "nobody").out
    assert status("--json").json["online_devices"] == 40
    assert status("--json", "--device", "nobody").json["device"] is None
    assert type_("127.0.0.1:x", main=retire_status_main).status == 2 and type_(main=retire_status_main).status == 2
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        gone = type_(f"127.0.0.1:{port}", main=retire_status_main)
        assert gone.status == 1 and "cannot be reached" in gone.err
        closed.listen()
        slow = type_(f"127.0.0.1:{port}", "--timeout", "0.05", main=retire_status_main)
        assert slow.status == 1 and "does not answer" in slow.err
    fleet.set(join_token="a token")
    assert status().status == 1 and "token" in status().err


# the servers


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What an instance would be started with: the variables, instead of the instance."""
    import os

    found: list[dict[str, str]] = []
    monkeypatch.setattr("cloudsched.app.run_up", lambda args: found.append(
        {**{name.removeprefix("CLOUDSCHED_"): value for name, value in os.environ.items() if name.startswith("CLOUDSCHED_")},
         "config": str(args.config), "state": args.state}) or 0)
    for name in list(os.environ):
        if name.startswith("RETIRE_CLUSTER_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return found


def test_init_config_writes_a_file_that_is_then_used(type_: Type, tmp_path: Path, started: list[dict[str, str]]) -> None:
    folder = tmp_path / "data"
    words = ("--data-dir", str(folder))
    assert type_(*words, "--init-config", main=retire_servers.retire_main_main).status == 0 and not started
    path = folder / "cloudsched.toml"
    assert "[retire_cluster]" in path.read_text()
    again = type_(*words, "--init-config", main=retire_servers.retire_main_main)
    assert again.status == 1 and "there already" in again.err
    path.write_text(path.read_text().replace("# retire_cluster_tcp = 8080", "retire_cluster_tcp = 9090"))
    assert type_(*words, main=retire_servers.retire_main_main).status == 0
    assert started[0]["config"] == str(path) and started[0]["state"] == str(folder)
    assert "LISTEN_RETIRE_CLUSTER_TCP" not in started[0]  # what was not given does not override the file


def test_what_the_main_node_is_started_with(type_: Type, tmp_path: Path, started: list[dict[str, str]]) -> None:
    import os

    main, words = retire_servers.retire_main_main, ("--data-dir", str(tmp_path / "data"))
    os.environ["CLOUDSCHED_LISTEN_RETIRE_CLUSTER"] = "7000"
    assert type_(*words, main=main).status == 0
    assert started[0]["LISTEN_RETIRE_CLUSTER_TCP"] == "8080" and started[0]["LISTEN_RETIRE_CLUSTER"] == "7000"
    del os.environ["CLOUDSCHED_LISTEN_RETIRE_CLUSTER_TCP"]
    assert type_(*words, "--port", "9001", "--api-port", "9002", "--host", "127.0.0.2", main=main).status == 0
    assert (started[1]["LISTEN_RETIRE_CLUSTER_TCP"], started[1]["LISTEN_RETIRE_CLUSTER"],
            started[1]["LISTEN_RETIRE_CLUSTER_BIND"]) == ("9001", "9002", "127.0.0.2")
    original = tmp_path / "main_config.json"
    original.write_text(json.dumps({"server": {"port": 9003, "timeout": 10}, "heartbeat": {"interval_seconds": 30}}))
    del os.environ["CLOUDSCHED_LISTEN_RETIRE_CLUSTER_TCP"]
    said = type_(*words, "--config", str(original), main=main)
    assert said.status == 0 and "server.timeout" in said.err
    assert started[2]["LISTEN_RETIRE_CLUSTER_TCP"] == "9003" and started[2]["RETIRE_CLUSTER_HEARTBEAT_INTERVAL_S"] == "30"
    assert type_(*words, "--config", str(tmp_path / "none.json"), main=main).status == 3
    assert type_("--port", "99999", main=main).status == 2


def test_what_the_api_is_started_with(type_: Type, tmp_path: Path, started: list[dict[str, str]]) -> None:
    import os

    api, words = retire_servers.retire_api_main, ("--data-dir", str(tmp_path / "data"))
    refused = type_(*words, "--auth", main=api)
    assert refused.status == 2 and "at least one key" in refused.err and not started
    assert type_(*words, "--auth", "--api-key-file", str(tmp_path / "none"), main=api).status == 3
    keys = tmp_path / "keys"
    keys.write_text(f"# ours\n{KEY}\n")
    assert type_(*words, "--auth", "--api-key-file", str(keys), "--api-key", f"{READER}:read", "--no-cors", "--no-rate-limit",
                 "--port", "9004", "--cluster-port", "9005", main=api).status == 0
    assert {name: started[0][name] for name in started[0] if name.startswith("RETIRE")} == {
        "RETIRE_CLUSTER_AUTH": "yes", "RETIRE_CLUSTER_API_KEYS": f"{READER}:read,{KEY}", "RETIRE_CLUSTER_CORS": "no",
        "RETIRE_CLUSTER_RATE_LIMIT": "no"}
    assert (started[0]["LISTEN_RETIRE_CLUSTER"], started[0]["LISTEN_RETIRE_CLUSTER_TCP"]) == ("9004", "9005")
    for name in [name for name in os.environ if name.startswith("CLOUDSCHED_")]:
        del os.environ[name]
    os.environ |= {"RETIRE_CLUSTER_API_PORT": "9006", "RETIRE_CLUSTER_API_KEY": KEY, "RETIRE_CLUSTER_CLUSTER_HOST": "192.0.2.1"}
    said = type_(*words, "--auth", main=api)
    assert said.status == 0 and "another machine" in said.err
    assert (started[1]["LISTEN_RETIRE_CLUSTER"], started[1]["RETIRE_CLUSTER_API_KEYS"]) == ("9006", KEY)


def test_a_second_command_finds_the_running_instance(type_: Type, serve: Callable[..., str], tmp_path: Path,
                                                     started: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    url = serve(auth="no")
    (tmp_path / "server.json").write_text(json.dumps({
        "pid": 1, "native_url": url, "listeners": {"retire_cluster": url, "retire_cluster_tcp": "127.0.0.1:8080"}}))
    looks = iter([True, True, False, True, True])
    monkeypatch.setattr(retire_servers, "_answers", lambda _: next(looks))
    monkeypatch.setattr(retire_servers, "LOOK_S", 0.0)
    api, words = retire_servers.retire_api_main, ("--data-dir", str(tmp_path))
    stays = type_(*words, main=api)
    assert stays.status == 1 and url in stays.out and "it has ended" in stays.err and not started
    assert "served already" in type_(*words, "--port", "1", main=api).err
    # it would not ask for keys: that must not look as if it did
    open_ = type_(*words, "--auth", "--api-key", KEY, main=api)
    assert open_.status == 1 and "without keys" in open_.err and "it has ended" not in open_.err
