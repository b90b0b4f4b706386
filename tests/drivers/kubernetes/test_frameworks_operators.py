"""Do operators get what they need, where there are any, and are their pods seen as clusters?"""

from __future__ import annotations

import copy
from typing import Any

import pytest

from cloudsched.drivers.base import DriverError
from cloudsched.drivers.frameworks import FLINK, SPARK
from cloudsched.testing.kubeapi import KubeApi
from cloudsched.testing.kubeapi.kinds import Kind
from tests.drivers.kubernetes.conftest import until
from tests.drivers.kubernetes.frameworks import KINDS, Saved, left, on, up, wanted

OPERATED = {SPARK: Kind("spark.apache.org", "v1", "sparkclusters", "SparkCluster", custom=True),
            FLINK: Kind("flink.apache.org", "v1beta1", "flinkdeployments", "FlinkDeployment", custom=True)}


@pytest.mark.parametrize("kind", KINDS)
def test_an_operator_runs_it_where_there_is_one(kube: KubeApi, kind: str) -> None:
    asked = wanted(f"{kind}-dev-team-1", kind)
    plain = on(kube, kind, said={"kube_operator": True})
    up(plain, asked)  # none is there: it is made by ourselves
    plain.stop(asked, {})
    kube.serve(OPERATED[kind])
    framework = on(kube, kind, said={"kube_operator": True})
    assert "run by an operator" in framework.verify()[1].detail
    handle = framework.launch(asked, {}, Saved())
    [thing] = kube.things(OPERATED[kind].kind, "default")
    assert thing["metadata"]["ownerReferences"][0]["uid"] == handle["owner_uid"]
    assert kube.things("StatefulSet", "default") == kube.things("Deployment", "default") == []
    templates = _templates(thing)
    for number, (role, template) in enumerate([("master", templates[0]), *[("worker", templates[1])] * 2]):
        assert template["metadata"]["labels"]["cloudsched.io/role"] == role
        _play_operator(kube, f"{asked.key}-{number}", template)
    seen = until(lambda: (seen := framework.look(asked, {})).workers == 2 and seen.master and seen, "its pods are seen")
    assert seen.address == {SPARK: f"spark://{asked.key}-master-svc.default:7077",
                            FLINK: f"http://{asked.key}-rest.default:8081"}[kind]
    other = on(kube, kind)  # the setting is off meanwhile: the cluster stays what it is
    assert other.look(asked, {}) == seen
    other.launch(asked, {}, Saved())
    assert kube.things("StatefulSet", "default") == []
    for pod in kube.things("Pod", "default"):
        kube.api.delete(next(one for one in kube.served() if one.kind == "Pod"), "default", pod["metadata"]["name"], {})
    other.stop(asked, {})
    assert kube.things(OPERATED[kind].kind, "default") == []
    assert left(kube) == []


def test_an_operator_whose_pods_stay_is_told_of(kube: KubeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    kube.serve(OPERATED[SPARK])
    framework = on(kube, SPARK, said={"kube_operator": True})
    framework.launch(wanted(), {}, Saved())
    monkeypatch.setattr("cloudsched.drivers.kubernetes.frameworks.STOP_S", 0.1)
    monkeypatch.setattr(framework._driver, "delete", lambda *what, **how: [])
    _play_operator(kube, "late", _templates(kube.things("SparkCluster", "default")[0])[0])
    with pytest.raises(DriverError, match="late") as caught:
        framework.stop(wanted(), {})
    assert caught.value.transient


def test_an_image_without_a_version(kube: KubeApi) -> None:
    kube.serve(OPERATED[SPARK])
    framework = on(kube, SPARK, said={"kube_operator": True, "kube_spark_image": "own/spark:latest"})
    with pytest.raises(DriverError, match="kube_spark_image"):
        framework.launch(wanted(), {}, Saved())
    assert left(kube) == []


def _templates(thing: dict[str, Any]) -> list[dict[str, Any]]:
    spec = thing["spec"]
    if thing["kind"] == "SparkCluster":
        return [spec[role]["statefulSetSpec"]["template"] for role in ("masterSpec", "workerSpec")]
    return [spec[role]["podTemplate"] for role in ("jobManager", "taskManager")]


def _play_operator(kube: KubeApi, name: str, template: dict[str, Any]) -> None:
    """A pod as the operator makes it: the template, with an image and an owner of its own."""
    spec = copy.deepcopy(template["spec"])
    spec["containers"][0] |= {"image": "x:1", "volumeMounts": []}
    kind = next(one for one in kube.served() if one.kind == "Pod")
    kube.api.create(kind, "default", {"metadata": {"name": name, "labels": template["metadata"]["labels"]}, "spec": spec})
