"""Clusters of a centre through the API: made, grown, changed, taken apart; what fails leaves everything as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cloudsched.drivers.base import DriverError
from cloudsched.errors import Conflict
from cloudsched.services import clusters as core
from cloudsched.services import operations
from cloudsched.services.caller import LOCAL_ADMIN
from cloudsched.services.centre import centre_ops
from cloudsched.services.centre.centre_calls import Progress
from cloudsched.store import clouds, clusters, events

from .conftest import CENTRE, CLUSTER, JOIN, LABEL, ORG, WORKER, Api, PlayedExecutor

DELETE = "/computing/cpcluster_delete.dspy"
pytestmark = pytest.mark.usefixtures("played")


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api(**{"centres.batch_clouds": "no"})


@pytest.fixture
def centre(api: Api) -> str:
    return api.centre()


def new(api: Api, centre: str, host: str, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = api.ok(f"{CLUSTER}/new_cluster.dspy", **{
        "cpcid": centre, "ctl_nodeid": host, "cluster_type": "0", "cluster_name": "朝阳区", "enable_date": "2025-04-03",
        "export_date": "2035-05-10", "async": "1", **changes})
    return found


def only(api: Api, centre: str, **more: Any) -> dict[str, Any]:
    rows = api.ok(f"{CLUSTER}/get_cpccluster.dspy", cpcid=centre, **more)["rows"]
    assert len(rows) == 1
    row: dict[str, Any] = rows[0]
    return row


def book(api: Api, centre: str) -> dict[str, tuple[int, int]]:
    """cluster -> (cores there, GPUs there)."""
    found: dict[str, dict[str, int]] = {}
    for part in api.ok("/dev/cpcc/cpcwidget/get_cpcwidget.dspy", cpcid=centre)["rows"]:
        for row in part["import_export"]:
            found.setdefault(row["clusterid"], {})[part["type"]] = row["stock"]
    return {key: (sizes.get("cpu", 0), sizes.get("gpu", 0)) for key, sizes in found.items()}


def ready(api: Api, centre: str, work: Callable[..., None], **changes: Any) -> tuple[str, str]:
    """A cluster that is up: its id and its controller's."""
    host = api.host(centre)
    found = new(api, centre, host, **changes)
    work()
    assert only(api, centre)["ready"] == 1
    return found["clusterid"], host


def test_a_cluster_is_made_of_an_idle_host(api: Api, centre: str, played: PlayedExecutor, work: Callable[..., None]) -> None:
    host = api.host(centre)
    found = new(api, centre, host, options='{"version": "1.31.4"}')
    assert found == {"id": host, "node_status": "1", "clusterid": found["clusterid"], "cpcid": centre, "role": "master",
                     "operation": found["operation"], "ready": 0}
    assert len(found["clusterid"]) == 21
    row = only(api, centre)
    assert row["ready"] == 0 and row["clusterjoin"] == "" and row["clustertype"] == "0"
    assert book(api, centre) == {found["clusterid"]: (16, 2)}
    shown = api.ok("/dev/cpcc/cpccluster/get_operation.dspy", id=found["operation"])
    assert shown["clusterid"] == found["clusterid"] and shown["state"] == "queued" and len(shown["steps"]) == 4

    work()
    asked = played.begun[0]
    assert (asked["verb"], asked["host"], asked["kind"], asked["role"]) == ("new_cluster", "192.168.0.8", "kubernetes", "master")
    assert asked["password"] == "Pa55-w0rd-host" and asked["options"]["version"] == "1.31.4" and asked["options"]["node_name"]
    row = only(api, centre)
    assert (row["ready"], row["clustertype_text"], row["controllerid_text"]) == (1, "kubernetes", "192.168.0.8")
    assert row["clusterjoin"].startswith("sealed:1:") and row["kubeconfig"].startswith("sealed:1:")
    host_row = api.hosts(centre)[host]
    assert (host_row["node_status_text"], host_row["role"], host_row["cluster_name"]) == ("占用", "master", "朝阳区")
    assert api.ok(f"{CLUSTER}/get_operation.dspy", id=found["operation"])["state"] == "succeeded"


def test_the_answer_waits_for_the_end(api: Api, centre: str, work: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    host = api.host(centre)
    monkeypatch.setattr("cloudsched.services.centre.centre_clusters.time.sleep", lambda _: work(10))
    found = api.do(f"{CLUSTER}/new_cluster.dspy", cpcid=centre, ctl_nodeid=host, cluster_type="1", cluster_name="通州区")
    cluster = only(api, centre)
    assert found["status"] is True
    assert found["msg"].startswith("操作成功!\n加入集群凭证: sealed:1:") and JOIN not in found["msg"]
    assert found["data"] == {"id": host, "node_status": "1", "clusterid": cluster["id"], "cpcid": centre, "role": "master"}
    assert cluster["clustertype"] == "1" and cluster["clustertype_text"] == "slurm"


def test_administrators_may_have_secrets_shown(make_api: Callable[..., Api], work: Callable[..., None]) -> None:
    api = make_api(**{"centres.batch_clouds": "no", "centres.reveal_secrets": "yes"})
    centre = api.centre()
    ready(api, centre, work)
    assert only(api, centre)["clusterjoin"] == JOIN


def test_what_fails_leaves_the_host_idle(api: Api, centre: str, played: PlayedExecutor, work: Callable[..., None]) -> None:
    host = api.host(centre)
    played.ends[1] = Progress(True, False, "", "192.168.0.8: containerd: exit status 100")
    found = new(api, centre, host)
    work()
    assert api.hosts(centre)[host]["node_status"] == "0" and api.hosts(centre)[host]["clusterid"] is None
    assert api.ok(f"{CLUSTER}/get_cpccluster.dspy", cpcid=centre)["rows"] == []
    kept = only(api, centre, all="1")
    assert (kept["id"], kept["state"], kept["ready"]) == (found["clusterid"], "failed", 0)
    assert api.ok(f"{CLUSTER}/get_operation.dspy", id=found["operation"])["error"] == "192.168.0.8: containerd: 退出状态 100"
    assert book(api, centre).get(found["clusterid"], (0, 0)) == (0, 0)


def test_a_cluster_that_failed_can_be_put_away(api: Api, centre: str, played: PlayedExecutor,
                                               work: Callable[..., None]) -> None:
    host = api.host(centre)
    played.ends[1] = Progress(True, False, "", "no")
    cluster = new(api, centre, host)["clusterid"]
    work()
    api.ok("/dev/cpcc/cpcnode/delete_cpcnode.dspy", id=host)
    api.ok(DELETE, id=cluster, **{"async": "1"})
    work()
    assert only(api, centre, all="1")["state"] == "terminated"
    assert [one["verb"] for one in played.begun] == ["new_cluster"]


def test_the_failure_is_told(api: Api, centre: str, played: PlayedExecutor, work: Callable[..., None],
                             monkeypatch: pytest.MonkeyPatch) -> None:
    host = api.host(centre)
    played.refuses["new_cluster"] = DriverError("192.168.0.8: the password is refused")
    monkeypatch.setattr("cloudsched.services.centre.centre_clusters.time.sleep", lambda _: work(10))
    answer = api.do(f"{CLUSTER}/new_cluster.dspy", cpcid=centre, ctl_nodeid=host, cluster_type="0", cluster_name="x")
    assert answer == {"status": False, "msg": "算力中心服务操作失败: 192.168.0.8: 密码被拒绝"}


def test_a_centre_that_is_away_is_waited_for(api: Api, centre: str, played: PlayedExecutor, work: Callable[..., None]) -> None:
    played.away = True
    host = api.host(centre)
    new(api, centre, host)
    work(60)
    assert only(api, centre)["ready"] == 0 and played.begun == []
    played.away = False
    work()
    assert only(api, centre)["ready"] == 1 and len(played.begun) == 1


def test_a_centre_that_stays_away_is_given_up(api: Api, centre: str, played: PlayedExecutor, work: Callable[..., None]) -> None:
    played.away = True
    host = api.host(centre)
    new(api, centre, host)
    work(1300)
    assert api.hosts(centre)[host]["node_status"] == "0"
    assert only(api, centre, all="1")["state"] == "failed"


def test_a_cancelled_installation_is_settled(api: Api, centre: str, played: PlayedExecutor, work: Callable[..., None]) -> None:
    played.ends[1] = Progress(False, False, "containerd: it runs")
    host = api.host(centre)
    found = new(api, centre, host)
    work(3)
    assert api.ok(f"{CLUSTER}/get_operation.dspy", id=found["operation"])["steps"][1]["detail"] == "containerd: 正在执行"
    operations.cancel(found["operation"], LOCAL_ADMIN)
    work(3)
    assert centre_ops.settle() == 1 and centre_ops.settle() == 0
    assert api.hosts(centre)[host]["node_status"] == "0"


def test_refusals_of_new_clusters(api: Api, centre: str, work: Callable[..., None]) -> None:
    _, host = ready(api, centre, work)
    other = api.host(centre, ip="192.168.0.9", name="b")
    path = f"{CLUSTER}/new_cluster.dspy"
    good = {"cpcid": centre, "ctl_nodeid": other, "cluster_type": "slurm", "cluster_name": "b"}
    assert api.no(path, **{**good, "ctl_nodeid": host}) == "设备 gpu设备1 正被占用"
    assert api.no(path, **{**good, "cluster_name": "朝阳区"}) == "该算力中心已有同名集群: 朝阳区"
    assert "cluster_type" in api.no(path, **{**good, "cluster_type": "7"})
    assert api.no(path, **{**good, "cluster_name": ""}) == "缺少参数: cluster_name"
    assert api.no(path, **{**good, "cpcid": "nothing"}) == "算力中心不存在: nothing"
    assert api.no(path, **{**good, "export_date": "2020-01-01", "enable_date": "2021-01-01"}).startswith("参数 export_date 错误")
    assert api.no(path, **{**good, "options": "[1]"}).startswith("参数 options")
    assert api.hosts(centre)[other]["node_status"] == "0"


def test_a_dry_run_shows_the_steps(api: Api, centre: str) -> None:
    host = api.host(centre)
    answer = api.do(f"{CLUSTER}/new_cluster.dspy", cpcid=centre, ctl_nodeid=host, cluster_type="1", cluster_name="c", dry_run="1")
    assert answer["status"] and answer["dry_run"] is True and answer["data"]["steps"]
    assert "Pa55-w0rd-host" not in str(answer)
    assert api.hosts(centre)[host]["node_status"] == "0"
    assert api.ok(f"{CLUSTER}/get_cpccluster.dspy", cpcid=centre)["total"] == 0


def test_name_and_days_of_a_cluster_change(api: Api, centre: str, work: Callable[..., None]) -> None:
    cluster, host = ready(api, centre, work)
    path = f"{CLUSTER}/update_cpccluster.dspy"
    given = {"cpcid": centre, "id": cluster, "name": "海淀区", "export_date": "2037-01-01"}
    assert api.ok(path, **given, controllerid=host, cluster_type="0") == {
        "id": cluster, "cpcid": centre, "name": "海淀区", "enable_date": "2025-04-03", "export_date": "2037-01-01"}
    assert only(api, centre)["name"] == "海淀区"
    assert api.no(path, cpcid=centre, id=cluster, controllerid="another") == "参数 controllerid 不允许修改"
    assert api.no(path, cpcid=centre, id=cluster, cluster_type="1") == "参数 cluster_type 不允许修改"
    assert api.no(path, cpcid=centre) == "无算力集群ID"


def test_workers_come_and_go(api: Api, centre: str, played: PlayedExecutor, work: Callable[..., None]) -> None:
    cluster, _ = ready(api, centre, work)
    host = api.host(centre, ip="192.168.0.9", name="worker 1")
    found = api.ok(f"{WORKER}/new_cpcworker.dspy", **{"cpcid": centre, "clusterid": cluster, "worker_nodeid": host, "async": "1"})
    assert found["role"] == "worker" and book(api, centre)[cluster] == (32, 4)
    work()
    asked = played.begun[-1]
    assert (asked["verb"], asked["join_command"], asked["host"]) == ("new_worker", JOIN, "192.168.0.9")
    assert asked["options"]["node_name"] == "worker-1"
    assert clusters.by_key(cluster).workers_ready == 1  # type: ignore[union-attr]

    gone = {"cpcid": centre, "clusterid": cluster, "worker_nodeid": "worker-1"}
    assert api.ok(f"{WORKER}/delete_cpcworker.dspy", **gone, **{"async": "1"})["id"] == host
    assert book(api, centre)[cluster] == (16, 2)
    work()
    assert played.asked[-1][0] == "delete_node" and played.asked[-1][2:] == ("worker-1", False)
    assert played.begun[-1]["verb"] == "take_apart"
    row = api.hosts(centre)[host]
    assert (row["node_status"], row["clusterid"], row["role"]) == ("0", None, "")
    assert clusters.by_key(cluster).workers_ready == 0  # type: ignore[union-attr]
    assert api.no(f"{WORKER}/delete_cpcworker.dspy", **gone) == "集群 朝阳区 没有节点 worker-1"


def test_a_worker_that_runs_something_stays(api: Api, centre: str, played: PlayedExecutor, work: Callable[..., None]) -> None:
    cluster, controller = ready(api, centre, work)
    host = api.host(centre, ip="192.168.0.9", name="worker 1")
    api.ok(f"{WORKER}/new_cpcworker.dspy", **{"cpcid": centre, "clusterid": cluster, "worker_nodeid": host, "async": "1"})
    work()
    played.refuses["delete_node"] = Conflict("node worker-1 runs 2 pods")
    path, gone = f"{WORKER}/delete_cpcworker.dspy", {"cpcid": centre, "clusterid": cluster, "worker_nodeid": host, "async": "1"}
    api.ok(path, **gone)
    work()
    assert api.hosts(centre)[host]["clusterid"] == cluster and book(api, centre)[cluster] == (32, 4)
    api.ok(path, **gone, force="1")
    work()
    assert api.hosts(centre)[host]["clusterid"] is None
    assert "没有节点" in api.no(path, **{**gone, "worker_nodeid": "nobody"})
    assert api.no(path, **{**gone, "worker_nodeid": controller}).startswith("设备 gpu设备1 不是集群")


def test_a_worker_that_does_not_join_is_idle_again(api: Api, centre: str, played: PlayedExecutor,
                                                   work: Callable[..., None]) -> None:
    cluster, _ = ready(api, centre, work)
    host = api.host(centre, ip="192.168.0.9", name="worker 1")
    played.ends[2] = Progress(True, False, "", "192.168.0.9: kubeadm join: exit status 1")
    api.ok(f"{WORKER}/new_cpcworker.dspy", **{"cpcid": centre, "clusterid": cluster, "worker_nodeid": host, "async": "1"})
    work()
    assert api.hosts(centre)[host]["node_status"] == "0" and book(api, centre)[cluster] == (16, 2)
    assert only(api, centre)["ready"] == 1


def test_cancelled_work_on_workers_is_settled(api: Api, centre: str, played: PlayedExecutor, work: Callable[..., None]) -> None:
    cluster, _ = ready(api, centre, work)
    host = api.host(centre, ip="192.168.0.9", name="worker 1")
    given = {"cpcid": centre, "clusterid": cluster, "worker_nodeid": host, "async": "1"}
    played.ends[2] = Progress(False)
    begun = api.ok(f"{WORKER}/new_cpcworker.dspy", **given)
    work(3)
    operations.cancel(begun["operation"], LOCAL_ADMIN)
    work(3)
    assert (centre_ops.settle(), centre_ops.settle()) == (1, 0)
    assert api.hosts(centre)[host]["node_status"] == "0" and book(api, centre)[cluster] == (16, 2)

    api.ok(f"{WORKER}/new_cpcworker.dspy", **given)
    work()
    played.ends[4] = Progress(False)
    begun = api.ok(f"{WORKER}/delete_cpcworker.dspy", **given)
    work(3)
    operations.cancel(begun["operation"], LOCAL_ADMIN)
    work(3)
    assert (centre_ops.settle(), centre_ops.settle()) == (1, 0)
    assert api.hosts(centre)[host]["clusterid"] == cluster and book(api, centre)[cluster] == (32, 4)


def test_a_cluster_is_taken_apart(api: Api, centre: str, played: PlayedExecutor, work: Callable[..., None]) -> None:
    cluster, _ = ready(api, centre, work)
    host = api.host(centre, ip="192.168.0.9", name="worker 1")
    api.ok(f"{WORKER}/new_cpcworker.dspy", **{"cpcid": centre, "clusterid": cluster, "worker_nodeid": host, "async": "1"})
    work()
    found = api.ok(DELETE, id=cluster, **{"async": "1"})
    assert found["id"] == cluster
    work()
    assert [one["host"] for one in played.begun if one["verb"] == "take_apart"] == ["192.168.0.9", "192.168.0.8"]
    assert {row["node_status"] for row in api.hosts(centre).values()} == {"0"}
    assert api.ok(f"{CLUSTER}/get_cpccluster.dspy", cpcid=centre)["total"] == 0
    kept = clusters.by_key(cluster)
    assert kept is not None and (kept.state, kept.secrets) == ("terminated", "")
    assert api.no(DELETE, id=cluster) == "集群 朝阳区 已移除"
    assert set(book(api, centre).get(cluster, (0, 0))) == {0}


def test_a_host_that_is_lost_needs_force(api: Api, centre: str, played: PlayedExecutor, work: Callable[..., None]) -> None:
    cluster, controller = ready(api, centre, work)
    played.refuses["take_apart"] = DriverError("192.168.0.8: cannot be reached")
    api.ok(DELETE, id=cluster, **{"async": "1"})
    work()
    row = only(api, centre)
    assert (row["state"], row["ready"]) == ("terminating", 0)
    assert clusters.by_key(cluster).reason == "192.168.0.8: cannot be reached"  # type: ignore[union-attr]
    api.ok(DELETE, id=cluster, force="1", **{"async": "1"})
    work()
    assert api.hosts(centre)[controller]["node_status"] == "0"
    assert clusters.by_key(cluster).state == "terminated"  # type: ignore[union-attr]


def test_native_termination_is_the_same(api: Api, centre: str, work: Callable[..., None]) -> None:
    cluster, controller = ready(api, centre, work)
    core.terminate(cluster, LOCAL_ADMIN)
    work()
    assert clusters.by_key(cluster).state == "terminated"  # type: ignore[union-attr]
    assert api.hosts(centre)[controller]["node_status"] == "0"


def test_a_cluster_is_a_cloud_for_the_batch_queue(make_api: Callable[..., Api], work: Callable[..., None],
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloudsched.services.pool_clouds._verified", lambda place: [])
    api = make_api()
    centre = api.centre()
    cluster, _ = ready(api, centre, work, cluster_name="East 1")
    made = clouds.by_name("east-1")
    assert made is not None and (made.kind, made.max_slots, made.enabled, made.title) == ("Kubernetes", 16, 1, "East 1")
    assert made.credentials.startswith("sealed:1:")
    host = api.host(centre, ip="192.168.0.9", name="worker 1")
    api.ok(f"{WORKER}/new_cpcworker.dspy", **{"cpcid": centre, "clusterid": cluster, "worker_nodeid": host, "async": "1"})
    work()
    assert clouds.by_name("east-1").max_slots == 32  # type: ignore[union-attr]
    api.ok(DELETE, id=cluster, **{"async": "1"})
    work()
    assert clouds.by_name("east-1") is None


def test_a_label_is_set_on_a_node(api: Api, centre: str, played: PlayedExecutor, work: Callable[..., None]) -> None:
    cluster, _ = ready(api, centre, work)
    given = {"cpcid": centre, "clusterid": cluster, "label": "kyy-gpu=false", "worker_node": "k8s-worker-20250408132243",
             "opt": "label", "orgid": ORG}
    assert api.do(f"{LABEL}/setup_cpclabel.dspy", **given) == {"status": True, "msg": "设置节点标签成功", "data": {
        "clusterid": cluster, "cpcid": centre, "label": "kyy-gpu=false", "opt": "label", "orgid": ORG,
        "worker_node": "k8s-worker-20250408132243"}}
    assert played.asked[-1][0] == "label" and played.asked[-1][2:] == ("k8s-worker-20250408132243", "kyy-gpu=false", "label")
    assert "opt" in api.no(f"{LABEL}/setup_cpclabel.dspy", **{**given, "opt": "glue"})
    assert "label" in api.no(f"{LABEL}/setup_cpclabel.dspy", **{**given, "label": "no label"})
    switched = api.ok(f"{WORKER}/switch_cpcworker.dspy", clusterid=cluster, worker_node="w", state="cordon", drain="yes")
    assert switched["drain"] is True


def test_what_is_not_ready_is_not_used(api: Api, centre: str, played: PlayedExecutor) -> None:
    host = api.host(centre)
    other = api.host(centre, ip="192.168.0.9", name="b")
    cluster = new(api, centre, host)["clusterid"]
    assert api.no(f"{WORKER}/new_cpcworker.dspy", cpcid=centre, clusterid=cluster, worker_nodeid=other) == "集群 朝阳区 未就绪"
    assert api.no(DELETE, id=cluster) == "集群 朝阳区 未就绪: 正在安装, 不能移除 (可用 force=1 取消安装并移除)"
    assert api.no(f"{CENTRE}/delete_cpclist.dspy", id=centre).startswith("算力中心 首都算力中心1 正在使用")


def test_no_secret_is_in_what_is_kept(api: Api, centre: str, work: Callable[..., None]) -> None:
    cluster, _ = ready(api, centre, work)
    row = clusters.by_key(cluster)
    kept = str(row) + "".join(event.data for event in events.since(0, limit=1000))
    kept += str(operations.page(limit=100)) + str(api.ok(f"{CLUSTER}/get_cpccluster.dspy", cpcid=centre))
    for secret in ("Pa55-w0rd", "abcdef.0123456789abcdef", "c2VjcmV0LWtleQ"):
        assert secret not in kept
