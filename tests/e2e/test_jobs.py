"""What can a job do on a real machine? Files, arrays, dependencies, retries, limits, and a death that is proved."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from cloudsched.testing.instance import Instance

pytestmark = pytest.mark.e2e

# Two generations below the job: each deaf to SIGTERM, in a session of its own; the last one sheds everything that
# could name it but a word of its command line.
BROOD = """
trap '' TERM HUP INT
setsid sh -c 'trap "" TERM; echo $$ > child; sleep 3600; : {mark}-one' &
cd /
env -i setsid sh -c 'trap "" TERM HUP; sleep 3600; : {mark}-two' > /dev/null 2>&1 &
cd - > /dev/null
echo ready
while :; do sleep 1; done
"""


def test_a_job_sees_its_own_world_alone(house: Instance) -> None:
    number = house.submit("/bin/sh", "-c", "env; pwd; id -u; cat", env={"COLOUR": "blue"}, stdin="from stdin\n")
    job = house.wait_state(number, "succeeded")
    lines = house.output(number).splitlines()
    env = dict(line.split("=", 1) for line in lines if "=" in line)
    assert env["COLOUR"] == "blue"
    assert env["CLOUDSCHED_JOB"] == job["key"]
    assert env["CLOUDSCHED_JOB_ID"] == str(number)
    assert env["CLOUDSCHED_ATTEMPT"] == "1"
    assert env["CLOUDSCHED_NODE"] == job["node"]
    assert env["HOME"] == env["TMPDIR"] == next(line for line in lines if line.startswith("/"))
    assert lines[-1] == "from stdin"
    known = {"COLOUR", "HOME", "TMPDIR", "PATH", "PWD", "OLDPWD", "SHLVL", "_"}
    assert not [name for name in env if name not in known and not name.startswith("CLOUDSCHED_")]
    assert not [name for name in env if "TOKEN" in name or "SECRET" in name]
    assert house.mark not in env.get("CLOUDSCHED_TEST_INSTANCE", "")
    if os.geteuid() == 0:
        assert "0" not in lines, "the job runs as root"


def test_input_and_output_files(house: Instance) -> None:
    raw = bytes(range(256)) * 5000
    files = [{"name": "in/data.bin", "content_base64": base64.b64encode(raw).decode()},
             {"name": "run.sh", "content_base64": base64.b64encode(b"#!/bin/sh\nwc -c < in/data.bin\n").decode(), "mode": 0o755}]
    script = "./run.sh; mkdir out; cp in/data.bin out/copy; echo text > 'out/an ü name'; : > out/empty; echo no > other"
    number = house.shell(script, input_files=files, output_files=["out/*"])
    house.wait_state(number, "succeeded")
    assert house.output(number).strip() == str(len(raw))
    listed = {one["name"]: one["size"] for one in house.api("GET", f"/jobs/{number}/files")["items"]}
    assert listed == {"out/copy": len(raw), "out/an ü name": 5, "out/empty": 0}
    assert house.call("GET", f"/api/v2/jobs/{number}/files/out/copy").body == raw
    assert house.call("GET", f"/api/v2/jobs/{number}/files/out/an%20%C3%BC%20name").body == b"text\n"
    assert house.call("GET", f"/api/v2/jobs/{number}/files/out/empty").body == b""
    assert house.call("GET", f"/api/v2/jobs/{number}/files/other").status == 404


def test_a_held_job_waits_for_its_upload(house: Instance) -> None:
    number = house.shell("cat late", hold=True, input_files=[{"name": "late", "size": 6}])
    assert house.job(number)["state"] == "held"
    assert house.call("PUT", f"/api/v2/jobs/{number}/files/late", b"bytes\n").status == 200
    house.api("POST", f"/jobs/{number}/release")
    house.wait_state(number, "succeeded")
    assert house.output(number) == "bytes\n"


def test_arrays(house: Instance) -> None:
    made = house.api("POST", "/jobs", {"command": ["/bin/sh", "-c", "echo $CLOUDSCHED_ARRAY_INDEX"], "memory_mb": 64,
                                       "array": {"indices": [3, 1, 20]}})
    for number, index in zip(made["ids"], (3, 1, 20), strict=True):
        house.wait_state(number, "succeeded")
        assert house.output(number) == f"{index}\n"


def test_dependencies(house: Instance) -> None:
    def job(script: str, **more: Any) -> dict[str, Any]:
        return {"command": ["/bin/sh", "-c", script], "memory_mb": 64, **more}

    jobs = [job("echo first"), job("exit 1"), job("true", after_ok=["#0"]), job("true", after_ok=["#1"]),
            job("true", after_any=["#1"]), job("true", after_ok=["#3"]), job("true", after_ok=["#1"], depends_fail="hold")]
    ids = house.api("POST", "/jobs", {"jobs": jobs})["ids"]
    states = ["succeeded", "failed", "succeeded", "cancelled", "succeeded", "cancelled", "held"]
    for number, state in zip(ids, states, strict=True):
        house.wait_state(number, state)
    assert house.job(ids[3])["reason"] == f"job {ids[1]} ended as failed"
    first, then = house.job(ids[0]), house.job(ids[2])
    assert then["started_at"] >= first["ended_at"]
    house.api("POST", f"/jobs/{ids[6]}/cancel")


def test_retries_with_a_pause(house: Instance) -> None:
    script = 'echo attempt $CLOUDSCHED_ATTEMPT; test "$CLOUDSCHED_ATTEMPT" -ge 3'
    number = house.shell(script, max_retries=5, backoff_s=0.2)
    job = house.wait_state(number, "succeeded")
    assert (job["attempt"], job["retries"]) == (3, 2)
    assert [house.call("GET", f"/api/v2/jobs/{number}/output?attempt={n}").text for n in (1, 2, 3)] == [
        f"attempt {n}\n" for n in (1, 2, 3)]
    tired = house.shell("exit 9", max_retries=1)
    job = house.wait_state(tired, "failed")
    assert (job["attempt"], job["exit_code"]) == (2, 9)
    assert house.wait_state(house.shell("kill -9 $$"), "failed")["signal"] == 9


def test_limit_and_cancel_kill_the_whole_brood(house: Instance) -> None:
    """Both give SIGTERM some seconds, so they run beside each other."""
    limit, cancel = f"{house.mark}-limit", f"{house.mark}-cancel"
    limited = house.shell(BROOD.format(mark=limit), time_limit_s=2)
    endless = house.shell(BROOD.format(mark=cancel))
    house.until(lambda: house.output(endless) == "ready\n", "the job has started its children", limit_s=40)
    assert len(_alive(house, cancel)) >= 3
    answer = house.call("POST", f"/api/v2/jobs/{endless}/cancel?wait_s=20")
    # The end is said when everything is dead, not before.
    assert _alive(house, cancel) == {}
    assert (answer.status, answer.json["state"]) == (200, "cancelled")
    job = house.wait_state(limited, "timeout")
    assert _alive(house, limit) == {}
    assert house.output(limited) == "ready\n"
    assert job["ran_s"] >= 1.9
    assert house.call("POST", f"/api/v2/jobs/{endless}/cancel").status == 200


def test_what_a_job_leaves_running_ends_with_it(house: Instance) -> None:
    mark = f"{house.mark}-left"
    number = house.shell(f"(cd /; exec env -i setsid sh -c 'trap \"\" TERM; sleep 3600; : {mark}') > /dev/null 2>&1 &\necho done")
    house.wait_state(number, "succeeded")
    assert _alive(house, mark) == {}


def test_the_memory_limit(house: Instance) -> None:
    # `tail` keeps a line without an end in memory.
    number = house.shell("while :; do head -c 4000000 /dev/zero; sleep 0.01; done | tail", memory_mb=48)
    job = house.wait_state(number, "failed")
    assert job["reason"] == "memory limit"
    assert job["max_rss_mb"] < 48 * 4


def test_commands_that_cannot_start_say_why(house: Instance) -> None:
    missing = house.submit("/no/such/program")
    assert house.wait_state(missing, "failed")["reason"] == "cannot start: /no/such/program: no such file"
    unknown = house.submit("no-such-program-anywhere")
    assert "not found in PATH" in house.wait_state(unknown, "failed")["reason"]


def test_hold_and_release(house: Instance) -> None:
    number = house.shell("echo released", hold=True)
    assert house.job(number)["state"] == "held"
    assert house.call("POST", f"/api/v2/jobs/{number}/release").status == 200
    house.wait_state(number, "succeeded")
    assert house.call("POST", f"/api/v2/jobs/{number}/hold").status == 409
    waiting = house.shell("true", memory_mb=900_000)  # no machine is large enough
    assert house.api("POST", f"/jobs/{waiting}/hold")["state"] == "held"
    assert house.api("POST", f"/jobs/{waiting}/release")["state"] == "queued"
    why = house.api("GET", f"/why/job/{waiting}")
    assert why["reasons"], why
    assert house.api("POST", f"/jobs/{waiting}/cancel", wait_s=5)["state"] == "cancelled"


def test_retry_makes_a_new_job(house: Instance) -> None:
    number = house.shell("exit 2")
    house.wait_state(number, "failed")
    again = house.api("POST", f"/jobs/{number}/retry", {}, expect=201)
    assert again["retry_of"] == number
    assert house.wait_state(again["id"], "failed")["exit_code"] == 2
    assert house.job(number)["state"] == "failed"


def test_an_idempotency_key_makes_one_job(house: Instance) -> None:
    headers = {"Idempotency-Key": f"once-{house.mark}"}
    body = {"kind": "noop", "memory_mb": 64}
    answers = [house.call("POST", "/api/v2/jobs", body, headers=headers) for _ in range(3)]
    assert [answer.status for answer in answers] == [201] * 3
    assert len({answer.json["id"] for answer in answers}) == 1
    assert house.call("POST", "/api/v2/jobs", {**body, "name": "other"}, headers=headers).status == 409


def test_much_output_is_kept_in_order(house: Instance) -> None:
    number = house.shell("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo end >&2")
    job = house.wait_state(number, "succeeded")
    text = house.output(number)
    assert text == "".join(f"line {index}\n" for index in range(20_000))
    assert (job["output_size"], job["error_size"]) == (len(text), 4)
    assert house.output(number, "stderr") == "end\n" and not job["output_truncated"]


def test_output_that_is_cut_is_said_to_be(house: Instance) -> None:
    number = house.shell("head -c 18000000 /dev/zero; echo end >&2")
    job = house.wait_state(number, "succeeded")
    assert (job["output_size"], job["output_truncated"], job["error_size"], job["error_truncated"]) == (16 << 20, True, 4, False)


def test_nothing_of_ended_jobs_stays_on_a_machine(house: Instance) -> None:
    number = house.shell("mkdir -p deep/er; echo x > deep/er/file; chmod 000 deep; pwd")
    house.wait_state(number, "succeeded")
    place = Path(house.output(number).strip())
    assert str(place).startswith(str(house.state))
    house.until(lambda: not place.exists(), "the scratch directory is gone")


def test_a_drained_machine_finishes_and_goes(house: Instance) -> None:
    number = house.shell("while [ ! -e stop ]; do sleep 0.05; done; echo finished", name="drained", vm_type="drained")
    job = house.wait_state(number, "running")
    node = job["node"]
    assert house.call("POST", f"/api/v2/nodes/{node}/drain").status in (200, 202)
    scratch = house.until(lambda: [p for p in house.scratch_directories() if p.name == f"{number}.1"], "its directory")
    assert house.job(number)["state"] == "running"
    (scratch[0] / "stop").touch()
    house.wait_state(number, "succeeded")
    house.until(lambda: house.api("GET", f"/nodes/{node}")["state"] == "gone", "the node is gone")
    assert not [path for path in house.machine_directories() if path.name == node]


def _alive(house: Instance, mark: str) -> dict[int, str]:
    return {pid: line for pid, line in house.marked().items() if mark in line}
