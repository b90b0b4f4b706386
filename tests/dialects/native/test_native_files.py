"""What goes into a job and what comes out of it: files, attempts, limits."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from cloudsched.services import agent_rules, jobs
from cloudsched.store import inputs
from cloudsched.store.db import current

PROGRAM = bytes(range(256)) * 40


def _auth(bearer: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {bearer}"}


class Attempt:
    """One attempt of the only job there is, in the hands of a node."""

    def __init__(self, api: Any, bearer: str) -> None:
        self.api, self.bearer = api, bearer
        found = api.sync(bearer, want=1).json["jobs"][0]
        self.id, self.attempt = found["id"], found["attempt"]

    def put(self, name: str, data: bytes, offset: int = 0) -> Any:
        path = f"/agent/files/{self.id}/{self.attempt}/{name}?offset={offset}&final=1"
        return self.api("PUT", path, data=data, headers=_auth(self.bearer))

    def say(self, data: bytes, offset: int = 0, stream: str = "stdout") -> Any:
        path = f"/agent/output?job={self.id}&attempt={self.attempt}&stream={stream}&offset={offset}"
        return self.api.post(path, data=data, headers=_auth(self.bearer))

    def done(self, state: str = "succeeded", **said: Any) -> None:
        code = 0 if state == "succeeded" else 1
        told = {"id": self.id, "attempt": self.attempt, "state": state, "exit_code": code, **said}
        assert self.api.sync(self.bearer, done=[told]).json["refused"] == []


def test_an_empty_output_file_is_a_file(api: Any) -> None:
    job, (_, bearer) = api.submit(), api.node()
    held = Attempt(api, bearer)
    for _ in range(2):  # the answer may have been lost
        assert held.put("empty.txt", b"").json["size"] == 0
    held.put("full.txt", b"a\n")
    held.done()
    assert {one["name"]: one["size"] for one in api.get(f"/jobs/{job}/files").json["items"]} == {"empty.txt": 0, "full.txt": 2}
    got = api.get(f"/jobs/{job}/files/empty.txt")
    assert (got.status_code, got.data, got.headers["Content-Length"]) == (200, b"", "0")


def test_nothing_said_is_no_stream(api: Any) -> None:
    job, (_, bearer) = api.submit(), api.node()
    Attempt(api, bearer).say(b"")
    assert not current().read().all("SELECT name FROM job_data WHERE job_id = ?", (job,))


def test_output_files_are_those_of_the_last_attempt(api: Any) -> None:
    job, (_, bearer) = api.submit(max_retries=1), api.node()
    first = Attempt(api, bearer)
    first.put("a.txt", b"first")
    first.put("both.txt", b"old")
    first.done("failed")
    assert {one["name"] for one in api.get(f"/jobs/{job}/files").json["items"]} == {"a.txt", "both.txt"}
    second = Attempt(api, bearer)
    assert second.attempt == 2 and api.get(f"/jobs/{job}/files").json["items"] == []
    second.put("both.txt", b"")
    second.done()
    assert api.get(f"/jobs/{job}/files").json["items"] == [{"name": "both.txt", "size": 0, "attempt": 2}]
    assert api.get(f"/jobs/{job}/files/both.txt").data == b""
    assert api.get(f"/jobs/{job}/files/a.txt").status_code == 404
    assert [one["name"] for one in api.get(f"/jobs/{job}/files?attempt=1").json["items"]] == ["a.txt", "both.txt"]
    assert api.get(f"/jobs/{job}/files/a.txt?attempt=1").data == b"first"
    assert api.get(f"/jobs/{job}/files/both.txt?attempt=1").data == b"old"
    assert api.get(f"/jobs/{job}/files/a.txt?attempt=3").status_code == 404


def test_output_beyond_the_limit_is_told(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_rules.rules, "output_limit", 10)
    job, (_, bearer) = api.submit(), api.node()
    held = Attempt(api, bearer)

    def seen() -> tuple[Any, ...]:
        found = api.get(f"/jobs/{job}").json
        return tuple(found[name] for name in ("output_size", "output_truncated", "error_size", "error_truncated"))

    assert held.say(b"0123456789").json == {"size": 10, "limit": 10} and seen() == (10, False, 0, False)
    assert held.say(b"1", offset=9).json["size"] == 10 and seen() == (10, False, 0, False)
    for _ in range(2):
        assert held.say(b"abc", offset=10).json == {"size": 13, "limit": 10} and seen() == (10, True, 0, False)
    held.say(b"much too long", stream="stderr")
    held.done()
    assert seen() == (10, True, 10, True) and api.get("/jobs").json["items"] == [api.get(f"/jobs/{job}").json]
    assert api.get(f"/jobs/{job}/output").data == b"0123456789"
    assert api.get(f"/jobs/{job}/files").json["items"] == []


def test_what_an_earlier_attempt_lost_is_not_said_of_the_last(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_rules.rules, "output_limit", 3)
    job, (_, bearer) = api.submit(max_retries=1), api.node()
    first = Attempt(api, bearer)
    first.say(b"long")
    first.done("failed")
    Attempt(api, bearer).done(stdout="ok")
    found = api.get(f"/jobs/{job}").json
    assert (found["output_size"], found["output_truncated"]) == (2, False)


@pytest.mark.parametrize("size", [0, 1, 5])
def test_a_size_that_is_not_the_contents_is_refused(api: Any, size: int) -> None:
    good = {"name": "a", "content_base64": "aGk=", "size": 2}
    answer = api.post("/jobs", json={"command": ["true"], "input_files": [good, {**good, "name": "b", "size": size}]})
    assert answer.status_code == 400 and answer.json["errors"][0]["field"] == "input_files[1].size"
    bad = {"command": ["true"], "input_files": [{**good, "size": size}]}
    answer = api.post("/jobs", json={"jobs": [{"command": ["true"]}, bad]})
    assert answer.status_code == 400 and answer.json["errors"][0]["field"] == "jobs[1].input_files[0].size"
    api.submit(input_files=[good, {"name": "b", "content_base64": "aGk="}])


def test_a_file_announced_without_its_size_may_have_any(api: Any) -> None:
    job, (_, bearer) = api.submit(input_files=[{"name": "a"}]), api.node()
    assert api("PUT", f"/jobs/{job}/files/a", data=b"hello").status_code == 200
    spec = api.sync(bearer, want=1).json["jobs"][0]["spec"]
    assert spec["input_files"] == [{"name": "a", "size": None, "mode": 0o644}]
    empty = api.submit(input_files=[{"name": "a", "size": 0}])
    assert api("PUT", f"/jobs/{empty}/files/a", data=b"hello").status_code == 400


def test_the_same_file_of_many_jobs_is_kept_once(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "WRITTEN_MAX", 200_000)
    decoded: list[bytes] = []
    content = inputs.content
    monkeypatch.setattr(inputs, "content", lambda data: decoded.append(data) or content(data))
    files = [{"name": "run", "content_base64": base64.b64encode(PROGRAM).decode(), "size": len(PROGRAM)}]
    made = api.post("/jobs", json={"jobs": [{"command": ["./run"], "input_files": files}] * 20 + [
        {"command": ["./run"], "array": {"size": 20}, "input_files": files}]}).json["ids"]
    late = api.submit(input_files=[{"name": "other", "size": len(PROGRAM)}])
    assert len(made) == 40 and len(decoded) == 1
    assert api("PUT", f"/jobs/{late}/files/other", data=PROGRAM).status_code == 200
    tx = current().read()
    assert tx.one("SELECT count(*), sum(size) FROM content") == (1, len(PROGRAM))
    assert tx.value("SELECT count(*) FROM job_input") == 41 and tx.value("SELECT count(*) FROM job_data") == 0
    _, bearer = api.node(cores=100)
    for got in api.sync(bearer, want=50).json["jobs"]:
        name = "other" if got["id"] == late else "run"
        assert api.get(f"/agent/files/{got['id']}/{name}", headers=_auth(bearer)).data == PROGRAM


def test_a_retry_has_the_files_of_the_first(api: Any) -> None:
    files = [{"name": "run", "content_base64": base64.b64encode(PROGRAM).decode()}, {"name": "b", "content_base64": ""}]
    job, (_, bearer) = api.submit(input_files=files), api.node()
    Attempt(api, bearer).done("failed")
    again = api.post(f"/jobs/{job}/retry", json={}).json
    assert again["state"] == "queued"
    assert api.sync(bearer, want=1).json["jobs"][0]["id"] == again["id"]
    assert api.get(f"/agent/files/{again['id']}/run", headers=_auth(bearer)).data == PROGRAM
    assert api.get(f"/agent/files/{again['id']}/b", headers=_auth(bearer)).data == b""
    assert api.get(f"/agent/files/{again['id']}/c", headers=_auth(bearer)).status_code == 404


def test_why_names_the_files_that_are_missing(api: Any) -> None:
    job = api.submit(input_files=[{"name": "a", "size": len(PROGRAM)}, {"name": "b"}])
    api("PUT", f"/jobs/{job}/files/a", data=PROGRAM)
    said = json.dumps(api.get(f"/why/job/{job}").json)
    assert "Input files are missing: b." in said
