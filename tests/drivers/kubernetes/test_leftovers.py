"""Does a run on a real cluster take along what killed ones have left, and nothing of those that live?"""

from __future__ import annotations

import os
from typing import Any

from cloudsched.testing.kubeapi import KubeApi
from tests.drivers.kubernetes import leftovers
from tests.drivers.kubernetes.conftest import on, until


def thing(kind: str, name: str, **facts: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, **facts}}


def test_what_killed_runs_have_left_goes(kube: KubeApi) -> None:
    driver = on(kube)
    here, _, _ = leftovers.this_run().rpartition("/")
    dead = f"{here.rpartition('/')[0]}/{2**22 + 1}/12345"  # no process has that number
    runs = {"dead": dead, "reused": f"{here}/1", "live": leftovers.this_run(), "elsewhere": f"another-host/1/{os.getpid()}/1"}
    for suffix, run in runs.items():
        driver.apply([thing("Node", f"cs-{suffix}-0", annotations={leftovers.RUN: run}), thing("Namespace", f"cs-{suffix}-made"),
                      thing("Namespace", f"t{suffix}-org")])
        driver.apply([thing("ConfigMap", "held", namespace=f"cs-{suffix}-made", finalizers=[leftovers.HELD])])
    driver.apply([thing("Namespace", "cs-of-somebody"), thing("Node", "cs-like-ours")])
    leftovers.sweep(driver)

    def left() -> set[str]:
        return {one["metadata"]["name"] for kind in ("Node", "Namespace") for one in driver.objects(kind)}

    others = {"default", "kube-system", "cs-of-somebody", "cs-like-ours", "node-1"}
    assert left() == others | {f"{one}" for suffix in ("live", "elsewhere")
                               for one in (f"cs-{suffix}-0", f"cs-{suffix}-made", f"t{suffix}-org")}
    leftovers.take_away(driver, "live")
    until(lambda: not any("live" in one for one in left()), "a run takes its own away")
