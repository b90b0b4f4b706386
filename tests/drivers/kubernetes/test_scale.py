"""Do a thousand pods make trouble?"""

from __future__ import annotations

import pytest

from cloudsched.drivers.kubernetes import Selection
from cloudsched.drivers.kubernetes.names import PLACE
from tests.drivers.kubernetes.conftest import PATIENCE, Cluster, until
from tests.drivers.kubernetes.test_pilots import wanted

PODS = 1000


@pytest.mark.engines
def test_a_thousand_pods(cluster: Cluster, space: str) -> None:
    driver = cluster.driver(space)
    body = cluster.deployment(space, "many", replicas=PODS)
    body["spec"]["template"]["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "10m"}}
    driver.apply([body])
    until(lambda: len(driver.pods()) == PODS and all(one.phase == "Running" for one in driver.pods()), "all run", 300)
    assert len({one.uid for one in driver.pods()}) == PODS
    assert driver.namespace_usage(space)[space].pods == PODS
    driver.boot(wanted())
    assert [one.name for one in driver.machines()] == ["node-1"]
    assert len(driver.pods(selector=f"!{PLACE}")) == PODS
    driver.destroy("node-1", {})
    driver.apply([{**body, "metadata": {**body["metadata"], "labels": {"set": "many"}}}])
    driver.delete(Selection("set=many"), timeout_s=300 * PATIENCE, grace_s=0)
    assert driver.pods() == []
