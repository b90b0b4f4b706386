"""What once went wrong: parts without a price, an installation that cannot be stopped, parameters taken as they came."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudsched.clock import ManualClock
from cloudsched.dialects.kboss import routes
from cloudsched.drivers.base import Check
from cloudsched.drivers.pcapi import PcapiError
from cloudsched.errors import Conflict, Invalid
from cloudsched.services import operations
from cloudsched.services.centre import centre_ops, metering, parts
from cloudsched.services.centre.centre_calls import Progress
from cloudsched.store import centres as store
from cloudsched.store import clouds, events
from cloudsched.store import instances as instance_store
from cloudsched.store.db import write
from tests.services import shop as shops
from tests.services.shop import Shop
from tests.unit.test_instances import SEED

from .conftest import CLUSTER, HOST, ORG, PCAPI, WORKER, Api, PlayedExecutor
from .test_kboss_clusters import book, new, only, ready

DELETE, QUOTE, WIDGET, PODS, USAGE = (
    "/computing/cpcluster_delete.dspy", "/dev/cpcc/cpcwidget/accrual_price.dspy", "/dev/cpcc/cpcwidget", "/dev/cpcc/cpcpodyaml",
    "/dev/cpcc/cpcbill/get_usage.dspy")
FITS, LIST = "/dev/cpcc/cpcbuy/determine_accommodat.dspy", "/dev/cpcc/cpclist/get_cpclist.dspy"


# parts without a price


def quote(api: Api, centre: str, *lines: tuple[str, str, Any], **more: Any) -> dict[str, Any]:
    resources = json.dumps([{"type": kind, "model": model, "amount": amount} for kind, model, amount in lines])
    return api.do(QUOTE, **{"cpcid": centre, "resources": resources, "duration": "2", "duration_unit": "小时", **more})


def test_what_a_host_brought_is_not_for_nothing(api: Api) -> None:
    centre = api.centre()
    api.host(centre)
    rows = {row["type"]: row["unit_price"] for row in api.ok(f"{WIDGET}/get_cpcwidget.dspy", cpcid=centre)["rows"]}
    assert rows["cpu"] is None
    api.ok(f"{WIDGET}/update_cpcwidget.dspy", cpcid=centre, type="memory", model="STANDARD", unit_price="0.5")
    found = quote(api, centre, ("cpu", "STANDARD", 2), ("memory", "STANDARD", 1024))
    assert found["status"] is False and found["msg"] == "cpu STANDARD 尚未定价, 无法计价"
    assert found["data"]["total_price"] == 1
    assert found["data"]["price_details"][0] == {"resource_type": "cpu", "error": "cpu STANDARD 尚未定价, 无法计价"}
    api.language = "en"
    assert quote(api, centre, ("cpu", "STANDARD", 2))["msg"] == "cpu STANDARD has no price yet"
    api.ok(f"{WIDGET}/update_cpcwidget.dspy", cpcid=centre, type="cpu", model="STANDARD", unit_price="0")
    assert quote(api, centre, ("cpu", "STANDARD", 2))["data"]["total_price"] == 0  # free because somebody said so


def test_the_first_price_comes_with_more_stock_and_no_other_does(api: Api) -> None:
    centre = api.centre()
    api.host(centre)
    given = {"cpcid": centre, "type": "gpu", "model": "RTX4090-24G", "unit_price": "6", "charge_unit": "天", "stock": "1",
             "add_opt": "yes"}
    assert api.ok(f"{WIDGET}/add_cpcwidget.dspy", **given)["unit_price"] == "6"
    row = next(row for row in api.ok(f"{WIDGET}/get_cpcwidget.dspy", cpcid=centre, type="gpu")["rows"])
    assert (row["unit_price"], row["charge_unit"], row["stock"]) == (6, "天", 3)
    text = api.no(f"{WIDGET}/add_cpcwidget.dspy", **{**given, "unit_price": "7"})
    assert text == "gpu RTX4090-24G 的单价是 6, 与提交的 7 不同: 库存未变, 修改单价请用 update_cpcwidget"
    assert api.ok(f"{WIDGET}/get_cpcwidget.dspy", cpcid=centre, type="gpu")["rows"][0]["stock"] == 3


def test_use_of_what_has_no_price_is_marked(api: Api, time_passes: ManualClock) -> None:
    centre = api.centre()
    api.host(centre)
    api.ok(f"{WIDGET}/update_cpcwidget.dspy", cpcid=centre, type="gpu", model="RTX4090-24G", unit_price="6")
    begin = time_passes.now()
    card = ["gpu", "RTX4090-24G", 1]
    for key, amounts in (("a" * 21, [["cpu", "STANDARD", 2000], card]), ("b" * 21, [card])):
        write(lambda tx, key=key, amounts=amounts: tx.run(  # type: ignore[misc]
            "INSERT INTO instance_period (instance_key, org, centre_key, cluster_key, amounts, began_at) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (key, ORG, centre, "n" * 21, json.dumps(amounts), begin)))
    time_passes.advance(2 * 3600 + metering.GRACE_S + 60)
    while metering.tick().hours:
        pass
    span = {"from": "2026-01-01", "to": "2026-02-01", "by": "instance"}
    rows = {row["id"]: row for row in api.ok(USAGE, orgid=ORG, **span)["rows"]}
    assert rows["a" * 21]["unpriced_hours"] >= 2 and rows["a" * 21]["cost"] == rows["b" * 21]["cost"] > 0
    assert "unpriced_hours" not in rows["b" * 21]
    lines = list(csv.DictReader(io.StringIO(metering.export(org=ORG, since=begin - 3600))))
    assert {(line["type"], line["unpriced"]) for line in lines} == {("cpu", "yes"), ("gpu", "")}


# an installation is stopped


@pytest.fixture
def away(played: PlayedExecutor) -> PlayedExecutor:
    played.away = True
    return played


@pytest.fixture
def quiet(make_api: Callable[..., Api]) -> Api:
    return make_api(**{"centres.batch_clouds": "no"})


def test_an_installation_at_a_centre_that_is_away_can_be_stopped(quiet: Api, away: PlayedExecutor, work: Callable[..., None],
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    api, centre = quiet, quiet.centre()
    host = api.host(centre)
    begun = new(api, centre, host)
    work(3)
    cluster = begun["clusterid"]
    assert api.no(DELETE, id=cluster).startswith("集群 朝阳区 未就绪: 正在安装")
    assert api.do(DELETE, id=cluster, force="1", dry_run="1")["status"] and only(api, centre)["state"] == "launching"
    monkeypatch.setattr("cloudsched.services.centre.centre_clusters.time.sleep", lambda _: work(5))
    answer = api.do(DELETE, id=cluster, force="1")
    assert answer["status"] is True
    assert answer["msg"] == ("移除算力集群成功, 但以下设备未能清理, 可能有残留: gpu设备1 未清理: "
                             "无法连接算力中心服务 http://centre.example.com: 连接被拒绝")
    assert answer["data"]["cancelled"] == [begun["operation"]] and len(answer["data"]["left"]) == 1
    assert operations.one(begun["operation"])["state"] == "cancelled"
    assert api.hosts(centre)[host]["node_status"] == "0" and book(api, centre).get(cluster, (0, 0)) == (0, 0)
    assert only(api, centre, all="1")["state"] == "terminated" and centre_ops.settle() == 0
    assert {"operation.cancel_request", "operation.cancel"} <= {event.kind for event in events.since(0, limit=1000)}
    away.away = False
    api.ok(f"{CLUSTER}/new_cluster.dspy", cpcid=centre, ctl_nodeid=host, cluster_type="0", cluster_name="again", **{"async": "1"})


def test_the_executors_work_is_cancelled_too(quiet: Api, played: PlayedExecutor, work: Callable[..., None]) -> None:
    api, centre = quiet, quiet.centre()
    host = api.host(centre)
    played.ends[1] = Progress(False, False, "get the packages: it runs")
    begun = new(api, centre, host)
    work(3)
    asked = api.ok(DELETE, id=begun["clusterid"], force="1", **{"async": "1"})
    assert asked["cancelled"] == [begun["operation"]]
    work(2)
    assert ("cancel", {"id": 1, "actor": operations.one(asked["operation"])["actor"]}) in played.asked
    assert [one["verb"] for one in played.begun] == ["new_cluster"]  # not before it has ended there
    played.ends[1] = Progress(True, False, "", "cancelled")
    work()
    assert [one["verb"] for one in played.begun] == ["new_cluster", "take_apart"]
    assert only(api, centre, all="1")["state"] == "terminated" and api.hosts(centre)[host]["node_status"] == "0"
    shown = api.ok(f"{CLUSTER}/get_operation.dspy", id=asked["operation"])
    assert shown["steps"][0] == {**shown["steps"][0], "name": "停止正在进行的操作", "detail": f"已取消: {begun['operation']}"}


def test_an_installation_on_a_host_that_is_away_can_be_stopped(quiet: Api, work: Callable[..., None]) -> None:
    """With the executor of this process, and nobody at the host's port."""
    api, centre = quiet, quiet.centre()
    host = api.host(centre, ip="127.0.0.1", sshport="1", name="node 1")
    begun = new(api, centre, host, cluster_type="1")
    work(3)
    shown = api.ok(f"{CLUSTER}/get_operation.dspy", id=begun["operation"])
    assert shown["steps"][1]["detail"] == "检查主机: 127.0.0.1:1: 连接被拒绝"
    asked = api.ok(DELETE, id=begun["clusterid"], force="1", **{"async": "1"})
    work(2)
    states = {one["kind"]: one["state"] for one in operations.page()}
    assert (states["hosts.new_cluster"], states["centre.new_cluster"]) == ("cancelled", "cancelled")
    work(120)
    shown = api.ok(f"{CLUSTER}/get_operation.dspy", id=asked["operation"])
    assert shown["state"] == "succeeded" and shown["error"] is None
    assert "node 1 未清理: 127.0.0.1:1: 连接被拒绝" in [step["detail"] for step in shown["steps"]]
    assert api.hosts(centre)[host]["node_status"] == "0" and book(api, centre).get(begun["clusterid"], (0, 0)) == (0, 0)


def test_force_goes_before_a_removal_that_waits(quiet: Api, played: PlayedExecutor, work: Callable[..., None]) -> None:
    api, centre = quiet, quiet.centre()
    cluster, host = ready(api, centre, work)
    worker = api.host(centre, ip="192.168.0.9", name="worker 1")
    played.ends[2] = Progress(False)
    joining = api.ok(f"{WORKER}/new_cpcworker.dspy", **{"clusterid": cluster, "worker_nodeid": worker, "async": "1"})
    work(2)
    played.away = True
    first = api.ok(DELETE, id=cluster, **{"async": "1"})
    work(5)
    assert api.ok(DELETE, id=cluster, **{"async": "1"})["operation"] == first["operation"]
    second = api.ok(DELETE, id=cluster, force="1", **{"async": "1"})
    assert second["cancelled"] == sorted([joining["operation"], first["operation"]])
    assert api.ok(DELETE, id=cluster, force="1", **{"async": "1"})["operation"] == second["operation"]
    work(90)
    centre_ops.settle()
    assert {row["node_status"] for row in api.hosts(centre).values()} == {"0"} and host != worker
    assert only(api, centre, all="1")["state"] == "terminated"


def test_an_installation_of_this_server_is_cancelled_by_its_number(api: Api) -> None:
    given = {"host": "127.0.0.1", "user": "root", "password": "x", "cluster_type": "slurm", "async": "1"}
    number = api.ok(f"{PCAPI}/new_cluster", **given)["operation"]
    assert api.ok(f"{PCAPI}/cancel", id=number, dry_run="1") == {"id": number, "cancelled": False}
    assert api.ok(f"{PCAPI}/cancel", id=number) == {"id": number, "cancelled": True}
    assert operations.one(number)["state"] == "cancelled"
    assert api.ok(f"{PCAPI}/cancel", id=number)["cancelled"] is False
    assert api.no(f"{PCAPI}/cancel", id="99") == "operate failed: 操作不存在: 99"


# a worker leaves


def test_a_dry_run_of_a_workers_removal_looks_at_what_runs_there(quiet: Api, played: PlayedExecutor, work: Callable[..., None],
                                                                 ) -> None:
    api, centre = quiet, quiet.centre()
    cluster, _ = ready(api, centre, work)
    host = api.host(centre, ip="192.168.0.9", name="worker 1")
    given = {"clusterid": cluster, "worker_nodeid": host, "dry_run": "1"}
    api.ok(f"{WORKER}/new_cpcworker.dspy", **{**given, "dry_run": "0", "async": "1"})
    work()
    path = f"{WORKER}/delete_cpcworker.dspy"
    assert "checked" not in api.ok(path, **given)
    assert played.asked[-1][0] == "check_node" and played.asked[-1][1]["node_name"] == "worker-1"
    played.refuses["check_node"] = Conflict("2 pods run on worker-1: default/a, default/b")
    assert api.no(path, **given) == "节点 worker-1 上运行着 2 个pod: default/a, default/b"
    assert api.ok(path, **given, force="1")["id"] == host
    played.refuses["check_node"] = PcapiError("it has no check_node", details={"say": "pcapi_strange", "url": "u", "reason": "r"})
    assert api.ok(path, **given)["checked"] is False
    assert api.hosts(centre)[host]["clusterid"] == cluster


def test_a_node_is_checked_where_it_is(api: Api) -> None:
    with shops.opened(api.settings) as shop:
        place = {"kubeconfig": shop.kube.kubeconfig()}
        assert api.ok(f"{PCAPI}/check_node", **place, node_name="node-0") == {"node_name": "node-0", "force": False}
        assert api.no(f"{PCAPI}/check_node", **place, node_name="nowhere") == "operate failed: 没有节点 nowhere"


# the batch queue


def test_the_cloud_of_a_slurm_cluster_follows_its_workers(make_api: Callable[..., Api], played: PlayedExecutor,
                                                          work: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    api = make_api()

    def look(place: Any) -> list[Check]:
        rows = write(lambda tx: tx.all("SELECT count(*) FROM cluster_node WHERE role = 'worker'"))
        return [Check("partition", bool(rows[0][0]), "no node runs jobs")]

    monkeypatch.setattr("cloudsched.services.pool_clouds._ask", look)
    played.given = {"join_command": "slurm join 192.168.0.8:6817 --token sealed:1:x"}
    centre = api.centre()
    cluster, _ = ready(api, centre, work, cluster_type="1", cluster_name="batch")
    enabled = lambda: clouds.by_name("batch").enabled  # type: ignore[union-attr]  # noqa: E731
    assert enabled() == 0
    hosts = [api.host(centre, ip=f"192.168.0.{number}", name=f"w {number}") for number in (11, 12)]
    seen = []
    for verb, host in (("new", 0), ("new", 1), ("delete", 0), ("delete", 1), ("new", 0), ("delete", 0)):
        api.ok(f"{WORKER}/{verb}_cpcworker.dspy", **{"clusterid": cluster, "worker_nodeid": hosts[host], "async": "1"})
        work()
        seen.append(enabled())
    assert seen == [1, 1, 1, 0, 1, 0]
    reasons = [json.loads(event.data)["reason"] for event in events.since(0, limit=2000) if event.kind == "cloud.disable"]
    assert reasons == ["its cluster has nothing to run jobs on"] * 2
    api.ok(DELETE, id=cluster, **{"async": "1"})
    work()
    assert clouds.by_name("batch") is None


# parameters


@pytest.fixture
def shop(api: Api) -> Iterator[Shop]:
    with shops.opened(api.settings) as made:
        yield made


def test_an_instance_is_of_the_centre_that_is_said(api: Api, shop: Shop) -> None:
    other = api.centre(name="another")
    given = {**SEED, "cpu_model": "", "source_authpasswd": "x", "source_outsideport": "", "orgid": ORG}
    key = shop.add().key
    for path, facts in ((f"{PODS}/new_cpcpodyaml.dspy", {**given, "clusterid": shop.cluster}),
                        (f"{PODS}/update_cpcpodyaml.dspy", {"id": key, "source_replicasetnum": "1", "orgid": ORG})):
        assert api.no(path, **facts, cpcid="nothing", dry_run="1") == "算力中心不存在: nothing"
        assert api.no(path, **facts, cpcid=other, dry_run="1") == f"算力集群 朝阳区 不属于算力中心 {other}"
        assert api.do(path, **facts, cpcid=shop.centre.key, dry_run="1")["status"]
    assert instance_store.by_key(key).state == "applied"  # type: ignore[union-attr]


@pytest.mark.parametrize(("user", "good"), [("kyy", True), ("张三", True), ("a.b@c-d:e", True), ("a b", False), ("x" * 65, False),
                                            ("<b>", False), ("a\nb", False)])
def test_who_buys_is_a_name(api: Api, shop: Shop, user: str, good: bool) -> None:
    given = {**SEED, "cpu_model": "", "source_authpasswd": "x", "source_outsideport": "", "orgid": ORG, "clusterid": shop.cluster}
    answer = api.do(f"{PODS}/new_cpcpodyaml.dspy", **given, userid=user, dry_run="1")
    assert answer["status"] is good and (good or "userid" in answer["msg"])


@pytest.mark.parametrize("selector", ["!!", "a=!!", "=b", '{"!!": "x"}', '["a b"]', "x" * 64, "a=b,!!"])
def test_a_selector_is_one_of_labels(api: Api, selector: str) -> None:
    with shops.opened(api.settings) as shop:
        given = {"cpcid": shop.centre.key, "clusterid": shop.cluster, "resources": '[{"productid":"p","resources":[]}]'}
        assert "kyylabels" in api.no(FITS, **given, kyylabels=selector)
        assert api.do(FITS, **given, kyylabels="example.com/a=b,c")["status"]


@pytest.mark.parametrize("price", ["1_0", "１０", "0x10", "1e", "1,5", "+-1", "٣"])
def test_a_price_is_written_in_plain_digits(api: Api, price: str) -> None:
    centre = api.centre()
    assert "unit_price" in api.no(f"{WIDGET}/add_cpcwidget.dspy", cpcid=centre, type="cpu", model="X", unit_price=price)
    assert "amount" in api.no("/dev/cpcc/cpcbill/set_budget.dspy", orgid=ORG, amount=price)
    with pytest.raises(Invalid, match="stock"):
        parts.add(centre, kind="cpu", model="X", unit_price="1", stock=price, actor="t")


def test_a_small_number_of_json_is_a_price(api: Api) -> None:
    centre = api.centre()
    answer = api(f"{WIDGET}/add_cpcwidget.dspy", json={"cpcid": centre, "type": "cpu", "model": "X", "unit_price": 0.00001})
    assert answer.json["data"]["unit_price"] == "0.00001"


def test_durations(api: Api) -> None:
    centre = api.centre()
    parts.add(centre, kind="cpu", model="X", unit_price="1", stock=9, actor="t")
    line = ("cpu", "X", 1)
    assert quote(api, centre, line, duration="0")["msg"] == "参数 duration 错误: 0 超出范围 (允许: 1..1000000)"
    assert quote(api, centre, line, duration="soon")["msg"] == "参数 duration 错误: soon 不是整数 (允许: 1..1000000)"
    assert quote(api, centre, line, duration="")["msg"] == "缺少参数: duration"
    nested = {"resources": [{"type": "cpu", "model": "X", "amount": 1}], "duration": 3, "duration_unit": "天"}
    found = api.ok(QUOTE, cpcid=centre, duration="", resources=json.dumps(nested))
    assert (found["duration"], found["duration_unit"], found["total_price"]) == (3, "天", 72)
    assert found["price_details"][0]["duration"] == 3
    for wrong, text in ((0, "超出范围"), ("x", "不是整数"), (True, "不是整数")):
        assert text in api.no(QUOTE, cpcid=centre, resources=json.dumps({**nested, "duration": wrong}))
    found = quote(api, centre, line)
    assert found["data"]["duration"] == "2"


def test_an_amount_that_is_missing_is_named(api: Api) -> None:
    centre = api.centre()
    parts.add(centre, kind="cpu", model="X", unit_price="1", stock=9, actor="t")
    given = {"cpcid": centre, "duration": "1", "resources": '[{"type": "cpu", "model": "X"}]'}
    assert api.no(QUOTE, **given) == "缺少部件用量: resources[0].amount"
    api.language = "en"
    assert api.no(QUOTE, **given) == "amount missing: resources[0].amount"


@pytest.mark.parametrize("media", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=y"])
def test_a_form_whose_parts_cannot_be_told_apart(api: Api, media: str) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="page"\r\n\r\n7\r\n--x--\r\n'
    answer = api(LIST, data=body, content_type=media)
    assert (answer.status_code, answer.json["msg"]) == (400, "请求体无法解析: multipart/form-data缺少分隔符 (boundary)")
    assert api(LIST, data=body, content_type="multipart/form-data; boundary=x").status_code == 200
    assert api(LIST, data=b"", content_type="multipart/form-data").status_code == 200


# routes


DOCS = Path(__file__).parents[3] / "docs"
# What is in no contract, and so must stand in our own pages.
BEYOND = ("get_operation.dspy", "switch_cpcworker.dspy", "get_audit.dspy", "rebuild_cpcwidget.dspy", "get_usage.dspy",
          "export_usage.dspy", "get_budget.dspy", "set_budget.dspy", "stop_cpcpodyaml.dspy", "start_cpcpodyaml.dspy",
          "delete_cpcworker.dspy", "operation", "take_apart", "free_nodes", "forget", "cancel", "check_node",
          "get_instance_states", "get_cluster_usage")
READS = ("get_", "accrual_price", "obtaining_gpuinfo", "determine_accommodat", "free_nodes", "check_node", "export_usage")


def test_what_is_beyond_the_contract_is_in_the_pages() -> None:
    names = {path.rpartition("/")[2] for path in routes.table()}
    pages = "".join(page.read_text() for page in DOCS.glob("howto-kboss*.md"))
    assert set(BEYOND) <= names
    assert [name for name in BEYOND if f"`{name}`" not in pages] == []


def test_what_only_looks_says_so() -> None:
    for path, route in routes.table().items():
        name = path.rpartition("/")[2]
        assert route.changes is not (name.startswith(READS) or name == "operation"), path


def test_a_look_is_no_dry_run(api: Api) -> None:
    with shops.opened(api.settings) as shop:
        place = {"kubeconfig": shop.kube.kubeconfig(), "what": "pods", "dry_run": "1"}
        for path in (f"{PCAPI}/get_instance_states", f"{PCAPI}/get_cluster_usage", f"{PCAPI}/free_nodes"):
            assert api.do(path, **place)["info"] == "operate success"
        assert api.do("/dev/cpcc/cpcaudit/get_audit.dspy", dry_run="1")["msg"] == "获取操作记录成功"
        assert api.do(f"{HOST}/get_cpcnode.dspy", cpcid=shop.centre.key, dry_run="1")["msg"] == "获取算力设备成功"
    assert store.all_centres()
