"""Do pods really become machines of a server? Booted by its engine, joined by their agents, at work, and gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloudsched.agent import processes
from cloudsched.testing.instance import Instance
from cloudsched.testing.kubeapi import KubeApi
from tests.drivers.kubernetes.conftest import until

JOBS = 20


def left(kube: KubeApi) -> list[str]:
    return [f"{one['kind']} {one['metadata']['name']}" for kind in ("Pod", "Secret", "ConfigMap")
            for one in kube.things(kind, "pilots") if one["metadata"]["name"] != "kube-root-ca.crt"]


@pytest.mark.engines
def test_jobs_run_in_pods_and_nothing_is_left(tmp_path: Path) -> None:
    pods = tmp_path / "pods"
    with KubeApi(processes=pods) as kube, Instance() as instance:
        kube.add_node("node-1")
        instance.start_all()
        for local in instance.api("GET", "/clouds")["items"]:
            instance.api("DELETE", f"/clouds/{local['name']}")
        cloud = {"name": "kube", "kind": "Kubernetes", "slots": 2, "cores": 1, "memory_mb": 512, "storage_gb": 1,
                 "keep_alive_s": 1, "options": {"namespace": "pilots", "create_namespace": True, "grace_s": 5},
                 "credentials": {"kubeconfig": kube.kubeconfig()}}
        instance.api("POST", "/clouds", cloud)
        jobs = [instance.shell(f"echo job {number} on $CLOUDSCHED_NODE", memory_mb=64) for number in range(JOBS)]
        for number, job in enumerate(jobs):
            instance.wait_state(job, "succeeded", limit_s=90)
            assert instance.output(job).startswith(f"job {number} on ")
        ran_on: set[Any] = {instance.output(job).split()[-1] for job in jobs}
        assert 1 <= len(ran_on) <= 2
        assert "cn_" not in str(kube.things("Pod"))
        until(lambda: left(kube) == [], f"pods and secrets are gone: {left(kube)}", 90)
        until(lambda: processes.standing_in(str(pods)) == [], "no process of a pod is left")
        instance.stop()
        assert kube.kubelet.processes == {}
