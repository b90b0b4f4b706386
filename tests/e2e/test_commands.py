"""Does the command line do its work against a running server? Submit files, live logs, the demo, keys."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from cloudsched.testing.instance import Instance

from .conftest import CLOUDS, Maker

pytestmark = pytest.mark.e2e

SUBMIT_FILE = """\
# words in a text, twice
executable = /bin/sh
greeting   = hello
arguments  = "-c 'echo $(greeting) $(Process) $(item); cat text.txt; echo bad >&2'"
transfer_input_files = text.txt
output = out.$(Process)
error  = err.$(Process)
log    = work.log
request_memory = 64 MB
request_cpus = 1
+VMType = "sub"
queue item in (red, green blue)
"""


def test_submit_file_through_the_command_line(house: Instance) -> None:
    place = house.root / "state" / "submit-here"
    place.mkdir()
    (place / "job.sub").write_text(SUBMIT_FILE)
    (place / "text.txt").write_text("one two\n")
    done = house.cli("submit", "job.sub", "--wait", cwd=place)
    assert done.returncode == 0, (done.stdout, done.stderr)
    for index, item in enumerate(("red", "green", "blue")):
        assert (place / f"out.{index}").read_text() == f"hello {index} {item}\none two\n"
        assert (place / f"err.{index}").read_text() == "bad\n"
    assert len(house.api("GET", "/jobs", vm_type="sub")["items"]) == 3


def test_submit_wait_ends_with_the_jobs_own_status(house: Instance) -> None:
    done = house.cli("submit", "--memory", "64M", "--wait", "--", "sh", "-c", "exit 7")
    assert done.returncode == 7, done.stderr


def test_logs_are_followed_while_the_job_runs(house: Instance) -> None:
    number = house.shell("echo first; while [ ! -e go ]; do sleep 0.05; done; echo second")
    house.until(lambda: house.output(number) == "first\n", "the first line")
    command = [sys.executable, "-m", "cloudsched", "jobs", "logs", "--follow", str(number)]
    with subprocess.Popen(command, env=house.environment(), stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "first\n"
        assert house.job(number)["state"] == "running"
        scratch = next(path for path in house.scratch_directories() if path.name == f"{number}.1")
        (scratch / "go").touch()
        assert follower.stdout.read() == "second\n"
        assert follower.wait(timeout=20) == 0
    assert house.job(number)["state"] == "succeeded"


def test_what_is_followed_outlasts_a_restart(new_instance: Maker) -> None:
    house = new_instance(clouds=CLOUDS)
    serve = house.start_all().processes["serve"]
    job = ["submit", "--memory", "64M", "--follow", "--", "sh", "-c", "echo first; while [ ! -e go ]; do sleep 0.05; done; "
           "echo second; exit 5"]
    follower, events = (_reader(house, *words) for words in (job, ["events", "--follow", "--json"]))
    with follower, events:
        assert follower.stdout is not None and events.stdout is not None
        assert follower.stdout.readline() == "first\n"
        serve.stop(signal.SIGINT)
        serve.start()
        house.wait_ready()
        house.until(lambda: house.job(1)["state"] == "running" and house.scratch_directories(), "the job")
        for scratch in house.scratch_directories():
            (scratch / "go").touch()
        said = follower.stdout.read()
        assert said.endswith("second\n"), said
        assert follower.wait(timeout=30) == 5
        ended = house.api("GET", "/events", subject_kind="job", subject_id=1)["items"][-1]["id"]
        assert any(json.loads(line)["id"] == ended for line in events.stdout)
        events.send_signal(signal.SIGINT)
        assert events.wait(timeout=30) == 0
    assert "Traceback" not in house.log_text()


def _reader(house: Instance, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "cloudsched", *words], env=house.environment(), stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def test_looking_around(house: Instance) -> None:
    number = house.shell("echo seen", name="seen")
    house.wait_state(number, "succeeded")
    for argv, word in (
        (["jobs", "list", "--name", "seen"], "succeeded"), (["jobs", "show", str(number)], "seen"),
        (["jobs", "count"], "total"), (["nodes", "list"], "running"), (["clouds", "list"], "local-a"),
        (["events", "--json"], "job.submit"), (["why", str(number)], ""), (["trace", str(number)], "submit"),
        (["loops"], "scheduler"), (["version"], ""), (["operations"], ""), (["keys", "list"], ""),
    ):
        done = house.cli(*argv)
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        assert word in done.stdout, (argv, done.stdout)
    listed = json.loads(house.cli("jobs", "list", "--name", "seen", "--json").stdout)
    assert listed[0]["id"] == number
    assert house.cli("jobs", "show", "999999").returncode == 4


def test_cancel_with_proof_and_retry(house: Instance) -> None:
    number = house.shell("sleep 3600")
    house.wait_state(number, "running")
    done = house.cli("jobs", "cancel", "--wait", "20", str(number))
    assert done.returncode == 0 and "cancelled" in done.stdout
    assert house.cli("jobs", "retry", str(number)).returncode == 0
    again = house.api("GET", "/jobs", limit=1)["items"][0]
    assert again["retry_of"] == number
    assert house.api("POST", f"/jobs/{again['id']}/cancel", wait_s=20)["state"] == "cancelled"


@pytest.mark.timeout(150)
def test_the_demo_with_fewer_jobs(new_instance: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    instance = new_instance()
    instance.start("up")
    instance.wait_ready()
    began = time.monotonic()
    done = instance.cli("demo", "--jobs", "24", "--json", limit_s=120)
    assert done.returncode == 0, (done.stdout, done.stderr)
    facts = json.loads(done.stdout)
    with capsys.disabled():
        print(f"\n  demo: {facts['jobs']} jobs on {facts['machines']} in {time.monotonic() - began:.1f} s", end="")
    assert facts["ok"]
    assert facts["results_checked"] == facts["jobs"] >= 24
    assert sum(facts["machines"].values()) >= 4 and len(facts["machines"]) == 2
    assert facts["machines_retired"] == sum(facts["machines"].values())
    assert instance.processes["up"].stop() == 0
    instance.check_clean()


def test_with_a_key_in_the_database_everybody_needs_one(new_instance: Maker) -> None:
    instance = new_instance()
    instance.start("serve")
    instance.wait_ready()
    assert instance.api("GET", "/jobs")["items"] == []
    key_file = instance.state / "root.key"
    assert instance.cli("keys", "create", "root", "--role", "admin", "--to", str(key_file)).returncode == 0
    assert key_file.stat().st_mode & 0o077 == 0
    key = key_file.read_text().strip()

    for method, path in (("GET", "/api/v2/jobs"), ("POST", "/api/v2/jobs"), ("GET", "/api/v2/nodes"), ("GET", "/api/v2/keys"),
                         ("GET", "/api/v2/events"), ("POST", "/api/v2/nodes/tokens")):
        answer = instance.call(method, path, {"kind": "noop"} if method == "POST" else None)
        assert answer.status == 401, (path, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
    assert instance.call("GET", "/api/v2/jobs", headers={"X-API-Key": "cs_wrong"}).status == 401
    assert instance.call("GET", "/healthz").status == 200
    for headers in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"}):
        assert instance.call("GET", "/api/v2/jobs", headers=headers).status == 200

    made = instance.call("POST", "/api/v2/keys", {"name": "looker", "role": "viewer"}, headers={"X-API-Key": key})
    viewer = {"X-API-Key": made.json["key"]}
    assert instance.call("GET", "/api/v2/jobs", headers=viewer).status == 200
    assert instance.call("POST", "/api/v2/jobs", {"kind": "noop"}, headers=viewer).status == 403
    assert instance.cli("jobs", "list").returncode == 5
    assert instance.cli("--key-file", str(key_file), "jobs", "list").returncode == 0
    assert key not in instance.log_text() and made.json["key"] not in instance.log_text()
    instance.stop()
