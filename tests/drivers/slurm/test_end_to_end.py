"""Do jobs of the built-in queue run on pilots, with a real server, a real cluster, and nothing left at the end?"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudsched.testing.instance import Instance
from tests.drivers.slurm.cluster import SlurmCluster

NO_OTHERS = {"local": {"clouds": []}}
pytestmark = [pytest.mark.engines, pytest.mark.timeout(400)]


@pytest.fixture
def shared(folder: Path) -> Iterator[Path]:
    made = folder / "shared-e2e"
    made.mkdir(mode=0o755)
    yield made
    shutil.rmtree(made)


def test_jobs_of_the_queue_run_on_pilots_and_the_pilots_go(cluster: SlurmCluster, shared: Path) -> None:
    with Instance(config=NO_OTHERS) as house:
        house.start_all()
        cloud = {"name": "hpc", "kind": "Slurm", "slots": 3, "cores": 6, "memory_mb": 6000, "keep_alive_s": 3,
                 "options": {"env": cluster.env, "work_dir": str(shared)}}  # fmt: skip
        house.api("POST", "/clouds", cloud)
        jobs = [house.shell(f"echo {number}; echo $CLOUDSCHED_MACHINE", cores=1) for number in range(20)]
        ended = [house.wait_state(number, "succeeded", limit_s=180) for number in jobs]
        assert len(ended) == 20
        lines = [house.output(number).splitlines() for number in jobs]
        assert [line[0] for line in lines] == [str(number) for number in range(20)]
        assert {line[1].partition("-")[0] for line in lines} == {"slurm"}
        house.until(lambda: not cluster.queue(), "the pilots go when there is nothing to do", limit_s=120)
        house.until(lambda: not list(shared.glob("machines/*/*")), "their directories go", limit_s=60)
        assert "Traceback" not in house.log_text()
        house.stop()


def test_a_pilot_that_dies_with_a_job_is_replaced(cluster: SlurmCluster, shared: Path) -> None:
    with Instance(config=NO_OTHERS) as house:
        house.start_all()
        cloud: dict[str, Any] = {"name": "hpc", "kind": "Slurm", "slots": 2, "cores": 2, "memory_mb": 2000, "keep_alive_s": 3,
                                 "options": {"env": cluster.env, "work_dir": str(shared)}}  # fmt: skip
        house.api("POST", "/clouds", cloud)
        gate = shared / "gate"
        job = house.shell(f"while [ ! -e {gate} ]; do sleep 0.05; done; echo done")
        house.wait_state(job, "running", limit_s=120)
        (first,) = cluster.queue()
        os.kill(cluster.batch_process(first), signal.SIGKILL)  # Slurm then kills what is left of the job
        house.until(lambda: [one for one in cluster.queue() if one != first], "another pilot is asked for", limit_s=120)
        gate.touch()
        house.wait_state(job, "succeeded", limit_s=120)
        assert house.output(job) == "done\n"
        house.until(lambda: not cluster.queue() and not list(shared.glob("machines/*/*")), "nothing is left", limit_s=120)
        house.stop()
