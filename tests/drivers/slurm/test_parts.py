"""Are options checked, scripts right, names found again, and commands run as they should, without any cluster?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cloudsched.drivers import base, registry
from cloudsched.drivers.base import DriverError, Place, Wanted
from cloudsched.drivers.slurm import make, pilot
from cloudsched.drivers.slurm.batch import BatchJob, _chosen, batch_script
from cloudsched.drivers.slurm.driver import SlurmDriver
from cloudsched.drivers.slurm.homes import last_error
from cloudsched.drivers.slurm.model import JobRecord
from cloudsched.drivers.slurm.parsing import FIELD, RECORD
from cloudsched.drivers.slurm.pilots import name_in
from cloudsched.drivers.slurm.scripts import Pilot, pilot_script
from cloudsched.drivers.slurm.transport import LocalTransport, Result
from cloudsched.errors import Invalid

SERVER = "http://127.0.0.1:1"


def place(*, credentials: dict[str, str] | None = None, **options: Any) -> Place:
    return Place("hpc", "Slurm", options, credentials or {}, server_url=SERVER, instance="test")


class Told(LocalTransport):
    """Answers by the name of the command, and writes down what was asked."""

    def __init__(self, **answers: Result) -> None:
        self.answers = answers
        self.asked: list[tuple[list[str], bytes]] = []

    def run(self, argv: Sequence[str], *, input: bytes = b"", timeout_s: float) -> Result:
        self.asked.append((list(argv), input))
        name = next((word for word in argv if word in self.answers), "")
        return self.answers.get(name, Result(0))


# -- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"partitoin": "x"}, "partitoin"), ({"partition": "a b"}, "partition"), ({"account": "a,b"}, "account"),
        ({"time_limit_s": "soon"}, "time_limit_s"), ({"time_limit_s": 60, "drain_s": 60}, "drain_s"),
        ({"work_dir": "relative"}, "work_dir"), ({"scratch_dir": "a"}, "scratch_dir"), ({"bin_dir": "bin"}, "bin_dir"),
        ({"env": {"A B": "x"}}, "env"), ({"env": "1=2"}, "env"), ({"rest_url": "ftp://x"}, "rest_url"),
        ({"rest_url": "http://x", "rest_version": "v0.0.36"}, "rest_version"),
        ({"rest_url": "http://x", "host": "y"}, "rest_url"),
        ({"rest_url": "http://x", "work_dir": "/x"}, "work_dir"), ({"log_level": "loud"}, "log_level"), ({"user": "x"}, "user"),
        ({"constraint": "a", "features": "b"}, "features"), ({"command_limit_s": 0}, "command_limit_s"),
        ({"host": "a b"}, "host"), ({"host": "x", "port": 0}, "port"),
    ],
)  # fmt: skip
def test_wrong_options_are_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        make(place(**options))
    assert caught.value.errors[0].field == field


def test_options_may_be_texts() -> None:
    driver = make(place(env="SLURM_CONF=/etc/s.conf  A=1", features="a,b", time_limit_s="3600", drain_s="60", tags="x,y"))
    options = driver._options
    assert (options.env, options.constraint, options.time_limit_s, options.tags) == (
        {"SLURM_CONF": "/etc/s.conf", "A": "1"}, "a&b", 3600, "x,y")  # fmt: skip


def test_the_registry_knows_it_and_no_secret_is_in_its_words() -> None:
    driver = registry.make(place(credentials={"rest_token": "very.secret.token"}, rest_url="unix:/nowhere"))
    assert isinstance(driver, SlurmDriver)
    assert driver.capabilities == {base.BOOT, base.DESTROY, base.LIST, base.BATCH, base.NODES}
    assert base.DRAIN in make(place()).capabilities
    with pytest.raises(DriverError) as caught:
        driver.machines()
    assert "very.secret" not in repr(driver.__dict__) + str(caught.value) + repr(driver.verify())


# -- commands ------------------------------------------------------------------------------------------------------


def test_a_token_is_never_a_word_of_a_command() -> None:
    transport = Told(sbatch=Result(0, "12\n"))
    driver = SlurmDriver(place(scratch_dir="/scratch"), transport=transport)
    with pytest.raises(DriverError, match="is not in the queue"):  # nobody answers to squeue here
        driver.boot(Wanted("n", 1, 1, 0, 0, join_token="very-secret", server_url=SERVER))
    (argv, sent) = next(one for one in transport.asked if "sbatch" in one[0])
    assert not any("very-secret" in word for word in argv)
    assert sent.startswith(b"very-secret\n#!/bin/sh\n")
    assert b"very-secret" not in sent.partition(b"\n")[2]
    assert not any(word.startswith("--mem") for word in argv)  # 0 would be all of a host's memory


def test_odd_words_stay_words() -> None:
    transport = Told(squeue=Result(0), sbatch=Result(0, "12\n"))
    driver = SlurmDriver(place(constraint="[a|b]&c", env={"X": "a b;$(id)"}), transport=transport)
    driver.submit(BatchJob(("x",), name="-rf / ; $(id)\n", directory="/a b"))
    argv = transport.asked[-1][0]
    assert "--constraint=[a|b]&c" in argv
    assert "--chdir=/a b" in argv
    assert "X=a b;$(id)" in argv
    assert next(word for word in argv if word.startswith("--job-name=")).startswith("--job-name=-rf_id_-")


def test_an_answer_that_is_no_id_is_an_error() -> None:
    for answer in (Result(0, ""), Result(0, "Submitted\n"), Result(1, "", "sbatch: error: x")):
        driver = SlurmDriver(place(), transport=Told(sbatch=answer))
        with pytest.raises(DriverError, match="sbatch"):
            driver.submit(BatchJob(("x",)))


def test_a_whole_array_and_tasks_are_asked_for_in_one_command() -> None:
    rows = "".join(FIELD.join([f"12_{number}", "RUNNING", "None", "0", "n1", "1", "2", "NONE", "main", "x", ""]) + RECORD
                   for number in range(3))  # fmt: skip
    transport = Told(squeue=Result(0, rows))
    driver = SlurmDriver(place(), transport=transport)
    found = driver.states(["12_0", "12_2", "12"])
    assert [one.state for one in found.values()] == ["running"] * 3
    asked = [argv for argv, _ in transport.asked if "squeue" in argv]
    assert len(asked) == 1 and "--jobs=12" in asked[0]


def test_a_forgotten_task_of_an_array_that_still_runs_is_not_called_cancelled() -> None:
    """Ended tasks are forgotten one by one; without a history nobody can say what became of them."""
    row = FIELD.join(["12_1", "RUNNING", "None", "0", "n1", "1", "2", "NONE", "main", "x", ""]) + RECORD
    config = "JobCompType             = jobcomp/none\nAccountingStorageType   = accounting_storage/none\n"
    driver = SlurmDriver(place(), transport=Told(squeue=Result(0, row), scontrol=Result(0, config)))
    assert driver.states(["12_0"])["12_0"].state == "unknown"


def test_one_line_for_a_whole_array_speaks_for_its_tasks_only_when_it_was_cancelled() -> None:
    cancelled, other = JobRecord("12", "CANCELLED"), JobRecord("13", "FAILED")
    assert _chosen(["12_1"], [cancelled])["12_1"].state == "cancelled"
    assert _chosen(["13_1"], [other]) == {}
    tasks = [JobRecord("14_0", "COMPLETED"), JobRecord("14_1", "RUNNING"), JobRecord("14_2", "FAILED")]
    assert _chosen(["14"], tasks)["14"].state == "running"
    assert _chosen(["14"], [tasks[0], tasks[2]])["14"].state == "failed"


def test_a_local_command_has_a_small_environment_and_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDSCHED_SECRET", "x")
    transport = LocalTransport()
    assert "CLOUDSCHED_SECRET" not in transport.run(["env"], timeout_s=10).stdout
    assert transport.run(["sh", "-c", "cat; echo err >&2; exit 3"], input=b"in", timeout_s=10) == Result(3, "in", "err\n")
    with pytest.raises(DriverError, match="no answer within") as caught:
        transport.run(["sh", "-c", "sleep 100 & sleep 100"], timeout_s=0.2)
    assert (caught.value.code, caught.value.transient) == (base.ENDPOINT, True)
    with pytest.raises(DriverError, match="cannot be started"):
        transport.run(["/nowhere/at-all"], timeout_s=1)


def test_files_are_written_in_one_step_and_closed_to_others(tmp_path: Path) -> None:
    transport, path = LocalTransport(), str(tmp_path / "file")
    assert transport.get(path, max_bytes=10) is None
    transport.put(b"one", path, mode=0o600)
    transport.put(b"two", path, mode=0o600)
    assert (transport.get(path, max_bytes=3), os.stat(path).st_mode & 0o777) == (b"two", 0o600)
    with pytest.raises(DriverError, match="larger"):
        transport.get(path, max_bytes=2)
    with pytest.raises(DriverError, match="cannot be written"):
        transport.put(b"", str(tmp_path / "none" / "file"), mode=0o600)
    assert os.listdir(tmp_path) == ["file"]


# -- names and scripts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["node-1", "ü-漢", "a|b\"'$(x)\\", "n" * 255, "漢" * 255, "é" * 255, "😀" * 60])
def test_a_name_is_found_again_in_the_comment(name: str) -> None:
    driver = make(place())
    comment = driver._pilots._comment(Wanted(name, 1, 1, 0, 0, join_token="t"))
    assert len(comment) <= 1024 and comment.isascii()
    assert name_in(comment) == name


def test_comments_of_others_are_no_names() -> None:
    for comment in ("", "x", "{}", "[]", "null", '{"packed": "!"}', '{"packed": "AAAA"}'):
        assert name_in(comment) == ""


def test_last_words() -> None:
    error = json.dumps({"level": "error", "message": "the server refuses the token", "detail": "unknown"})
    assert last_error(f'{error}\n{json.dumps({"level": "info", "message": "ends"})}\n') == "the server refuses the token: unknown"
    assert last_error(f"{error}\nslurmstepd: error: *** JOB 1 CANCELLED ***\n").startswith("the server")
    assert last_error("Traceback\nImportError: no module\n\n") == "ImportError: no module"
    assert last_error("") == ""


def test_a_batch_script_runs_each_task_with_its_own_words(tmp_path: Path) -> None:
    odd = ("printf", "%s|", "a b", "'\"", "$HOME", "`id`", "x\ny", "-n", "ü")
    script = batch_script([BatchJob(odd, env={"A": "$x'y"}), BatchJob(("sh", "-c", 'printf %s "$A"'), env={"A": "$x'y\n"})])
    outputs = [subprocess.run(["sh", "-c", script], env={"SLURM_ARRAY_TASK_ID": task}, capture_output=True, text=True,
                              check=True).stdout for task in ("0", "1")]  # fmt: skip
    assert outputs == ["a b|'\"|$HOME|`id`|x\ny|-n|ü|", "$x'y\n"]
    assert "case" not in batch_script([BatchJob(("true",)), BatchJob(("true",))])


class TestPilotScript:
    """The script itself, run by a shell, with a small program in place of the agent."""

    @pytest.fixture(autouse=True)
    def _scratch(self, tmp_path: Path) -> None:
        self.tmp = tmp_path
        self.scratch = tmp_path / "scratch"
        self.scratch.mkdir()

    def start(self, agent: str, **facts: Any) -> subprocess.Popen[str]:
        given: dict[str, Any] = {
            "name": "a 'b' $(c)", "instance": "test", "server_url": SERVER, "cores": 2, "memory_mb": 64, "storage_gb": 1,
            "slots": 0, "python": sys.executable, "run_as": "self", "orphan_timeout_s": 600, "log_level": "info", "tags": "",
            "home": "", "agent": agent.encode(), "scratch_dir": str(self.scratch)}  # fmt: skip
        script = self.tmp / "script"
        script.write_text(pilot_script(Pilot(**{**given, **facts})))
        script.chmod(0o700)
        env = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "7", "CLOUDSCHED_AGENT_TOKEN": "t"}
        return subprocess.Popen([str(script)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def ended(self, process: subprocess.Popen[str]) -> tuple[int, str, str]:
        out, err = process.communicate(timeout=30)
        return process.returncode, out, err

    def test_the_agent_gets_its_words_and_nothing_is_left(self) -> None:
        code, out, _ = self.ended(self.start("import os, sys; print(sys.argv[1:]); print(sorted(os.environ)); sys.exit(5)"))
        words, names = out.splitlines()
        assert code == 5
        assert "--name=a 'b' $(c)" in eval(words)
        assert {"CLOUDSCHED_NODE", "CLOUDSCHED_INSTANCE", "CLOUDSCHED_MACHINE", "CLOUDSCHED_AGENT_TOKEN"} <= set(eval(names))
        assert list(self.scratch.iterdir()) == []

    @pytest.mark.parametrize(("sent", "heard"), [(signal.SIGUSR1, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)])
    def test_a_signal_is_passed_on_once_even_before_the_agent_listens(self, sent: int, heard: int) -> None:
        """The warning is a request to finish, the end a request to stop."""
        agent = ("import signal, sys, time; heard = []; time.sleep(0.2)\n"
                 "for number in (2, 15): signal.signal(number, lambda number, _: heard.append(number))\n"
                 "print(sorted(signal.pthread_sigmask(signal.SIG_UNBLOCK, [2, 15])), flush=True)\n"
                 "while not heard: time.sleep(0.01)\n"
                 "time.sleep(0.1); print(heard)")  # fmt: skip
        process = self.start(agent)
        until(lambda: list(self.scratch.glob("*/agent.pyz")))
        process.send_signal(sent)
        code, out, _ = self.ended(process)
        assert (code, out.splitlines()[1]) == (0, f"[{heard:d}]")
        assert "SIGUSR1" not in out  # what jobs inherit
        assert list(self.scratch.iterdir()) == []

    def test_it_tells_the_agent_itself_where_slurm_cannot(self) -> None:
        agent = "import signal, time; signal.pthread_sigmask(signal.SIG_UNBLOCK, [15]); time.sleep(60)"
        assert self.ended(self.start(agent, drain_after_s=1))[0] == 128 + signal.SIGTERM

    def test_no_python_and_no_room_are_said(self) -> None:
        code, out, _ = self.ended(self.start("", python="no-such-python"))
        assert (code, last_error(out)) == (127, "there is no no-such-python on this host")
        code, _, err = self.ended(self.start("", scratch_dir=str(self.tmp / "none")))
        assert code == 2
        assert last_error(err).startswith("cannot start: [Errno 2] No such file or directory")

    def test_what_others_use_stays(self) -> None:
        old = time.time() - 10 * pilot.STALE_S
        held, left, young = (self.scratch / f"{pilot.PREFIX}x-{name}" for name in ("held", "left", "young"))
        for folder in (held, left, young):
            (folder / "work").mkdir(parents=True)
        with (held / "work" / "agent.lock").open("w") as lock:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
            for folder in (held, left):
                os.utime(folder, (old, old))
            self.ended(self.start("pass"))
            assert sorted(path.name for path in self.scratch.iterdir()) == sorted((held.name, young.name))


def until(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
