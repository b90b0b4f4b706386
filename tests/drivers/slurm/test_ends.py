"""What becomes of pilots that others end, and of jobs that the controller has forgotten? A cluster with two priorities and a
short memory, without a database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudsched.drivers.slurm.batch import BatchJob
from tests.drivers.slurm.cases import SlurmCase
from tests.drivers.slurm.cluster import SlurmCluster, cluster_in, until

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]
PARTITIONS = """PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1 PreemptMode=CANCEL
PartitionName=high Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF"""


@pytest.fixture(scope="module")
def _small(folder: Path) -> Iterator[SlurmCluster]:
    config = "PreemptType=preempt/partition_prio\nPreemptMode=CANCEL"
    with cluster_in(folder / "small", cores=2, partitions=PARTITIONS, config=config, min_job_age_s=2, name="small") as cluster:
        yield cluster


class TestEnds(SlurmCase):
    @pytest.fixture
    def cluster(self, _small: SlurmCluster) -> Iterator[SlurmCluster]:
        yield _small
        _small.clear()

    def test_a_preempted_pilot_is_an_error_that_says_so(self) -> None:
        driver = self.slurm()
        for number in range(2):
            driver.boot(self.wanted(f"node-{number}", cores=2))
            self.settle(driver, f"node-{number}")
        driver.submit(BatchJob(("sleep", "1000"), cores=2, partition="high"))
        found = until(lambda: next((one for one in driver.machines() if one.state == "Error"), None), "one is preempted",
                      note=self.tails)  # fmt: skip
        assert found.reason.startswith("the pilot was preempted by a job of higher priority (PREEMPTED")
        assert sorted(one.state for one in driver.machines()) == ["Error", "Running"]

    def test_a_pilot_that_slurm_forgot_is_known_until_destroyed(self) -> None:
        driver = self.slurm()
        machine = driver.boot(self.wanted())
        self.settle(driver, "node-1")
        self.cluster.run("scancel", machine.external_id)
        until(lambda: driver._controller.jobs() == [], "Slurm forgets it", note=self.tails)
        (home,) = self.shared.glob("machines/*/*")
        facts = json.loads((home / "machine.json").read_text())
        (home / "machine.json").write_text(json.dumps({**facts, "created": 1}))  # long ago
        (found,) = driver.machines()
        assert (found.name, found.state) == ("node-1", "Shutdown")
        assert found.reason == "the pilot is not among the jobs that Slurm remembers"
        driver.destroy("node-1", {})
        assert driver.machines() == []

    def test_jobs_that_the_controller_forgot_are_found_in_its_log(self) -> None:
        driver = self.slurm()
        ids = driver.submit([BatchJob(("sh", "-c", f"exit {number}")) for number in range(3)])
        hold = driver.submit([BatchJob(("sleep", "1000"), name="hold") for _ in range(6)])
        until(lambda: driver._controller.jobs(ids=ids) == [], "they are forgotten", note=self.cluster.tails)
        found = driver.states(ids)
        assert [(found[one].state, found[one].exit_code, found[one].source) for one in ids] == [
            ("succeeded", 0, "jobcomp"), ("failed", 1, "jobcomp"), ("failed", 2, "jobcomp")]  # fmt: skip
        assert all(one.started_at and one.ended_at and one.nodes for one in found.values())
        driver.cancel(hold[3:])  # of those that wait Slurm keeps nothing
        until(lambda: [one.state for one in driver.states(hold).values()][3:] == ["cancelled"] * 3, "they are cancelled")
        driver.cancel(hold)
