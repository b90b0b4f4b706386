"""Does a dry run do nothing, and refuse what would be refused? Every route of both halves that a viewer may not call."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloudsched.dialects.kboss import routes
from cloudsched.errors import Invalid, Unsupported
from cloudsched.services import operations
from cloudsched.services.centre import centre_calls, executor, executor_places
from cloudsched.services.centre.executor import Where
from cloudsched.store import clusters
from cloudsched.store.db import write
from cloudsched.testing.kubeapi import kinds
from tests.services import shop as shops
from tests.services.shop import SEED, Shop

from .conftest import CENTRE, CENTRE_FACTS, CLUSTER, HOST, HOST_FACTS, LABEL, ORG, PCAPI, WORKER, Api, PlayedExecutor

HASH = "--discovery-token-ca-cert-hash sha256:" + "0a" * 32
JOIN = f"kubeadm join 192.168.0.3:6443 --token abcdef.0123456789abcdef {HASH}"
SAID, TRIED = "(试运行, 未执行任何操作) ", "(dry run: nothing was done) "
PODYAML, WIDGET = "/dev/cpcc/cpcpodyaml", "/dev/cpcc/cpcwidget"
SSH = {"host": "192.168.0.3", "user": "root", "psssword": "Pa55-w0rd-host"}


@pytest.fixture
def shop(api: Api) -> Iterator[Shop]:
    with shops.opened(api.settings) as made:
        yield made


def kept(api: Api) -> dict[str, list[Any]]:
    """Every row of the database, but for what says when somebody looked."""
    with sqlite3.connect(api.settings.database.url.removeprefix("sqlite:///")) as base:
        names = [row[0] for row in base.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]
        return {name: base.execute(f"SELECT * FROM {name}").fetchall() for name in names}


def objects(shop: Shop) -> list[Any]:
    names = ("Node", "StatefulSet", "Service", "Secret", "Namespace", "Pod")
    return [(kind, one) for kind in names for one in shop.kube.things(kind)]


def plausible(api: Api, shop: Shop) -> dict[str, dict[str, Any]]:
    """path -> parameters that are right, so that without `dry_run` something would be done."""
    centre, cluster = shop.centre.key, shop.cluster
    days = '{"controllerid": "", "enable_date": "2025-01-01", "export_date": "2036-01-01"}'
    write(lambda tx: clusters.update(tx, clusters.by_key(cluster).id, spec=days))  # type: ignore[union-attr]
    instance = shop.add().key
    host, spare = api.host(centre), api.host(centre, ip="192.168.0.9", name="spare")
    label = api.ok(f"{LABEL}/add_cpclabel.dspy", name="x", labeltype="0", label_key="k", label_value="v", orgid=ORG)["id"]
    other = api.centre()
    part = api.ok(f"{WIDGET}/add_cpcwidget.dspy", cpcid=centre, type="gpu", model="idle", unit_price="1", stock="0",
                  clusterid=cluster)["id"]
    number = executor.new_cluster(executor.Access("10.0.0.7", password="x"), kind="slurm")
    place = {"kubeconfig": shop.kube.kubeconfig()}
    given = {**SEED, "source_authpasswd": "Pa55-w0rd-instance", "orgid": ORG}
    node = {"cpcid": centre, "clusterid": cluster, "worker_node": "node-0"}
    return {
        f"{CENTRE}/add_cpclist.dspy": {**CENTRE_FACTS, "name": "new"},
        f"{CENTRE}/update_cpclist.dspy": {"id": other, "name": "b"},
        f"{CENTRE}/delete_cpclist.dspy": {"id": other}, "/dev/cpcc/cpcaudit/get_audit.dspy": {},
        f"{HOST}/add_cpcnode.dspy": {**HOST_FACTS, "cpcid": centre, "ip": "192.168.0.77"},
        f"{HOST}/update_cpcnode.dspy": {"id": host, "name": "b"}, f"{HOST}/delete_cpcnode.dspy": {"id": host},
        f"{LABEL}/add_cpclabel.dspy": {"name": "y", "labeltype": "0", "label_key": "l", "label_value": "v"},
        f"{LABEL}/delete_cpclabel.dspy": {"id": label}, f"{LABEL}/setup_cpclabel.dspy": {**node, "label": "a=b", "opt": "label"},
        f"{CLUSTER}/new_cluster.dspy": {"cpcid": centre, "ctl_nodeid": host, "cluster_type": "1", "cluster_name": "west"},
        f"{CLUSTER}/update_cpccluster.dspy": {"id": cluster, "name": "b", "export_date": "2036-01-02"},
        "/computing/cpcluster_delete.dspy": {"id": cluster, "force": "1"},
        f"{WORKER}/new_cpcworker.dspy": {"clusterid": cluster, "worker_nodeid": spare},
        f"{WORKER}/delete_cpcworker.dspy": {"clusterid": cluster, "worker_nodeid": spare},
        f"{WORKER}/switch_cpcworker.dspy": {**node, "state": "cordon"},
        f"{PODYAML}/new_cpcpodyaml.dspy": {**given, "clusterid": cluster, "source_name": "other", "source_outsideport": ""},
        f"{PODYAML}/update_cpcpodyaml.dspy": {"id": instance, "source_replicasetnum": "2", "orgid": ORG},
        f"{PODYAML}/delete_cpcpodyaml.dspy": {"id": instance, "orgid": ORG},
        f"{PODYAML}/stop_cpcpodyaml.dspy": {"id": instance, "orgid": ORG},
        f"{PODYAML}/start_cpcpodyaml.dspy": {"id": instance, "orgid": ORG},
        f"{PCAPI}/yaml_apply_delete": {
            **given, **place, "action": "apply", "cluster_type": "kubernetes", "namespace_name": "n-ns",
            "podcd_name": "evfldtxjkr3jd8zxnfhd5-statefulset", "serviceaccount_name": "n-ns-serviceaccount",
            "service_name": "evfldtxjkr3jd8zxnfhd5-service", "clusterid": cluster, "source_outsideport": ""},
        f"{PCAPI}/get_instance_states": place, f"{PCAPI}/get_cluster_usage": place, f"{PCAPI}/determine_accommodat": place,
        f"{WIDGET}/add_cpcwidget.dspy": {"cpcid": centre, "type": "gpu", "model": "n", "unit_price": "1", "stock": "1",
                                         "clusterid": cluster},
        f"{WIDGET}/update_cpcwidget.dspy": {"cpcid": centre, "id": part, "unit_price": "7"},
        f"{WIDGET}/delete_cpcwidget.dspy": {"cpcid": centre, "id": part}, f"{WIDGET}/rebuild_cpcwidget.dspy": {"cpcid": centre},
        "/dev/cpcc/cpcbill/set_budget.dspy": {"orgid": ORG, "amount": "5", "budget": "5", "period": "month"},
        f"{PCAPI}/new_cluster": {**SSH, "cluster_type": "1"}, f"{PCAPI}/new_worker": {**SSH, "join_command": JOIN},
        f"{PCAPI}/take_apart": {**SSH, "cluster_type": "1", "role": "worker"}, f"{PCAPI}/operation": {"id": number},
        f"{PCAPI}/forget": {"id": number}, f"{PCAPI}/cancel": {"id": number},
        f"{PCAPI}/check_node": {**place, "node_name": "node-0", "force": "1"}, f"{PCAPI}/get_cluster_nodes": place,
        f"{PCAPI}/get_cluster_pods": place,
        f"{PCAPI}/free_nodes": place, f"{PCAPI}/delete_cluster_node": {**place, "node_name": "node-0", "force": "1"},
        f"{PCAPI}/node_state_switch": {**place, "node_name": "node-0", "state": "cordon"},
        f"{PCAPI}/node_label_opt": {**place, "worker_node": "node-0", "label": "a=b", "opt": "label"},
    }


# What is refused in the dry run too, as the cluster of this test was not installed from a host.
REFUSED = {f"{WORKER}/new_cpcworker.dspy", f"{WORKER}/delete_cpcworker.dspy", "/computing/cpcluster_delete.dspy"}
BARE = {f"{PCAPI}/determine_accommodat"}
SAY_SO = {f"{PODYAML}/new_cpcpodyaml.dspy", f"{PODYAML}/update_cpcpodyaml.dspy"}
LOOK = {path for path, route in routes.table().items() if not route.changes}


def test_no_dry_run_does_anything(api: Api, shop: Shop) -> None:
    asked = plausible(api, shop)
    assert set(asked) == {path for path, route in routes.table().items() if route.role != "viewer"}
    before, there = kept(api), objects(shop)
    for path, params in asked.items():
        answer = api(path, data={**params, "dry_run": "1"})
        assert answer.status_code == 200, (path, answer.text)
        assert kept(api) == before and objects(shop) == there, path
        if path not in BARE | REFUSED:
            assert answer.json["status"] is True and answer.json["dry_run"] is True, (path, answer.text)
            text = answer.json.get("msg", answer.json.get("info"))
            assert text.startswith(SAID) is (path not in LOOK | SAY_SO), (path, text)


def test_taking_apart_is_shown(api: Api) -> None:
    api.language = "en"
    found = api.do(f"{PCAPI}/take_apart", **SSH, cluster_type="slurm", role="worker", dry_run="1")
    assert found["info"] == f"{TRIED}operate success" and found["data"]["steps"] and operations.page() == []


def test_nodes_that_are_not_there_are_refused(api: Api, shop: Shop) -> None:
    place = {"kubeconfig": shop.kube.kubeconfig(), "dry_run": "1"}
    node = {"clusterid": shop.cluster, "cpcid": shop.centre.key, "worker_node": "nowhere", "dry_run": "1"}
    for path, params in {
            f"{PCAPI}/delete_cluster_node": {**place, "node_name": "nowhere"},
            f"{PCAPI}/node_state_switch": {**place, "node_name": "nowhere", "state": "cordon"},
            f"{PCAPI}/node_label_opt": {**place, "worker_node": "nowhere", "label": "a=b", "opt": "label"},
            f"{LABEL}/setup_cpclabel.dspy": {**node, "label": "a=b", "opt": "label"},
            f"{WORKER}/switch_cpcworker.dspy": {**node, "state": "cordon"}}.items():
        assert "nowhere" in api.no(path, **params), path
    wrong = {**node, "worker_node": "node-0", "state": "uncordon", "drain": "1"}
    assert "drain" in api.no(f"{WORKER}/switch_cpcworker.dspy", **wrong)
    shop.kube.api.create(kinds.of("Pod"), "default", {
        "metadata": {"name": "alone", "namespace": "default"},
        "spec": {"nodeName": "node-0", "containers": [{"name": "c", "image": "x"}]}})
    assert "default/alone" in api.no(f"{PCAPI}/delete_cluster_node", **place, node_name="node-0")
    assert api.ok(f"{PCAPI}/delete_cluster_node", **place, node_name="node-0", force="1")["force"] is True


def test_jobs_and_labels_of_a_slurm_node(monkeypatch: pytest.MonkeyPatch) -> None:
    class Host:
        label = "10.0.0.7"

        def asked(self, script: Any, what: str) -> str:
            return "7\n8\n" if what == "squeue" else '{"nodes": [{"name": "n1", "features": ""}]}'

    found = executor_places._Slurm(Host(), "")  # type: ignore[arg-type]
    monkeypatch.setattr(executor, "place", lambda where: found)
    executor.switch(Where(), "n1", state="cordon", dry_run=True)
    with pytest.raises(Exception, match="2 jobs run on n1"):
        executor.delete_node(Where(), "n1", dry_run=True)
    with pytest.raises(Exception, match="no node n2"):
        executor.delete_node(Where(), "n2", force=True, dry_run=True)
    with pytest.raises(Unsupported):
        executor.label(Where(), "n1", "a/b=c", dry_run=True)
    with pytest.raises(Invalid):
        executor.switch(Where(), "n1", state="uncordon", drain=True, dry_run=True)


def test_the_steps_of_a_worker_and_the_join_command_that_stays(make_api: Callable[..., Api], played: PlayedExecutor,
                                                              work: Callable[..., None]) -> None:
    api = make_api(**{"centres.batch_clouds": "no"})
    played.given["join_command"] = JOIN
    centre = api.centre()
    host, spare = api.host(centre), api.host(centre, ip="192.168.0.9", name="worker 1")
    planned = api.ok(f"{CLUSTER}/new_cluster.dspy", cpcid=centre, ctl_nodeid=host, cluster_type="1", cluster_name="West 1",
                     dry_run="1")
    assert planned["cluster_name"] == "West 1" and "west_1" in str(planned["steps"])
    made = api.ok(f"{CLUSTER}/new_cluster.dspy", **{"cpcid": centre, "ctl_nodeid": host, "cluster_type": "0", "cluster_name": "x",
                                                    "async": "1"})
    work()
    assert [one[1] for one in played.asked if one[0] == centre_calls.FORGET] == [{"id": 1}]
    found = api.ok(f"{WORKER}/new_cpcworker.dspy", clusterid=made["clusterid"], worker_nodeid=spare, dry_run="1")
    assert "kubeadm join" in str(found["steps"]) and "abcdef.0123" not in str(found) and "worker-1" in str(found)
    row = api.ok(f"{CLUSTER}/get_cpccluster.dspy", cpcid=centre)["rows"][0]
    path = f"{CLUSTER}/update_cpccluster.dspy"
    for same in (row["clusterjoin"], JOIN, ""):
        assert api.ok(path, id=row["id"], name="y", clusterjoin=same)["name"] == "y"
    for other in ("kubeadm join elsewhere", row["kubeconfig"], "sealed:1:AAAA"):
        assert api.no(path, id=row["id"], clusterjoin=other) == "参数 clusterjoin 不允许修改"
