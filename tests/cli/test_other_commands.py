"""`events`, `why`, `trace`, `operations`, `loops`, `keys`, `version`: as text in a pipe and as JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from cloudsched.cli.explain import show_trace, show_why
from cloudsched.cli.screen import Screen
from cloudsched.client.errors import ApiError

from .conftest import Cli
from .fake_api import T0, FakeApi

WHY = {
    "subject": "job 12",
    "verdict": "waits: no cloud has room for it",
    "reasons": [
        {"rule": "slots", "cloud": "local-b", "text": "all slots are taken", "have": 4, "need": 1},
        {"rule": "enabled", "cloud": "local-a", "text": "the cloud is switched off"},
        {"rule": "memory", "cloud": "local-b", "text": "not enough memory is left", "have": "512 MB", "need": "2048 MB"},
    ],
}
TRACE = {
    "subject": {"kind": "job", "id": 12, "name": "", "key": "here#12.0#1", "state": "succeeded"},
    "job": {"id": 12, "state": "succeeded", "submitted_at": T0, "command": ["x"]},
    "events": [
        {"id": 1, "at": T0, "kind": "job.submit", "subject_kind": "job", "subject_id": 12, "data": {"user": "ann"}},
        {"id": 4, "at": "2026-01-02T03:04:07.500Z", "kind": "node.boot", "subject_kind": "node", "subject_id": 3, "data": {}},
    ],
    "attempts": [
        {"attempt": 1, "node": "vm-1", "state": "succeeded", "exit_code": 0, "waited_s": 1.5, "ran_s": 2.5, "reason": None}
    ],
    "boot_failures": [{"at": T0, "cloud": "b", "code": -3, "text": "image is broken"}],
    "nodes": [{"id": 3, "name": "vm-1", "cloud": "local-a", "state": "gone", "cores": 1, "memory_mb": 512}],
}


def _event(number: int, kind: str, job: int) -> dict[str, object]:
    return {
        "id": number, "at": T0, "kind": kind, "subject_kind": "job", "subject_id": job, "actor": "ann",
        "data": {"state": "running", "empty": None},
    }  # fmt: skip


def test_events(cli: Cli, api: FakeApi) -> None:
    api.events = [_event(1, "job.submit", 1), _event(2, "job.start", 1), _event(3, "job.start", 2)]
    assert cli("events", "--limit", "2").lines == [
        "SEQ\tTIME\tKIND\tSUBJECT\tBY\tFACTS",
        "2\t2026-01-02 03:04:05\tjob.start\tjob 1\tann\tstate=running",
        "3\t2026-01-02 03:04:05\tjob.start\tjob 2\tann\tstate=running",
    ]
    assert [one["id"] for one in cli("events", "--since", "0", "--limit", "1", "--json").json] == [1]
    assert [one["id"] for one in cli("events", "--subject", "job:1", "--kind", "job.start", "--json").json] == [2]
    assert cli("events", "--subject", "job:x").status == 2
    assert cli("events", "--kind", "nothing", "--json").json == []


def test_the_newest_events_are_found_without_reading_all(cli: Cli, api: FakeApi) -> None:
    api.events = [_event(number, "job.start" if number % 500 else "rare", number) for number in range(1, 20_001)]
    assert [one["id"] for one in cli("events", "--limit", "3", "--json").json] == [19_998, 19_999, 20_000]
    assert len(api.requests) < 40
    assert [one["id"] for one in cli("events", "--kind", "rare", "--limit", "2", "--json").json] == [19_500, 20_000]


def test_events_followed_over_broken_connections_have_no_hole(cli: Cli, api: FakeApi) -> None:
    from cloudsched.client import Client

    api.events = [_event(number, "job.start", number) for number in range(1, 6)]
    api.events.append({"id": 6, "kind": "gap", "at": T0, "subject_kind": "", "subject_id": None, "data": {"missing": 3}})
    url = __import__("os").environ["CLOUDSCHED_SERVER_URL"]
    found = []
    for event in Client(url).events(since=1):
        found.append(event)
        if event.kind == "gap":
            break
    assert [event.id for event in found] == ["2", "3", "4", "5", "6"]
    resumed = [headers.get("last-event-id") for _, _, headers, _ in api.requests]
    assert resumed == [None, "3", "5"]


def test_why_puts_the_verdict_first(cli: Cli, api: FakeApi) -> None:
    api.answers["why job 12"] = WHY
    said = cli("why", "12")
    assert said.lines == [
        "job 12: waits: no cloud has room for it",
        "",
        "WHERE\tRULE\tREASON\tHAS\tNEEDS",
        "local-a\tenabled\tthe cloud is switched off\t-\t-",
        "local-b\tslots\tall slots are taken\t4\t1",
        "local-b\tmemory\tnot enough memory is left\t512 MB\t2048 MB",
    ]
    assert cli("why", "12", "--json").json == WHY


def test_why_in_a_terminal() -> None:
    out = io.StringIO()
    screen = Screen(out, width=80)
    screen.colour = False
    show_why(screen, WHY)
    assert out.getvalue() == (
        "job 12: waits: no cloud has room for it\n"
        "\n"
        "WHERE    RULE     REASON                        HAS    NEEDS\n"
        "local-a  enabled  the cloud is switched off\n"
        "local-b  slots    all slots are taken             4        1\n"
        "         memory   not enough memory is left  512 MB  2048 MB\n"
    )


def test_why_and_trace_tell_jobs_from_nodes(cli: Cli, api: FakeApi) -> None:
    api.answers |= {"why node vm-1": WHY, "why job a#1.0#2": WHY, "why node 7": WHY, "trace node:vm-1": TRACE}
    for words in (("why", "vm-1"), ("why", "a#1.0#2"), ("why", "node:7"), ("trace", "vm-1")):
        assert cli(*words).status == 0
    assert cli("why", "99").status == 4


def test_trace(cli: Cli, api: FakeApi) -> None:
    api.answers["trace 12"] = TRACE
    assert cli("trace", "12").lines == [
        "job 12 (succeeded)",
        f"{T0}\t-\tjob.submit\tjob 12\tuser=ann",
        "2026-01-02T03:04:07.500Z\t+2.5s\tnode.boot\tnode 3\t-",
        "",
        "ATTEMPT\tNODE\tSTATE\tEXIT\tWAITED\tRAN\tREASON",
        "1\tvm-1\tsucceeded\t0\t1.5s\t2.5s\t-",
        "",
        "NODE\tCLOUD\tSTATE\tSIZE",
        "vm-1\tlocal-a\tgone\t1 cores, 512 MB",
        "",
        "TIME\tCLOUD\tCODE\tFAILED BOOT",
        "2026-01-02 03:04:05\tb\t-3\timage is broken",
    ]
    assert cli("trace", "12", "--json").json == TRACE


def test_trace_in_a_terminal(cli: Cli) -> None:
    out = io.StringIO()
    screen = Screen(out, width=90)
    screen.colour = False
    show_trace(screen, TRACE)
    assert out.getvalue().splitlines()[1:3] == [
        "03:04:05.000           job.submit  job 12      user=ann",
        "03:04:07.500    +2.5s  node.boot   node 3",
    ]


def test_operations(cli: Cli, api: FakeApi) -> None:
    api.answers["operations"] = [{
        "id": 5, "kind": "pool.stop", "state": "done", "subject_kind": "cloud", "subject_id": 2, "actor": "ann",
        "created_at": T0, "ended_at": None, "error": None, "steps": [{"at": T0, "text": "told the engine"}],
    }]  # fmt: skip
    assert cli("operations").lines[1] == "5\tpool.stop\tdone\tcloud 2\tann\t2026-01-02 03:04:05\t-\t-"
    said = cli("operations", "5")
    assert "kind\tpool.stop" in said.lines and "  1. 2026-01-02 03:04:05  told the engine" in said.lines
    assert cli("operations", "--json").json == api.answers["operations"]
    assert cli("operations", "5", "--json").json["id"] == 5


def test_loops(cli: Cli, api: FakeApi) -> None:
    api.answers["loops"] = [
        {"name": "scheduler", "leader": "host-1", "interval_s": 5, "last_cycle_at": T0, "took_s": 0.25, "last_error": "x"}
    ]
    assert cli("loops").lines == [
        "LOOP\tLEADER\tEVERY\tLAST RUN\tTOOK\tERROR",
        "scheduler\thost-1\t5s\t2026-01-02 03:04:05\t0.25s\tx",
    ]
    assert cli("loops", "--json").json == api.answers["loops"]


def test_keys(cli: Cli, api: FakeApi, tmp_path: Path) -> None:
    assert cli("keys", "create", "ann").out == "cs_secret\n"
    assert api.requests[-1][3] == {"name": "ann", "role": "submitter"}
    path = tmp_path / "bob.key"
    said = cli("keys", "create", "bob", "--role", "admin", "--org", "lab", "--ttl", "30d", "--to", str(path))
    assert said.out == f"key 2 written to {path}\n"
    assert api.requests[-1][3]["ttl_s"] == 30 * 86400
    assert path.read_text() == "cs_secret\n" and path.stat().st_mode & 0o777 == 0o600
    said = cli("keys", "create", "bob", "--to", str(path))
    assert said.status == 1 and "File exists" in said.err and len(api.keys) == 2
    assert cli("keys", "revoke", "1").out == "key 1: revoked\n"
    assert cli("keys", "revoke", "9").status == 4
    assert cli("keys", "list").lines == [
        "ID\tNAME\tROLE\tORG\tSTATE\tCREATED\tEXPIRES\tLAST USED",
        "1\tann\tsubmitter\t-\trevoked\t2026-01-02 03:04:05\t-\t-",
        "2\tbob\tadmin\tlab\tok\t2026-01-02 03:04:05\t-\t-",
    ]
    assert "cs_secret" not in json.dumps(cli("keys", "list", "--json").json)
    assert cli("keys", "create", "eve", "--role", "king").status == 2


def test_version(cli: Cli, api: FakeApi) -> None:
    said = cli("version")
    assert said.status == 0 and said.lines[0].startswith("cloudsched 0.")
    assert cli("version", "--json").json["server"] == api.answers.get("version", "0.1.0")
    said = cli("version", "--server", "http://127.0.0.1:1")
    assert said.status == 0 and said.lines[1].startswith("server unknown: no answer from http://127.0.0.1:1")
    api.answers["version"] = "99.0"
    assert cli("version").status == 1


def test_a_key_that_is_not_made_leaves_no_file(cli: Cli, api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bob.key"
    assert cli("keys", "create", "bob", "--role", "king", "--to", str(path)).status == 2
    monkeypatch.setattr("cloudsched.client.http.Client.create", _refuse)
    assert cli("keys", "create", "bob", "--to", str(path)).status != 0
    assert list(tmp_path.iterdir()) == [] and not api.keys
    assert cli("keys", "create", "bob", "--to", str(tmp_path / "nowhere" / "bob.key")).status == 1
    path.symlink_to(tmp_path / "elsewhere")
    said = cli("keys", "create", "bob", "--to", str(path))
    assert said.status == 1 and "File exists" in said.err and not (tmp_path / "elsewhere").exists()


def _refuse(*_: object, **__: object) -> None:
    raise ApiError(503, "away")
