"""`cloudsched centre` against a real kboss API in this process, the engine stepped by hand."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from cloudsched import settings as settings_module
from cloudsched.cli import centre, centre_api
from cloudsched.cli.centre_table import COMMANDS
from cloudsched.cli.main import main
from cloudsched.client.errors import ClientError
from cloudsched.dialects.kboss import make_app
from cloudsched.dialects.kboss.routes import table
from cloudsched.services import keys, operations
from cloudsched.services.caller import LOCAL_ADMIN
from cloudsched.services.centre import centre_calls, centre_clusters, centre_work
from cloudsched.services.centre.centre_calls import Progress
from cloudsched.store import db


class Said(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        return [line.split("\t") for line in self.out.splitlines()]


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


class World:
    """Types at a server; `file(text)` makes a file."""

    def __init__(self, url: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.url, self.folder, self.capsys = url, folder, capsys

    def __call__(self, *words: str, **how: Any) -> Said:
        self.capsys.readouterr()
        status = main(["centre", *words, "--server", how.get("url", self.url)])
        out, err = self.capsys.readouterr()
        return Said(status, out, err)

    def id(self, *words: str) -> str:
        said = self(*words, "--json")
        assert said.status == 0, said.err
        return str(said.json["id"])

    def file(self, text: str) -> str:
        path = self.folder / "file"
        path.write_text(text)
        return str(path)


@pytest.fixture
def cli(tmp_state: Path, tmp_path: Path, migrated_file: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> Iterator[World]:
    monkeypatch.setenv("CLOUDSCHED_STATE", str(tmp_path / "no-state"))
    flags = {"state": str(tmp_state), "cloud_scheduler.config_file": "none", "centres.batch_clouds": "no"}
    settings = settings_module.load(flags, environ={})
    shutil.copy(migrated_file, settings.database.url.removeprefix("sqlite:///"))
    database = db.open_database(settings.database.url, synchronous="OFF")
    server = make_server("127.0.0.1", 0, make_app(settings), handler_class=_Silent)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield World(f"http://127.0.0.1:{server.server_port}", tmp_path, capsys)
    server.shutdown()
    server.server_close()
    thread.join()
    database.close()


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A centre that does everything at once; following it lets the engine work."""
    class Executor:
        fails = ""

        def new_cluster(self, *_: Any, **__: Any) -> int:
            return 1

        new_worker = take_apart = new_cluster

        def progress(self, operation: int) -> Progress:
            return Progress(True, not self.fails, "done", self.fails)

        def result(self, operation: int) -> dict[str, str]:
            return {"join_command": "slurm join 10.0.0.1:6817 --token x"}

        def call(self, verb: str, params: dict[str, Any]) -> None:
            assert verb == "forget"

        def delete_node(self, *_: Any, **__: Any) -> dict[str, str]:
            return {}

        switch = label = delete_node

    found = Executor()
    for module in (centre_calls, centre_clusters, centre_work):
        monkeypatch.setattr(module, "executor_for", lambda *_, **__: found)
    monkeypatch.setattr(centre.time, "sleep", lambda _: operations.work("engine"))
    return found


def host(cli: World, centre_id: str, name: str = "a", address: str = "10.0.0.1") -> str:
    return cli.id("hosts", "add", centre_id, name, address, "--user", "root", "--password-file", cli.file("Pa55-w0rd\n"),
                  "--cores", "8", "--memory-gi", "32", "--gpus", "2", "--gpu-model", "A100-80G")


def test_every_command_has_a_route() -> None:
    routes = table()
    for command in COMMANDS:
        assert command.path in routes, command.words
        assert command.changes == (routes[command.path].role in ("operator", "admin")) or command.words == "audit"
    assert len({command.words for command in COMMANDS}) == len(COMMANDS)


def test_centres(cli: World) -> None:
    assert cli("list").rows == [["ID", "NAME", "ORG", "PCAPI", "FROM", "UNTIL", "CONTACT"]]
    made = cli.id("add", "east", "--contact", "ops", "--org", "acme", "--api-password-file", cli.file("secret"))
    said = cli("list", "--sort", "name")
    assert said.rows[1][:4] == [made, "east", "acme", "-"]
    assert "compute centre updated" in cli("set", made, "--name", "west", "--until", "2035-01-01").out
    assert "name\twest" in cli("show", made).out and cli("show", made, "--json").json["hosts"] == 0
    assert cli("show", "nothing").status == 1
    tried = cli("remove", made, "--dry-run")
    assert tried.status == 0 and cli("list", "--json").json["total"] == 1
    assert cli("remove", made).status == 0 and cli("list", "--json").json["total"] == 0
    gone = cli("remove", made)
    assert gone.status == 1 and gone.err == f"cloudsched: there is no compute centre {made}\n"


def test_hosts_and_clusters(cli: World, executor: Any) -> None:
    centre_id = cli.id("add", "east")
    one, two = host(cli, centre_id), host(cli, centre_id, "b", "10.0.0.2")
    assert [row[1] for row in cli("hosts", "list", centre_id).rows] == ["NAME", "a", "b"]
    assert "device updated" in cli("hosts", "set", two, "--cores", "16").out
    assert "steps" in cli("clusters", "new", centre_id, one, "c1", "--kind", "slurm", "--dry-run").out

    made = cli("clusters", "new", centre_id, one, "c1", "--kind", "slurm")
    assert made.status == 0, made.err
    assert [line.split(":")[0] for line in made.out.splitlines()[:4]] == [
        "ask the centre", "wait for the centre", "keep what it gave", "register for the batch queue"]
    row = cli("clusters", "list", centre_id, "--json").json["rows"][0]
    assert (row["name"], row["ready"], row["clustertype_text"]) == ("c1", 1, "slurm")
    cluster = row["id"]
    assert cli("clusters", "grow", cluster, two).status == 0
    assert cli("hosts", "idle", centre_id).rows == [["ID", "NAME", "ADDRESS", "PORT"]]
    assert cli("clusters", "label", centre_id, cluster, "a", "gpu=yes").status == 0
    assert cli("clusters", "cordon", cluster, "a", "--drain").out.startswith("node switched")
    assert cli("clusters", "shrink", cluster, two, "--json").json["state"] == "succeeded"
    executor.fails = "10.0.0.1: the host is away"
    failed = cli("clusters", "remove", cluster)
    assert failed.status == 1 and failed.err == "cloudsched: 10.0.0.1: the host is away\n"
    executor.fails = ""
    begun = cli("clusters", "remove", cluster, "--no-wait", "--json")
    assert begun.json["operation"]
    operations.work("engine")
    assert cli("operation", str(begun.json["operation"]), "--json").json["state"] == "succeeded"
    assert cli("hosts", "remove", one).status == 0
    assert cli("audit", "--action", "centre.cluster").rows[1][4] == "centre.cluster_gone"


def test_parts_quotes_and_budgets(cli: World) -> None:
    centre_id = cli.id("add", "east")
    host(cli, centre_id)
    rows = cli("parts", "list", centre_id, "--json").json["rows"]
    part = next(row["id"] for row in rows if row["type"] == "cpu")
    assert cli("parts", "price", centre_id, part, "1.5").status == 0
    said = cli("quote", centre_id, "cpu:STANDARD:4", "--for", "2d")
    assert said.status == 0 and "total_price\t288" in said.out and said.rows[1][0] == "cpu STANDARD"
    short = cli("quote", centre_id, "cpu:STANDARD:999", "--for", "1h")
    assert short.status == 1 and "not enough in stock" in short.err
    assert cli("quote", centre_id, "cpu", "--for", "1h").status == 2
    assert cli("quote", centre_id, "cpu:STANDARD:1", "--for", "soon").status == 2
    assert cli("parts", "gpus").out == "A100-80G\t2\n"
    assert cli("budget", "set", "acme", "100", "--warn", "50", "--stop").status == 0
    assert cli("budget", "list").rows[1][:3] == ["acme", cli("budget", "list", "--json").json["rows"][0]["month"], "100"]
    assert cli("usage").rows[0][0] == "TIME" and cli("export").status == 0
    assert cli("rebuild", centre_id).out.count("\n") == 1
    label = cli.id("labels", "add", "GPU", "gpu", "yes", "--type", "1")
    assert cli("labels", "list").rows[1][0] == label and cli("labels", "remove", label).status == 0


def test_ids_may_begin_like_an_option(cli: World) -> None:
    key = "-" + "fBL_-x" * 3 + "yz"
    assert len(key) == 21
    for words in (("hosts", "list", key, "--rows", "2"), ("hosts", "list", "--rows", "2", key), ("show", key), ("set", key),
                  ("remove", key, "-y"), ("parts", "gpus", "--centre", key), ("parts", "gpus", f"--centre={key}"),
                  ("set", "-" + key[:-1], "--name", "x")):
        said = cli(*words)
        assert said.status == 1 and "there is no compute centre -" in said.err
    assert cli("list", "-x").status == 2


def test_what_is_shown_is_for_people(cli: World, executor: Any) -> None:
    centre_id = cli.id("add", "east", "--api-password-file", cli.file("secret"))
    said = cli("hosts", "add", centre_id, "a", "10.0.0.1", "--user", "root", "--password-file", cli.file("Pa55-w0rd"),
               "--type", "physical", "--occupied", "no")
    assert said.status == 0 and "sealed" not in said.out and "sealed" not in cli("show", centre_id).out
    row = cli("hosts", "list", centre_id, "--json").json["rows"][0]
    assert (row["devicetype"], row["node_status"]) == ("1", "0") and row["adminpwd"].startswith("sealed:")
    assert cli("hosts", "set", row["id"], "--occupied", "yes").status == 0
    assert cli("hosts", "set", row["id"], "--occupied", "0", "--type", "0").status == 0
    bad = cli("hosts", "set", row["id"], "--type", "cloud")
    assert bad.status == 2 and "allowed: virtual, physical, 0, 1" in bad.err
    begun = cli("clusters", "new", centre_id, row["id"], "c1", "--kind", "slurm", "--no-wait", "--json").json["operation"]
    lines = cli("operation", str(begun)).out.splitlines()
    assert "ask the centre: waiting" in lines and not any("[{" in line for line in lines)
    assert cli("budget", "set", "acme", "0.0000001").status == 0
    assert cli("budget", "list").rows[1][2] == "0.0000001" and "e-07" not in cli("budget", "set", "acme", "0.0000001").out


def test_what_is_said_when_it_does_not_work(cli: World, free_port: int) -> None:
    away = cli("list", url=f"http://127.0.0.1:{free_port}")
    assert away.status == 3 and "connection refused" in away.err and "--server" in away.err
    keys.create("a", "admin", LOCAL_ADMIN)
    assert cli("list").status == 5
    assert cli("list", url="ftp://x").status == 2


@pytest.mark.parametrize(("listener", "url"), [
    ("http://127.0.0.1:9188", "http://127.0.0.1:9188"), ("http://0.0.0.0:9188", "http://127.0.0.1:9188"),
    ("http://[::]:9188", "http://[::1]:9188")])
def test_the_address_is_found(tmp_path: Path, listener: str, url: str) -> None:
    (tmp_path / "server.json").write_text(json.dumps({"native_url": "http://127.0.0.1:1", "listeners": {"kboss": listener}}))

    def address(server: str | None = None, state: str | None = None, **env: str) -> str:
        return centre_api.locate(server, state=state, key_file=None, env={"CLOUDSCHED_STATE": str(tmp_path), **env}).address.url

    assert address() == url
    assert address("example.com:1234") == "http://example.com:1234"
    assert address(CLOUDSCHED_KBOSS_URL="http://example.com:99/") == "http://example.com:99"
    nowhere = {"CLOUDSCHED_STATE": str(tmp_path / "none"), "CLOUDSCHED_PORT_OFFSET": "100"}
    assert address(**nowhere) == "http://127.0.0.1:8188"
    with pytest.raises(ClientError):
        address("://")


def test_no_command_takes_a_secret_as_a_word(cli: World) -> None:
    secret = ("api_pwd", "adminpwd", "source_authpasswd")
    assert all(take.kind == "file" for command in COMMANDS for take in command.takes if take.param in secret)


def test_a_budget_keeps_what_is_not_said(cli: World) -> None:
    assert cli("budget", "set", "acme", "100", "--warn", "50", "--stop").status == 0
    tried = cli("budget", "set", "acme", "7", "--dry-run")
    assert tried.status == 0 and "amount\t7\n" in tried.out and "warn\t50\n" in tried.out
    assert cli("budget", "set", "acme", "--warn", "60").status == 0
    row = cli("budget", "list", "--json").json["rows"][0]
    assert (row["amount"], row["warn"], row["hard"], row["stop"]) == (100, 60, True, True)
    assert cli("budget", "set", "acme", "--soft", "--no-stop").status == 0
    row = cli("budget", "list", "--json").json["rows"][0]
    assert (row["amount"], row["hard"], row["stop"]) == (100, False, False)
    assert cli("budget", "set", "acme", "--hard").status == 0 and cli("budget", "set", "acme", "--hard", "--soft").status == 2
    assert cli("budget", "set", "beta").status == 1


def test_tables_have_english_units_and_json_the_kept_ones(cli: World) -> None:
    centre_id = cli.id("add", "east")
    assert cli("parts", "add", centre_id, "cpu", "X", "--price", "1", "--per", "day", "--money", "fen").status == 0
    assert cli("parts", "list", centre_id).rows[1][4:6] == ["fen", "day"]
    row = cli("parts", "list", centre_id, "--json").json["rows"][0]
    assert (row["account_unit"], row["charge_unit"]) == ("分", "天")
    assert "second, minute, hour, day" in cli("parts", "add", centre_id, "cpu", "Y", "--price", "1", "--per", "year").err


def test_a_state_without_a_key_is_named(cli: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise centre_api.NotAllowed("not authorized")

    monkeypatch.setattr(centre_api.CentreApi, "call", refused)
    monkeypatch.delenv("CLOUDSCHED_KEY", raising=False)
    said = cli("list", "--state", str(tmp_path))
    assert said.status != 0 and f"--state {tmp_path}: its admin.key is not there" in said.err
    assert "(--state DIR)" in cli("list").err
