"""Are slurmrestd's bodies read and written as each version of its API wants them?

v0.0.37 and v0.0.38 are recorded from slurmrestd 22.05. For v0.0.39 to v0.0.41 there was no daemon to record from: those
bodies are composed after the field names and types of the published schemas.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from cloudsched.drivers.slurm import restforms
from cloudsched.drivers.slurm.model import JobRecord, Submission
from cloudsched.drivers.slurm.rest import user_in

RECORDED = Path(__file__).parent / "recorded"
JOB = Submission("cs-1", "#!/bin/sh\n", '{"node": "x"}', cores=2, memory_mb=512, time_limit_s=61, partition="main",
                 warn_s=120, singleton=True, secrets={"TOKEN": "t"})  # fmt: skip


def recorded(name: str) -> Any:
    return json.loads((RECORDED / name).read_text(encoding="utf-8"))


def number(value: int) -> dict[str, Any]:
    return {"set": True, "infinite": False, "number": value}


UNSET = {"set": False, "infinite": False, "number": 0}
COMPOSED_JOB = {
    "job_id": 12, "array_job_id": number(10), "array_task_id": number(2), "array_task_string": "", "name": "job-1",
    "comment": "c",
    "job_state": ["FAILED"], "state_reason": "NonZeroExitCode", "partition": "main", "nodes": "n1", "user_name": "alice",
    "submit_time": number(100), "start_time": number(110), "end_time": number(130),
    "exit_code": {"status": ["ERROR"], "return_code": number(3), "signal": {"id": UNSET, "name": ""}},
}  # fmt: skip
COMPOSED_NODE = {
    "name": "n1", "state": ["MIXED", "DRAIN"], "reason": "disk", "cpus": 64, "alloc_cpus": 8, "real_memory": 1000,
    "alloc_memory": 100, "gres": "gpu:a100:4", "gres_used": "gpu:a100:1", "features": ["fast", "big"], "partitions": ["main"],
}  # fmt: skip
COMPOSED_PARTITION = {
    "name": "main", "nodes": {"configured": "n[1-2]", "total": 2}, "cpus": {"total": 128}, "partition": {"state": ["UP"]},
    "maximums": {"time": number(60)},
}  # fmt: skip


@pytest.mark.parametrize("version", ["v0.0.37", "v0.0.38"])
def test_recorded_jobs(version: str) -> None:
    found = {one.id: one for row in recorded(f"{version}-jobs.json")["jobs"] for one in restforms.jobs(row)}
    assert sorted(found) == ["1_0", "1_1", "1_2", "1_3", "1_4", "6_0", "6_1", "6_2", "6_3", "6_4"]
    assert (found["1_3"].state, found["1_3"].live) == ("cancelled", False)
    assert (found["1_0"].state, found["1_0"].nodes, found["1_0"].ended_at) == ("running", "n1", None)
    assert (found["6_2"].state, found["6_2"].reason) == ("queued", "JobArrayTaskLimit")


@pytest.mark.parametrize("version", ["v0.0.37", "v0.0.38"])
def test_recorded_hosts_and_partitions(version: str) -> None:
    first, second = (restforms.node(row) for row in recorded(f"{version}-nodes.json")["nodes"])
    assert (first.name, first.cores, first.memory_mb, first.features, first.partitions) == ("n1", 8, 64000, ("fast",), ("main",))
    assert (first.cores_allocated, second.state) == (5, "idle")
    (main,) = (restforms.partition(row) for row in recorded(f"{version}-partitions.json")["partitions"])
    assert (main.name, main.state, main.default, main.nodes, main.cores, main.time_limit_s) == ("main", "up", True, 2, 16, None)


def test_recorded_accounting() -> None:
    found = {one.id: one for one in map(restforms.account, recorded("v0.0.38-slurmdb-job.json")["jobs"])}
    assert {key: one.state for key, one in found.items()} == {"2_0": "succeeded", "2_1": "failed", "2_2": "failed"}
    assert (found["2_0"].exit_code, found["2_1"].exit_code) == (0, None)  # it says 0 for all
    assert found["2_0"].cpu_s and found["2_0"].elapsed_s == 1.0


def test_composed_answers_of_newer_versions() -> None:
    (job,) = restforms.jobs(COMPOSED_JOB)
    assert job == JobRecord("10_2", "FAILED", "NonZeroExitCode", "job-1", "c", "main", "n1", 3, None, 100.0, 110.0, 130.0)
    code = {"status": ["SIGNALED"], "return_code": UNSET, "signal": {"id": number(9), "name": "KILL"}}
    killed = {**COMPOSED_JOB, "exit_code": code}
    assert restforms.jobs(killed)[0].signal == 9
    waiting = {**COMPOSED_JOB, "array_task_id": UNSET, "array_task_string": "3-5%2", "job_state": ["PENDING"]}
    assert [one.id for one in restforms.jobs(waiting)] == ["10_3", "10_4", "10_5"]
    single = {**COMPOSED_JOB, "array_job_id": number(0), "array_task_id": UNSET, "job_state": ["CANCELLED", "COMPLETING"]}
    (ending,) = restforms.jobs(single)
    assert (ending.id, ending.raw, ending.live) == ("12", "COMPLETING", True)
    node = restforms.node(COMPOSED_NODE)
    assert (node.state, node.raw, node.features, node.gres_allocated) == (
        "draining", "mixed+drain", ("fast", "big"), "gpu:a100:1")  # fmt: skip
    main = restforms.partition(COMPOSED_PARTITION)
    assert (main.state, main.nodes, main.cores, main.time_limit_s) == ("up", 2, 128, 3600)


@pytest.mark.parametrize("version", [37, 38])
def test_a_submission_of_the_older_versions(version: int) -> None:
    body = restforms.submission(JOB, version)
    job = body["job"]
    assert body["script"] == "#!/bin/sh\n"
    assert (job["environment"]["TOKEN"], job["memory_per_node"], job["time_limit"], job["nodes"]) == ("t", 512, 2, [1, 1])
    assert (job["dependency"], job["requeue"], job["cpus_per_task"]) == ("singleton", False, 2)
    assert "signal" not in job and "qos" not in job


@pytest.mark.parametrize("version", [39, 40, 41])
def test_a_submission_of_the_newer_versions(version: int) -> None:
    body = restforms.submission(JOB, version)
    job = body["job"]
    assert (body if version == 39 else job)["script"] == "#!/bin/sh\n"
    assert "TOKEN=t" in job["environment"]
    assert (job["memory_per_node"]["number"], job["time_limit"]["number"], job["minimum_nodes"]) == (512, 2, 1)
    assert (job["kill_warning_signal"], job["kill_warning_delay"]["number"], job["kill_warning_flags"]) == (
        "USR1", 120, ["BATCH_JOB"])  # fmt: skip


def test_the_user_of_a_token() -> None:
    def token(facts: Any) -> str:
        return "e." + base64.urlsafe_b64encode(json.dumps(facts).encode()).decode().rstrip("=") + ".s"

    assert user_in(token({"sun": "alice", "exp": 1})) == "alice"
    assert [user_in(text) for text in (token({"exp": 1}), token([1]), "", "a.b.c", "x")] == [""] * 5
