"""`cloudsched jobs`: every action, as text in a pipe and as JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Cli
from .fake_api import FakeApi


def test_list_in_a_pipe_is_tab_separated_and_whole(cli: Cli, api: FakeApi) -> None:
    api.add_job(state="running", node="vm-1", name="a\tb")
    api.add_job(command=["wc", "-l", "x" * 300], state="failed", exit_code=3, ran_s=75.0)
    said = cli("jobs", "list")
    assert said.status == 0
    assert said.lines == [
        "ID\tSTATE\tUSER\tTYPE\tNAME\tNODE\tEXIT\tRAN\tSUBMITTED\tCOMMAND",
        f"2\tfailed\ttess\tdefault\t-\t-\t3\t1m15s\t2026-01-02 03:04:05\twc -l {'x' * 300}",
        "1\trunning\ttess\tdefault\ta b\tvm-1\t-\t-\t2026-01-02 03:04:05\ttrue",
    ]


def test_list_as_json_is_the_api_objects(cli: Cli, api: FakeApi) -> None:
    api.add_job(state="running")
    (job,) = cli("jobs", "list", "--json").json
    assert job["id"] == 1 and job["command"] == ["true"] and "looks" not in job


def test_filters_are_passed_on(cli: Cli, api: FakeApi) -> None:
    for user, state in (("ann", "held"), ("ann", "failed"), ("bob", "held")):
        api.add_job(user=user, state=state)
    said = cli("jobs", "list", "--of-state", "held", "--of-state", "failed", "--user", "ann", "--json")
    assert [job["id"] for job in said.json] == [2, 1]
    said = cli("jobs", "list", "--oldest", "--limit", "2", "--json", "--vm-type", "default", "--source", "queue")
    assert [job["id"] for job in said.json] == [1, 2]


def test_list_goes_over_pages(cli: Cli, api: FakeApi) -> None:
    for _ in range(1203):
        api.add_job(state="held")
    assert len(cli("jobs", "list", "--all", "--json").json) == 1203
    assert len(cli("jobs", "list", "--json").json) == 100


def test_count(cli: Cli, api: FakeApi) -> None:
    api.add_job(state="held")
    said = cli("jobs", "count")
    assert said.lines[0] == "STATE\tJOBS" and "held\t1" in said.lines and said.lines[-1] == "total\t1"
    assert cli("jobs", "count", "--json").json["by_state"]["held"] == 1


def test_show(cli: Cli, api: FakeApi) -> None:
    api.add_job(state="failed", command=["a b", "c"], signal=9, memory_mb=2048, env={"K": "V"}, reason="memory limit")
    said = cli("jobs", "show", "1")
    for line in ("state\tfailed", "exit\tSIG9", "command\t'a b' c", "memory_mb\t2G", "env\tK=V", "reason\tmemory limit"):
        assert line in said.lines
    assert cli("jobs", "show", "here#1.0#1", "--json").json["id"] == 1
    assert [one["id"] for one in cli("jobs", "show", "1", "1", "--json").json] == [1, 1]


def test_unknown_job_is_exit_4_and_the_others_are_shown(cli: Cli, api: FakeApi) -> None:
    api.add_job(state="held")
    said = cli("jobs", "show", "77", "1")
    assert said.status == 4
    assert "77: Not found: there is no job 77" in said.err
    assert "job\t1" in said.lines


def test_logs_of_both_streams_are_raw_bytes(cli: Cli, api: FakeApi) -> None:
    api.add_job(state="succeeded")
    api.output[1, "stdout"], api.output[1, "stderr"] = b"line\nno end", b"oops\n"
    assert cli("jobs", "logs", "1").out == "line\nno end"
    assert cli("jobs", "logs", "1", "--stderr").out == "oops\n"
    assert cli("jobs", "logs", "1", "--offset", "5", "--follow").out == "no end"
    assert cli("jobs", "logs", "1", "--json").json == {"id": "1", "stream": "stdout", "text": "line\nno end", "truncated": False}


def test_an_output_that_was_cut_is_told(cli: Cli, api: FakeApi, tmp_path: Path) -> None:
    api.add_job(state="succeeded", output_size=4, output_truncated=True, error_size=2, error_truncated=False)
    api.output[1, "stdout"] = b"text"
    cut = "the output was cut at 4 bytes (the rest is not kept)"
    for words in (("jobs", "logs", "1"), ("jobs", "logs", "-f", "1")):
        said = cli(*words)
        assert (said.status, said.out, said.err) == (0, "text", f"cloudsched: {cut}\n")
    assert cli("jobs", "logs", "1", "--stderr").err == cli("jobs", "logs", "1", "--attempt", "7").err == ""
    assert cli("jobs", "logs", "1", "--json").json["truncated"] is True
    assert "output_truncated\tyes" in cli("jobs", "show", "1").lines
    assert cli("jobs", "fetch", "1", "--to", str(tmp_path)).err == f"cloudsched: job 1: {cut}\n"


def test_a_followed_output_goes_on_where_the_connection_broke(cli: Cli, api: FakeApi) -> None:
    api.add_job(state="succeeded")
    api.output[1, "stdout"] = b"half and the rest"
    api.faults = ["pass", "half"]
    assert cli("jobs", "logs", "1", "--follow").out == "half and the rest"
    assert any("offset=4" in path for _, path, _, _ in api.requests)


def test_a_server_that_stops_is_not_the_end_of_a_followed_job(cli: Cli, api: FakeApi) -> None:
    api.add_job(command=["sh", "-c", "exit 5"])
    api.steps = 1
    api.output[1, "stdout"] = b"first second"
    api.faults = ["pass", b"first ", "cut"]
    said = cli("jobs", "logs", "1", "--follow")
    assert (said.status, said.out) == (0, "first second")
    assert said.err.count("trying again for 2m00s") == 1
    assert any("offset=6" in path for _, path, _, _ in api.requests)


def test_cancel_one_several_and_by_filter(cli: Cli, api: FakeApi) -> None:
    for _ in range(4):
        api.add_job(state="held", batch="b")
    said = cli("jobs", "cancel", "1", "2", "--wait", "5")
    assert said.lines == ["1\tcancelled", "2\tcancelled"]
    assert "wait_s=5" in api.requests[-1][1]
    assert cli("jobs", "cancel", "--batch", "b").out == "2 jobs cancelled\n"
    assert cli("jobs", "cancel", "--batch", "b", "--json").json == {"cancelled": 0}


def test_cancel_tells_when_the_process_is_not_proved_dead(cli: Cli, api: FakeApi) -> None:
    api.add_job(state="running")
    said = cli("jobs", "cancel", "1", "--wait")
    assert said.status == 1
    assert said.out == "1\trunning (wanted: cancel)\n"
    assert "not proved dead after 1m00s" in said.err


def test_cancel_needs_exactly_one_way(cli: Cli) -> None:
    assert cli("jobs", "cancel").status == 2
    assert cli("jobs", "cancel", "1", "--user", "ann").status == 2


def test_hold_release_retry(cli: Cli, api: FakeApi) -> None:
    api.steps = 99
    api.add_job()
    assert cli("jobs", "hold", "1").out == "1\theld\n"
    assert cli("jobs", "release", "1").out == "1\tqueued\n"
    api.jobs[1]["state"] = "failed"
    assert cli("jobs", "retry", "1").out == "2\tqueued (a retry of 1)\n"
    assert cli("jobs", "hold", "1", "--reason", "later").status == 1
    assert api.requests[-1][3] == {"reason": "later"}
    assert cli("jobs", "retry", "1", "--priority", "-3").status == 0
    assert api.requests[-1][3] == {"priority": -3}
    assert cli("jobs", "retry", "1", "--ignore-dependencies").status == 0
    assert api.requests[-1][3] == {"ignore_dependencies": True}


def test_retry_is_made_once_although_its_answer_was_lost(cli: Cli, api: FakeApi) -> None:
    api.steps = 99
    api.add_job(state="failed")
    api.faults = ["lost"]
    assert cli("jobs", "retry", "1").out == "2\tqueued (a retry of 1)\n"
    assert len(api.jobs) == 2


def test_wait(cli: Cli, api: FakeApi) -> None:
    api.steps = 2
    api.add_job(command=["sh", "-c", "exit 7"], batch="b")
    assert cli("jobs", "wait", "1").status == 7
    api.add_job(batch="b")
    said = cli("jobs", "wait", "--batch", "b", "--json")
    assert said.status == 1
    assert [job["state"] for job in said.json] == ["failed", "succeeded"]
    assert "2/2" in said.err


def test_files_are_listed_and_fetched(cli: Cli, api: FakeApi, tmp_path: Path) -> None:
    api.add_job(state="succeeded", output_files=["*"])
    api.files[1] = {"out.txt": b"12345", "../up/x": b"evil"}
    assert cli("jobs", "files", "1").lines == ["NAME\tBYTES", "out.txt\t5", "../up/x\t4"]
    assert [one["size"] for one in cli("jobs", "files", "1", "--json").json] == [5, 4]
    assert cli("jobs", "files", "1", "--all", "--to", str(tmp_path / "to")).status == 0
    assert (tmp_path / "to/out.txt").read_bytes() == b"12345"
    assert (tmp_path / "to/up/x").read_bytes() == b"evil"
    said = cli("jobs", "files", "1", "nothing")
    assert said.status == 4 and "out.txt" in said.err


def test_fetch_of_a_batch_goes_below_a_directory(cli: Cli, api: FakeApi, tmp_path: Path) -> None:
    api.add_job(state="succeeded", batch="b", output_files=["out.txt"])
    api.output[1, "stdout"], api.files[1] = b"hello", {"out.txt": b"12345"}
    said = cli("jobs", "fetch", "b", "--to", str(tmp_path))
    assert said.status == 0
    assert (tmp_path / "job-1/stdout").read_text() == "hello"
    assert (tmp_path / "job-1/out.txt").read_text() == "12345"
    assert cli("jobs", "fetch", "nobatch").status == 4
    assert cli("jobs", "fetch", "1", "--to", str(tmp_path), "--json").json == {"files": [
        {"job": 1, "name": "stdout", "path": f"{tmp_path}/job-1/stdout", "size": 5},
        {"job": 1, "name": "stderr", "path": f"{tmp_path}/job-1/stderr", "size": 0},
        {"job": 1, "name": "out.txt", "path": f"{tmp_path}/job-1/out.txt", "size": 5},
    ]}
    assert cli("jobs", "files", "1", "--all", "--to", str(tmp_path), "--json").json["files"][0]["name"] == "out.txt"


def test_fetch_writes_nothing_outside_of_the_current_directory(
    cli: Cli, api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    monkeypatch.chdir(inside)
    places = f'{{"stdout": "{inside}/o", "stderr": "{outside}/e"}}'
    api.add_job(state="succeeded", attributes={"cloudsched_local_paths": places})
    api.output[1, "stdout"] = b"hello"
    said = cli("jobs", "fetch", "1")
    assert said.status == 1
    assert "outside of" in said.err
    assert (inside / "o").read_text() == "hello"
    assert not outside.exists()


def test_fetch_tells_of_jobs_that_go_on(cli: Cli, api: FakeApi, tmp_path: Path) -> None:
    api.add_job(state="running", batch="b")
    said = cli("jobs", "fetch", "b", "--to", str(tmp_path))
    assert said.status == 1 and "1 of 1 jobs have not ended" in said.err
