"""Do the manifests that we make keep to the schemas of Kubernetes?"""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest

from cloudsched.drivers.agentfile import agent_pyz
from cloudsched.drivers.kubernetes import BatchJob
from cloudsched.testing.kubeapi import KubeApi
from tests.drivers.kubernetes.conftest import on
from tests.drivers.kubernetes.test_pilots import wanted

VERSIONS = ("1.30", "1.37")
RICH: dict[str, Any] = {"node_selector": "a=b", "tolerations": "k=v:NoSchedule", "service_account": "sa",
                        "priority_class": "high", "pull_secrets": "s", "resources": "nvidia.com/gpu=1"}


@pytest.mark.parametrize("version", VERSIONS)
def test_everything_that_is_sent(kube: KubeApi, version: str) -> None:
    sent: list[dict[str, Any]] = []
    for options in ({}, RICH, {"run_as_user": 0, "agent": "image"}):
        driver = on(kube, **options)
        send = driver._api.send

        def note(method: str, path: str, body: Any = None, *, send: Any = send, **how: Any) -> Any:
            if method == "POST":
                sent.append(body)
            return send(method, path, body, **how)

        driver._api.send = note  # type: ignore[method-assign]
        sent.append(driver._pilots.manifest(wanted("ü/1", labels={"a": "b"})))
        sent.append(driver._batch.manifest(BatchJob("j", ["a"], tasks=3, time_limit_s=5, keep_s=9, env={"A": "1"}, storage_gb=1)))
        if options != RICH:
            driver.boot(wanted())
            driver.destroy("node-1", {})
        driver.verify()
    assert {one["kind"] for one in sent} == {"Pod", "Secret", "ConfigMap", "Job", "SelfSubjectAccessReview"}
    unique = {one["kind"] + str(number % 3 if one["kind"] in ("Pod", "Job") else ""): one for number, one in enumerate(sent)}
    for one in unique.values():
        kubernetes_validate.validate(one, version, strict=True)


def test_the_agent_fits_into_a_configuration_map() -> None:
    assert len(agent_pyz()) < 700_000


def test_the_pod_is_allowed_where_only_restricted_ones_are(kube: KubeApi) -> None:
    """The rules of the Pod Security Standard `restricted`, as far as they concern what we set."""
    spec = on(kube)._pilots.manifest(wanted())["spec"]
    [container] = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert spec["automountServiceAccountToken"] is False
    assert {next(key for key in one if key != "name") for one in spec["volumes"]} <= {"secret", "configMap", "emptyDir"}


def test_nothing_in_a_command_is_replaced(kube: KubeApi) -> None:
    pod = on(kube)._pilots.manifest(wanted("$(HOME)"))
    assert "--name=$$(HOME)" in pod["spec"]["containers"][0]["command"]
    assert {"name": "CLOUDSCHED_NODE", "value": "$$(HOME)"} in pod["spec"]["containers"][0]["env"]
