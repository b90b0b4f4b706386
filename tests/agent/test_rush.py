"""Short jobs that follow each other: what is put off between them reaches everybody, and nothing is mixed up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloudsched.agent import jobs, transfer
from cloudsched.agent.scratch import Scratch
from cloudsched.testing.fakeserver import FakeServer
from tests.agent.conftest import Start

# What each job does, by its number: nothing; write a file it leaves; leave a process; fail; be loud; take its directory away.
_KINDS = ("", "echo x > left", "sleep 1000 & ", "exit 4", "head -c 70000 /dev/zero | tr '\\0' y", "rmdir \"$PWD\"")


@pytest.mark.parametrize("slots", [1, 3])
def test_each_has_its_own_empty_directory_and_output(server: FakeServer, start: Start, slots: int) -> None:
    agent = start("--slots", str(slots), "--cores", str(slots))
    script = "basename $PWD; ls -A | wc -l; "
    numbers = [server.submit("sh", "-c", script + _KINDS[number % 6]) for number in range(1, 97)]
    server.wait()
    for number in numbers:
        job = server.jobs[number]
        loud = "y" * 70_000 if number % 6 == 4 else ""
        assert (job.answers, job.output("stdout").decode()) == (1, f"{number}.1\n0\n{loud}"), number
        assert job.result is not None
        assert job.result["exit_code"] == (4 if number % 6 == 3 else 0), number
    assert agent.job_processes() == []


def test_directories_are_named_ahead_and_come_back(tmp_path: Path) -> None:
    scratch = Scratch(str(tmp_path / "s"))
    first = [scratch.take(f"{number}.1") for number in (1, 2, 3)]
    for path in first:
        scratch.give_back(path)
    scratch.make_ready(["4.1", "5.1"])
    assert sorted(os.listdir(scratch.root)) == ["1.1", "4.1", "5.1"]
    scratch.make_ready(["5.1", "6.1", "7.1", "8.1"])  # 4.1 went back to the queue, and there is none for 8.1
    assert sorted(os.listdir(scratch.root)) == ["5.1", "6.1", "7.1"]
    assert scratch.take("6.1").endswith("/6.1")
    assert scratch.take("8.1").endswith("/8.1")
    scratch.make_ready([])
    assert scratch.take("9.1").endswith("/9.1")
    assert len(os.listdir(scratch.root)) == 4  # 5.1 or 7.1 was renamed
    scratch.drop_spare()
    assert sorted(os.listdir(scratch.root)) == ["6.1", "8.1", "9.1"]


@pytest.mark.parametrize(("written", "sent", "told"), [
    (b"", 0, ""), ("grüße".encode(), 0, "grüße"), (b"abc", 2, "c"), (b"abc", 3, ""), (b"a\0b", 0, None), (b"\xff", 0, None),
    (b"x" * transfer.SMALL_BYTES, 0, "x" * transfer.SMALL_BYTES), (b"x" * (transfer.SMALL_BYTES + 1), 0, None),
    (b"x" * (transfer.SMALL_BYTES + 1), 1, "x" * transfer.SMALL_BYTES)])
def test_what_of_a_stream_goes_into_the_result(tmp_path: Path, written: bytes, sent: int, told: str | None) -> None:
    path = tmp_path / "out"
    path.write_bytes(written)
    handle = os.open(path, os.O_RDONLY)
    try:
        job = jobs.Job(1, 1)
        job.captured, job.sent = (handle, handle), [sent, 0]
        assert transfer.rest(job, 0) == told
        job.cut[0] = True
        assert transfer.rest(job, 0) == ""
    finally:
        os.close(handle)
