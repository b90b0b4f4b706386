"""Is nothing changed that was not said, nothing told that is another's, and is it told right? Faults found in use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloudsched.clock import ManualClock
from cloudsched.dialects.kboss.words import told
from cloudsched.drivers.base import Check, DriverError
from cloudsched.services import keys, operations
from cloudsched.services.caller import LOCAL_ADMIN
from cloudsched.services.centre import metering
from cloudsched.services.centre.centre_calls import Progress
from cloudsched.services.centre.metering import BudgetSpent
from cloudsched.store import clusters
from cloudsched.store.db import write
from tests.services import shop as shops
from tests.services.shop import SEED, Shop

from .conftest import CENTRE, CLUSTER, HOST, HOST_FACTS, ORG, PCAPI, WORKER, Api, PlayedExecutor

PODYAML, WIDGET, BILL = "/dev/cpcc/cpcpodyaml", "/dev/cpcc/cpcwidget", "/dev/cpcc/cpcbill"
DELETE = "/computing/cpcluster_delete.dspy"
GIVEN = {**SEED, "source_authpasswd": "Pa55-w0rd-instance", "orgid": ORG, "source_outsideport": ""}


@pytest.fixture
def shop(api: Api) -> Iterator[Shop]:
    with shops.opened(api.settings) as made:
        yield made


def new(api: Api, centre: str, host: str) -> dict[str, Any]:
    found: dict[str, Any] = api.ok(f"{CLUSTER}/new_cluster.dspy", **{
        "cpcid": centre, "ctl_nodeid": host, "cluster_type": "1", "cluster_name": "batch", "async": "1"})
    return found


# one machine, one executor


@pytest.mark.parametrize(("first", "second", "same"), [
    ("local", "", True), ("http://c.example.com", "http://C.example.com:80/", True),
    ("http://c.example.com", "https://c.example.com", False), ("local", "http://c.example.com", False)])
def test_a_machine_is_of_one_centre_of_an_executor(api: Api, first: str, second: str, same: bool) -> None:
    one = api.centre(name="one", pcapi_url=first)
    other, third = (api.centre(name=name, pcapi_url=second, orgid=org) for name, org in (("other", "acme"), ("third", ORG)))
    host = api.host(one, name="secret name")
    for centre in (other, third)[:2 if same else 1]:
        answer = api.do(f"{HOST}/add_cpcnode.dspy", **{**HOST_FACTS, "cpcid": centre, "name": "x"})
        assert answer["status"] is not same
        if same:
            assert "192.168.0.8:22" in answer["msg"] and ("secret name" in answer["msg"]) is (centre == third)
    if same:
        moved = api.host(other, ip="192.168.0.9")
        assert "192.168.0.8:22" in api.no(f"{HOST}/update_cpcnode.dspy", id=moved, ip="192.168.0.8", adminpwd="x")
        assert api.host(other, sshport="23") and api.ok(f"{HOST}/update_cpcnode.dspy", id=host, name="b")


def test_a_centre_does_not_move_to_an_executor_that_has_its_machines(api: Api) -> None:
    api.host(api.centre(name="one"), name="secret name")
    other = api.centre(name="other", pcapi_url="http://c.example.com", orgid="acme")
    api.host(other)
    said = api.no(f"{CENTRE}/update_cpclist.dspy", id=other, pcapi_url="local", api_pwd="x")
    assert said == "该地址已被其他设备使用: 192.168.0.8:22"


# budgets


def test_a_budget_keeps_what_is_not_said(api: Api) -> None:
    put = f"{BILL}/set_budget.dspy"
    assert "amount" in api.no(put, orgid="acme")
    first = api.ok(put, orgid="acme", amount="5")
    assert (first["warn"], first["hard"], first["stop"]) == (80, True, False)
    api.ok(put, orgid="acme", amount="5", warn="50", stop="1")
    tried = api.ok(put, orgid="acme", amount="7", dry_run="1")
    assert (tried["amount"], tried["warn"], tried["hard"], tried["stop"]) == (7, 50, True, True)
    kept = api.ok(put, orgid="acme", warn="60")
    assert (kept["amount"], kept["warn"], kept["hard"], kept["stop"]) == (5, 60, True, True)
    assert "stop" in api.no(put, orgid="acme", hard="0")
    assert api.ok(put, orgid="acme", hard="0", stop="0")["hard"] is False
    assert api.ok(put, orgid="acme", amount="9")["hard"] is False
    assert api.ok(put, orgid="acme", amount="")["amount"] is None


def test_a_budget_that_is_spent_speaks_of_what_was_asked(api: Api, shop: Shop) -> None:
    def spent(language: str, path: str, **given: str) -> str:
        api.language = language
        return api.no(f"{PODYAML}/{path}_cpcpodyaml.dspy", **{**given, "orgid": ORG})

    key = api.ok(f"{PODYAML}/new_cpcpodyaml.dspy", clusterid=shop.cluster, **GIVEN)["id"]
    metering.set_budget(ORG, amount="0", actor="t")
    assert "预算不允许增加资源实例的用量" in spent("zh", "update", id=key, source_replicasetnum="3")
    api.ok(f"{PODYAML}/stop_cpcpodyaml.dspy", id=key, orgid=ORG)
    assert "预算不允许启动资源实例" in spent("zh", "start", id=key)
    assert spent("en", "start", id=key).endswith("it does not allow starting the instance")
    assert "不能新增资源实例" in spent("zh", "new", clusterid=shop.cluster, **GIVEN)
    with pytest.raises(BudgetSpent):
        write(lambda tx: metering.check_budget(tx, ORG))


# clusters


def test_a_cluster_without_days_can_be_renamed(api: Api, played: PlayedExecutor) -> None:
    centre = api.centre()
    key = new(api, centre, api.host(centre))["clusterid"]
    write(lambda tx: clusters.update(tx, clusters.by_key(key).id, spec="{}"))  # type: ignore[union-attr]
    changed = api.ok(f"{CLUSTER}/update_cpccluster.dspy", id=key, name="b")
    assert (changed["name"], changed["export_date"]) == ("b", "9999-12-31") and len(changed["enable_date"]) == 10


def test_an_operation_of_another_organisation_is_not_there(api: Api, played: PlayedExecutor) -> None:
    centre = api.centre()
    begun = new(api, centre, api.host(centre))
    look = f"{CLUSTER}/get_operation.dspy"
    keys.create("root", "admin", LOCAL_ADMIN)
    made = keys.create("eve", "viewer", LOCAL_ADMIN, org="acme")
    api.key = made["key"]
    for language in ("zh", "en"):
        api.language = language
        for number in (begun["operation"], 9999):
            said = {"zh": "操作不存在: {}", "en": "there is no operation {}"}[language].format(number)
            assert api.do(look, id=number) == {"status": False, "msg": said}


def test_how_a_cluster_of_another_organisation_is_is_not_told(api: Api, played: PlayedExecutor) -> None:
    centre = api.centre()
    key = new(api, centre, api.host(centre))["clusterid"]  # it is not ready
    keys.create("root", "admin", LOCAL_ADMIN)
    api.key = keys.create("eve", "viewer", LOCAL_ADMIN, org="acme")["key"]
    assert api.no(f"{WORKER}/get_cpcworker.dspy", cpcid=centre, clusterid=key) == f"算力集群不存在: {key}"


def test_a_dry_run_of_a_removal_says_what_it_would_touch(api: Api, played: PlayedExecutor, work: Callable[..., None]) -> None:
    centre = api.centre()
    host = api.host(centre)
    played.ends[1] = Progress(False, False, "get the packages: it runs")
    begun = new(api, centre, host)
    work(2)
    answer = api.do(DELETE, id=begun["clusterid"], force="1", dry_run="1")
    number = begun["operation"]
    assert answer["msg"] == f"(试运行, 未执行任何操作) 移除算力集群: 将取消操作 {number}; 将清理并释放设备 gpu设备1"
    assert answer["data"] == {"id": begun["clusterid"], "cancelled": [number], "instances": 0, "hosts": [
        {"id": host, "name": "gpu设备1", "ip": "192.168.0.8", "role": "master"}]}
    assert operations.one(number)["state"] != "cancelled" and operations.one(number)["goal"] != "cancel"


@pytest.mark.parametrize("reached", [False, True])
def test_a_host_that_hangs_is_left_after_a_minute(api: Api, played: PlayedExecutor, work: Callable[..., None],
                                                  time_passes: ManualClock, reached: bool) -> None:
    centre = api.centre()
    host = api.host(centre)
    played.ends[1] = Progress(False)
    begun = new(api, centre, host)
    work(2)
    asked = api.ok(DELETE, id=begun["clusterid"], force="1", **{"async": "1"})
    played.ends[2] = Progress(False, False, "stop what runs: 192.168.0.8: it runs" if reached else
                              "look at the host: 192.168.0.8: no answer within 10 s")
    work(100)
    shown = api.ok(f"{CLUSTER}/get_operation.dspy", id=asked["operation"])
    if reached:
        assert shown["state"] == "running" or shown["state"] == "queued"
        return
    left = [step["detail"] for step in shown["steps"] if "未清理" in step["detail"]]
    assert shown["state"] == "succeeded" and left == ["gpu设备1 未清理: 60 秒内未能连接: 192.168.0.8: 10 秒内没有回答"]
    assert api.hosts(centre)[host]["node_status"] == "0"
    assert [one[1]["id"] for one in played.asked if one[0] == "cancel"][-1] == 2


def test_a_host_is_tried_for_a_bounded_time(api: Api, work: Callable[..., None], time_passes: ManualClock,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try takes long: they are fewer."""
    tries: list[float] = []

    def hang(*_: Any, **__: Any) -> Any:
        time_passes.advance(12.0)
        tries.append(time_passes.now())
        raise DriverError("127.0.0.1: no answer within 12 s", transient=True)

    monkeypatch.setattr("cloudsched.services.centre.executor_ops._first_look", hang)
    number = api.ok(f"{PCAPI}/take_apart", **{"host": "127.0.0.1", "user": "root", "password": "x", "cluster_type": "slurm",
                                              "async": "1"})["operation"]
    work(60)
    assert operations.one(number)["state"] == "failed" and 2 < len(tries) <= 5 and tries[-1] - tries[0] < 62


# instances


def test_a_dry_run_of_a_removal_names_all_that_goes(api: Api, shop: Shop) -> None:
    keys_of = [api.ok(f"{PODYAML}/new_cpcpodyaml.dspy", clusterid=shop.cluster, **{
        **GIVEN, "source_name": name, "source_podengine": "StatefulSet", "source_replicasetnum": "2",
        "source_storagelimits": "5Gi"})["id"] for name in ("a", "b")]

    def objects(key: str, **more: str) -> list[dict[str, str]]:
        return list(api.do(f"{PODYAML}/delete_cpcpodyaml.dspy", id=key, orgid=ORG, **more)["objects"])

    for key, last in zip(keys_of, (False, True), strict=True):
        planned = objects(key, dry_run="1")
        assert {one["action"] for one in planned} == {"将删除"}
        names = {(one["kind"], one["name"]) for one in planned}
        assert len([name for kind, name in names if kind == "PersistentVolumeClaim"]) == 2
        assert any(kind == "Namespace" for kind, _ in names) is last
        gone = {(one["kind"], one["name"]) for one in objects(key)}
        # Volumes are made by the cluster's controller, when it has one.
        assert gone <= names and {kind for kind, _ in names - gone} <= {"PersistentVolumeClaim"}


def test_a_dry_run_of_a_stop_is_refused_as_the_stop_is(api: Api, shop: Shop) -> None:
    key = shop.add().key
    stop = f"{PODYAML}/stop_cpcpodyaml.dspy"
    assert api.ok(stop, id=key, orgid=ORG, dry_run="1")["state"] == "applied"
    write(lambda tx: tx.run("UPDATE instance SET state = 'wanted'"))
    refusals = [api.no(stop, id=key, orgid=ORG, **more) for more in ({"dry_run": "1"}, {})]
    assert refusals[0] == refusals[1] and "wanted" in refusals[0]


# words and bounds


def test_a_number_out_of_range_says_the_range(api: Api) -> None:
    centre = api.centre()
    for language, said in (("zh", "超出范围"), ("en", "out of range")):
        api.language = language
        for field, value, allowed in (("sshport", "99999", "1..65535"), ("cpu_stock", "-1", "0..100000"),
                                      ("gpu_stock", "9" * 40, "0..10000")):
            text = api.no(f"{HOST}/add_cpcnode.dspy", **{**HOST_FACTS, "cpcid": centre, field: value})
            assert said in text and allowed in text, text
        assert said in api.no(f"{CLUSTER}/get_operation.dspy", id="9" * 30)
        assert said not in api.no(f"{HOST}/add_cpcnode.dspy", **{**HOST_FACTS, "cpcid": centre, "sshport": "x"})


def test_what_a_program_said_is_quoted_whole() -> None:
    text = "cloud b, disabled: submission: sbatch: s_p_parse_file: unable to status file /etc/slurm.conf"
    assert told(text, "zh") == "云 b, 已停用: 试提交: 「sbatch: s_p_parse_file: unable to status file /etc/slurm.conf」"
    text = "cloud b, disabled: no workers yet; verified again when one joins"
    assert told(text, "zh") == "云 b, 已停用: 还没有工作节点; 有节点加入时再次检查"


def test_a_slurm_cluster_without_workers_says_that(make_api: Callable[..., Api], played: PlayedExecutor,
                                                   work: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloudsched.services.pool_clouds._ask", lambda place: [Check("submission", False, "sbatch: alarming")])
    played.given = {"join_command": "slurm join 192.168.0.8:6817 --token sealed:1:x"}
    api = make_api()
    centre = api.centre()
    begun = new(api, centre, api.host(centre))
    work()
    api.language = "en"
    steps = api.ok(f"{CLUSTER}/get_operation.dspy", id=begun["operation"])["steps"]
    assert steps[-1]["detail"] == "cloud batch, disabled: no workers yet; verified again when one joins"


@pytest.mark.parametrize(("unit", "stored"), [("second", "秒"), ("min", "分钟"), ("Hours", "小时"), ("d", "天"), ("天", "天")])
def test_units_in_english(api: Api, unit: str, stored: str) -> None:
    centre = api.centre()
    api.ok(f"{WIDGET}/add_cpcwidget.dspy", cpcid=centre, type="cpu", model="X", unit_price="1", stock="4", charge_unit=unit,
           account_unit="yuan")
    row = api.ok(f"{WIDGET}/get_cpcwidget.dspy", cpcid=centre)["rows"][0]
    assert (row["charge_unit"], row["account_unit"]) == (stored, "元")
    asked = {"cpcid": centre, "resources": '[{"type":"cpu","model":"X","amount":1}]', "duration": "1"}
    prices = [api.ok(f"{WIDGET}/accrual_price.dspy", **asked, duration_unit=one)["total_price"] for one in ("week", "w", "周")]
    assert prices[0] == prices[1] == prices[2] > 0
    for language, allowed in (("zh", "秒, 分钟, 小时, 天, 周, 月"), ("en", "second, minute, hour, day, week, month")):
        api.language = language
        assert allowed in api.no(f"{WIDGET}/accrual_price.dspy", **asked, duration_unit="year")


@pytest.mark.parametrize(("user", "hint"), [({"tokenFile": "/etc/x"}, "token"), ({"client-key": "/etc/x"}, "client-key-data"),
                                            ({"exec": {"command": "x"}}, "")])
def test_a_kubeconfig_is_refused_with_what_its_giver_can_do(api: Api, user: dict[str, Any], hint: str) -> None:
    text = json.dumps({"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
                       "clusters": [{"name": "k", "cluster": {"server": "https://127.0.0.1:1"}}],
                       "users": [{"name": "u", "user": user}]})
    for verb, more in (("get_cluster_nodes", {}), ("get_cluster_usage", {"what": "pods"})):
        for api.language in ("en", "zh"):
            said = api.no(f"{PCAPI}/{verb}", kubeconfig=text, **more)
            assert "allow_exec" not in said and "in the options" not in said and "选项" not in said, said
            if hint:
                assert said.endswith(f": {hint})"), said


def test_a_role_is_what_the_verb_makes(api: Api) -> None:
    ssh = {"host": "127.0.0.1", "user": "root", "password": "x", "cluster_type": "slurm", "dry_run": "1"}
    assert "role" in api.no(f"{PCAPI}/new_cluster", **ssh, role="worker")
    assert "role" in api.no(f"{PCAPI}/new_worker", **ssh, role="master", join_command="x")
    assert "role" in api.no(f"{PCAPI}/take_apart", **ssh, role="king")
    assert api.ok(f"{PCAPI}/new_cluster", **ssh, role="master")["steps"]
