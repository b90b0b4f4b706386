"""What if the controller goes away, an answer is lost, or a command hangs? Said clearly, and nothing leaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.slurm.batch import BatchJob
from cloudsched.drivers.slurm.driver import SlurmDriver
from cloudsched.drivers.slurm.transport import LocalTransport, Result
from tests.drivers.slurm.cases import SlurmCase
from tests.drivers.slurm.cluster import until
from tests.drivers.ssh.sshd import Sshd

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]


class Losing(LocalTransport):
    """Runs a command, and loses its answer, as often as it was told to."""

    def __init__(self) -> None:
        self.lost: list[str] = []

    def run(self, argv: Sequence[str], *, input: bytes = b"", timeout_s: float) -> Result:
        done = super().run(argv, input=input, timeout_s=timeout_s)
        name = next((word for word in self.lost if word in argv), "")
        if name:
            self.lost.remove(name)
            raise DriverError(f"{name} gave no answer", code=base.ENDPOINT, transient=True)
        return done


class TestFaults(SlurmCase):
    def losing(self) -> tuple[SlurmDriver, Losing]:
        transport = Losing()
        driver = SlurmDriver(self.place("one"), transport=transport)
        self._drivers.append(driver)
        return driver, transport

    def refused(self, call: Callable[[], Any], code: int, *, transient: bool) -> DriverError:
        with pytest.raises(DriverError) as caught:
            call()
        assert (caught.value.code, caught.value.transient) == (code, transient), caught.value
        return caught.value

    def test_a_lost_answer_of_sbatch_is_one_pilot_in_the_end(self) -> None:
        driver, transport = self.losing()
        transport.lost = ["sbatch"]
        self.refused(lambda: driver.boot(self.wanted()), base.ENDPOINT, transient=True)
        (left,) = driver.machines()
        assert driver.boot(self.wanted()).external_id == left.external_id
        assert self.names(driver) == ["node-1"]
        transport.lost = ["squeue", "sbatch"]
        self.refused(lambda: driver.boot(self.wanted("node-2")), base.ENDPOINT, transient=True)
        driver.destroy("node-2", {})  # as the engine does after such an answer
        assert self.names(driver) == ["node-1"]

    def test_lost_answers_of_a_destroy_are_repeated(self) -> None:
        driver, transport = self.losing()
        driver.boot(self.wanted())
        for command in ("squeue", "scancel", "rm"):
            transport.lost = [command]
            self.refused(lambda: driver.destroy("node-1", {}), base.ENDPOINT, transient=True)
            if command != "rm":
                assert self.names(driver) == ["node-1"]
        driver.destroy("node-1", {})
        assert driver.machines() == []

    def test_a_lost_answer_of_a_batch_is_handed_in_once_with_its_key(self) -> None:
        driver, transport = self.losing()
        jobs = [BatchJob(("true",), cores=number % 2 + 1) for number in range(6)]
        transport.lost = ["sbatch"]
        self.refused(lambda: driver.submit(jobs, key="order"), base.ENDPOINT, transient=True)
        ids = driver.submit(jobs, key="order")
        assert len({one.partition("_")[0] for one in ids}) == 2
        assert {one.base_id for one in driver._controller.jobs(ids=ids)} == {one.partition("_")[0] for one in ids}
        assert len({one.base_id for one in driver._controller.jobs() if one.name.startswith("job-") and one.live}
                   | {one.partition("_")[0] for one in ids}) == 2  # fmt: skip

    def test_the_controller_dies_in_the_middle_and_comes_back(self) -> None:
        driver = self.slurm(command_limit_s=40)
        machine = driver.boot(self.wanted(slots=2, cores=2))
        self.joined("node-1")
        gate = self.scratch / "gate"
        job = self.server.submit("sh", "-c", f"while [ ! -e {gate} ]; do sleep 0.05; done; echo done")
        self.server.until(lambda: self.server.jobs[job].started, "it runs")
        ids = driver.submit([BatchJob(("true",)) for _ in range(3)])
        self.cluster.wait_saved(next(one.name for one in driver._controller.jobs(ids=ids)))
        self.cluster.kill("slurmctld")
        try:
            error = self.refused(driver.machines, base.ENDPOINT, transient=True)
            assert "Unable to contact slurm controller" in str(error)
            self.refused(lambda: driver.boot(self.wanted("node-2")), base.ENDPOINT, transient=True)
            assert [check.name for check in driver.verify() if not check.ok] == ["controller"]
            gate.touch()
            self.server.wait(job)  # the pilot does not need the controller
        finally:
            self.cluster.start_controller()
        assert self.settle(driver, "node-1").external_id == machine.external_id
        assert driver.boot(self.wanted("node-2")).name == "node-2"
        until(lambda: all(one.state == "succeeded" for one in driver.states(ids).values()), "the batch ends", note=self.tails)
        for name in ("node-1", "node-2"):
            driver.destroy(name, {})
        assert driver.machines() == []

    def test_without_munge_it_is_a_matter_of_credentials(self) -> None:
        driver = self.slurm()
        self.cluster.kill("munged")
        (self.cluster.root / "munge.sock").unlink(missing_ok=True)
        try:
            self.refused(driver.partitions, base.AUTH, transient=False)
        finally:
            self.cluster.start_munge()
        assert driver.partitions()

    def test_a_command_that_hangs_is_ended(self) -> None:
        self.program("squeue", "exec sleep 600")
        driver = self.slurm(bin_dir=str(self.tmp / "bin"), command_limit_s=1)
        error = self.refused(driver._controller.jobs, base.ENDPOINT, transient=True)
        assert str(error) == "squeue: no answer within 1 s"
        self._drivers.remove(driver)

    def test_a_full_controller_is_a_quota(self) -> None:
        self.program("sbatch", "echo 'sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying' >&2; exit 1")
        self.program("squeue", "exec squeue \"$@\"")
        driver = self.slurm(bin_dir=str(self.tmp / "bin"))
        self.refused(lambda: driver.boot(self.wanted()), base.QUOTA, transient=True)

    def test_commands_that_are_not_there(self) -> None:
        driver = self.slurm(bin_dir="/nowhere")
        error = self.refused(driver.machines, base.ENDPOINT, transient=False)
        assert "bin_dir" in str(error)
        assert [(check.name, check.ok) for check in driver.verify()] == [("controller", False)]
        self._drivers.remove(driver)

    def test_a_wrong_configuration_file(self) -> None:
        (self.tmp / "empty.conf").write_text("")
        driver = self.slurm(env={"SLURM_CONF": str(self.tmp / "empty.conf")})
        self.refused(driver.partitions, base.ENDPOINT, transient=False)
        self._drivers.remove(driver)

    def test_a_login_host_that_goes_away_is_transient_and_loses_nothing(self, login_host: Sshd) -> None:
        import getpass

        driver = self.slurm(host=f"{login_host.address}:{login_host.port}", user=getpass.getuser(),
                            key=str(login_host.client_key), host_key=login_host.host_key(), connect_timeout_s=5)  # fmt: skip
        machine = driver.boot(self.wanted())
        login_host.stop()
        self.refused(driver.machines, base.ENDPOINT, transient=True)
        login_host.start()
        assert self.settle(driver, "node-1").external_id == machine.external_id

    def program(self, name: str, text: str) -> None:
        path = Path(self.tmp) / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
