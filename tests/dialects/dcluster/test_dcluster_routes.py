"""Do the 25 routes answer as the contract says, at both mounts, as JSON and as plain text?"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from cloudsched.dialects.dcluster.routes import Handlers
from cloudsched.services.caller import LOCAL_ADMIN
from cloudsched.services.notices import alerts
from cloudsched.store import events

from .conftest import FLINK, JOB, SPARK, Api

STAMP = "2026-01-02T08:04:44.000Z"


@pytest.fixture(params=["", "/cluster"])
def both(api: Api, request: pytest.FixtureRequest) -> Api:
    """The same at the root and below the prefix."""
    api.prefix = request.param
    return api


def test_there_are_25_of_them(api: Api) -> None:
    assert len({(route.method, route.rule) for route in Handlers(api.settings).routes()}) == 25


def test_service(both: Api) -> None:
    answer = both.get("/")
    assert (answer.status_code, answer.json, answer.content_type) == (200, "Cluster Service", "application/json")
    assert answer.headers["Cache-Control"] == "no-store"


def test_launch_and_status(both: Api) -> None:
    first = both.post("/launch/spark/cluster", {**SPARK, "type": "spark"})
    second = both.post("/v2/launch/spark/cluster", SPARK)
    third = both.post("/launch/flink/cluster", FLINK)
    assert [type(answer.json) for answer in (first, second, third)] == [int, int, int]
    assert both.get(f"/status/spark/cluster/{first.json}").json == "PENDING"
    assert both.get(f"/status/cluster/{third.json}").json == "PENDING"
    for path in (f"/status/cluster/{first.json}", f"/status/spark/cluster/{third.json}", "/status/spark/cluster/999"):
        assert both.get(path).status_code == 404, "a Spark id at the Flink route, and the other way round"


@pytest.mark.parametrize("state", ["pending", "launching", "running", "degraded", "failed", "terminating", "terminated"])
def test_every_state_has_its_word(api: Api, state: str) -> None:
    number = api.cluster("flink", state)
    assert api.get(f"/status/cluster/{number}").json == state.upper()


def test_status_by_name_works_for_both_kinds(both: Api) -> None:
    for kind, begin in (("spark", "spark3-dev-my-team-"), ("flink", "flink-dev-my-team-")):
        number = both.cluster(kind, clusterSuffix="x1")
        data = [json.loads(event.data) for event in events.since(0, subject_kind="cluster", subject_id=number)]
        name = data[0]["key"]
        assert re.fullmatch(rf"{begin}\d+-x1", name)
        assert both.get(f"/status/cluster/name/{name}").json == "PENDING"
    assert both.get("/status/cluster/name/nothing").status_code == 404
    assert both.get(f"/status/cluster/name/{number}").status_code == 404, "a number is no name"


def test_terminate_answers_the_state_again_and_again(both: Api) -> None:
    spark, flink = both.cluster("spark", "running"), both.cluster("flink")
    assert both("DELETE", f"/terminate/spark/{spark}").json == "TERMINATING"
    assert both("DELETE", f"/terminate/spark/{spark}").json == "TERMINATING"
    assert both.get(f"/terminate/flink/{flink}").json in ("TERMINATING", "TERMINATED")
    assert both.get(f"/terminate/flink/{spark}").status_code == 404
    assert both.get("/terminate/flink/999").status_code == 404


def test_who_asked_is_in_the_events(api: Api) -> None:
    number = api.cluster("flink")
    api.get(f"/terminate/flink/{number}", environ_base={"REMOTE_ADDR": "10.1.2.3"})
    found = events.since(0, subject_kind="cluster", subject_id=number)
    assert (found[0].kind, found[0].actor) == ("cluster.request", "dcluster 127.0.0.1")
    assert {event.actor for event in found[1:] if event.actor} == {"dcluster 10.1.2.3"}


def test_instance_log(both: Api) -> None:
    answer = both.post("/log/instance/i-1234567890abcdef0", {"cpu": 0.5})
    assert (answer.status_code, answer.data) == (200, b"")
    [event] = events.since(0, kind="instance.log")
    assert json.loads(event.data)["said"] == {"cpu": 0.5} and event.actor == "dcluster 127.0.0.1"


def test_a_job_from_submission_to_its_end(both: Api) -> None:
    answer = both.post("/job/submit", {**JOB, "dockerImageName": "dv-spark:2.2.0", "somethingElse": {"deep": [1, None]}})
    assert answer.status_code == 200
    made = answer.json
    assert set(made) == {"jobId", "jobStatus", "clusterName", "message"} and made["jobStatus"] == "SUBMITTED"
    number = made["jobId"]
    assert both.get(f"/job/status/{number}").json == "SUBMITTED"
    info = both.get(f"/job/info/{number}").json
    assert {**JOB, "somethingElse": {"deep": [1, None]}}.items() <= info.items()
    assert info["created"] == STAMP and info["started"] is None and info["clusterName"] == made["clusterName"]
    assert {"log", "links", "exitCode", "applicationId", "clusterId", "ended"} <= info.keys()
    both.run(number)
    assert both.get(f"/job/status/{number}").json == "RUNNING"
    assert both.post(f"/job/terminate/{number}").json == "TERMINATING"
    both.run(number, state="failed", exit_code=3, ended_at=both.clock.now())
    assert both.post(f"/job/terminate/{number}").json == "FAILED", "an ended job stays what it is"
    assert both.get(f"/job/info/{number}").json["exitCode"] == 3


def test_a_job_that_does_not_run_is_terminated_at_once(both: Api) -> None:
    number = both.job()
    assert both.post(f"/job/terminate/{number}").json == "TERMINATED"
    assert both.post(f"/job/terminate/{number}").json == "TERMINATED"


def test_one_job_of_client_and_module_at_a_time(both: Api) -> None:
    assert both.get("/job/check/my-team/spark-pi").json is False
    number = both.job()
    assert both.get("/job/check/my-team/spark-pi").json is True
    again = both.post("/job/submit", JOB)
    assert again.status_code == 409
    assert again.json["jobId"] == number and str(number) in again.json["error"]
    assert both.post("/job/stopped/my-team/spark-pi").json is True
    assert both.post("/job/stopped/my-team/spark-pi").json is False
    assert both.get("/job/check/my-team/spark-pi").json is False
    assert both.job() > number


def test_job_list(both: Api) -> None:
    numbers = [both.job(client=f"team-{n}") for n in range(4)]
    both.run(numbers[0])
    both.run(numbers[1])
    listed = lambda query="": [job["jobId"] for job in both.get(f"/job/list{query}").json]  # noqa: E731
    assert listed() == numbers[::-1]
    assert listed("?status=running") == listed("?status=RUNNING") == [numbers[1], numbers[0]]
    assert listed("?limit=2&offset=1") == [numbers[2], numbers[1]]
    assert listed("?status=") == numbers[::-1]
    assert listed("?status=failed&other=x") == []


def test_job_list_by_type_before_its_limit(both: Api) -> None:
    flink = both.job(client="f", module="flink-wordcount", jobType="flink", emailRecipients="")
    sparks = [both.job(client=f"team-{n}", jobType="spark3") for n in range(2)]
    listed = lambda query: [job["jobId"] for job in both.get(f"/job/list{query}").json]  # noqa: E731
    assert listed("?jobType=flink&limit=1") == [flink]
    assert listed("?jobType=spark") == listed("?jobType=SPARK3") == sparks[::-1]
    answer = both.get("/job/list?jobType=hadoop")
    assert answer.status_code == 400 and "jobType" in answer.json["error"]


def test_types_come_back_as_they_were_sent(both: Api) -> None:
    number = both.job(jobType="spark3", moduleType="Spark")
    info = both.get(f"/job/info/{number}").json
    assert (info["jobType"], info["moduleType"]) == ("spark3", "Spark")
    assert both.get("/job/list").json[0]["jobType"] == "spark3"
    plain = {key: value for key, value in JOB.items() if key != "jobType"}
    number = both.post("/job/submit", {**plain, "client": "other"}).json["jobId"]
    assert both.get(f"/job/info/{number}").json["jobType"] == "spark"


def test_monitor_is_on_until_it_is_switched_off(both: Api) -> None:
    assert both.get("/job/monitor/my-team").json is True
    alerts.switch("my-team", False, LOCAL_ADMIN)
    assert both.get("/job/monitor/my-team").json is False
    both.set(unmonitored_clients="quiet")
    assert both.get("/job/monitor/quiet").json is False


def test_alerts(both: Api) -> None:
    number = both.job()
    both.run(number)
    assert both.get("/job/monitor/alert").json == "0 long-running jobs were told of"
    both.clock.advance(6 * 3600 + 1)
    assert both.get("/job/monitor/alert").json == "1 long-running job was told of"
    assert both.get("/job/monitor/alert").json == "0 long-running jobs were told of"
    [event] = events.since(0, kind="job.overdue")
    assert (event.subject_id, event.actor) == (number, "dcluster 127.0.0.1")


def test_cluster_check_answers_at_both_places(api: Api) -> None:
    for path in ("/cluster/check", "/cluster/cluster/check"):
        answer = api.get(path)
        assert answer.status_code == 200 and answer.json.startswith("Clusters: 0 pending")
    assert api.get("/check").status_code == 404


def test_without_a_cloud_nodes_say_what_is_missing(both: Api) -> None:
    body = {"nodeCount": 3, "instanceType": "m5.large", "region": "us-west-2"}
    for answer in (both.post("/node/launch", body), both.get("/ec2-info"), both.get("/ec2-list-info"),
                   both.get("/node/croncleanup")):
        assert answer.status_code == 503 and answer.headers["Retry-After"]
        assert set(answer.json) == {"error", "timestamp", "path"} and answer.json["timestamp"] == STAMP
    gone = both.post("/node/destroy", {"nodeIds": ["i-1234567890abcdef0"], "region": "us-west-2"})
    assert gone.status_code == 404 and "i-1234567890abcdef0" in gone.json["error"]


@pytest.mark.parametrize(("accept", "text"), [
    ("text/plain", True), ("text/plain, application/json;q=0.5", True), ("*/*", False), ("application/json", False),
    ("application/json, text/plain", False), ("text/html", False), ("text/*", True)])
def test_plain_text_has_no_quotes(api: Api, accept: str, text: bool) -> None:
    number = api.cluster()
    answer = api.get(f"/status/spark/cluster/{number}", headers={"Accept": accept})
    assert answer.data == (b"PENDING" if text else b'"PENDING"')
    assert answer.content_type == ("text/plain; charset=utf-8" if text else "application/json")
    assert api.get("/job/monitor/x", headers={"Accept": accept}).data == b"true"
    assert api.get("/status/spark/cluster/99", headers={"Accept": accept}).content_type == "application/json"


def test_errors_have_one_shape_and_name_the_path_asked_for(both: Api) -> None:
    cases: list[tuple[str, str, int]] = [
        ("GET", "/nothing", 404), ("GET", "/job/submit", 405), ("POST", "/", 405), ("DELETE", "/terminate/flink/1", 405),
        ("GET", "/job/list/", 404), ("GET", "/status/cluster/x", 400), ("GET", "/job/info/77", 404)]
    for method, path, status in cases:
        answer = both(method, path)
        assert answer.status_code == status, path
        assert answer.json == {"error": answer.json["error"], "timestamp": STAMP, "path": both.prefix + path}
        assert answer.content_type == "application/json"
    assert both.get("/job/submit").headers["Allow"] == "POST"
    assert both.get("/job/info/77?x=1").json["path"] == both.prefix + "/job/info/77"


def test_head_and_browsers_change_nothing(api: Api) -> None:
    number = api.cluster("flink", "running")
    path = f"/terminate/flink/{number}"
    assert api("HEAD", path).status_code == 405
    for headers in ({"Sec-Purpose": "prefetch;prerender"}, {"Purpose": "prefetch"}, {"Sec-Fetch-Site": "cross-site"},
                    {"Origin": "http://evil.example"}, {"Origin": "null"}):
        answer = api.get(path, headers=headers)
        assert answer.status_code == 403 and set(answer.json) == {"error", "timestamp", "path"}
        assert api.post("/job/submit", JOB, headers=headers).status_code == 403
    assert api.get(f"/status/cluster/{number}").json == "RUNNING"
    assert api("HEAD", f"/status/cluster/{number}").status_code == 200


def test_a_mistake_of_ours_is_no_page_of_a_framework(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a secret is in this text")

    monkeypatch.setattr("cloudsched.services.frameworks.framework_clusters.status", fail)
    answer = api.get("/status/cluster/1")
    assert answer.status_code == 500 and "secret" not in answer.text
    assert set(answer.json) == {"error", "timestamp", "path"}
