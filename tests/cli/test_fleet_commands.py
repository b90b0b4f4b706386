"""`cloudsched nodes` and `cloudsched clouds`: every action, as text in a pipe and as JSON."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from .conftest import Cli
from .fake_api import FakeApi


def _sent(api: FakeApi) -> tuple[str, str, object]:
    method, path, _, body = api.requests[-1]
    return method, path.removeprefix("/api/v2"), body


def test_nodes_list_leaves_out_what_is_gone(cli: Cli, api: FakeApi) -> None:
    api.add_node("vm-1", goal="drain")
    api.add_node("vm-2", state="gone")
    said = cli("nodes", "list")
    assert said.lines == [
        "ID\tNAME\tCLOUD\tSTATE\tUSER\tTYPE\tJOBS\tCORES\tMEMORY\tSTORAGE\tADDRESS\tSEEN",
        "1\tvm-1\tlocal-a\trunning, drain\ttess\tdefault\t1\t2\t2G\t10G\t127.0.0.1\t2026-01-02 03:04:05",
    ]
    assert [node["name"] for node in cli("nodes", "list", "--all", "--json").json] == ["vm-1", "vm-2"]
    assert [node["name"] for node in cli("nodes", "list", "--of-state", "gone", "--json").json] == ["vm-2"]
    assert cli("nodes", "list", "--cloud", "x", "--user", "y", "--vm-type", "z", "--json").json == []


def test_nodes_show(cli: Cli, api: FakeApi) -> None:
    api.add_node("odd/name #1")
    said = cli("nodes", "show", "odd/name #1")
    assert said.status == 0 and "memory_mb\t2G" in said.lines
    assert cli("nodes", "show", "1", "--json").json["name"] == "odd/name #1"
    assert cli("nodes", "show", "nobody").status == 4


def test_nodes_drain_resume_destroy(cli: Cli, api: FakeApi) -> None:
    api.add_node("vm-1")
    assert cli("nodes", "drain", "vm-1").out == "vm-1\trunning, drain\n"
    said = cli("nodes", "drain", "vm-1", "--wait", "3s")
    assert said.status == 1 and "not done after 3s" in said.err
    assert cli("nodes", "resume", "1").out == "vm-1\trunning\n"
    assert cli("nodes", "destroy", "1", "--yes", "--json").json["state"] == "gone"


def test_nodes_token(cli: Cli, api: FakeApi) -> None:
    said = cli("nodes", "token", "--cloud", "c", "--user", "u", "--vm-type", "t", "--ttl", "1d", "--uses", "3")
    assert said.out == "join-me\n"
    assert _sent(api)[2] == {"cloud": "c", "user": "u", "vm_type": "t", "ttl_s": 86400, "uses": 3}
    assert cli("nodes", "token", "--json").json["token"] == "join-me"


def test_clouds_list(cli: Cli, api: FakeApi) -> None:
    api.add_cloud("local-a", nodes=2)
    api.add_cloud("b", enabled=False, memory_mb=-1, storage_gb=50, cores=16, error_text="no route")
    assert cli("clouds", "list").lines == [
        "NAME\tKIND\tSTATE\tPRIORITY\tSLOTS\tCORES\tMEMORY\tSTORAGE\tNODES\tERROR",
        "local-a\tlocal\tenabled\t0\t4\t-\t8G\t-\t2\t-",
        "b\tlocal\tdisabled\t0\t4\t16\t-\t50G\t0\tno route",
    ]
    assert [cloud["name"] for cloud in cli("clouds", "list", "--json").json] == ["local-a", "b"]


def test_clouds_add(cli: Cli, api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from file\n")
    monkeypatch.setenv("PASSWORD", "from env")
    monkeypatch.setattr(sys, "stdin", io.StringIO("from stdin\n"))
    said = cli(
        "clouds", "add", "new", "--kind", "local", "--slots", "3", "--cores", "8", "--memory", "16G", "--storage", "1T",
        "--network", "a", "--network", "b", "--priority", "-1", "--keep-alive", "10m", "--boot-timeout", "90",
        "--option", "zone=x", "--option", "n=3", "--credential-file", f"f={secret}", "--credential-env", "e=PASSWORD",
        "--credential", "s", "--disabled",
    )  # fmt: skip
    assert said.status == 0
    assert said.lines == ["CHECK\tRESULT\tDETAIL", "reachable\tok\tin 3 ms", "new: added"]
    assert _sent(api) == ("POST", "/clouds", {
        "name": "new", "kind": "local", "slots": 3, "cores": 8, "memory_mb": 16384, "storage_gb": 1024,
        "networks": ["a", "b"], "priority": -1, "keep_alive_s": 600, "boot_timeout_s": 90,
        "options": {"zone": "x", "n": 3}, "enabled": False,
        "credentials": {"f": "from file", "e": "from env", "s": "from stdin"},
    })  # fmt: skip
    assert "from file" not in said.out + said.err


def test_clouds_add_dry_run_and_without_verify(cli: Cli, api: FakeApi) -> None:
    said = cli("clouds", "add", "x", "--kind", "local", "--dry-run", "--no-verify")
    assert said.lines[-1] == "x: would be added (dry run)"
    assert _sent(api)[1] == "/clouds?dry_run=1&verify=0"
    assert api.clouds == []
    assert cli("clouds", "add", "x", "--kind", "local", "--json").json["name"] == "x"
    said = cli("clouds", "add", "x", "--kind", "local")
    assert said.status == 1 and "there is a cloud x already" in said.err


def test_a_credential_on_the_command_line_is_refused(cli: Cli, api: FakeApi) -> None:
    said = cli("clouds", "add", "x", "--kind", "local", "--credential", "password=secret")
    assert said.status == 2 and "takes the name alone" in said.err and "secret" not in said.err
    assert api.requests == []


def test_clouds_show_set_remove(cli: Cli, api: FakeApi) -> None:
    api.add_cloud("a/b", options={"zone": "x", "old": 1})
    assert 'etag\t"1"' in cli("clouds", "show", "a/b").lines
    assert cli("clouds", "show", "a/b", "--json").json["name"] == "a/b"
    assert cli("clouds", "set", "a/b", "--slots", "9", "--option", "zone=y").out == "a/b: changed options, slots\n"
    assert (api.clouds[0]["slots"], api.clouds[0]["options"]) == (9, {"zone": "y", "old": 1})
    said = cli("clouds", "set", "a/b", "--slots", "1", "--if-match", '"7"')
    assert said.status == 1 and "changed by somebody else" in said.err
    assert cli("clouds", "set", "a/b", "--memory", "none", "--node-memory", "2G", "--title", "A", "--address", "x").status == 0
    assert (api.clouds[0]["memory_mb"], api.clouds[0]["max_node_memory_mb"]) == (-1, 2048)
    assert cli("clouds", "set", "a/b").status == 2
    assert cli("clouds", "remove", "a/b", "--yes").out == "a/b: removed\n"
    assert cli("clouds", "remove", "a/b", "--yes").status == 4


def test_a_cloud_in_use_is_removed_by_force_alone(
    cli: Cli, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.add_cloud("busy", nodes=2)
    api.add_node("one", cloud="busy", jobs=3)
    api.add_node("gone", cloud="busy", state="gone", jobs=9)
    for words in ((), ("--yes",)):
        said = cli("clouds", "remove", "busy", *words)
        assert (said.status, said.out) == (1, "")
        assert said.err == (
            "cloudsched: busy: it has 2 nodes with 3 running jobs; --force destroys them (the jobs go back to the queue)\n"
        )
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True, readline=lambda: "n\n"))
    said = cli("clouds", "remove", "busy")
    assert said.status == 1 and "Remove busy, and destroy its 2 nodes with 3 running jobs? [y/N]" in said.err
    assert [cloud["name"] for cloud in api.clouds] == ["busy"]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True, readline=lambda: "y\n"))
    assert cli("clouds", "remove", "busy").status == 0
    api.add_cloud("busy", nodes=1)
    said = cli("clouds", "remove", "busy", "--force")
    assert said.out == (
        "busy: removed; being destroyed: 1 node with 3 running jobs; the jobs go back to the queue (operation 7)\n"
    )
    assert api.clouds == []


def test_clouds_enable_disable_verify(cli: Cli, api: FakeApi) -> None:
    api.add_cloud("good")
    api.add_cloud("evil", kind="bad")
    assert cli("clouds", "disable", "good", "evil").lines == ["good: disabled", "evil: disabled"]
    assert cli("clouds", "enable", "good", "--json").json["enabled"] is True
    assert cli("clouds", "verify", "good").lines == ["CHECK\tRESULT\tDETAIL", "login\tok\t-"]
    said = cli("clouds", "verify", "evil")
    assert said.status == 1 and "login\trefused\tpassword refused" in said.out
    assert cli("clouds", "verify", "evil", "--json").json["ok"] is False
