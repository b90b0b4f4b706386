"""Do `cloudsched clouds run|hosts|nodes|apply|batch ...` ask for what was typed, and show what came back?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Cli
from .fake_api import ROUTES, FakeApi

ANSWERS: dict[tuple[str, str], Any] = {
    ("GET", "/capabilities"): {"name": "lab", "kind": "SSH", "capabilities": ["boot", "run"]},
    ("POST", "/run"): {"failed": 1, "items": [
        {"host": "h1", "ok": True, "error": "", "message": "", "seconds": 0.2, "code": 0, "stdout": "hello\n", "stderr": ""},
        {"host": "h2", "ok": False, "error": "unreachable", "message": "h2: refused", "seconds": 0.1}]},
    ("GET", "/hosts"): {"failed": 0, "items": [
        {"host": "h1", "ok": True, "error": "", "message": "", "seconds": 0.2, "facts": {"cores": 8, "os": "Debian"}}]},
    ("POST", "/ping"): {"failed": 0, "items": [{"host": "h1", "ok": True, "error": "", "message": "", "ping_s": 0.0123}]},
    ("GET", "/nodes"): {"items": [{"raw": "IDLE+X", "name": "n1", "state": "idle", "features": ["a"]}]},
    ("POST", "/nodes/n%2F1/drain"): {"node": "n/1", "verb": "drain", "result": {
        "blocked": [{"namespace": "ns", "name": "p", "reason": "budget"}], "refused": []}},
    ("POST", "/nodes/n1/resume"): {"node": "n1", "verb": "resume", "result": None},
    ("GET", "/types"): {"items": [{"cores": 2, "name": "m1"}]},
    ("GET", "/prices"): {"items": []},
    ("POST", "/apply"): {"items": [{"kind": "Pod", "namespace": "ns", "name": "web", "action": "created", "diff": "+ a\n"}]},
    ("POST", "/delete"): {"items": [{"kind": "Pod", "namespace": "ns", "name": "web", "state": "gone"}]},
    ("POST", "/batch"): {"ids": ["7_0", "7_1"]},
    ("GET", "/batch"): {"items": [{"id": "7_0", "state": "running"}]},
    ("POST", "/batch/cancel"): {"ids": ["7_0"]},
}


@pytest.fixture(autouse=True)
def asked() -> Iterator[list[tuple[str, str, Any]]]:
    """(method, path, body) of each call below the cloud `lab`."""
    calls: list[tuple[str, str, Any]] = []
    before = len(ROUTES)
    for (method, path), answer in ANSWERS.items():
        def reply(api: FakeApi, call: dict[str, Any], *, key: tuple[str, str] = (method, path), answer: Any = answer) -> Any:
            calls.append((*key, call.get("body")))
            return answer

        ROUTES.append((method, re.compile("/clouds/lab" + re.escape(path) + r"\Z"), {"ids"}, reply))
    yield calls
    del ROUTES[before:]


def test_run(cli: Cli, asked: list[tuple[str, str, Any]]) -> None:
    said = cli("clouds", "run", "lab", "--host", "h1", "--timeout", "5s", "echo hello")
    assert said.status == 1
    assert said.lines == ["== h1: exit status 0, 0.2 s", "hello", "== h2: unreachable: h2: refused, 0.1 s"]
    assert "1 of 2 hosts failed" in said.err
    assert asked[-1][2] == {"command": "echo hello", "sudo": False, "timeout_s": 5, "hosts": ["h1"]}
    assert cli("clouds", "run", "lab", "--json", "--sudo", "--", "ls", "-l").json["failed"] == 1
    assert asked[-1][2]["command"] == ["ls", "-l"]


def test_what_is_there(cli: Cli) -> None:
    assert cli("clouds", "capabilities", "lab").lines == ["boot", "run"]
    assert cli("clouds", "hosts", "lab").lines[1].split("\t")[:3] == ["h1", "ok", "8"]
    assert cli("clouds", "ping", "lab").lines[1].split("\t")[:3] == ["h1", "ok", "0.012"]
    assert cli("clouds", "nodes", "lab").lines == ["NAME\tSTATE\tRAW", "n1\tidle\tIDLE+X"]
    assert cli("clouds", "types", "lab", "--json").json == [{"cores": 2, "name": "m1"}]
    assert cli("clouds", "prices", "lab").status == 0


def test_nodes_are_drained_and_used_again(cli: Cli, asked: list[tuple[str, str, Any]]) -> None:
    said = cli("clouds", "drain", "lab", "n/1", "--timeout", "30s", "--force")
    assert (said.status, said.lines) == (1, ["n/1: not empty", "  ns/p: budget"])
    assert asked[-1][2] == {"timeout_s": 30, "force": True}
    assert cli("clouds", "resume", "lab", "n1").lines == ["n1: resume done"]


def test_objects(cli: Cli, asked: list[tuple[str, str, Any]], tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_text("kind: Pod\n")
    said = cli("clouds", "apply", "lab", str(file), str(file), "--dry-run", "--namespace", "ns")
    assert (said.status, said.lines[1].split("\t")) == (0, ["web", "Pod", "ns", "created"])
    assert said.lines[-1] == "+ a"
    assert asked[-1][2] == {"manifests": "kind: Pod\n\n---\nkind: Pod\n", "dry_run": True, "force": False, "namespace": "ns"}
    assert cli("clouds", "delete", "lab", "--labels", "app=web", "--yes", "--timeout", "9").status == 0
    assert asked[-1][2] == {"labels": "app=web", "namespace": None, "wait": True, "timeout_s": 9}
    assert cli("clouds", "delete", "lab", "--yes").status == 2


def test_batch_work(cli: Cli, asked: list[tuple[str, str, Any]], tmp_path: Path) -> None:
    file = tmp_path / "jobs.json"
    file.write_text(json.dumps({"command": ["true"]}))
    assert cli("clouds", "batch", "submit", "lab", str(file), "--key", "k").lines == ["7_0", "7_1"]
    assert asked[-1][2] == {"jobs": [{"command": ["true"]}], "key": "k"}
    assert cli("clouds", "batch", "states", "lab", "7_0").lines == ["ID\tSTATE", "7_0\trunning"]
    assert cli("clouds", "batch", "cancel", "lab", "7_0").lines == ["cancelled: 7_0"]
    file.write_text("{")
    assert cli("clouds", "batch", "submit", "lab", str(file)).status == 2
