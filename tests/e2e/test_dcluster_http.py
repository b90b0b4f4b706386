"""Does every `curl` line of the API's document work as written, host and port aside, against a live server, at both mounts?

What runs is played (`[dcluster] place = "fake"`), so that states come and go quickly; real engines have tests of their own.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from cloudsched.testing.instance import Instance

pytestmark = pytest.mark.e2e
SPARK3 = """{
    "tenant": "my-team",
    "workers": 3,
    "workerCpu": "2",
    "workerMemory": "8Gi",
    "masterCpu": "1",
    "masterMemory": "4Gi",
    "type": "spark3",
    "useOnDemandMaster": true,
    "extraConfigs": "{\\"spark.executor.instances\\": 2}",
    "launchNewNode": true,
    "launchDynamicDisk": false,
    "useExternalNamespace": false
  }"""
FLINK = """{
    "tenant": "my-team",
    "workers": 2,
    "workerCpu": "2",
    "workerMemory": "8Gi",
    "masterCpu": "1",
    "masterMemory": "4Gi",
    "type": "flink",
    "useOnDemandMaster": true,
    "launchNewNode": true
  }"""
JOB = """{
    "client": "my-team",
    "module": "data-processing",
    "clusterName": "spark-dev-myteam-123",
    "extraCmd": "{\\"spark.executor.instances\\": 2}",
    "driverMemGb": 4,
    "workerMemGb": 8,
    "numWorkers": 3,
    "emailRecipients": "team@example.com",
    "pipelineVersion": "1.0.0",
    "pipelineConfig": "config.json",
    "codeVersion": "v1.0",
    "jobType": "spark",
    "moduleType": "spark",
    "keepAlive": false,
    "useLongLivingCluster": false,
    "useExternalCluster": false,
    "useExternalNamespace": false
  }"""
LAUNCH_NODES = """{
    "nodeCount": 3,
    "instanceType": "m5.large",
    "region": "us-west-2"
  }"""
DESTROY_NODES = """{
    "nodeIds": ["i-1234567890abcdef0"],
    "region": "us-west-2"
  }"""
OWN = JOB.replace('"clusterName": "spark-dev-myteam-123",', "").replace("my-team", "other")
TYPE = "-H 'Content-Type: application/json'"
GOING = ("TERMINATING", "TERMINATED")
MODULE = """
[data-processing]
type = "spark"
entry = "process.py"
arguments = ["--fake-run-s=1000", "--config", "{pipelineConfig}"]
alert_after_s = 1
"""


class Host:
    """A server, and curl; `port` and `prefix` say where it is asked."""

    def __init__(self, instance: Instance, prefix: str = "", port: int = 8080) -> None:
        self.instance, self.prefix, self.port = instance, prefix, port + instance.offset

    def curl(self, line: str, *, status: int = 200) -> Any:
        """The words after `curl` of one line of the document, ids and names filled in; answers the parsed body."""
        words = shlex.split(line.replace("http://dcluster-host:8080", f"http://127.0.0.1:{self.port}{self.prefix}").replace(
            "http://dcluster-a.example.com", f"http://127.0.0.1:{self.port}").replace(
            "http://dcluster-b.example.com", f"http://127.0.0.1:{self.port}"))
        done = subprocess.run(["curl", "-sS", "-w", "\n%{http_code}", *words], capture_output=True, text=True, timeout=60,
                              check=True)
        body, _, code = done.stdout.rpartition("\n")
        assert int(code) == status, f"{line}: {done.stdout}"
        return json.loads(body) if body else None

    def until(self, line: str, *wanted: Any) -> Any:
        def look() -> Any:
            found = self.curl(line)
            return found if found in wanted else None

        try:
            return self.instance.until(look, f"{line}: one of {wanted}", limit_s=60)
        except AssertionError as error:
            error.add_note(f"it is {self.curl(line)}\n{self.instance.tails()}")
            raise


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    if shutil.which("curl") is None:
        pytest.skip("curl is not there")
    quick = {"place": "fake", "poll_interval_s": 0.2, "job_poll_interval_s": 0.2, "capacity_cores_m": 10**6,
             "capacity_memory_mb": 10**6}
    with Instance(config={"dcluster": quick}) as instance:
        folder = instance.root / "state" / "modules"
        folder.mkdir(parents=True)
        (folder / "modules.toml").write_text(MODULE)
        (folder / "process.py").write_text("")
        instance.config_file.write_text(instance.config_file.read_text().replace(
            "[dcluster]\n", f"[dcluster]\nmodules = {json.dumps(str(folder))}\n"))
        instance.start_all()
        yield Host(instance)
        instance.stop(check=False)


@pytest.fixture
def both(host: Host) -> list[Host]:
    """The API at its own port's root, and below the prefix on the native port."""
    return [Host(host.instance), Host(host.instance, "/cluster", 8100)]


def test_clusters(both: list[Host]) -> None:
    launched = []
    for at in both:
        spark = at.curl(f"-X POST http://dcluster-host:8080/v2/launch/spark/cluster {TYPE} -d '{SPARK3}'")
        flink = at.curl(f"-X POST http://dcluster-host:8080/launch/flink/cluster {TYPE} -d '{FLINK}'")
        assert isinstance(spark, int) and isinstance(flink, int)
        launched.append((at, spark, flink))
    for at, spark, flink in launched:
        at.until(f"http://dcluster-host:8080/status/spark/cluster/{spark}", "RUNNING")
        at.until(f"http://dcluster-host:8080/status/cluster/{flink}", "RUNNING")
        at.curl(f"http://dcluster-host:8080/status/cluster/{spark}", status=404)
        name = at.instance.api("GET", f"/clusters/{spark}")["key"]
        assert at.curl(f"http://dcluster-host:8080/status/cluster/name/{name}") == "RUNNING"
        assert at.curl(f"--location --request GET 'http://dcluster-a.example.com/cluster/status/cluster/{flink}'") == "RUNNING"
        assert at.curl(f"-X DELETE http://dcluster-host:8080/terminate/spark/{spark}") in GOING
        assert at.curl(f"http://dcluster-host:8080/terminate/flink/{flink}") in GOING
    for at, spark, flink in launched:
        at.until(f"http://dcluster-host:8080/status/spark/cluster/{spark}", "TERMINATED")
        at.until(f"http://dcluster-host:8080/status/cluster/{flink}", "TERMINATED")


def test_jobs(both: list[Host]) -> None:
    spark = both[0].curl(f"-X POST http://dcluster-host:8080/v2/launch/spark/cluster -d '{SPARK3}'")
    both[0].until(f"http://dcluster-host:8080/status/spark/cluster/{spark}", "RUNNING")
    name = both[0].instance.api("GET", f"/clusters/{spark}")["key"]
    submit = "-X POST http://dcluster-host:8080/job/submit " + TYPE + " -d '%s'"
    running = []
    for at, client in zip(both, ("my-team", "my-team-b"), strict=True):
        body = JOB.replace("my-team", client)
        at.curl(submit % body, status=404)
        body = body.replace("spark-dev-myteam-123", name)
        made = at.curl(submit % body)
        assert made["clusterName"] == name
        running.append((at, client, body, made["jobId"]))
    for at, client, body, job in running:
        at.until(f"http://dcluster-host:8080/job/status/{job}", "RUNNING")
        assert at.curl(submit % body, status=409)["jobId"] == job
        assert job in [one["jobId"] for one in at.curl('"http://dcluster-host:8080/job/list?status=running"')]
        assert at.curl(f"http://dcluster-host:8080/job/check/{client}/data-processing") is True
        assert at.curl(f"http://dcluster-host:8080/job/monitor/{client}") is True
        assert "told of" in at.curl("http://dcluster-host:8080/job/monitor/alert")
        assert at.curl("http://dcluster-host:8080/cluster/check").startswith("Clusters: ")
    second = []
    for at, client, body, job in running:
        assert at.curl(f"-X POST http://dcluster-host:8080/job/terminate/{job}") in GOING
        at.until(f"http://dcluster-host:8080/job/status/{job}", "TERMINATED")
        info = at.curl(f"http://dcluster-host:8080/job/info/{job}")
        assert info["pipelineVersion"] == "1.0.0" and info["clusterId"] == spark and info["ended"]
        second.append((at, at.curl(submit % body)["jobId"]))
        assert at.curl(f"-X POST http://dcluster-host:8080/job/stopped/{client}/data-processing") is True
    for at, job in second:
        at.until(f"http://dcluster-host:8080/job/status/{job}", "TERMINATED")
        assert at.curl(f"-X POST http://dcluster-b.example.com/cluster/job/terminate/{job}") == "TERMINATED"
        at.curl("-X POST http://dcluster-b.example.com/cluster/job/terminate/570232", status=404)


def test_a_job_of_the_whole_system_that_runs_too_long(host: Host) -> None:
    job = host.curl(f"-X POST http://dcluster-host:8080/job/submit {TYPE} -d '{OWN}'")["jobId"]
    host.until(f"http://dcluster-host:8080/job/status/{job}", "RUNNING")

    def told() -> list[dict[str, Any]]:
        # The engine's own look may be faster.
        assert "told of" in host.curl("http://dcluster-host:8080/job/monitor/alert")
        return list(host.instance.api("GET", "/events", kind="job.overdue", subject_id=job)["items"])

    [event] = host.instance.until(told, "an alert")
    assert event["data"]["client"] == "other" and event["actor"] in ("dcluster 127.0.0.1", "engine")
    assert host.instance.api("GET", f"/jobs/{job}")["source"] == "dcluster"
    listed = host.instance.cli("spark", "jobs", "--status", "running")
    assert listed.returncode == 0 and "data-processing" in listed.stdout, listed.stderr
    killed = host.instance.cli("spark", "kill", str(job))
    assert killed.returncode == 0, killed.stderr
    host.until(f"http://dcluster-host:8080/job/status/{job}", "TERMINATED")
    logs = host.instance.cli("spark", "logs", str(job))
    assert "--config config.json" in logs.stdout, logs.stderr


def test_nodes_and_cloud_without_a_cloud(both: list[Host]) -> None:
    launch = "-X POST http://dcluster-host:8080/node/launch " + TYPE + " -d '%s'"
    destroy = "-X POST http://dcluster-host:8080/node/destroy " + TYPE + " -d '%s'"
    for at in both:
        assert "cloud" in at.curl(launch % LAUNCH_NODES, status=503)["error"]
        at.curl(destroy % DESTROY_NODES, status=404)
        assert "cloud" in at.curl("http://dcluster-host:8080/node/croncleanup", status=503)["error"]
        assert "cloud" in at.curl("http://dcluster-host:8080/ec2-info", status=503)["error"]
        assert "cloud" in at.curl("http://dcluster-host:8080/ec2-list-info", status=503)["error"]
