"""Are pilots machines? They wait, run jobs, drain before their time is over, and leave nothing; their token stays hidden."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError
from tests.drivers.slurm.cases import TOKEN, SlurmCase
from tests.drivers.slurm.cluster import until

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]


class TestPilots(SlurmCase):
    """With a shared directory."""

    def test_the_share_is_what_was_asked_for_and_is_allocated(self) -> None:
        driver = self.slurm()
        driver.boot(self.wanted(cores=3, memory_mb=777, storage_gb=4, slots=2))
        profile = self.joined("node-1").profile
        assert [profile[name] for name in ("cores", "memory_mb", "storage_gb", "slots")] == [3, 777, 4, 2]
        (host,) = (node for node in driver.nodes() if node.cores_allocated)
        assert (host.cores_allocated, host.memory_allocated_mb, host.state) == (3, 777, "mixed")

    def test_a_pilot_runs_jobs_as_nobody_when_the_cluster_is_roots(self) -> None:
        driver = self.slurm()
        driver.boot(self.wanted())
        job = self.server.submit("sh", "-c", "id -un; echo $CLOUDSCHED_NODE $CLOUDSCHED_INSTANCE $CLOUDSCHED_MACHINE")
        self.server.wait(job)
        user, marks = self.server.jobs[job].output("stdout").decode().splitlines()
        machine = self.settle(driver, "node-1")
        assert marks == f"node-1 test slurm-{machine.external_id}"
        assert user == ("nobody" if os.geteuid() == 0 else os.environ.get("USER", user))

    def test_one_that_waits_says_why(self) -> None:
        driver = self.slurm()
        for number in range(3):
            driver.boot(self.wanted(f"node-{number}", cores=8))
        waiting = until(lambda: [one for one in driver.machines() if one.state == "Starting" and "Resources" in one.reason],
                        "one waits", note=self.cluster.tails)  # fmt: skip
        assert [one.name for one in waiting] == ["node-2"]
        driver.destroy("node-0", {})
        self.settle(driver, "node-2")

    def test_one_that_can_never_begin_is_refused_and_not_left_in_the_queue(self) -> None:
        self.cluster.run("scontrol", "update", "PartitionName=main", "MaxTime=10")
        try:
            driver = self.slurm(time_limit_s=3600)
            with pytest.raises(DriverError, match="no place for such a job: Partition") as caught:
                driver.boot(self.wanted())
            assert (caught.value.code, caught.value.transient) == (base.REQUEST, False)
            assert (driver.machines(), self.cluster.queue()) == ([], [])
        finally:
            self.cluster.run("scontrol", "update", "PartitionName=main", "MaxTime=INFINITE")

    def test_one_that_becomes_hopeless_while_it_waits_is_an_error(self) -> None:
        driver = self.slurm()
        machine = driver.boot(self.wanted(cores=8))
        driver.boot(self.wanted("node-2", cores=8))
        waiting = driver.boot(self.wanted("node-3", cores=8))
        self.cluster.run("scontrol", "hold", waiting.external_id)
        found = until(lambda: next((one for one in driver.machines() if one.state == "Error"), None), "it is an error")
        assert (found.name, found.reason) == ("node-3", "waits in the queue for what cannot come: JobHeldAdmin") or (
            found.reason == "waits in the queue for what cannot come: JobHeldUser")  # fmt: skip
        assert machine.state in ("Starting", "Running")

    def test_one_that_is_told_of_its_end_finishes_its_job_and_leaves(self) -> None:
        """The warning before the time limit, given by hand: Slurm's clock counts minutes."""
        driver = self.slurm(time_limit_s=600, drain_s=120)
        machine = driver.boot(self.wanted(slots=2, cores=2))
        shown = self.cluster.run("scontrol", "show", "job", machine.external_id).stdout
        assert "TimeLimit=00:10:00" in shown
        gate = self.scratch / "gate"
        job = self.server.submit("sh", "-c", f"while [ ! -e {gate} ]; do sleep 0.05; done; echo done")
        self.server.until(lambda: self.server.jobs[job].started, "it runs")
        self.cluster.run("scancel", "--batch", "--signal=USR1", machine.external_id)
        until(lambda: "drains" in self.log("node-1"), "it drains", note=self.tails)
        assert self.settle(driver, "node-1").state == "Running"
        gate.touch()
        self.server.wait(job)
        assert self.server.jobs[job].output("stdout") == b"done\n"
        assert self.ended(driver, "node-1").reason == "the pilot has ended (COMPLETED)"

    def test_one_out_of_time_is_shutdown(self) -> None:
        """Slurm looks at time limits twice a minute."""
        driver = self.slurm()
        machine = driver.boot(self.wanted())
        self.settle(driver, "node-1")
        for change in ("TimeLimit=1", "EndTime=now"):
            self.cluster.run("scontrol", "update", f"JobId={machine.external_id}", change)
        assert self.ended(driver, "node-1").state == "Shutdown"
        until(lambda: driver.machines()[0].reason.startswith("the time limit of the pilot has passed (TIMEOUT"), "it says why",
              note=self.tails)  # fmt: skip

    def test_one_that_is_refused_by_the_server_says_so(self) -> None:
        driver = self.slurm()
        driver.boot(self.wanted(join_token="unknown"))
        machine = self.ended(driver, "node-1")
        assert machine.state == "Error"
        assert "NonZeroExitCode" in machine.reason
        assert "the server refuses the token" in machine.reason

    def test_no_python_on_the_host_is_said(self) -> None:
        driver = self.slurm(python="python-that-is-not-there")
        driver.boot(self.wanted())
        assert "there is no python-that-is-not-there on this host" in self.ended(driver, "node-1").reason

    def test_one_whose_host_dies_is_an_error_and_can_be_destroyed(self) -> None:
        driver = self.slurm()
        driver.boot(self.wanted())
        host = self.settle(driver, "node-1").hostname
        self.joined("node-1")
        self.cluster.kill(f"slurmd-{host}")
        try:
            self.cluster.run("scontrol", "update", f"NodeName={host}", "State=DOWN", "Reason=test")
            assert self.ended(driver, "node-1").reason.startswith("the host of the pilot failed (NODE_FAIL")
        finally:
            self.cluster.start_node(host)
            self.cluster.run("scontrol", "update", f"NodeName={host}", "State=RESUME", check=False)
            until(lambda: self.cluster.idle() == 2, "both hosts are idle", note=self.cluster.tails)
        driver.destroy("node-1", {})
        assert driver.machines() == []
        assert list(self.shared.glob("machines/*/*")) == []
        until(lambda: not self.agents(), "slurmd has ended what it found", note=self.cluster.tails)
        shutil.rmtree(self.scratch)  # a host that died could not clean up; the next pilot would, later
        self.scratch.mkdir()

    def test_one_that_somebody_cancels_is_shown_until_destroyed(self) -> None:
        driver = self.slurm()
        machine = driver.boot(self.wanted())
        self.cluster.run("scancel", machine.external_id)
        found = self.ended(driver, "node-1")
        assert (found.state, found.reason.partition(" (")[0]) == ("Shutdown", "the pilot was cancelled")
        assert driver.boot(self.wanted()).external_id != machine.external_id  # a dead one boots afresh
        self.settle(driver, "node-1")

    def test_a_directory_without_a_job_is_found_and_goes(self) -> None:
        """A crash between the two, or a pilot that Slurm has forgotten."""
        driver = self.slurm()
        driver.boot(self.wanted())
        job_name = driver._pilots.job_name("node-1")
        driver._controller.cancel([driver.machines()[0].external_id])
        self.ended(driver, "node-1")
        (home,) = self.shared.glob(f"machines/*/{job_name}")
        stray = home.with_name("cs-stray")
        stray.mkdir()
        (stray / "machine.json").write_text('{"name": "lost", "job_name": "cs-stray", "created": 1}')
        lost = next(one for one in driver.machines() if one.name == "lost")
        assert (lost.state, lost.reason) == ("Shutdown", "the pilot is not among the jobs that Slurm remembers")

    def test_two_who_boot_the_same_name_at_once_have_one_pilot(self) -> None:
        drivers = [self.slurm() for _ in range(4)]
        gate, ids = threading.Barrier(4), []
        wanted = self.wanted()

        def boot(driver: Any) -> None:
            gate.wait()
            ids.append(driver.boot(wanted).external_id)

        threads = [threading.Thread(target=boot, args=(driver,)) for driver in drivers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(ids)) == 1
        assert self.settle(drivers[0], "node-1").external_id == ids[0]
        until(lambda: len(self.cluster.queue()) == 1, "the others are cancelled", note=self.cluster.tails)
        assert len(self.server.nodes) <= 1

    def test_the_token_is_nowhere_to_be_seen(self) -> None:
        self.look_for_the_token(self.slurm())

    def look_for_the_token(self, driver: Any) -> None:
        self.server._tokens[TOKEN] = "node-1"
        machine = driver.boot(self.wanted(join_token=TOKEN))
        self.settle(driver, "node-1")
        job = machine.external_id
        commands = (("scontrol", "show", "job", "-dd", job), ("squeue", "--Format=ALL"), ("squeue", "-o", "%all"),
                    ("scontrol", "write", "batch_script", job, "-"), ("scontrol", "-o", "show", "steps"),
                    ("ps", "axww", "-o", "args"), ("sacct", "--completion", "-P"))  # fmt: skip
        for command in commands:
            done = self.cluster.run(*command, check=False)
            assert TOKEN not in done.stdout + done.stderr, command
        for path in self.cluster.root.rglob("*"):  # what others may read
            if path.is_file() and path.stat().st_mode & 0o044:
                assert TOKEN.encode() not in path.read_bytes(), path
        for path in self.shared.rglob("*"):
            if path.is_file() and TOKEN.encode() in path.read_bytes():
                assert path.stat().st_mode & 0o077 == 0, path
        assert TOKEN not in repr((machine, driver.machines(), driver.verify(), driver))

    def test_each_refusal_has_its_code(self) -> None:
        for options, field, code in (
            ({"partition": "nope"}, "partition", base.REQUEST), ({"constraint": "nope"}, "feature", base.REQUEST),
            ({"reservation": "nope"}, "reservation", base.REQUEST),
        ):  # fmt: skip
            driver = self.slurm(**options)
            with pytest.raises(DriverError, match=f"(?i){field}") as caught:
                driver.boot(self.wanted())
            assert (caught.value.code, caught.value.transient) == (code, False), options
            assert [check.name for check in driver.verify() if not check.ok]
            driver.destroy("node-1", {})
            assert driver.machines() == []
        with pytest.raises(DriverError, match=r"configuration is not available|no place for such a job") as caught:
            self.slurm().boot(self.wanted(cores=1000, memory_mb=100_000_000))
        assert caught.value.code == base.REQUEST

    def agents(self) -> list[int]:
        """Processes that run our agent in a directory of this test."""
        marks = (str(self.shared).encode(), str(self.scratch).encode())
        return [pid for pid in self.cluster.processes() if any(mark in _command_line(pid) for mark in marks)]

    def log(self, name: str) -> str:
        return "".join(path.read_text() for path in Path(self.shared).glob("machines/*/*/agent.log"))


class TestCarried(TestPilots):
    """Without a shared directory the job's environment carries the token."""

    test_one_that_is_told_of_its_end_finishes_its_job_and_leaves = None  # type: ignore[assignment]
    test_one_out_of_time_is_shutdown = None  # type: ignore[assignment]
    test_one_that_is_refused_by_the_server_says_so = None  # type: ignore[assignment]
    test_no_python_on_the_host_is_said = None  # type: ignore[assignment]
    test_a_directory_without_a_job_is_found_and_goes = None  # type: ignore[assignment]
    test_one_that_somebody_cancels_is_shown_until_destroyed = None  # type: ignore[assignment]

    def options(self) -> dict[str, Any]:
        return {"env": self.cluster.env, "scratch_dir": str(self.scratch), "destroy_limit_s": 60}

    def test_one_that_failed_is_shown_until_destroyed_and_not_again(self) -> None:
        driver = self.slurm()
        driver.boot(self.wanted(join_token="unknown"))
        assert self.ended(driver, "node-1").state == "Error"
        driver.destroy("node-1", {})
        assert driver.machines() == []

    def test_what_a_killed_pilot_left_the_next_one_takes_away(self) -> None:
        old = self.scratch / "cloudsched-pilot-test-999999"
        (old / "work").mkdir(parents=True)
        young = self.scratch / "cloudsched-pilot-test-999998"
        young.mkdir()
        os.utime(old, (1, 1))
        driver = self.slurm()
        driver.boot(self.wanted())
        self.joined("node-1")
        assert (old.exists(), young.exists()) == (False, True)
        young.rmdir()


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
