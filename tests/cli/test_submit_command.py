"""`cloudsched submit`: each way to name the work, each field, waiting and fetching."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cloudsched.client import Client

from .conftest import Cli
from .fake_api import JOB_FIELDS, FakeApi


def _body(api: FakeApi) -> dict:
    return next(body for method, path, _, body in reversed(api.requests) if (method, path) == ("POST", "/api/v2/jobs"))


def test_a_command_prints_its_id(cli: Cli, api: FakeApi) -> None:
    said = cli("submit", "--", "wc", "-l", "--", "/etc/hosts")
    assert (said.status, said.out) == (0, "1\n")
    assert _body(api) == {"command": ["wc", "-l", "--", "/etc/hosts"]}


def test_json_prints_the_answer(cli: Cli) -> None:
    assert cli("submit", "--json", "--", "true").json == {"id": 1, "key": "here#1.0#1"}
    assert cli("--json", "submit", "--count", "2", "--", "true").json == {
        "ids": [2, 3], "keys": ["here#2.0#1", "here#3.0#1"],
    }  # fmt: skip


def test_every_field_has_an_option(cli: Cli, api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = tmp_path / "stdin.txt"
    stdin.write_text("in")
    monkeypatch.setenv("FROM_HERE", "here")
    words = (
        "--name n --user u --kind command --cores 2 --memory 2G --storage 10G --gpus 1 --network net --time-limit 1h30m "
        "--priority -5 --vm-type big --image img --instance-type m1 --keep-alive 5m --retries 3 --backoff 10s "
        "--vmtype-limit 4 --maximum-price 0.25 --batch b --output-file o1 --output-file o* --target c1 --target c2 "
        "--security-group sg --hold --high-priority --job-per-core --env K=V=W --env FROM_HERE --after-ok 1,here#2.0#1 "
        f"--after-ok 3 --after-any 4 --depends-fail hold --attribute A=7 --attribute B=text --array 1-3 --stdin {stdin}"
    ).split()
    assert cli("submit", *words, f"--input={stdin}:in.txt", "--", "cmd").out == "1\n2\n3\n"
    body = _body(api)
    assert body == {
        "command": ["cmd"], "name": "n", "user": "u", "kind": "command", "cores": 2, "memory_mb": 2048, "storage_gb": 10,
        "gpus": 1, "network": "net", "time_limit_s": 5400, "priority": -5, "vm_type": "big", "image": "img",
        "instance_type": "m1", "keep_alive_s": 300, "max_retries": 3, "backoff_s": 10, "vmtype_limit": 4,
        "maximum_price": 0.25, "batch": "b", "output_files": ["o1", "o*"], "targets": ["c1", "c2"],
        "security_groups": ["sg"], "hold": True, "high_priority": 1, "job_per_core": True,
        "env": {"K": "V=W", "FROM_HERE": "here"}, "after_ok": [1, "here#2.0#1", 3], "after_any": [4],
        "depends_fail": "hold", "attributes": {"A": 7, "B": "text"}, "array": {"indices": [1, 2, 3]}, "stdin": "in",
        "input_files": [{"name": "in.txt", "size": 2, "content_base64": "aW4="}],
    }  # fmt: skip
    assert set(body) == JOB_FIELDS - {"batch_id"}  # that one is for submit files


def test_an_idempotency_key_makes_a_retry_safe(cli: Cli, api: FakeApi) -> None:
    api.faults = ["lost", (503, 0.01)]
    assert cli("submit", "--", "true").out == "1\n"
    assert len(api.jobs) == 1
    keys = {headers["idempotency-key"] for _, _, headers, _ in api.requests}
    assert len(api.requests) == 3 and len(keys) == 1


def test_count_and_noop(cli: Cli, api: FakeApi) -> None:
    assert cli("submit", "--kind", "noop", "--count", "3").out == "1\n2\n3\n"
    assert {job["kind"] for job in api.jobs.values()} == {"noop"}
    assert api.jobs[1]["batch"].startswith("submit-")
    assert len({job["batch"] for job in api.jobs.values()}) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("submit",), "nothing to submit"),
        (("submit", "--"), "no command behind --"),
        (("submit", "echo", "hi"), "put -- before a command: cloudsched submit -- echo hi"),
        (("submit", "a.sub", "--", "echo"), "give one of"),
        (("submit", "--count", "2", "--array", "2", "--", "x"), "exclude each other"),
        (("submit", "--memory", "lots", "--", "x"), "--memory: 'lots' is no size (allowed: 512M, 2G"),
        (("submit", "--time-limit", "soon", "--", "x"), "--time-limit: 'soon' is no duration (allowed: 90, 90s"),
        (("submit", "--cores", "0", "--", "x"), "--cores: '0' is too small (allowed: 1, 2, ...)"),
        (("submit", "--env", "NOT_SET_HERE", "--", "x"), "no such variable here (allowed: K=V"),
        (("submit", "--input", "/no/file", "--", "x"), "--input /no/file: no such file"),
        (("submit", "--depends-fail", "x", "--", "x"), "choose from"),
        (("submit", "--unknown", "--", "x"), "unrecognized arguments: --unknown"),
    ],
)
def test_wrong_usage_is_exit_2_and_names_what_is_allowed(cli: Cli, api: FakeApi, words: list[str], says: str) -> None:
    said = cli(*words)
    assert said.status == 2
    assert says in said.err
    assert api.jobs == {}


def test_a_refused_field_is_named(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "jobs.json"
    path.write_text('{"command": ["x"], "colour": "red"}')
    said = cli("submit", "--json", str(path))
    assert said.status == 1
    assert "colour: unknown field (allowed: after_any, " in said.err


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('{"command": ["a"]}', 1),
        ('[{"command": ["a"]}, {"command": ["b"]}]', 2),
        ('{"jobs": [{"command": ["a"]}, {"command": ["b"]}]}', 2),
        ('{"command": ["a"]}\n\n{"command": ["b"]}\n{"kind": "noop"}\n', 3),
    ],
)
def test_json_input(cli: Cli, api: FakeApi, tmp_path: Path, text: str, count: int) -> None:
    path = tmp_path / "jobs.json"
    path.write_text(text)
    said = cli("submit", "--json", str(path), "--priority", "7")
    assert said.status == 0
    assert len(said.json.get("ids", [1])) == count
    assert {job["priority"] for job in api.jobs.values()} == {7}


def test_json_from_standard_input(cli: Cli, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b'{"command": ["a"]}')))
    assert cli("submit", "--json", "-").json["id"] == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("executable = x\nqueue\n", "not JSON"),
        ('{"command": ["a"]}\n{"command": }', "line 2: not JSON"),
        ("[]", "no jobs in it"),
        ("[1]", "no jobs in it"),
    ],
)
def test_broken_json_is_told_with_its_place(cli: Cli, tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "jobs.json"
    path.write_text(text)
    said = cli("submit", "--json", str(path))
    assert said.status == 2 and says in said.err


def test_waiting_for_one_job_ends_with_its_exit_status(cli: Cli, api: FakeApi) -> None:
    api.steps = 1
    said = cli("submit", "--wait", "--", "sh", "-c", "exit 3")
    assert (said.status, said.out) == (3, "1\n")
    api.steps = 0
    assert cli("submit", "--wait", "--json", "--", "true").json[0]["state"] == "succeeded"


def test_waiting_for_several_is_0_or_1(cli: Cli, api: FakeApi) -> None:
    api.steps = 1
    said = cli("submit", "--wait", "--count", "3", "--", "true")
    assert said.status == 0
    assert said.err.splitlines()[-1].endswith("3 succeeded")
    said = cli("submit", "--wait", "--count", "3", "--", "sh", "-c", "exit 3")
    assert said.status == 1
    assert said.err.splitlines()[-1].endswith("3 failed")


def test_many_are_counted_while_one_waits_and_listed_once(cli: Cli, api: FakeApi) -> None:
    api.steps = 2
    said = cli("submit", "--wait", "--count", "101", "--", "true")
    assert (said.status, said.err.splitlines()[-1].endswith("101 succeeded")) == (0, True)
    asked = [path.partition("?")[0].removeprefix("/api/v2") for method, path, *_ in api.requests if method == "GET"]
    assert asked.count("/jobs/count") >= 2
    assert asked.count("/jobs") == 1


def test_a_label_of_others_too_is_listed(cli: Cli, api: FakeApi) -> None:
    api.steps = 1
    assert cli("submit", "--batch", "nightly", "--count", "2", "--hold", "--", "true").status == 0
    said = cli("submit", "--batch", "nightly", "--wait", "--count", "101", "--", "true")
    assert (said.status, said.err.splitlines()[-1].endswith("101 succeeded")) == (0, True)


def test_follow_shows_both_outputs(cli: Cli, api: FakeApi) -> None:
    api.output[1, "stdout"], api.output[1, "stderr"] = b"out\n", b"err\n"
    said = cli("submit", "--follow", "--", "sh", "-c", "exit 4")
    assert (said.status, said.out, said.err) == (4, "out\n", "err\n")


def test_big_input_files_are_uploaded_after_the_job(cli: Cli, api: FakeApi, tmp_path: Path) -> None:
    big, small = tmp_path / "big file#1", tmp_path / "small"
    big.write_bytes(b"x" * 300_000)
    small.write_bytes(b"s")
    small.chmod(0o755)
    assert cli("submit", f"--input={big}", f"--input={small}", "--count", "2", "--", "true").status == 0
    assert api.inputs[1] == api.inputs[2] == {"big file#1": b"x" * 300_000, "small": b"s"}
    assert _body(api)["jobs"][0]["input_files"] == [
        {"name": "big file#1", "size": 300_000}, {"name": "small", "mode": 0o755, "size": 1},
    ]  # fmt: skip


def test_jobs_whose_files_cannot_be_sent_are_cancelled(cli: Cli, api: FakeApi, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"x" * 300_000)
    api.faults = ["pass", (413, 0)]
    said = cli("submit", f"--input={big}", "--", "true")
    assert said.status == 1
    assert api.jobs[1]["state"] == "cancelled"


@pytest.fixture
def two_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloudsched.cli.submission.MAX_JOBS", 2)


def _interrupt(monkeypatch: pytest.MonkeyPatch, name: str, after: int) -> None:
    """Ctrl-C at the call after so many."""
    calls, before = [], getattr(Client, name)

    def call(*words: object, **named: object) -> object:
        calls.append(words)
        if len(calls) > after:
            raise KeyboardInterrupt
        return before(*words, **named)

    monkeypatch.setattr(Client, name, call)


def test_several_requests_name_their_batch_early(cli: Cli, api: FakeApi, two_a_request: None) -> None:
    said = cli("submit", "--count", "5", "--batch", "b", "--", "true")
    assert (said.status, said.lines) == (0, ["1", "2", "3", "4", "5"])
    assert said.err == "cloudsched: 5 jobs in 3 requests as batch b\n"
    assert cli("submit", "--count", "2", "--", "true").err == ""


def test_an_interrupted_submission_says_what_is_there(
    cli: Cli, api: FakeApi, two_a_request: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    _interrupt(monkeypatch, "create", 2)
    said = cli("submit", "--count", "5", "--batch", "my jobs", "--hold", "--", "true")
    assert (said.status, said.out) == (130, "")
    assert said.err.splitlines()[-1] == (
        "cloudsched: at least 4 of 5 jobs were submitted as batch my jobs; cancel them with: cloudsched jobs cancel "
        "--batch 'my jobs'"
    )
    assert cli("jobs", "cancel", "--batch", "my jobs").out == "4 jobs cancelled\n"


def test_a_refused_part_of_a_submission_says_what_is_there(cli: Cli, api: FakeApi, two_a_request: None) -> None:
    api.faults = ["pass", (400, 0)]
    said = cli("submit", "--count", "3", "--batch", "b", "--", "true")
    assert said.status == 1
    assert "cloudsched: 2 of 3 jobs were submitted as batch b; cancel them with:" in said.err
    api.faults = [(400, 0)]
    assert "were submitted" not in cli("submit", "--count", "3", "--", "true").err


@pytest.mark.parametrize(("method", "after", "cancelled"), [("create", 1, 2), ("upload", 3, 4)])
def test_an_interrupted_submission_leaves_no_job_that_waits_for_files(
    cli: Cli, api: FakeApi, tmp_path: Path, two_a_request: None, monkeypatch: pytest.MonkeyPatch, method: str,
    after: int, cancelled: int,
) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"x" * 300_000)
    _interrupt(monkeypatch, method, after)
    said = cli("submit", f"--input={big}", "--count", "4", "--", "true")
    assert said.status == 130
    assert [job["state"] for job in api.jobs.values()] == ["cancelled"] * cancelled
    assert f"{cancelled} jobs were cancelled, as not all their input files were sent" in said.err


SUBMIT = """\
executable = count.sh
arguments = $(Process)
output = out.$(Process)
error = err
log = job.log
transfer_output_files = words.txt
request_memory = 256M
+VMType = "big"
queue 2
"""


@pytest.fixture
def submit_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "count.sh").write_text("#!/bin/sh\necho hi\n")
    (tmp_path / "job.sub").write_text(SUBMIT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_submit_file(cli: Cli, api: FakeApi, submit_file: Path) -> None:
    said = cli("submit", "job.sub", "--priority", "9")
    assert (said.status, said.out) == (0, "1\n2\n")
    job = _body(api)["jobs"][1]
    assert job["command"] == ["./count.sh", "1"]
    assert (job["memory_mb"], job["vm_type"], job["priority"]) == (256, "big", 9)
    assert job["input_files"][0]["mode"] == 0o755
    assert json.loads(job["attributes"]["cloudsched_local_paths"])["stdout"] == str(submit_file / "out.1")


def test_the_cluster_of_a_submit_file_is_the_batch(
    cli: Cli, api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.sub").write_text(
        "executable = /bin/echo\ntransfer_executable = false\narguments = $(Cluster).$(Process)\n"
        "output = out.$(ClusterId).$(Process)\nqueue 2\n")
    cli("submit", "job.sub")
    body = _body(api)
    assert [job["command"][1] for job in body["jobs"]] == ["41.0", "41.1"]
    assert {job["batch_id"] for job in body["jobs"]} == {41}
    assert "out.41.1" in str(body["jobs"][1]["attributes"])


def test_waiting_for_a_submit_file_writes_its_outputs(cli: Cli, api: FakeApi, submit_file: Path) -> None:
    for number in (1, 2):
        api.output[number, "stdout"], api.output[number, "stderr"] = f"out {number}".encode(), f"e{number}".encode()
        api.files[number] = {"words.txt": b"words"}
    assert cli("submit", "job.sub", "--wait").status == 0
    assert (submit_file / "out.0").read_text() == "out 1"
    assert (submit_file / "out.1").read_text() == "out 2"
    assert (submit_file / "err").read_text() == "e1e2"
    assert (submit_file / "words.txt").read_bytes().startswith(b"words")
    log = (submit_file / "job.log").read_text().splitlines()
    assert [line.split()[0] for line in log if line[:3].isdigit()] == ["000", "001", "005"] * 2
    assert "\t(1) Normal termination (return value 0)" in log


def test_without_waiting_the_outputs_are_fetched_later(cli: Cli, api: FakeApi, submit_file: Path) -> None:
    cli("submit", "job.sub")
    api.output[1, "stdout"] = b"later"
    assert cli("jobs", "fetch", api.jobs[1]["batch"]).status == 0
    assert (submit_file / "out.0").read_text() == "later"


def test_a_broken_submit_file_is_told_with_its_line(cli: Cli, api: FakeApi, submit_file: Path) -> None:
    (submit_file / "job.sub").write_text("executable = count.sh\nqueue two\n")
    said = cli("submit", "job.sub")
    assert said.status == 2 and "job.sub:2" in said.err and api.jobs == {}
    assert cli("submit", "missing.sub").status == 2
