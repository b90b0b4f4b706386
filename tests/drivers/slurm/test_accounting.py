"""What do limits, accounting and tokens change? A real slurmdbd with its database, and a slurmrestd on a port."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.slurm.batch import BatchJob
from tests.drivers.slurm.cases import SlurmCase
from tests.drivers.slurm.cluster import SlurmCluster, cluster_in, until

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]
LIMITS = "AccountingStorageEnforce=associations,limits,qos"


@pytest.fixture(scope="module")
def _accounted(folder: Path) -> Iterator[SlurmCluster]:
    with cluster_in(folder / "accounted", accounting=True, jwt=True, config=LIMITS, name="accounted", min_job_age_s=2) as cluster:
        yield cluster


class AccountedCase(SlurmCase):
    @pytest.fixture
    def cluster(self, _accounted: SlurmCluster) -> Iterator[SlurmCluster]:
        yield _accounted
        _accounted.clear()

    def options(self) -> dict[str, Any]:
        return {**super().options(), "account": "science"}

    def refused(self, driver: Any, code: int, *, transient: bool, match: str) -> None:
        with pytest.raises(DriverError, match=match) as caught:
            driver.boot(self.wanted())
        assert (caught.value.code, caught.value.transient) == (code, transient), caught.value

    def limit(self, text: str) -> None:
        self.cluster.run("sacctmgr", "-i", "modify", "account", "science", "set", text)


class TestAccounting(AccountedCase):
    """Commands."""

    def test_results_are_known_long_after_the_controller_forgot_them(self) -> None:
        driver = self.slurm()
        ids = driver.submit([BatchJob(("sh", "-c", f"exit {number}")) for number in range(3)])
        kept = until(lambda: self.final(driver, ids), "slurmdbd has all of it", note=self.cluster.tails)
        assert [(kept[one].state, kept[one].exit_code) for one in ids] == [("succeeded", 0), ("failed", 1), ("failed", 2)]
        assert all(one.cpu_s is not None and one.started_at and one.ended_at for one in kept.values())
        until(lambda: not driver._controller.jobs(ids=ids), "the controller has forgotten them", note=self.cluster.tails)
        again = driver.states(ids)
        assert [(again[one].state, again[one].source) for one in ids] == [
            ("succeeded", "slurmdbd"), ("failed", "slurmdbd"), ("failed", "slurmdbd")]  # fmt: skip

    def final(self, driver: Any, ids: list[str]) -> Any:
        found = driver.accounting(ids)
        return found if all(one.source == "slurmdbd" for one in found.values()) else None

    def test_a_limit_on_submissions_is_a_quota(self) -> None:
        self.limit("MaxSubmitJobs=0")
        try:
            self.refused(self.slurm(), base.QUOTA, transient=True, match="AssocMaxSubmitJobLimit")
        finally:
            self.limit("MaxSubmitJobs=-1")

    def test_a_limit_on_what_runs_is_a_reason_to_wait(self) -> None:
        self.limit("GrpTRES=cpu=1")
        try:
            driver = self.slurm()
            driver.boot(self.wanted())
            driver.boot(self.wanted("node-2"))
            found = until(lambda: next((one for one in driver.machines() if "AssocGrp" in one.reason), None), "one waits")
            assert (found.state, found.reason) == ("Starting", "waits in the queue: AssocGrpCpuLimit")
        finally:
            self.limit("GrpTRES=cpu=-1")

    def test_a_limit_that_no_waiting_helps_against_is_an_error(self) -> None:
        self.limit("MaxTRESPerJob=cpu=1")
        try:
            driver = self.slurm()
            with contextlib.suppress(DriverError):  # refused at once when the scheduler has looked at it by then
                driver.boot(self.wanted(cores=2))
                found = until(lambda: next((one for one in driver.machines() if one.state == "Error"), None), "it is an error")
                assert found.reason == "waits in the queue for what cannot come: AssocMaxCpuPerJobLimit"
                driver.destroy("node-1", {})
            assert (driver.machines(), self.cluster.queue()) == ([], [])
        finally:
            self.limit("MaxTRESPerJob=cpu=-1")

    def test_wrong_accounts_and_qos_are_named(self) -> None:
        self.refused(self.slurm(account="nope"), base.REQUEST, transient=False, match="Invalid account")
        self.refused(self.slurm(qos="nope"), base.REQUEST, transient=False, match="Invalid qos")
        failed = [check for check in self.slurm(account="nope").verify() if not check.ok]
        assert [check.name for check in failed] == ["submission"]
        assert "Invalid account" in failed[0].detail


class TestTokens(AccountedCase):
    """slurmrestd on a port, with JSON Web Tokens."""

    def options(self) -> dict[str, Any]:
        return {"rest_url": f"http://127.0.0.1:{self.cluster.rest_port}", "account": "science",
                "scratch_dir": str(self.scratch)}  # fmt: skip

    def place(self, name: str, *, token: str | None = None, **more: Any) -> base.Place:
        from dataclasses import replace

        return replace(super().place(name, **more), credentials={"rest_token": token or self.cluster.token()})

    def test_a_pilot_and_a_batch(self) -> None:
        for version in ("v0.0.37", "v0.0.38"):
            driver = self.slurm(rest_version=version, time_limit_s=600)
            assert [check for check in driver.verify() if not check.ok] == []
            booted = driver.boot(self.wanted(f"node-{version}"))
            assert self.settle(driver, f"node-{version}").external_id == booted.external_id
            driver.destroy(f"node-{version}", {})
            assert driver.machines() == []
            ids = driver.submit([BatchJob(("sleep", "1000"), memory_mb=10) for _ in range(4)])
            until(lambda driver=driver, ids=ids: {one.state for one in driver.states(ids).values()} == {"running"}, "all run")
            driver.cancel(ids[:2])
            until(lambda driver=driver, ids=ids: [one.state for one in driver.states(ids).values()]
                  == ["cancelled", "cancelled", "running", "running"], "two are gone")  # fmt: skip
            driver.cancel(ids)
            assert sorted(node.name for node in driver.nodes()) == ["n1", "n2"]

    def test_a_wrong_token_is_a_matter_of_credentials_and_not_shown(self) -> None:
        token = self.cluster.token()
        wrong = token[:-6] + "AAAAAA"
        driver = self.slurm(token=wrong)
        self._drivers.remove(driver)
        with pytest.raises(DriverError) as caught:
            driver.partitions()
        assert (caught.value.code, caught.value.transient) == (base.AUTH, False)
        assert wrong not in str(caught.value) + repr(driver.verify()) + repr(driver._options)

    def test_refusals_have_the_same_codes_as_with_commands(self) -> None:
        self.refused(self.slurm(account="nope"), base.REQUEST, transient=False, match="Invalid account")
        self.refused(self.slurm(partition="nope"), base.REQUEST, transient=False, match="Invalid partition")
        self.limit("MaxSubmitJobs=0")
        try:
            self.refused(self.slurm(), base.QUOTA, transient=True, match="violates accounting")
        finally:
            self.limit("MaxSubmitJobs=-1")

    def test_a_version_that_it_does_not_speak_is_said(self) -> None:
        driver = self.slurm(rest_version="v0.0.41")
        self._drivers.remove(driver)
        with pytest.raises(DriverError, match=r"rest_version is v0\.0\.41") as caught:
            driver.partitions()
        assert caught.value.code == base.ENDPOINT

    def test_nobody_there_is_transient(self) -> None:
        driver = self.slurm(rest_url="http://127.0.0.1:9")
        self._drivers.remove(driver)
        with pytest.raises(DriverError, match="cannot be reached") as caught:
            driver.machines()
        assert (caught.value.code, caught.value.transient) == (base.ENDPOINT, True)
