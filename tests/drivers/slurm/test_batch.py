"""Is batch work handed in, watched, cancelled and accounted for, a thousand jobs in a few commands?"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import pytest

from cloudsched.drivers.base import DriverError
from cloudsched.drivers.slurm.batch import BatchJob
from cloudsched.drivers.slurm.transport import LocalTransport, Result
from tests.drivers.slurm.cases import SlurmCase
from tests.drivers.slurm.cluster import until

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]


class Counting(LocalTransport):
    """Writes down which commands run."""

    def __init__(self) -> None:
        self.commands: list[str] = []

    def run(self, argv: Sequence[str], *, input: bytes = b"", timeout_s: float) -> Result:
        programs = ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "sacct")
        self.commands.append(next((word for word in argv if word in programs), argv[0]))
        return super().run(argv, input=input, timeout_s=timeout_s)


class TestBatch(SlurmCase):
    def counting(self) -> tuple[Any, Counting]:
        from cloudsched.drivers.slurm.driver import SlurmDriver

        transport = Counting()
        return SlurmDriver(self.place("one"), transport=transport), transport

    def finished(self, driver: Any, ids: Sequence[str], *, limit_s: float = 500) -> dict[str, Any]:
        def look() -> Any:
            found = driver.states(ids)
            return None if any(one.live for one in found.values()) else found

        found: dict[str, Any] = until(look, "all have ended", limit_s=limit_s, note=self.cluster.tails)
        return found

    def test_a_thousand_jobs_as_arrays(self) -> None:
        """900 that end in one of three ways and 100 that never begin, of which every tenth is cancelled by name."""
        driver, transport = self.counting()
        short = [BatchJob(("sh", "-c", f"exit {number % 3}"), memory_mb=10) for number in range(900)]
        long = [BatchJob(("sleep", "1000"), name="long", partition="later") for _ in range(100)]
        long_ids = driver.submit(long)
        ids = driver.submit(short)
        assert transport.commands.count("sbatch") == 2
        assert len(set(ids) | set(long_ids)) == 1000
        driver.cancel(long_ids[::10])
        transport.commands.clear()
        found = self.finished(driver, ids)
        transport.commands.clear()
        records = driver.accounting([*ids, *long_ids])
        assert collections.Counter(transport.commands)["squeue"] == 1
        assert len(transport.commands) <= 3
        words = collections.Counter(one.state for one in found.values())
        assert words == {"succeeded": 300, "failed": 600}
        assert [records[one].exit_code for one in ids] == [number % 3 for number in range(900)]
        assert all(records[one].started_at and records[one].ended_at and records[one].nodes for one in ids)
        states = [records[one].state for one in long_ids]
        assert states.count("cancelled") == 10 and states.count("queued") == 90
        driver.cancel(long_ids)
        assert set(self.words(driver, long_ids)) == {"cancelled"}

    def words(self, driver: Any, ids: Sequence[str]) -> list[str]:
        return [one.state for one in driver.states(ids).values()]

    def test_each_job_has_its_own_command_environment_and_output(self) -> None:
        driver = self.slurm()
        odd = ["a b", "'", '"', "$HOME", "`id`", "ü-漢", "\\", "x\ny", "*", ";", "-n"]
        jobs = [BatchJob(("printf", "%s|%s", word, "-"), env={"WORD": word}, stdout=str(self.scratch / "out-%a")) for word in odd]
        jobs[3] = BatchJob(("sh", "-c", 'printf "%s|%s" "$WORD" "$PWD"'), env={"WORD": "$HOME"}, directory="/usr",
                           stdout=str(self.scratch / "out-x"))  # fmt: skip
        ids = driver.submit(jobs)
        assert len({one.partition("_")[0] for one in ids}) == 2
        assert {one.state for one in self.finished(driver, ids).values()} == {"succeeded"}
        read = [(self.scratch / f"out-{number}").read_text() for number in range(len(odd) - 1)]
        assert read == [f"{word}|-" for word in odd if word != "$HOME"]
        assert (self.scratch / "out-x").read_text() == "$HOME|/usr"

    def test_nothing_of_the_servers_environment_reaches_a_job(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CLOUDSCHED_SECRET", "very-secret")
        driver = self.slurm()
        ids = driver.submit(BatchJob(("env",), stdout=str(self.scratch / "env")))
        self.finished(driver, ids)
        text = (self.scratch / "env").read_text()
        assert "very-secret" not in text
        names = {line.partition("=")[0] for line in text.splitlines()}
        known = {"PATH", "HOME", "USER", "LC_ALL", "PWD", "OLDPWD", "SHLVL", "_", "TMPDIR", "HOSTNAME", "ENVIRONMENT"}
        assert {name for name in names if not name.startswith("SLURM")} <= known

    def test_the_same_key_hands_in_once(self) -> None:
        driver = self.slurm()
        jobs = [BatchJob(("true",)) for _ in range(5)]
        first = driver.submit(jobs, key="order-1")
        assert driver.submit(jobs, key="order-1") == first
        assert self.slurm().submit(jobs, key="order-1") == first
        assert driver.submit(jobs, key="order-2") != first

    def test_a_signal_a_time_limit_and_a_cancel_are_told_apart(self) -> None:
        driver = self.slurm()
        ids = driver.submit([BatchJob(("sh", "-c", "kill -9 $$")), BatchJob(("sleep", "1000"), name="b")])
        until(lambda: driver.states(ids)[ids[1]].state == "running", "it runs")
        driver.cancel([ids[1]])
        found = self.finished(driver, ids)
        assert (found[ids[0]].state, found[ids[0]].signal, found[ids[0]].exit_code) == ("failed", 9, None)
        assert (found[ids[1]].state, found[ids[1]].raw) == ("cancelled", "CANCELLED")

    def test_a_whole_array_is_told_by_its_id(self) -> None:
        driver = self.slurm()
        ids = driver.submit([BatchJob(("sh", "-c", f"exit {number}")) for number in range(2)])
        base_id = ids[0].partition("_")[0]
        found = self.finished(driver, [base_id])
        assert (found[base_id].state, found[base_id].exit_code) == ("failed", 1)

    def test_unknown_and_finished_ids_are_no_error(self) -> None:
        driver = self.slurm()
        ids = driver.submit([BatchJob(("true",))])
        self.finished(driver, ids)
        driver.cancel([*ids, "66000000", "66000001_3"])
        driver.cancel([])
        found = driver.states([*ids, "66000000", "66000001_3"])
        assert [found[one].state for one in (*ids, "66000000", "66000001_3")] == ["succeeded", "unknown", "unknown"]

    def test_a_bad_field_is_named_before_anything_is_submitted(self) -> None:
        driver = self.slurm()
        good = BatchJob(("true",))
        for job, field in ((BatchJob(()), "command"), (BatchJob(("x",), cores=0), "cores"),
                           (BatchJob(("x",), stdout="x"), "stdout"),
                           (BatchJob(("x",), env={"A B": "1"}), "env"), (BatchJob(("a\0",)), "command"),
                           (BatchJob(("x",), time_limit_s=-1), "time_limit_s")):  # fmt: skip
            with pytest.raises(DriverError, match=f"^{field}"):
                driver.submit([good, job])
        with pytest.raises(DriverError, match=r"^ids"):
            driver.cancel(["--all"])
        assert self.cluster.queue() == []

    def test_hosts_are_drained_with_a_reason_and_resumed(self) -> None:
        driver = self.slurm()
        reason = "disk 'x' | = \"b\" ü"
        driver.drain("n1", reason)
        try:
            found = {one.name: one for one in driver.nodes()}
            assert (found["n1"].state, found["n1"].reason, found["n2"].state) == ("drained", reason, "idle")
            ids = driver.submit([BatchJob(("true",)) for _ in range(4)])
            assert {one.nodes for one in self.finished(driver, ids).values()} == {"n2"}
            driver.drain("n1", "again")
        finally:
            driver.resume("n1")
        driver.resume("n1")
        until(lambda: all(one.state == "idle" for one in driver.nodes()), "both are idle")
        for name in ("ALL", "n[1-2]", "n1,n2", "-x", "nope"):
            with pytest.raises(DriverError, match=r"n"):
                driver.drain(name, "why")
        with pytest.raises(DriverError, match="reason"):
            driver.drain("n1", " ")
        with pytest.raises(DriverError, match="there is no host"):
            driver.resume("nope")
        assert [one.state for one in driver.nodes()] == ["idle", "idle"]
