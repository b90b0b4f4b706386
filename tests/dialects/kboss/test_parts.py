"""Parts, quotes, free cards, fitting, use and budgets over HTTP: the contract's examples, both languages, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client

from cloudsched import clock
from cloudsched import settings as settings_module
from cloudsched.clock import ManualClock
from cloudsched.dialects.kboss import make_app
from cloudsched.domain.fitting import NodeFree
from cloudsched.domain.stock import Amount
from cloudsched.services import keys
from cloudsched.services.caller import LOCAL_ADMIN
from cloudsched.services.centre import centre_calls, centres, metering, parts
from cloudsched.store import clusters, db
from cloudsched.store.db import write

XEON, RTX = "INTEL(R) XEON(R) PLATINUM 8582C", "RTX5090-32G"
LIST = [("cpu", XEON, 4), ("memory", "Samsung DDR4 DIMMs", 8192), ("disk", "DATA", 512), ("gpu", RTX, 2)]
DETAILS = [
    {"resource_name": f"cpu {XEON}", "resource_type": "cpu", "amount": 4, "resource_unit": "核", "unit_price": 1.5,
     "duration": "1", "duration_unit": "小时", "subtotal": 6},
    {"resource_name": "memory Samsung DDR4 DIMMs", "resource_type": "memory", "amount": 8192, "resource_unit": "Mi",
     "unit_price": 0.005, "duration": "1", "duration_unit": "小时", "subtotal": 40.96},
    {"resource_name": "disk DATA", "resource_type": "disk", "amount": 512, "resource_unit": "Gi", "unit_price": 0.01,
     "duration": "1", "duration_unit": "小时", "subtotal": 5.12},
    {"resource_name": f"gpu {RTX}", "resource_type": "gpu", "amount": 2, "resource_unit": "卡", "unit_price": 6, "duration": "1",
     "duration_unit": "小时", "subtotal": 12},
]
_HERE = {"REMOTE_ADDR": "127.0.0.1"}


class Site:
    """One centre with two clusters, called through WSGI."""

    def __init__(self, settings: settings_module.Settings) -> None:
        self.settings = settings
        self.client = Client(make_app(settings))
        self.centre = centres.add({"name": "中心"}, org="acme", actor="t", settings=settings)
        for key, name in (("x" * 21, "通州区"), ("n" * 21, "朝阳区")):
            self.cluster(key, name)

    def cluster(self, key: str, name: str, *, cloud_id: int | None = None) -> None:
        write(lambda tx: clusters.insert(tx, {
            "key": key, "name": name, "kind": "kubernetes", "origin": "kboss", "cloud_id": cloud_id or self.centre.cloud_id,
            "state": "running", "created_at": clock.now()}, at=clock.now()))

    def __call__(self, path: str, *, key: str = "", english: bool = False, method: str = "POST", **params: Any) -> Any:
        headers = {**({"Accept-Language": "en"} if english else {}), **({"X-API-Key": key} if key else {})}
        given = {name: value if isinstance(value, str) else json.dumps(value) for name, value in params.items()}
        full = path if path.startswith("/") else f"/dev/cpcc/{path}.dspy"
        if method == "GET":
            return self.client.get(full, query_string=given, headers=headers, environ_base=_HERE)
        return self.client.post(full, data=given, headers=headers, environ_base=_HERE)

    def ask(self, path: str, **params: Any) -> Any:
        answer = self(path, **{"cpcid": self.centre.key, **params})
        assert answer.status_code == 200, answer.text
        return answer.json

    def part(self, kind: str, model: str, price: str, **more: Any) -> Any:
        given = {"clusterid": "n" * 21, "stock": "0", "charge_unit": "小时", "account_unit": "元", "add_opt": "no", **more}
        return self.ask("cpcwidget/add_cpcwidget", type=kind, model=model, unit_price=price, **given)

    def sell(self) -> None:
        """The parts of the contract's examples, enough of each."""
        self.part("cpu", XEON, "1.5", stock="64")
        self.part("memory", "Samsung DDR4 DIMMs", "0.005", resource_unit="Mi", stock="65536")
        self.part("disk", "DATA", "0.01", stock="4096")
        self.part("gpu", RTX, "6", stock="8")

    def quote(self, lines: list[tuple[Any, ...]], **more: Any) -> Any:
        resources = [dict(zip(("type", "model", "amount"), line, strict=True)) for line in lines]
        return self.ask("cpcwidget/accrual_price", **{"resources": resources, "duration": "1", "duration_unit": "小时", **more})


@pytest.fixture
def time_passes(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    manual = ManualClock(1_772_323_200.0)  # 2026-03-01 00:00:00 UTC
    monkeypatch.setattr(clock, "now", manual.now)
    return manual


@pytest.fixture
def site(tmp_state: Path, migrated_file: Path, time_passes: ManualClock) -> Iterator[Site]:
    settings = settings_module.load({"state": str(tmp_state), "cloud_scheduler.config_file": "none"}, environ={})
    shutil.copy(migrated_file, settings.database.url.removeprefix("sqlite:///"))
    database = db.open_database(settings.database.url, synchronous="OFF")
    yield Site(settings)
    database.close()


# parts


def test_adding_a_part(site: Site) -> None:
    given = {"type": "cpu", "model": XEON, "unit_price": "1.99", "resource_unit": "m", "stock": "0", "charge_unit": "小时",
             "account_unit": "元", "clusterid": "n" * 21, "add_opt": "no"}
    added = site.ask("cpcwidget/add_cpcwidget", **given)
    assert (added["status"], added["msg"]) == (True, "新增算力部件成功")
    assert added["data"] == {
        "account_unit": "元", "charge_unit": "小时", "cpcid": site.centre.key, "model": XEON, "resource_unit": "m", "stock": "0",
        "type": "cpu", "unit_price": "1.99", "id": added["data"]["id"], "update_time": added["data"]["update_time"]}
    assert len(added["data"]["id"]) == 21 and len(added["data"]["update_time"]) == 19
    assert site.ask("cpcwidget/add_cpcwidget", **given) == {"status": False, "msg": "该部件已存在,请前往编辑!"}
    assert site.ask("cpcwidget/add_cpcwidget", english=True, **given)["msg"] == "this part exists already: edit it"
    assert site.ask("cpcwidget/add_cpcwidget", **{**given, "add_opt": "yes", "stock": "500"})["status"] is True


def test_the_list_of_parts(site: Site) -> None:
    site.part("gpu", "STANDARD-8G", "2", clusterid="x" * 21, stock="2")
    site.part("gpu", "STANDARD-8G", "2", stock="3", add_opt="yes")
    site.part("memory", "M", "0.0004")
    write(lambda tx: parts.move_host(tx, site.centre.key, before=None, after=("", [Amount("memory", "M", 1536)]), actor="t"))
    found = site.ask("cpcwidget/get_cpcwidget", method="GET")
    assert (found["status"], found["msg"], found["data"]["total"]) == (True, "获取算力部件成功", 2)
    card, memory = found["data"]["rows"]
    assert card == {
        "id": card["id"], "cpcid": site.centre.key, "type": "gpu", "model": "STANDARD-8G", "unit_price": 2, "resource_unit": "卡",
        "stock": 5, "consumed": 0, "charge_unit": "小时", "account_unit": "元", "update_time": card["update_time"], "row_num_": 1,
        "import_export": [{"clusterid": "n" * 21, "clustername": "朝阳区", "stock": 3, "consumed": 0},
                          {"clusterid": "x" * 21, "clustername": "通州区", "stock": 2, "consumed": 0}]}
    assert (memory["unit_price"], memory["stock"], [one["stock"] for one in memory["import_export"]]) == (0.0004, 1.5, [0])
    page = site.ask("cpcwidget/get_cpcwidget", page="2", rows="1", sort="-type")
    assert (page["data"]["total"], [row["type"] for row in page["data"]["rows"]]) == (2, ["gpu"])
    assert [row["type"] for row in site.ask("cpcwidget/get_cpcwidget", type="memory")["data"]["rows"]] == ["memory"]


def test_price_and_removal(site: Site) -> None:
    key = site.part("gpu", RTX, "6", stock="1")["data"]["id"]
    given = {"type": "gpu", "model": RTX, "unit_price": "0.0009"}
    expected = {"status": True, "msg": "更新算力部件成功", "data": {"cpcid": site.centre.key, "id": key, "unit_price": "0.0009"}}
    assert site.ask("cpcwidget/update_cpcwidget", **given) == expected
    assert site.ask("cpcwidget/update_cpcwidget", id=key, **given) == expected
    assert site.ask("cpcwidget/update_cpcwidget", unit_price="1") == {"status": False, "msg": "缺少参数: type"}
    assert site.ask("cpcwidget/delete_cpcwidget", id=key) == {
        "status": False, "msg": f"gpu {RTX} 仍有库存或消耗, 不能移除 (库存: 1, 消耗: 0)"}
    site.part("gpu", RTX, "0.0009", stock="-1", add_opt="yes")
    assert site.ask("cpcwidget/delete_cpcwidget", id=key, dry_run="1")["dry_run"] is True
    assert site.ask("cpcwidget/delete_cpcwidget", id=key) == {
        "status": True, "msg": "删除算力部件成功", "data": {"cpcid": site.centre.key, "id": key}}
    assert site.ask("cpcwidget/delete_cpcwidget", id=key) == {"status": False, "msg": f"算力部件不存在: {key}"}


@pytest.mark.parametrize(("wrong", "said"), [
    ({"type": "tpu"}, "type"), ({"type": ""}, "缺少参数: type"), ({"unit_price": "dear"}, "unit_price"),
    ({"unit_price": ""}, "unit_price"),
    ({"resource_unit": "Mi"}, "resource_unit"), ({"charge_unit": "年"}, "charge_unit"), ({"account_unit": "$"}, "account_unit"),
    ({"stock": "1.5"}, "stock"), ({"stock": "-1"}, "stock"), ({"clusterid": "nowhere"}, "算力集群不存在: nowhere"),
    ({"add_opt": "perhaps"}, "add_opt"), ({"cpcid": "nowhere"}, "算力中心不存在: nowhere"), ({"cpcid": ""}, "无算力中心ID"),
])
def test_what_is_wrong_is_named(site: Site, wrong: dict[str, str], said: str) -> None:
    given = {"type": "gpu", "model": RTX, "unit_price": "6", "clusterid": "n" * 21, "stock": "1", **wrong}
    answer = site.ask("cpcwidget/add_cpcwidget", **given)
    assert answer["status"] is False and said in answer["msg"]
    assert parts.listed(site.centre.key) == []


def test_a_cluster_of_another_centre(site: Site) -> None:
    site.cluster("o" * 21, "other", cloud_id=99)
    assert site.part("gpu", RTX, "6", clusterid="o" * 21) == {"status": False, "msg": f"算力集群不存在: {'o' * 21}"}
    assert site.ask("cpcwidget/obtaining_gpuinfo", clusterid="o" * 21)["status"] is False


def test_counting_again(site: Site) -> None:
    site.part("gpu", RTX, "6", stock="2")
    write(lambda tx: tx.run("UPDATE part_stock SET consumed = 1"))
    row = {"type": "gpu", "model": RTX, "cluster": "n" * 21, "stock": {"books": 2, "counted": 2},
           "consumed": {"books": 1, "counted": 0}, "oversold": 0, "unit": "卡"}
    for dry_run in ("1", "0"):
        found = site.ask("cpcwidget/rebuild_cpcwidget", dry_run=dry_run)
        said = ("(试运行, 未执行任何操作) " if dry_run == "1" else "") + "库存重算完成, 差异 1 处"
        assert (found["msg"], found["data"]) == (said, {"total": 1, "rows": [row]})
    assert site.ask("cpcwidget/rebuild_cpcwidget")["data"]["total"] == 0


# what can be bought


def test_a_quote(site: Site) -> None:
    site.sell()
    assert site.quote(LIST) == {"status": True, "msg": "获取部件组合价格成功", "data": {
        "total_price": 64.08, "currency": "元", "price_details": DETAILS, "status": True, "message": "汇算正常", "duration": "1",
        "duration_unit": "小时"}}


@pytest.mark.parametrize(("place", "line", "message", "english", "total"), [
    (3, ("gpu", "RTXs5090-32G", 2), "无效的 gpu 部件型号: RTXs5090-32G", "there is no gpu part of model RTXs5090-32G", 52.08),
    (1, ("memory", "Samsung DDR4 DIMMs", 819200), "memory Samsung DDR4 DIMMs 库存不足 (库存: 65536, 请求: 819200)",
     "memory Samsung DDR4 DIMMs: not enough in stock (stock: 65536, asked for: 819200)", 23.12),
])
def test_a_quote_with_one_bad_line(site: Site, place: int, line: tuple[Any, ...], message: str, english: str,
                                   total: float) -> None:
    site.sell()
    lines = [*LIST[:place], line, *LIST[place + 1:]]
    details = [*DETAILS[:place], {"resource_type": line[0], "error": message}, *DETAILS[place + 1:]]
    assert site.quote(lines) == {"status": False, "msg": message, "data": {
        "total_price": total, "currency": "元", "price_details": details, "status": False, "message": message, "duration": "1",
        "duration_unit": "小时"}}
    found = site.quote(lines, english=True)
    assert found["msg"] == found["data"]["message"] == found["data"]["price_details"][place]["error"] == english


def test_a_quote_of_a_centre_that_has_nothing(site: Site) -> None:
    resources = [dict(zip(("type", "model", "amount"), line, strict=True)) for line in LIST]
    answer = site.client.post("/dev/cpcc/cpcwidget/accrual_price.dspy", json={
        "cpcid": site.centre.key, "resources": resources, "duration": 1, "duration_unit": "小时"},
        environ_base=_HERE)
    assert answer.json == {"status": False, "msg": "没有该类型组件", "data": {
        "total_price": 0, "currency": "元",
        "price_details": [{"resource_type": kind, "error": "没有该类型组件"} for kind in ("cpu", "memory", "disk", "gpu")],
        "status": False, "message": "没有该类型组件", "duration": 1, "duration_unit": "小时"}}


def test_a_quote_as_the_whole_document(site: Site) -> None:
    site.sell()
    whole = {"resources": [{"type": "gpu", "model": RTX, "amount": 1}], "duration": 2, "duration_unit": "天"}
    found = site.ask("cpcwidget/accrual_price", resources=whole)
    assert (found["data"]["total_price"], found["data"]["duration"], found["data"]["duration_unit"]) == (288, 2, "天")
    assert site.quote(LIST, clusterid="x" * 21)["msg"].startswith(f"cpu {XEON} 库存不足 (库存: 0, 请求: 4); memory")


@pytest.mark.parametrize(("wrong", "said"), [
    ({"resources": "[{"}, "resources"), ({"resources": "7"}, "resources"), ({"resources": []}, "resources"),
    ({"duration": "0"}, "duration"), ({"duration": "soon"}, "duration"), ({"duration": ""}, "duration"),
    ({"duration_unit": "年"}, "duration_unit"),
])
def test_what_is_no_quote(site: Site, wrong: dict[str, Any], said: str) -> None:
    found = site.quote(LIST, **wrong)
    assert found["status"] is False and said in found["msg"]


def test_free_cards(site: Site) -> None:
    site.part("gpu", RTX, "6", stock="10")
    site.part("gpu", "A100-80G", "18", clusterid="x" * 21, stock="5")
    write(lambda tx: parts.consume(tx, site.centre.key, "n" * 21, [Amount("gpu", RTX, 3)], actor="t"))
    other = centres.add({"name": "other"}, org="beta", actor="t", settings=site.settings)
    parts.add(other.key, kind="gpu", model="XXX-12G", unit_price=1, stock=1, actor="t")
    assert site.ask("cpcwidget/obtaining_gpuinfo", method="GET") == {
        "status": True, "msg": "获取集群GPU库存成功", "data": {RTX: 7, "A100-80G": 5}}
    assert site("cpcwidget/obtaining_gpuinfo").json["data"] == {RTX: 7, "A100-80G": 5, "XXX-12G": 1}
    assert site("cpcwidget/obtaining_gpuinfo", clusterid="x" * 21).json["data"] == {"A100-80G": 5}


def products(**cores: int) -> list[dict[str, Any]]:
    return [{"productid": key, "resources": [{"type": "cpu", "model": XEON, "amount": much}]} for key, much in cores.items()]


def test_products_that_fit_nowhere(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.sell()
    asked = []

    def free_nodes(self: Any, where: Any) -> list[NodeFree]:
        asked.append(where)
        return [NodeFree("a", 8000, 8192, labels={"kyy-gpu": "false"}), NodeFree("b", 32000, 8192, labels={"kyy-gpu": "true"})]

    monkeypatch.setattr(centre_calls.Local, "free_nodes", free_nodes)
    given = {"clusterid": "n" * 21, "kyylabels": "kyy-gpu=false"}
    ask = "cpcbuy/determine_accommodat"
    assert site.ask(ask, resources=products(small=4, big=16, huge=65), method="GET", **given) == {
        "status": True, "msg": "获取不可部署产品ID成功", "data": ["big", "huge"], "reason": "dynamic"}
    assert site.ask(ask, resources=products(huge=65), **given)["reason"] == "static" and len(asked) == 1
    assert site.ask(ask, resources=products(small=4, big=16), clusterid="n" * 21)["data"] == []
    told = site.ask(ask, resources=products(big=16, huge=65), why="1", **given)["why"]
    assert {key: one["code"] for key, one in told.items()} == {"big": "no_node", "huge": "short"}
    broken = site.ask(ask, resources=[{"productid": "a", "resources": [{"type": "cpu", "amount": "x"}]}], **given)
    assert broken["status"] is False and "resources[0].resources[0].amount" in broken["msg"]
    assert site.ask(ask, **given) == {"status": False, "msg": "缺少参数: resources"}


def test_the_executors_half_answers_the_list_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centre_calls.Local, "free_nodes", lambda self, where: [NodeFree("a", 8000, 8192)])
    path = "/pcapi/api/v1/cluster/common/determine_accommodat"
    assert site(path, kubeconfig="k", resources=products(small=4, big=16)).json == ["big"]
    assert site(path, resources=products(small=4)).json == {"status": False, "info": "缺少参数: kubeconfig"}
    wrong = site(path, kubeconfig="k", resources="{").json
    assert wrong["status"] is False and "resources" in wrong["info"]


# what was used


def use(site: Site, time: ManualClock) -> None:
    parts.add(site.centre.key, kind="gpu", model=RTX, unit_price=6, actor="t")
    for key, org in (("a" * 21, "acme"), ("b" * 21, "beta")):
        write(lambda tx, key=key, org=org: tx.run(
            "INSERT INTO instance_period (instance_key, org, centre_key, cluster_key, amounts, began_at) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (key, org, site.centre.key, "n" * 21, json.dumps([["gpu", RTX, 2]]), time.now())))
    time.advance(26 * 3600 + metering.GRACE_S)
    while metering.tick().hours:
        pass


def test_use(site: Site, time_passes: ManualClock) -> None:
    use(site, time_passes)
    found = site.ask("cpcbill/get_usage", orgid="acme")
    assert found["msg"] == "获取用量成功"
    row = {"orgid": "acme", "cpcid": site.centre.key, "clusterid": "n" * 21, "id": "a" * 21, "core_hours": 0,
           "memory_gi_hours": 0, "disk_gi_hours": 0}
    assert found["data"] == {"total": 2, "total_cost": 312, "currency": "元", "timezone": "UTC", "rows": [
        {**row, "time": "2026-03-01 00:00:00", "seconds": 86400, "gpu_hours": 48, "cost": 288, "row_num_": 1},
        {**row, "time": "2026-03-02 00:00:00", "seconds": 7200, "gpu_hours": 4, "cost": 24, "row_num_": 2}]}
    late = {"from": "2026-03-01 22:00:00", "to": "2026-03-01"}
    hours = site.ask("cpcbill/get_usage", by="hour", rows="3", page="2", **late)
    assert (hours["data"]["total"], [row["time"] for row in hours["data"]["rows"]]) == (4, ["2026-03-01 23:00:00"])
    assert site.ask("cpcbill/get_usage", by="org", month="2026-02")["data"]["rows"] == []
    assert len(site.ask("cpcbill/get_usage", by="org", month="2026-03")["data"]["rows"]) == 2
    for wrong in ({"by": "year"}, {"from": "yesterday"}, {"month": "2026-13"}, {"month": "9999-12"},
                  {"from": "2026-03-03", "to": "2026-03-01"}):
        assert site.ask("cpcbill/get_usage", **wrong)["status"] is False


def test_export(site: Site, time_passes: ManualClock) -> None:
    use(site, time_passes)
    answer = site("cpcbill/export_usage", orgid="beta", month="2026-03", method="GET")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="usage-')
    lines = answer.data.decode("utf-8-sig").splitlines()
    assert len(lines) == 27 and lines[1].split(",")[1:3] == ["beta", "b" * 21]


def test_budgets(site: Site, time_passes: ManualClock) -> None:
    use(site, time_passes)
    found = site.ask("cpcbill/set_budget", orgid="acme", amount="300", warn="50", stop="1")
    # What runs since the last metered hour counts too.
    told = {"orgid": "acme", "month": "2026-03", "spent": 312.4, "currency": "元", "over": True, "near": True, "amount": 300,
            "warn": 50, "hard": True, "stop": True, "update_time": found["data"]["update_time"]}
    assert (found["msg"], found["data"]) == ("设置预算成功", told)
    assert site.ask("cpcbill/get_budget")["data"] == {"total": 1, "rows": [{**told, "row_num_": 1}]}
    none = site.ask("cpcbill/get_budget", orgid="beta")["data"]["rows"][0]
    assert (none["spent"], none["amount"], none["over"]) == (312.4, None, False)
    assert site.ask("cpcbill/set_budget", orgid="acme", amount="")["data"]["amount"] is None
    for wrong in ({}, {"amount": "x"}, {"amount": "1", "warn": "0"}, {"amount": "1", "hard": "0", "stop": "1"}):
        assert site.ask("cpcbill/set_budget", orgid="acme", **wrong)["status"] is False
    assert site.ask("cpcbill/set_budget", amount="1") == {"status": False, "msg": "无组织ID"}


# who may


def test_roles_and_organisations(site: Site) -> None:
    admin = keys.create("admin", "admin", LOCAL_ADMIN)["key"]
    viewer, operator, stranger = (keys.create(f"{role}-{org}", role, LOCAL_ADMIN, org=org)["key"] for role, org in (
        ("viewer", "acme"), ("operator", "acme"), ("operator", "beta")))
    given = {"cpcid": site.centre.key, "type": "gpu", "model": RTX, "unit_price": "6", "clusterid": "n" * 21}
    add = "cpcwidget/add_cpcwidget"
    assert site(add, **given).status_code == 401 and site(add, key=viewer, **given).status_code == 403
    assert site(add, key=stranger, **given).json == {"status": False, "msg": f"算力中心不存在: {site.centre.key}"}
    assert site(add, key=operator, **given).json["status"] is True
    assert site("cpcwidget/get_cpcwidget", key=stranger, cpcid=site.centre.key).json["data"]["total"] == 1, "everybody may buy"
    assert site("cpcbill/get_usage", key=stranger, orgid="acme").status_code == 403
    assert site("cpcbill/set_budget", key=operator, orgid="acme", amount="1").status_code == 403
    assert site("cpcbill/set_budget", key=admin, orgid="acme", amount="1").json["status"] is True
    assert site("cpcbill/get_budget", key=viewer).json["data"]["total"] == 1
