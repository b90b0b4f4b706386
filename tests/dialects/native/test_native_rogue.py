"""What wild requests, rogue nodes and late uploads must not do."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from cloudsched.services import jobs, settling
from cloudsched.store.db import current

HUGE = "x#" + "9" * 30 + ".0#1"


@pytest.mark.parametrize("reference", ["#²", "#" + "9" * 5000, "#-1", "#1.0", HUGE, "9" * 5000])
@pytest.mark.parametrize("member", ["after_ok", "after_any"])
def test_references_that_are_no_jobs(api: Any, member: str, reference: str) -> None:
    answer = api.post("/jobs", json={"command": ["true"], member: [reference]})
    assert answer.status_code == 400 and member in answer.text


def test_keys_with_numbers_beyond_any_database(api: Any) -> None:
    for path in ("", "/output", "/files"):
        assert api.get(f"/jobs/{quote(HUGE, safe='')}{path}").status_code == 404


@pytest.mark.parametrize("name", ["", ".", "..", "./a", "a/", "a//b", "a/./b", "/a", "~a", "a/../b", "a\0b"])
def test_names_of_input_files_are_plain(api: Any, name: str) -> None:
    answer = api.post("/jobs", json={"command": ["true"], "input_files": [{"name": name, "content_base64": ""}]})
    assert answer.status_code == 400 and answer.json["errors"][0]["field"] == "input_files[0].name"


def test_a_file_is_no_directory_of_another(api: Any) -> None:
    files = [{"name": "a/b", "content_base64": ""}, {"name": "a", "content_base64": ""}]
    answer = api.post("/jobs", json={"command": ["true"], "input_files": files})
    assert answer.status_code == 400 and answer.json["errors"][0]["field"] == "input_files[1].name"


def test_an_upload_again_replaces_the_first(api: Any) -> None:
    job = api.submit(input_files=[{"name": "a", "size": 3}, {"name": "b"}])
    assert api("PUT", f"/jobs/{job}/files/a", data=b"long").status_code == 400
    for _ in range(2):
        assert api("PUT", f"/jobs/{job}/files/a", data=b"abc").status_code == 200
    assert api("PUT", f"/jobs/{job}/files/b", data=b"").status_code == 200
    assert api.get(f"/jobs/{job}").json["state"] == "queued"
    assert api("PUT", f"/jobs/{job}/files/a", data=b"xyz").status_code == 409
    _, bearer = api.node()
    assert api.sync(bearer, want=1).json["jobs"][0]["id"] == job
    fetched = api.get(f"/agent/files/{job}/a", headers={"Authorization": f"Bearer {bearer}"})
    assert fetched.data == b"abc"


def test_a_retry_waits_for_files_that_never_came(api: Any) -> None:
    job = api.submit(input_files=[{"name": "a"}])
    api.post(f"/jobs/{job}/cancel")
    again = api.post(f"/jobs/{job}/retry", json={}).json
    assert again["state"] == "pending"
    assert api("PUT", f"/jobs/{again['id']}/files/a", data=b"1").status_code == 200
    assert api.get(f"/jobs/{again['id']}").json["state"] == "queued"


def _claimed(api: Any, bearer: str, **job: Any) -> dict[str, Any]:
    api.submit(**job)
    found: dict[str, Any] = api.sync(bearer, want=1).json["jobs"][0]
    return {"id": found["id"], "attempt": found["attempt"]}


def test_wild_ages_leave_the_job_readable(api: Any) -> None:
    _, bearer = api.node()
    one = _claimed(api, bearer)
    pair = [one["id"], one["attempt"]]
    assert api.sync(bearer, holding=[pair], started=[[*pair, 1e308]]).status_code == 200
    assert api.get(f"/jobs/{one['id']}").status_code == 200
    assert api.sync(bearer, done=[{**one, "state": "succeeded", "ended_ago_s": 1e308, "ran_s": -3}]).status_code == 200
    assert api.get(f"/jobs/{one['id']}").json["ran_s"] == 0
    assert api.get("/jobs").status_code == api.get("/events").status_code == 200


@pytest.mark.parametrize(("said", "field"), [
    ({"done": [{"id": 2**63, "attempt": 1, "state": "failed"}]}, "done[0].id"),
    ({"done": [{"id": 1, "attempt": 1, "state": "failed", "exit_code": 2**40}]}, "done[0].exit_code"),
    ({"done": [{"id": 1, "attempt": 1, "state": "failed", "max_rss_mb": 2**63}]}, "done[0].max_rss_mb"),
    ({"done": [{"id": 1, "attempt": 1, "state": "failed", "ran_s": 1e300}]}, "done[0].ran_s"),
    ({"done": [{"id": 1, "attempt": 1, "state": "failed", "stdout": "x" * 65_537}]}, "done[0].stdout"),
    ({"done": [{"id": 1, "attempt": 1, "state": "failed", "result": {"x": "y" * 1_200_000}}]}, "done[0].result"),
    ({"done": [{"id": 1, "attempt": 1, "state": "failed"}] * 10_001}, "done"),
    ({"started": [[2**64, 1, 0]]}, "started[0][0]"), ({"returned": [[2**64, 1]]}, "returned[0][0]"),
    ({"holding": [[2**64, 1]]}, "holding[0][0]"), ({"metrics": {"x": "y" * 300_000}}, "metrics"),
])  # fmt: skip
def test_what_a_node_says_has_bounds(api: Any, said: dict[str, Any], field: str) -> None:
    _, bearer = api.node()
    answer = api.sync(bearer, **said)
    assert answer.status_code == 400 and answer.json["errors"][0]["field"] == field


def test_a_result_told_twice_in_one_call_ends_the_job_once(api: Any) -> None:
    _, bearer = api.node()
    one = _claimed(api, bearer)
    api.sync(bearer, done=[{**one, "state": "succeeded", "stdout": "A"}, {**one, "state": "failed", "stdout": "B"}])
    assert api.get(f"/jobs/{one['id']}").json["state"] == "succeeded"
    assert api.get(f"/jobs/{one['id']}/output").text == "A"
    kinds = [event["kind"] for event in api.get(f"/events?subject_kind=job&subject_id={one['id']}").json["items"]]
    assert kinds == ["job.submit", "job.claim", "job.succeed"]


def test_a_cancelled_job_given_back_frees_those_that_waited(api: Any) -> None:
    _, bearer = api.node()
    one = _claimed(api, bearer)
    ok, after = api.submit(after_ok=[one["id"]]), api.submit(after_any=[one["id"]])
    assert api.post(f"/jobs/{one['id']}/cancel").status_code == 202
    api.sync(bearer, returned=[[one["id"], one["attempt"]]])
    states = [api.get(f"/jobs/{number}").json["state"] for number in (one["id"], ok, after)]
    assert states == ["cancelled", "cancelled", "queued"]


def test_retries_do_not_count_as_losses(api: Any) -> None:
    _, bearer = api.node()
    one = _claimed(api, bearer)
    attempt = settling.LOST_LIMIT + 5
    current().write(lambda tx: tx.run("UPDATE job SET attempt = ? WHERE id = ?", (attempt, one["id"])))
    current().write(lambda tx: settling.redeliver(tx, [(one["id"], attempt)], at=1.8e9, reason="gone"))
    assert api.get(f"/jobs/{one['id']}").json["state"] == "queued"


@pytest.mark.parametrize("bearer", ["²".encode().decode("latin-1") + ".x", "-1.x", "1", "9" * 40 + ".x"])
def test_bearers_that_are_none(api: Any, bearer: str) -> None:
    assert api.sync(bearer).status_code == 401


@pytest.mark.parametrize("name", ["..%2Fx", "../x", "", "%2Fetc%2Fx", "a//b", "x" * 5000])
def test_output_files_have_plain_names(api: Any, name: str) -> None:
    _, bearer = api.node()
    one = _claimed(api, bearer)
    path = f"/agent/files/{one['id']}/{one['attempt']}/{name}?offset=0&final=1"
    answer = api("PUT", path, data=b"x", headers={"Authorization": f"Bearer {bearer}"},
                 environ={"RAW_URI": f"/api/v2{path}"})
    assert answer.status_code == 400 and api.get(f"/jobs/{one['id']}/files").json["items"] == []


@pytest.mark.parametrize("name", ["12", "a\nb", " a", "\x1b[31m"])
def test_nodes_have_names_that_can_be_said(api: Any, name: str) -> None:
    token = api.post("/nodes/tokens", json={}).json["token"]
    answer = api.post("/agent/join", json={"token": token, "name": name, "profile": {"cores": 1}})
    assert answer.status_code == 400 and answer.json["errors"][0]["field"] == "name"


def test_profiles_have_a_limit(api: Any) -> None:
    token = api.post("/nodes/tokens", json={}).json["token"]
    answer = api.post("/agent/join", json={"token": token, "profile": {"cores": 1, "x": "y" * 300_000}})
    assert answer.status_code == 400 and answer.json["errors"][0]["field"] == "profile"


def test_cancelling_many_is_refused_as_a_whole(api: Any) -> None:
    admin = api.post("/keys", json={"name": "root", "role": "admin"}).json["key"]
    mine = api.post("/keys", json={"name": "me", "role": "submitter"}, key=admin).json["key"]
    own = api.post("/jobs", json={"command": ["true"]}, key=mine).json["id"]
    other = api.post("/jobs", json={"command": ["true"]}, key=admin).json["id"]
    assert api.post("/jobs/cancel", json={"ids": [own, other]}, key=mine).status_code == 403
    assert api.get(f"/jobs/{own}", key=mine).json["state"] == "queued"


def test_a_file_of_an_attempt_that_kept_none(api: Any) -> None:
    _, bearer = api.node()
    one = _claimed(api, bearer)
    path = f"/agent/files/{one['id']}/{one['attempt']}/x?offset=0&final=1"
    api("PUT", path, data=b"x", headers={"Authorization": f"Bearer {bearer}"})
    assert api.get(f"/jobs/{one['id']}/files/x?attempt=1").data == b"x"
    assert api.get(f"/jobs/{one['id']}/files/x?attempt=7").status_code == 404


def test_a_position_of_another_life_is_told(api: Any) -> None:
    api.submit()
    newest = api.get("/events").json["items"][-1]["id"]
    stream = api.get("/events?since=99999", headers={"Accept": "text/event-stream"}, buffered=False)
    lines = iter(stream.response)
    next(lines)
    gap = next(lines).decode()
    stream.close()
    assert f"id: {newest}\n" in gap and "event: gap" in gap and f'"from":{newest + 1},"to":99999' in gap


def test_errors_are_described_as_problems(api: Any) -> None:
    document = api.get("/openapi.json").json
    shared = document["components"]["responses"].values()
    answers = [answer for path in document["paths"].values() for method in path.values() if isinstance(method, dict)
               for code, answer in method.get("responses", {}).items() if code >= "400" and "content" in answer]
    assert answers and {kind for answer in (*answers, *shared) for kind in answer["content"]} == {"application/problem+json"}
    default = document["components"]["responses"]["DEFAULT_ERROR"]["content"]["application/problem+json"]
    assert default["schema"]["$ref"].endswith("/Problem")


@pytest.mark.parametrize("big", [
    {"array": {"size": 1000}, "env": {"A": "x" * 1000}},
    {"array": {"size": 1000}, "input_files": [{"name": str(n), "content_base64": "QUFB" * 300} for n in range(2)]},
    {"array": {"size": 1}, "input_files": [{"name": "a", "content_base64": "QUFB" * 400_000}]},
])  # fmt: skip
def test_an_array_of_big_texts_is_refused_before_it_is_written(api: Any, monkeypatch: pytest.MonkeyPatch,
                                                               big: dict[str, Any]) -> None:
    monkeypatch.setattr(jobs, "WRITTEN_MAX", 1 << 20)
    answer = api.post("/jobs", json={"command": ["true"], **big})
    assert answer.status_code == 400 and answer.json["errors"][0]["field"] == "array"
    assert api.get("/jobs/count").json["total"] == 0


def test_no_type_of_the_document_is_told_twice(api: Any) -> None:
    def check(value: Any) -> None:
        if isinstance(value, dict):
            kinds = value.get("type")
            assert not isinstance(kinds, list) or len(kinds) == len(set(kinds)), value
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(inner)

    check(api.get("/openapi.json").json["components"])
