"""Jobs and nodes through the API, with agents that speak the protocol."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from cloudsched.dialects.native import wire
from cloudsched.services import watch
from cloudsched.store.db import current


def test_one_job_many_and_an_array(api: Any) -> None:
    one = api.post("/jobs", json={"command": ["true"]})
    assert set(one.json) == {"id", "key"} and one.headers["Location"] == f"/api/v2/jobs/{one.json['id']}"
    many = api.post("/jobs", json={"jobs": [{"command": ["true"]}] * 3}).json
    assert len(many["ids"]) == len(many["keys"]) == 3
    array = api.post("/jobs", json={"command": ["true"], "array": {"indices": [5, 9]}}).json
    assert [api.get(f"/jobs/{n}").json["env"]["CLOUDSCHED_ARRAY_INDEX"] for n in array["ids"]] == ["5", "9"]
    assert api.get("/jobs/count").json["total"] == 6


def test_a_batch_is_all_or_nothing(api: Any) -> None:
    answer = api.post("/jobs", json={"jobs": [{"command": ["true"]}, {"command": ["true"], "after_ok": [77]}]})
    assert answer.status_code == 400 and "after_ok" in answer.text and api.get("/jobs/count").json["total"] == 0


def test_what_was_asked_is_read_back(api: Any) -> None:
    asked = {"command": ["sh", "-c", "echo é"], "name": "n", "env": {"A": "b"}, "stdin": "in", "vm_type": "big", "cores": 2,
             "memory_mb": 2048, "storage_gb": 3, "network": "lan", "priority": 7, "time_limit_s": 60.0, "max_retries": 2,
             "backoff_s": 1.5, "hold": True, "output_files": ["*.txt"], "targets": ["c1"], "image": "img",
             "instance_type": {"c1": "m1"}, "keep_alive_s": 9, "high_priority": 1, "vmtype_limit": 4, "job_per_core": True,
             "maximum_price": 0.5, "security_groups": ["g"], "attributes": {"a": [1]}, "batch": "label",
             "depends_fail": "hold", "gpus": 1}
    made = api.post("/jobs", json=asked).json
    read = api.get(f"/jobs/{quote(made['key'], safe='')}").json
    assert read["id"] == made["id"] and read["state"] == "held" and read["user"] == "local"
    assert {name: read[name] for name in asked} == asked


def test_filters_and_pages(api: Any) -> None:
    ids = [api.submit(name=f"n{n % 2}", vm_type="big" if n < 3 else "small", batch="b%_" if n == 4 else "") for n in range(6)]
    api.post(f"/jobs/{ids[5]}/cancel")

    def found(query: str) -> list[int]:
        return [one["id"] for one in api.get(f"/jobs?{query}").json["items"]]

    assert found("") == ids[::-1] and found("order=id") == ids
    assert found("state=cancelled") == [ids[5]] and found("state=queued,cancelled") == ids[::-1]
    assert found("state=queued&state=cancelled&order=id&limit=2") == ids[:2]
    assert found("name=n1&order=id") == ids[1::2] and found("vm_type=big&order=id") == ids[:3]
    assert found("batch=b%25_") == [ids[4]] and found("batch=b") == [] and found("user=nobody") == []
    assert found("node=none") == [] and found(f"batch={api.get(f'/jobs/{ids[0]}').json['batch_id']}") == [ids[0]]
    assert api.get("/jobs/count?state=queued&vm_type=big").json == {"by_state": {"queued": 3}, "total": 3}


@pytest.mark.parametrize("states", ["", "&state=queued", "&state=queued,held"])
def test_cursor_walks_over_everything_once(api: Any, states: str) -> None:
    ids = api.post("/jobs", json={"command": ["true"], "array": {"size": 25}}).json["ids"]
    seen, cursor = [], ""
    while True:
        page = api.get(f"/jobs?limit=10{states}{cursor}").json
        seen += [one["id"] for one in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert seen == ids[::-1]
    other = api.get(f"/jobs?limit=10&user=local{cursor}")
    assert other.status_code == 400 and other.json["errors"][0]["field"] == "cursor"


def test_a_list_is_never_old(api: Any) -> None:
    assert api.get("/jobs?state=queued").json["items"] == []
    job = api.submit()
    assert [one["id"] for one in api.get("/jobs?state=queued").json["items"]] == [job]
    api.post(f"/jobs/{job}/hold")
    assert api.get("/jobs?state=queued").json["items"] == []


def test_from_submission_to_result(api: Any) -> None:
    job = api.submit(command=["echo", "hi"])
    number, bearer = api.node()
    got = api.sync(bearer, want=10).json
    assert [one["id"] for one in got["jobs"]] == [job] and got["jobs"][0]["spec"]["command"] == ["echo", "hi"]
    assert got["goal"] == "run" and got["upgrade"] is None and got["jobs"][0]["lease_s"] == 60
    assert api.get(f"/jobs/{job}").json["node"] == "n1"
    assert [one["id"] for one in api.get("/jobs?node=n1").json["items"]] == [job]
    api.sync(bearer, holding=[[job, 1]], started=[[job, 1, 0.5]])
    piece = api.post(f"/agent/output?job={job}&attempt=1&stream=stdout&offset=0", data=b"hi\n",
                     headers={"Authorization": f"Bearer {bearer}"})
    assert piece.json == {"size": 3, "limit": 16 << 20}
    done = {"id": job, "attempt": 1, "state": "succeeded", "exit_code": 0, "ran_s": 0.1, "stdout": "ho\n", "result": {"a": 1}}
    settled = api.sync(bearer, done=[done])
    assert settled.status_code == 200 and settled.json["refused"] == [], settled.text
    read = api.get(f"/jobs/{job}").json
    assert (read["state"], read["exit_code"], read["output_size"], read["result"]) == ("succeeded", 0, 6, {"a": 1})
    assert api.get(f"/jobs/{job}/output").data == b"hi\nho\n"
    assert api.get(f"/jobs/{job}/output?offset=3&stream=stdout").data == b"ho\n"
    assert api.get(f"/jobs/{job}/output?follow=1").data == b"hi\nho\n"
    assert api.get("/nodes/n1").json["jobs"] == 0 and api.get(f"/nodes/{number}").json["name"] == "n1"


def test_agent_errors(api: Any) -> None:
    job = api.submit()
    _, bearer = api.node()
    auth = {"Authorization": f"Bearer {bearer}"}
    assert api.post("/agent/sync", json={"want": 1}).status_code == 401
    assert api.sync(bearer + "x", want=1).status_code == 401
    assert api.sync(bearer, want=-1).status_code == 400
    assert api.sync(bearer, done=[{"id": 1, "attempt": 1, "state": "odd"}]).json["errors"][0]["field"] == "done[0].state"
    stale = api.post(f"/agent/output?job={job}&attempt=1&offset=0", data=b"x", headers=auth)
    assert stale.status_code == 409 and stale.json["detail"].startswith("stale")
    api.sync(bearer, want=1)
    gap = api.post(f"/agent/output?job={job}&attempt=1&offset=5", data=b"x", headers=auth)
    assert gap.status_code == 409 and gap.json["size"] == 0
    assert api.post(f"/agent/output?job={job}&attempt=1&odd=5", data=b"x", headers=auth).status_code == 400
    assert api.post(f"/agent/output?job={job}&attempt=1", data=b"x" * ((1 << 20) + 1), headers=auth).status_code == 413
    assert api.post("/agent/join", json={"token": "no", "profile": {}}).status_code == 401


def test_files_in_and_out(api: Any) -> None:
    job = api.submit(input_files=[{"name": "a/b c.txt", "size": 4}], output_files=["out.txt"])
    assert api.get(f"/jobs/{job}").json["state"] == "pending"
    assert api("PUT", f"/jobs/{job}/files/other", data=b"x").status_code == 400
    assert api("PUT", f"/jobs/{job}/files/a%2Fb%20c.txt", data=b"data").json == {"name": "a/b c.txt", "size": 4}
    assert api.get(f"/jobs/{job}").json["state"] == "queued"
    _, bearer = api.node()
    auth = {"Authorization": f"Bearer {bearer}"}
    assert api.sync(bearer, want=1).json["jobs"][0]["spec"]["input_files"][0]["name"] == "a/b c.txt"
    got = api.get(f"/agent/files/{job}/a/b%20c.txt", headers=auth)
    assert got.data == b"data" and got.headers["Content-Length"] == "4"
    assert api.get(f"/agent/files/{job}/none", headers=auth).status_code == 404
    assert api("PUT", f"/agent/files/{job}/1/out.txt?offset=0", data=b"re", headers=auth).json["size"] == 2
    assert api("PUT", f"/agent/files/{job}/1/out.txt?offset=2&final=1", data=b"sult", headers=auth).json["size"] == 6
    assert api.get(f"/jobs/{job}/files?limit=1000").json["items"] == [{"name": "out.txt", "size": 6, "attempt": 1}]
    kept = api.get(f"/jobs/{job}/files/out.txt")
    assert kept.data == b"result" and kept.headers["Content-Length"] == "6"
    assert kept.headers["Content-Disposition"] == 'attachment; filename="out.txt"'
    assert api.get(f"/jobs/{job}/files/none").status_code == 404
    assert api("PUT", f"/jobs/{job}/files/a%2Fb%20c.txt", data=b"late").status_code == 409


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a/b c.txt", 'filename="b c.txt"'),
        ("ü.txt", "filename=\"_.txt\"; filename*=UTF-8''%C3%BC.txt"),
        ('x"\\\r\nX: y', "filename=\"x____X: y\"; filename*=UTF-8''x%22%5C%0D%0AX%3A%20y"),
    ],
)
def test_a_download_has_a_name(name: str, told: str) -> None:
    assert wire.attachment(name) == f"attachment; {told}"


def test_a_server_that_stops_cuts_off_what_is_followed(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job = api.submit()
    monkeypatch.setattr(watch._look, "stopping", True)
    with pytest.raises(ConnectionResetError):
        list(watch.follow_output(job, "stdout"))


def test_cancel_with_proof(api: Any) -> None:
    job = api.submit()
    _, bearer = api.node()
    api.sync(bearer, want=1)
    first = api.post(f"/jobs/{job}/cancel")
    assert first.status_code == 202 and first.json["goal"] == "cancel" and first.json["state"] == "assigned"
    assert api.sync(bearer, holding=[[job, 1]]).json["drop"] == [[job, 1]]

    def prove() -> None:
        api.sync(bearer, done=[{"id": job, "attempt": 1, "state": "cancelled"}])
        current().close_thread()

    proof = threading.Timer(0.05, prove)
    proof.start()
    assert api.post(f"/jobs/{job}/cancel?wait_s=20").json["state"] == "cancelled"
    proof.join()
    assert api.post(f"/jobs/{job}/retry").status_code == 201
    assert api.post(f"/jobs/{job}/cancel").status_code == 200


def test_cancel_many(api: Any) -> None:
    ids = [api.submit(name="a") for _ in range(3)] + [api.submit(name="b", batch="x y")]
    assert api.post("/jobs/cancel", json={"ids": [ids[0], str(ids[1])]}).json == {"cancelled": 2}
    assert api.post("/jobs/cancel", json={"batch": "x y"}).json == {"cancelled": 1}
    assert api.post("/jobs/cancel", json={"state": "queued"}).json == {"cancelled": 1}
    assert api.get("/jobs/count?state=cancelled").json["total"] == 4


def test_hold_release_retry_refusals(api: Any) -> None:
    job = api.submit()
    assert api.post(f"/jobs/{job}/release").status_code == 409
    assert api.post(f"/jobs/{job}/hold", json={"reason": "wait"}).json["reason"] == "wait"
    assert api.post(f"/jobs/{job}/retry").status_code == 409
    assert api.post(f"/jobs/{job}/release").json["state"] == "queued"


def test_a_retry_asks_for_what_the_job_needs(api: Any) -> None:
    first = api.submit()
    after = api.submit(after_ok=[first])
    api.post(f"/jobs/{first}/cancel")
    refused = api.post(f"/jobs/{after}/retry")
    assert refused.status_code == 409 and f"job {first}, which has ended as cancelled" in refused.json["detail"]
    assert api.post(f"/jobs/{after}/retry", json={"ignore_dependencies": True}).json["state"] == "queued"
    again = api.post(f"/jobs/{first}/retry").json["id"]
    waiting = api.post(f"/jobs/{after}/retry").json
    assert waiting["state"] == "pending" and waiting["after_ok"] == [again]


def test_drain_resume_destroy(api: Any) -> None:
    _, bearer = api.node()
    job = api.submit()
    api.sync(bearer, want=1)
    assert api.post("/nodes/n1/drain").status_code == 202
    api.submit()
    assert api.sync(bearer, holding=[[job, 1]], want=5).json["goal"] == "drain"
    assert api.post("/nodes/n1/resume").json["goal"] == "run"
    assert api.post("/nodes/n1/resume").status_code == 409
    gone = api.post("/nodes/n1/destroy")
    assert gone.status_code == 202 and gone.json["goal"] == "gone"
    assert api.sync(bearer, want=1).json["goal"] == "stop"
    assert api.post("/nodes/n1/drain").status_code == 409


def test_why_and_trace(api: Any) -> None:
    job = api.submit(cores=64)
    api.node()
    why = api.get(f"/why/job/{job}").json
    assert why["subject"]["id"] == job and any(one["rule"] == "cores" and one["node"] == "n1" for one in why["reasons"])
    assert api.get("/why/node/n1").json["verdict"]
    trace = api.get(f"/trace/{job}").json
    assert [one["kind"] for one in trace["events"]] == ["job.submit"] and trace["events"][0]["after_s"] is None
    assert api.get("/trace/node:n1").json["events"][0]["kind"] == "node.join"


def test_clouds_dry_run_and_checks(api: Any) -> None:
    body = {"name": "C1", "kind": "local", "slots": 2}
    dry = api.post("/clouds?dry_run=1", json=body)
    assert dry.status_code == 200 and dry.json["dry_run"] is True and dry.json["checks"]
    assert api.get("/clouds").json["items"] == []
    assert api.post("/clouds", json=body).status_code == 201
    assert api.post("/clouds", json=body).status_code == 409
    assert api.post("/clouds/c1/disable").json["enabled"] is False
    assert api.post("/clouds/c1/enable").json["enabled"] is True
    assert api.post("/clouds/c1/verify").json["ok"] is True
    assert api("PATCH", "/clouds/c1", json={}).status_code == 400


def test_removing_a_cloud_with_nodes_is_an_operation(api: Any) -> None:
    from cloudsched import clock
    from cloudsched.services import lifecycle, operations
    from cloudsched.store import nodes
    from cloudsched.store.clouds import by_name
    from cloudsched.store.db import write

    api.post("/clouds?verify=0", json={"name": "c", "kind": "local", "slots": 2})
    cloud = by_name("c")
    assert cloud is not None
    number = write(lambda tx: nodes.insert(tx, {"name": "vm1", "cloud_id": cloud.id, "state": "running"}, at=clock.now()))
    answer = api("DELETE", "/clouds/c")
    assert answer.status_code == 202
    operations.work("test")
    shown = api.get(f"/operations/{answer.json['operation']}").json
    assert shown["state"] == "running" and [step["state"] for step in shown["steps"]] == ["done", "waiting"]
    write(lambda tx: lifecycle.end(tx, number, "destroy", at=clock.now()))
    write(lambda tx: tx.run("UPDATE operation SET not_before = 0"))
    operations.work("test")
    assert api.get("/operations").json["items"][0]["state"] == "succeeded"


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
@pytest.mark.parametrize("check", [test_filters_and_pages, test_from_submission_to_result, test_cancel_with_proof,
                                   test_files_in_and_out, test_why_and_trace])
@pytest.mark.postgres
def test_the_same_on_postgres(make_api: Callable[..., Any], database_url: str, check: Callable[[Any], None]) -> None:
    api = make_api(database_url=database_url)
    check(api)
    headers = {"Idempotency-Key": "one"}
    assert [api.post("/nodes/tokens", json={}, headers=headers).status_code for _ in range(2)] == [201, 201]
    for path in ("/readyz", "/metrics", "/nodes", "/events", "/clouds", "/keys", "/operations"):
        assert api.get(path).status_code == 200, path


def test_a_reserved_batch_number_is_good_for_one_submission(api: Any) -> None:
    reserved = api.post("/batches").json["batch_id"]
    job = {"kind": "noop", "batch_id": reserved}
    assert api.post("/jobs", json={"jobs": [job, {"kind": "noop"}]}).status_code == 400
    made = api.post("/jobs", json={"jobs": [job, job]})
    assert made.status_code == 201 and all(f"#{reserved}." in key for key in made.json["keys"])
    assert "has jobs already" in api.post("/jobs", json=job).text
    assert "was not reserved" in api.post("/jobs", json={**job, "batch_id": reserved + 99}).text
    assert api.post("/jobs", json={"kind": "noop"}).json["key"].split("#")[1] != f"{reserved}.0"
