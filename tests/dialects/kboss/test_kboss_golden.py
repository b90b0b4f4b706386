"""Every example of centres, devices, labels and the executor's half: request, shape of the answer, texts in both languages."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from cloudsched.dialects.kboss import routes, texts
from cloudsched.errors import Conflict
from cloudsched.services.centre import executor
from cloudsched.services.centre.centre_calls import Local

from .conftest import CENTRE, CENTRE_FACTS, HOST, HOST_FACTS, JOIN, KUBECONFIG, LABEL, ORG, PCAPI, Api
from .hosts import many_hosts

ID = re.compile(r"[A-Za-z0-9_-]{21}\Z")
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\Z")
HOST_ROW = ["id", "cpcid", "name", "clusterid", "node_status", "ip", "devicetype", "sshport", "adminuser", "adminpwd",
            "enable_date", "export_date", "external_ip", "cpu_model", "cpu_stock", "memory_model", "memory_stock",
            "sysdisk_stock", "datadisk_stock", "gpu_model", "gpu_stock", "role", "node_status_text", "devicetype_text",
            "cluster_name", "row_num_"]
SSH = {"host": "192.168.0.3", "port": "22", "user": "root", "psssword": "Pa55-w0rd-host"}
WAYS = ("query", "form", "json")


def by(api: Api, way: str, path: str, params: dict[str, Any], method: str = "POST") -> Any:
    how = {"query": "query_string", "form": "data", "json": "json"}[way]
    return api(path, method=method, **{how: params}).json


# centres


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_centre_is_added_by_any_way(api: Api, way: str, method: str) -> None:
    found = by(api, way, f"{CENTRE}/add_cpclist.dspy", CENTRE_FACTS, method)
    data = found.pop("data")
    assert found == {"status": True, "msg": "新建算力中心成功"}
    assert ID.match(data.pop("id")) and data.pop("api_pwd").startswith("sealed:1:")
    assert data == {name: value for name, value in CENTRE_FACTS.items() if name != "api_pwd"}


def test_centres_are_listed(api: Api) -> None:
    ids = [api.centre(), api.centre(name="测试pcapi", pcapi_url="https://trial.example.com", contactname="kyy", contactphone="")]
    found = api.do(f"{CENTRE}/get_cpclist.dspy", orgid=ORG)
    assert found["msg"] == "算力中心数据查询成功" and found["data"]["total"] == 2
    row = found["data"]["rows"][1]
    assert row.pop("api_pwd").startswith("sealed:1:")
    assert row == {"id": ids[1], "name": "测试pcapi", "orgid": ORG, "pcapi_url": "https://trial.example.com",
                   "api_user": "apiuser",
                   "enable_date": "2025-05-16", "expire_date": "2036-06-17", "contactname": "kyy", "contactphone": "",
                   "row_num_": 2}
    assert api.ok(f"{CENTRE}/get_cpclist.dspy", orgid="another") == {"total": 0, "rows": []}


def test_pages_and_order(api: Api) -> None:
    for name in ("b", "c", "a"):
        api.centre(name=name)

    def names(**params: Any) -> list[tuple[str, int]]:
        return [(row["name"], row["row_num_"]) for row in api.ok(f"{CENTRE}/get_cpclist.dspy", **params)["rows"]]

    assert names(sort="name") == [("a", 1), ("b", 2), ("c", 3)]
    assert names(sort="-name", page=2, rows=2) == [("a", 3)]
    assert names(sort="name desc", page=1, rows=1) == [("c", 1)]
    assert names(page=9, rows=2) == []
    assert api.no(f"{CENTRE}/get_cpclist.dspy", sort="nothing").startswith("参数 sort 错误: nothing")
    assert api.no(f"{CENTRE}/get_cpclist.dspy", page="0") == "参数 page 错误: 0 超出范围 (允许: 1..1000000000)"
    assert api.no(f"{CENTRE}/get_cpclist.dspy", rows="many").startswith("参数 rows 错误: many")


def test_a_centre_is_changed_and_removed(api: Api) -> None:
    centre = api.centre()
    path = f"{CENTRE}/update_cpclist.dspy"
    there = {"pcapi_url": "https://centre.example.com", "api_user": "修改后数据1"}
    token = api.ok(path, id=centre, **there, api_pwd="a new one")["api_pwd"]
    found = api.do(path, id=centre, name="首都算力中心3", pcapi_url="https://centre.example.com", api_user="修改后数据1",
                   api_pwd=token, contactname="ops", contactphone="13800000000", enable_date="2025-05-16")
    assert found == {"status": True, "msg": "更新算力中心成功", "data": {
        "api_pwd": token, "api_user": "修改后数据1", "contactname": "ops", "contactphone": "13800000000",
        "enable_date": "2025-05-16",
        "expire_date": "2036-06-17", "id": centre, "name": "首都算力中心3", "pcapi_url": "https://centre.example.com"}}
    assert api.do(path) == {"status": False, "msg": "无算力中心ID"}
    assert api.ok(path, id=centre, api_pwd="new one")["api_pwd"] not in (token, "new one")
    assert "api_pwd" in api.no(path, id=centre, api_pwd=token)  # a token of an earlier password is no password
    assert api.do(f"{CENTRE}/delete_cpclist.dspy", id=centre) == {
        "status": True, "msg": "删除算力中心成功", "data": {"id": centre, "orgid": ORG}}
    assert api.no(f"{CENTRE}/delete_cpclist.dspy", id=centre) == f"算力中心不存在: {centre}"


@pytest.mark.parametrize(("changes", "told"), [
    ({"name": " "}, "缺少参数: name"),
    ({"name": "a\tb"}, "参数 name 错误"),
    ({"name": "x" * 201}, "参数 name 过长 (最多 200 个字符)"),
    ({"pcapi_url": "ftp://x"}, "参数 pcapi_url 错误: ftp://x"),
    ({"pcapi_url": "http://user:secret@x"}, "参数 pcapi_url 错误: ***"),
    ({"enable_date": "16.5.2025"}, "参数 enable_date 错误: 16.5.2025 不是日期 (格式: YYYY-MM-DD)"),
    ({"expire_date": "2025-02-30"}, "参数 expire_date 错误: 2025-02-30 不是日期"),
    ({"expire_date": "2025-01-01"}, "参数 expire_date 错误: 2025-01-01 早于 enable_date 2025-05-16"),
    ({"api_pwd": "sealed:1:abc"}, "参数 api_pwd 错误: 已加密的值只能原样传回"),
    ({"name": "a\0b"}, "参数 name 含有无法保存的字符"),
])
def test_what_a_centre_may_not_be(api: Api, changes: dict[str, str], told: str) -> None:
    assert api.no(f"{CENTRE}/add_cpclist.dspy", **{**CENTRE_FACTS, **changes}).startswith(told)
    assert api.ok(f"{CENTRE}/get_cpclist.dspy")["total"] == 0


def test_names_are_taken_once_in_an_organisation(api: Api) -> None:
    api.centre()
    assert api.no(f"{CENTRE}/add_cpclist.dspy", **CENTRE_FACTS) == "算力中心名称已存在: 首都算力中心1"
    api.centre(orgid="another")


# devices


def test_a_host_is_added(api: Api) -> None:
    centre = api.centre()
    base = ("ip", "name", "devicetype", "sshport", "adminuser", "adminpwd", "node_status", "enable_date", "export_date")
    found = api.do(f"{HOST}/add_cpcnode.dspy", cpcid=centre, **{name: HOST_FACTS[name] for name in base})
    data = found.pop("data")
    assert found == {"status": True, "msg": "新增算力设备成功"}
    assert data.pop("adminpwd").startswith("sealed:1:") and ID.match(data.pop("id"))
    assert data == {"cpcid": centre, **{name: HOST_FACTS[name] for name in base if name != "adminpwd"}}


def test_hosts_are_listed(api: Api) -> None:
    centre = api.centre()
    host = api.host(centre)
    found = api.do(f"{HOST}/get_cpcnode.dspy", cpcid=centre)
    assert found["status"] and found["msg"] == "获取算力设备成功" and found["data"]["total"] == 1
    row = found["data"]["rows"][0]
    assert list(row) == HOST_ROW
    assert (row["id"], row["clusterid"], row["sshport"], row["cpu_stock"]) == (host, None, 22, 16)
    assert (row["node_status_text"], row["devicetype_text"], row["external_ip"]) == ("空闲", "物理机", "未设置")
    assert api.do(f"{HOST}/get_cpcnode.dspy") == {"status": False, "msg": "无算力中心ID"}
    api.language = "en"
    row = api.ok(f"{HOST}/get_cpcnode.dspy", cpcid=centre)["rows"][0]
    assert (row["node_status_text"], row["devicetype_text"], row["external_ip"]) == ("idle", "physical machine", "not set")


def test_idle_hosts_are_listed(api: Api) -> None:
    centre = api.centre()
    host = api.host(centre)
    api.host(centre, ip="192.168.0.9", name="busy", node_status="1")
    found = api.do(f"{HOST}/get_cpcidle_device.dspy", cpcid=centre)
    assert found["msg"] == "获取空闲设备成功" and [row["id"] for row in found["data"]] == [host]
    assert sorted(found["data"][0]) == sorted(["id", "name", "clusterid", "node_status", "ip", "devicetype", "sshport",
                                               "adminuser",
                                               "adminpwd", "cpcid", "enable_date", "export_date"])


def test_a_host_is_changed_and_removed(api: Api) -> None:
    centre = api.centre()
    host = api.host(centre)
    path = f"{HOST}/update_cpcnode.dspy"
    token = api.hosts(centre)[host]["adminpwd"]
    found = api.do(path, id=host, cpcid=centre, name="gpu设备122cccc", adminpwd=token, cpu_stock="8", gpu_stock="4")
    assert found["msg"] == "更新算力中心成功" and found["data"]["adminpwd"] == token
    assert (found["data"]["name"], found["data"]["sshport"], found["data"]["gpu_stock"]) == ("gpu设备122cccc", "22", "4")
    parts = {(row["type"], row["model"]): row["stock"] for row in
             api.ok("/dev/cpcc/cpcwidget/get_cpcwidget.dspy", cpcid=centre)["rows"]}
    assert parts == {("cpu", "STANDARD"): 8, ("memory", "STANDARD"): 64, ("disk", "SYS"): 100, ("disk", "DATA"): 500,
                     ("gpu", "RTX4090-24G"): 4}
    assert api.do(f"{HOST}/delete_cpcnode.dspy", id=host) == {"status": True, "msg": "删除算力设备成功", "data": {"id": host}}
    assert {row["stock"] for row in api.ok("/dev/cpcc/cpcwidget/get_cpcwidget.dspy", cpcid=centre)["rows"]} == {0}
    assert api.do(f"{HOST}/delete_cpcnode.dspy") == {"status": False, "msg": "无算力设备ID"}
    assert api.no(f"{HOST}/delete_cpcnode.dspy", id=host) == f"算力设备不存在: {host}"


@pytest.mark.parametrize(("changes", "told"), [
    ({"ip": "300.1.1.1"}, "参数 ip 错误: 300.1.1.1"),
    ({"ip": ""}, "缺少参数: ip"),
    ({"sshport": "70000"}, "参数 sshport 错误: 70000 超出范围 (允许: 1..65535)"),
    ({"devicetype": "2"}, "参数 devicetype 错误: 2 (允许: 0, 1)"),
    ({"node_status": "busy"}, "参数 node_status 错误: busy (允许: 0, 1)"),
    ({"cpu_stock": "-1"}, "参数 cpu_stock 错误: -1 超出范围 (允许: 0..100000)"),
    ({"gpu_stock": "1.5"}, "参数 gpu_stock 错误: 1.5 不是整数"),
    ({"adminuser": "ro ot"}, "参数 adminuser 错误: ro ot"),
    ({"adminpwd": ""}, "缺少参数: adminpwd"),
    ({"role": "king"}, "参数 role 错误: king"),
    ({"external_ip": "no address!"}, "参数 external_ip 错误"),
    ({"export_date": "2020-01-01"}, "参数 export_date 错误: 2020-01-01 早于 enable_date 2025-05-16"),
    ({"options": "[]"}, "参数错误"),
])
def test_what_a_host_may_not_be(api: Api, changes: dict[str, str], told: str) -> None:
    centre = api.centre()
    assert api.no(f"{HOST}/add_cpcnode.dspy", **{**HOST_FACTS, "cpcid": centre, **changes}).startswith(told)
    assert api.hosts(centre) == {}


def test_an_address_is_taken_once_and_the_occupied_stay(api: Api) -> None:
    centre = api.centre()
    host = api.host(centre, node_status="1")
    assert api.no(f"{HOST}/add_cpcnode.dspy", **{**HOST_FACTS, "cpcid": centre}) == "该地址已被设备 gpu设备1 使用: 192.168.0.8:22"
    api.host(centre, sshport="2222")
    assert api.no(f"{HOST}/delete_cpcnode.dspy", id=host) == "设备 gpu设备1 正被占用"


def test_nothing_is_written_when_only_asked(api: Api) -> None:
    centre = api.centre(dry_run=None)
    found = api.do(f"{HOST}/add_cpcnode.dspy", **{**HOST_FACTS, "cpcid": centre, "dry_run": "yes"})
    assert found["status"] and found["dry_run"] is True and api.hosts(centre) == {}
    host = api.host(centre)
    assert api.do(f"{HOST}/delete_cpcnode.dspy", id=host, dry_run="是")["dry_run"] is True
    assert api.do(f"{CENTRE}/update_cpclist.dspy", id=centre, name="x", dry_run="1")["data"]["name"] == "x"
    assert list(api.hosts(centre)) == [host] and api.ok(f"{CENTRE}/get_cpclist.dspy")["rows"][0]["name"] == "首都算力中心1"


# labels


def test_labels(api: Api) -> None:
    path = f"{LABEL}/add_cpclabel.dspy"
    given = {"name": "mysql8资源实例", "labeltype": "0", "label_key": "kyy-app", "label_value": "mysql8", "orgid": ORG}
    found = api.do(path, **given)
    data = found.pop("data")
    assert found == {"status": True, "msg": "新增资源标签成功"}
    label, at = data.pop("id"), data.pop("update_time")
    assert ID.match(label) and TIME.match(at) and data == given
    api.ok(path, name="GPU设备", labeltype="1", label_key="kyy-gpu", label_value="true", orgid=ORG)
    rows = api.do(f"{LABEL}/get_cpclabel.dspy", orgid=ORG)
    assert rows["msg"] == "获取资源标签成功"
    assert rows["data"]["rows"][0] == {**given, "id": label, "symbol": ":", "update_time": at, "row_num_": 1}
    assert rows["data"]["rows"][1]["symbol"] == "="
    assert api.no(path, **given) == "资源标签已存在: kyy-app:mysql8"
    assert "label_key" in api.no(path, **{**given, "label_key": "-bad-"})
    assert "labeltype" in api.no(path, **{**given, "labeltype": "9"})
    assert api.do(f"{LABEL}/delete_cpclabel.dspy", id=label, orgid=ORG) == {
        "status": True, "msg": "删除资源标签成功", "data": {"id": label}}
    assert api.no(f"{LABEL}/delete_cpclabel.dspy", id=label) == f"资源标签不存在: {label}"


# the executor's half


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the executor of this process was asked."""
    asked: list[Any] = []

    def note(name: str, answer: Any = None) -> None:
        monkeypatch.setattr(executor, name, lambda *facts, **more: asked.append((name, *facts, more)) or answer)

    note("nodes", [{"node_name": "k8s-master", "node_internalip": "192.168.0.3", "node_externalip": "<none>"}])
    note("pods", [{"pod_name": "mysql-0"}])
    for name in ("switch", "delete_node", "label"):
        note(name)
    return asked


def test_nodes_and_pods_of_a_cluster(api: Api, here: list[Any]) -> None:
    for verb, key in (("get_cluster_nodes", "node_name"), ("get_cluster_pods", "pod_name")):
        found = api(f"{PCAPI}/{verb}", method="GET", query_string=SSH).json
        assert found["status"] is True and found["info"] == "operate success" and found["data"]["total"] == 1
        assert key in found["data"]["rows"][0]
    assert here[0][1].access.password == "Pa55-w0rd-host"
    assert api.do(f"{PCAPI}/get_cluster_pods", **{**SSH, "host": ""}) == {
        "status": False, "info": "operate failed: 缺少参数: host", "data": ""}


def test_a_node_is_switched(api: Api, here: list[Any]) -> None:
    path = f"{PCAPI}/node_state_switch"
    assert api.do(path, **SSH, state="cordon") == {
        "status": True, "info": "switch node success", "data": {"state": "cordon", "drain": False}}
    assert here[-1] == ("switch", here[-1][1], "k8s-master", {"state": "cordon", "drain": False})
    assert api.do(path, **{**SSH, "port": "true"}, state="cordon", darin="true", node_name="w")["data"]["drain"] is True
    assert here[-1][2:] == ("w", {"state": "cordon", "drain": True})
    failed = api.do(path, **SSH, state="melt")
    assert failed["status"] is False and failed["info"].startswith("switch node failed: 参数 state")
    assert failed["data"] == {"state": "melt", "drain": False}


def test_a_node_is_deleted(api: Api, here: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    path, given = f"{PCAPI}/delete_cluster_node", {**SSH, "node_name": "k8s-worker-20250408132243", "force": "true"}
    data = {"node_name": "k8s-worker-20250408132243", "force": True}
    assert api.do(path, **given) == {"status": True, "info": "delete node success", "data": data}

    def refuse(*_: Any, **__: Any) -> None:
        raise Conflict("2 pods run there")

    monkeypatch.setattr(executor, "delete_node", refuse)
    assert api.do(path, **given) == {"status": False, "info": "delete node failed: 「2 pods run there」", "data": data}


def test_a_node_is_labelled(api: Api, here: list[Any]) -> None:
    path, given = f"{PCAPI}/node_label_opt", {**SSH, "worker_node": "w", "label": "kyy-gpu=false", "opt": "label"}
    assert api.do(path, **given) == {"status": True, "info": "节点绑定标签成功", "data": {}}
    assert api.do(path, **{**given, "opt": "unlabel"})["info"] == "节点解绑标签成功"
    assert api.do(path, **{**given, "opt": "x"})["status"] is False
    api.language = "en-GB,en;q=0.9,zh;q=0.1"
    assert api.do(path, **given)["info"] == "node label set"


def test_installing_answers_with_its_result(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Any] = []

    def begin(self: Local, access: Any, **facts: Any) -> int:
        begun.append((access, facts))
        return 7

    for name in ("new_cluster", "new_worker", "take_apart"):
        monkeypatch.setattr(Local, name, begin)
    monkeypatch.setattr(Local, "result", lambda self, number: {"join_command": JOIN, "kubeconfig": KUBECONFIG})
    monkeypatch.setattr("cloudsched.services.centre.centre_clusters.operations.one", lambda number: {"state": "succeeded",
                                                                                              "error": None})
    found = api.do(f"{PCAPI}/new_cluster", **SSH, role="master")
    assert found == {"status": True, "info": "operate success", "data": f"{JOIN} \n {KUBECONFIG}"}
    assert begun[0][1]["kind"] == "kubernetes" and begun[0][1]["role"] == "master"
    assert api.do(f"{PCAPI}/new_cluster", **SSH, cluster_type="1", **{"async": "1"})["data"] == {"operation": 7}
    assert begun[-1][1]["kind"] == "slurm"
    monkeypatch.setattr(Local, "result", lambda self, number: {})
    assert api.do(f"{PCAPI}/new_worker", **SSH, role="worker", join_command=JOIN) == {
        "status": True, "info": "operate success", "data": ""}
    assert begun[-1][1]["join_command"] == JOIN
    monkeypatch.setattr("cloudsched.services.centre.centre_clusters.operations.one",
                        lambda number: {"state": "failed", "error": "192.168.0.3: preflight: swap is on"})
    assert api.do(f"{PCAPI}/new_worker", **SSH, join_command=JOIN) == {
        "status": False, "info": "operate failed: 192.168.0.3: preflight: 「swap is on」", "data": ""}
    assert api.do(f"{PCAPI}/new_worker", **SSH)["info"] == "operate failed: 缺少参数: join_command"


def test_a_real_operation_is_followed(api: Api) -> None:
    number = api.ok(f"{PCAPI}/new_cluster", **SSH, cluster_type="slurm", reference="x:1", **{"async": "1"})["operation"]
    assert api.ok(f"{PCAPI}/new_cluster", **SSH, cluster_type="slurm", reference="x:1", **{"async": "1"})["operation"] == number
    assert api.ok(f"{PCAPI}/new_cluster", **SSH, cluster_type="slurm", reference="x:2", **{"async": "1"})["operation"] != number
    found = api.ok(f"{PCAPI}/operation", id=number)
    assert (found["state"], found["done"], found["kind"]) == ("queued", False, "hosts.new_cluster")
    assert "Pa55-w0rd-host" not in json.dumps(found)
    assert api.do(f"{PCAPI}/operation", id=99)["info"] == "operate failed: 操作不存在: 99"
    plan = api.ok(f"{PCAPI}/new_cluster", **SSH, cluster_type="slurm", dry_run="1")
    assert plan["steps"] and "Pa55-w0rd-host" not in json.dumps(plan)


# the API as a whole


def test_every_route_of_the_contract_is_there() -> None:
    pcapi = ("node_label_opt determine_accommodat new_cluster new_worker get_cluster_pods get_cluster_nodes delete_cluster_node "
             "node_state_switch yaml_apply_delete operation")
    kboss = (
        "cpclist/get_cpclist cpclist/add_cpclist cpclist/update_cpclist cpclist/delete_cpclist cpcnode/get_cpcnode "
        "cpcnode/add_cpcnode cpcnode/update_cpcnode cpcnode/delete_cpcnode cpcnode/get_cpcidle_device cpclabel/get_cpclabel "
        "cpclabel/add_cpclabel cpclabel/delete_cpclabel cpclabel/setup_cpclabel cpccluster/get_cpccluster "
        "cpccluster/update_cpccluster cpccluster/new_cluster cpcpod/get_cpcpod cpcworker/get_cpcworker cpcworker/new_cpcworker "
        "cpcworker/delete_cpcworker cpcpodyaml/new_cpcpodyaml cpcpodyaml/get_cpcpodyaml cpcpodyaml/update_cpcpodyaml "
        "cpcpodyaml/delete_cpcpodyaml cpcwidget/add_cpcwidget cpcwidget/get_cpcwidget cpcwidget/accrual_price "
        "cpcwidget/update_cpcwidget cpcwidget/delete_cpcwidget cpcwidget/obtaining_gpuinfo cpcbuy/determine_accommodat")
    wanted = {f"{PCAPI}/{name}" for name in pcapi.split()} | {f"/dev/cpcc/{name}.dspy" for name in kboss.split()}
    found = routes.table()
    assert (wanted | {"/computing/cpcluster_delete.dspy"}) <= found.keys()
    assert all({"GET", "POST"} <= set(route.methods) for route in found.values())


def test_errors_keep_the_shape(api: Api) -> None:
    nothing = api("/dev/cpcc/nothing.dspy")
    assert (nothing.status_code, nothing.json) == (404, {"status": False, "msg": "接口不存在: /dev/cpcc/nothing.dspy"})
    assert api(f"{PCAPI}/nothing").json == {"status": False, "info": f"接口不存在: {PCAPI}/nothing"}
    wrong = api(f"{CENTRE}/get_cpclist.dspy", method="DELETE")
    assert (wrong.status_code, wrong.headers["Allow"]) == (405, "GET, POST")
    assert wrong.json["msg"] == f"接口 {CENTRE}/get_cpclist.dspy 不支持 DELETE"
    broken = api(f"{CENTRE}/get_cpclist.dspy", data="{", content_type="application/json")
    assert broken.status_code == 400 and broken.json["msg"].startswith("请求体无法解析")
    assert api(f"{CENTRE}/get_cpclist.dspy", json=[1]).status_code == 400
    assert api(f"{CENTRE}/get_cpclist.dspy", method="HEAD").status_code == 200
    assert api("/", method="OPTIONS").status_code == 404


def test_a_mistake_of_ours_is_500_in_the_shape(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloudsched.services.centre.centres.listed", lambda **_: 1 / 0)
    answer = api(f"{CENTRE}/get_cpclist.dspy")
    assert (answer.status_code, answer.json) == (500, {"status": False, "msg": "服务器内部错误, 详情见日志"})


def test_english_by_accept_language(api: Api) -> None:
    api.language = "en-US,en;q=0.8"
    centre = api.centre()
    assert api.do(f"{CENTRE}/get_cpclist.dspy")["msg"] == "compute centres listed"
    assert api.no(f"{HOST}/get_cpcnode.dspy") == "no compute centre id (cpcid)"
    assert api.no(f"{HOST}/add_cpcnode.dspy", cpcid=centre) == "parameter missing: ip"
    assert api(f"{CENTRE}/x").headers["Content-Language"] == "en"


def test_every_text_can_be_said_in_both_languages() -> None:
    assert len(routes.table()) > 40
    for key, (zh, en) in texts._TEXTS.items():
        assert set(re.findall(r"{(\w+)", zh)) == set(re.findall(r"{(\w+)", en)), key


def test_the_audit_says_who_did_what(api: Api) -> None:
    centre = api.centre()
    api.host(centre)
    rows = api.ok("/dev/cpcc/cpcaudit/get_audit.dspy", kind="centre.")["rows"]
    assert [row["action"] for row in rows] == ["centre.host_add", "centre.add"]
    assert rows[0]["user"] == "local" and rows[0]["orgid"] == ORG and TIME.match(rows[0]["time"])
    assert api.ok("/dev/cpcc/cpcaudit/get_audit.dspy", orgid="another")["total"] == 0
    assert api.ok("/dev/cpcc/cpcaudit/get_audit.dspy", user="nobody")["total"] == 0
    assert api.ok("/dev/cpcc/cpcaudit/get_audit.dspy", rows=1, page=2, kind="centre.")["rows"][0]["action"] == "centre.add"


def test_long_lists_of_hosts(api: Api) -> None:
    centre = api.centre()
    many_hosts(centre, 2000)
    found = api.ok(f"{HOST}/get_cpcnode.dspy", cpcid=centre)
    assert found["total"] == 2000 and len(found["rows"]) == 2000
    page = api.ok(f"{HOST}/get_cpcnode.dspy", cpcid=centre, page=3, rows=50, sort="-ip")
    assert page["total"] == 2000 and [row["row_num_"] for row in page["rows"]][:2] == [101, 102]
