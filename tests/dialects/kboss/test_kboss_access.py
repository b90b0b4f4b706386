"""Who may do what over the kboss API: keys, roles, organisations, the pair of the executor's half, web pages, networks; fuzz."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudsched.dialects.kboss import routes
from cloudsched.dialects.kboss.calls import KBOSS, PCAPI, Call, Page, Refusal
from cloudsched.dialects.kboss.texts import language_of
from cloudsched.services import keys
from cloudsched.services.caller import LOCAL_ADMIN, Caller
from cloudsched.services.centre import executor

from .conftest import CENTRE, CENTRE_FACTS, HOST, ORG, Api
from .conftest import PCAPI as PCAPI_PATH

LIST, ADD = f"{CENTRE}/get_cpclist.dspy", f"{CENTRE}/add_cpclist.dspy"
NODES = f"{PCAPI_PATH}/get_cluster_nodes"


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture
def ring(api: Api) -> dict[str, str]:
    """A key of each role; those below admin are of one organisation."""
    return {role: keys.create(role, role, LOCAL_ADMIN, org="" if role == "admin" else ORG)["key"]
            for role in ("admin", "operator", "submitter", "viewer")}


def test_without_keys_loopback_is_open(api: Api) -> None:
    assert api(LIST).status_code == 200
    assert api(LIST, address="192.0.2.7").status_code == 401


def test_every_route_needs_a_key_that_is_right(api: Api, ring: dict[str, str]) -> None:
    for path in routes.table():
        for headers in ({}, {"X-API-Key": "wrong"}, basic("a", "wrong"), {"Authorization": "Nonsense"}):
            answer = api(path, headers=headers)
            assert answer.status_code in (401, 429), path
            assert answer.json["status"] is False and ("info" if path.startswith("/pcapi") else "msg") in answer.json
    assert api(LIST).headers["WWW-Authenticate"].startswith("Basic")


@pytest.mark.parametrize("role", ["viewer", "submitter", "operator", "admin"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_every_route_needs_its_role(api: Api, ring: dict[str, str], role: str, method: str) -> None:
    for path, route in routes.table().items():
        if method not in route.methods:
            continue
        answer = api(path, method=method, headers={"X-API-Key": ring[role]}, query_string={"dry_run": "1"})
        if Caller(role=role).may(route.role):
            assert answer.status_code == 200, (path, answer.text)
        else:
            assert answer.status_code == 403 and route.role in answer.json.get("msg", answer.json.get("info")), path


def test_a_key_comes_in_three_ways(api: Api, ring: dict[str, str]) -> None:
    for headers in ({"X-API-Key": ring["viewer"]}, {"Authorization": f"Bearer {ring['viewer']}"},
                    basic("anybody", ring["viewer"])):
        assert api(LIST, headers=headers).status_code == 200


def test_organisations_do_not_see_each_other(api: Api, ring: dict[str, str]) -> None:
    api.key = ring["admin"]
    other, own = api.centre(orgid="other", name="other"), api.centre(orgid=ORG)
    host = api.host(other)
    api.key = ring["operator"]
    assert [row["id"] for row in api.ok(LIST)["rows"]] == [own]
    assert api.no(f"{HOST}/get_cpcnode.dspy", cpcid=other) == f"算力中心不存在: {other}"
    assert api.no(f"{HOST}/delete_cpcnode.dspy", id=host) == f"算力设备不存在: {host}"
    assert api.no(f"{CENTRE}/update_cpclist.dspy", id=other, name="mine") == f"算力中心不存在: {other}"
    refused = api(LIST, data={"orgid": "other"})
    assert refused.status_code == 403 and refused.json["msg"] == "权限不足: 组织 other 不属于当前用户"
    made = api.ok(ADD, **{**CENTRE_FACTS, "name": "new", "orgid": None})
    assert made["orgid"] == ORG
    assert {row["orgid"] for row in api.ok("/dev/cpcc/cpcaudit/get_audit.dspy")["rows"]} == {ORG}


def test_the_pair_opens_the_executors_half_alone(make_api: Callable[..., Api]) -> None:
    api = make_api(**{"centres.api_user": "apiuser", "centres.api_password": "Pa55-w0rd-api"})
    assert api(NODES).status_code == 401
    assert api(NODES, headers=basic("apiuser", "wrong")).status_code == 401
    assert api(NODES, headers=basic("apiuser", "Pa55-w0rd-api")).status_code == 200
    assert api(LIST, headers=basic("apiuser", "Pa55-w0rd-api")).status_code == 401
    assert api(LIST).status_code == 200


def test_no_web_page_of_elsewhere_changes_anything(api: Api) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert api(ADD, method="GET", headers=headers, query_string=CENTRE_FACTS).status_code == 403
        assert api(LIST, method="GET", headers=headers).status_code == 200
    assert api(LIST, method="GET", headers={"Host": "evil.example"}).status_code == 403
    assert api.ok(LIST)["total"] == 0


def test_only_these_networks_may_call(make_api: Callable[..., Api]) -> None:
    api = make_api(**{"access.kboss_networks": ["10.0.0.0/8"]})
    key = {"X-API-Key": keys.create("a", "admin", LOCAL_ADMIN)["key"]}
    assert api(LIST, address="10.1.2.3", headers=key).status_code == 200
    assert api(LIST, address="::ffff:10.1.2.3", headers=key).status_code == 200
    assert api(LIST, address="192.0.2.7", headers=key).status_code == 403


def test_a_body_has_a_limit(make_api: Callable[..., Api]) -> None:
    api = make_api(**{"web.max_body_mb": "1"})
    for how in ({"data": {"name": "x" * (2 << 20)}}, {"json": {"name": "x" * (2 << 20)}}):
        assert api(ADD, **how).status_code == 413


def test_no_secret_gets_into_a_log(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    centre = api.centre()
    api.host(centre)
    assert "Pa55-w0rd" not in caplog.text


# calls by themselves


def call(params: dict[str, Any], caller: Caller = LOCAL_ADMIN, half: str = KBOSS) -> Call:
    return Call(params, caller=caller, settings=None, half=half)  # type: ignore[arg-type]


def test_quirky_names_and_truths() -> None:
    assert call({"psssword": "a"}).text("password") == "a" and call({"password": "a"}).text("psssword") == "a"
    assert call({"darin": "是"}).boolean("drain") is True and call({"drain": "否"}).boolean("darin") is False
    assert [call({"x": value}).boolean("x") for value in (True, "Yes", 1, "off", "", None)] == [
        True, True, True, False, False, False]
    assert call({"n": 7}).integer("n") == 7 and call({"n": " 7 "}).integer("n") == 7
    assert call({"j": [1]}).json("j") == [1] and call({"j": '{"a": 1}'}).json("j") == {"a": 1}
    for bad in ({"x": "maybe"}, {"x": "½"}):
        with pytest.raises(Refusal, match="x: "):
            call(bad).boolean("x")
    with pytest.raises(Refusal, match=r"Expecting value \(1:2\)"):
        call({"j": "[,]"}, half=PCAPI).json("j")


def test_scope_and_org() -> None:
    assert call({}).scope is None and call({"orgid": "a"}).scope == "a"
    member = Caller("m", "operator", "a")
    assert call({}, member).scope == "a" and call({}, member).org == "a" and call({}, Caller("n", "operator")).scope == ""
    with pytest.raises(Refusal):
        _ = call({"orgid": "b"}, member).scope


@pytest.mark.parametrize(("header", "language"), [
    ("", "zh"), ("en", "en"), ("en-GB,zh;q=0.5", "en"), ("zh-CN,en;q=0.9", "zh"), ("fr,en;q=0.2", "en"), ("fr", "zh"),
    ("en;q=x", "zh"), ("en;q=0", "zh")])
def test_languages(header: str, language: str) -> None:
    assert language_of(header) == language


def test_numbers_of_rows() -> None:
    page = Page(2, 2)
    assert page.of([{"a": 1}, {"a": 2}, {"a": 3}]) == {"total": 3, "rows": [{"a": 3, "row_num_": 3}]}
    assert Page(sort="a", down=True).of([{"a": None}, {"a": 2}, {"a": "x"}])["rows"][0] == {"a": None, "row_num_": 1}


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30),
                   st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
NAMES = st.sampled_from(["cpcid", "id", "name", "page", "rows", "sort", "orgid", "ip", "cpu_stock", "resources", "duration",
                         "options", "clusterid", "host", "port", "label", "opt", "force", "async", "dry_run", "kubeconfig",
                         "unit_price", "type", "source_name", "kind", "since", "duration_unit", "model", "amount",
                         "state", "node_name", "worker_node"])


def test_nothing_makes_a_mistake_of_ours(api: Api) -> None:
    centre = api.centre()
    paths = sorted(routes.table())

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(paths), st.dictionaries(NAMES, VALUES, max_size=8), st.booleans())
    def fuzz(path: str, params: dict[str, Any], known: bool) -> None:
        body = {**params, **({"cpcid": centre, "id": centre} if known else {}), "async": "1"}
        answer = api(path, json=body)
        assert answer.status_code in (200, 400, 403), (path, answer.text)

    fuzz()


# operations of the executor


def test_an_operation_is_its_organisations(make_api: Callable[..., Api]) -> None:
    api = make_api(**{"centres.api_user": "apiuser", "centres.api_password": "pair-pass"})
    ring = {name: keys.create(name, role, LOCAL_ADMIN, org=org)["key"] for name, role, org in (
        ("boss", "admin", ""), ("ann", "operator", ORG), ("ben", "operator", "other"), ("cy", "operator", ""),
        ("di", "operator", ""), ("eve", "operator", ORG))}
    given = {"host": "10.0.0.7", "user": "root", "psssword": "Pa55-w0rd-host", "cluster_type": "1", "async": "1",
             "reference": "r"}

    def begin(**headers: str) -> int:
        answer = api(f"{PCAPI_PATH}/new_cluster", data=given, headers=headers)
        return int(answer.json["data"]["operation"])

    def sees(number: int) -> set[str]:
        callers: dict[str, dict[str, str]] = {name: {"X-API-Key": key} for name, key in ring.items()}
        callers["pair"] = basic("apiuser", "pair-pass")
        found = set()
        for name, headers in callers.items():
            answers = [api(f"{PCAPI_PATH}/{verb}", data={"id": number, "result": "1", "dry_run": "1"}, headers=headers).json
                       for verb in ("operation", "forget")]
            assert answers[0]["status"] is answers[1]["status"], name
            if answers[0]["status"]:
                found.add(name)
            else:
                assert {one["info"] for one in answers} == {f"operate failed: 操作不存在: {number}"}
        return found

    # The same reference of another organisation is another operation.
    anns, bens = begin(**{"X-API-Key": ring["ann"]}), begin(**{"X-API-Key": ring["ben"]})
    cys, pairs = begin(**{"X-API-Key": ring["cy"]}), begin(**basic("apiuser", "pair-pass"))
    assert len({anns, bens, cys, pairs}) == 4 and begin(**{"X-API-Key": ring["eve"]}) == anns
    always = {"boss", "pair"}
    assert sees(anns) == {"ann", "eve", *always} and sees(bens) == {"ben", *always}
    assert sees(cys) == {"cy", *always} and sees(pairs) == always
    told = api(f"{PCAPI_PATH}/forget", data={"id": anns}, headers={"X-API-Key": ring["ann"]}).json
    assert told["status"] is False and "仍在进行" in told["info"]


def test_a_key_named_as_the_pair_is_no_pair(make_api: Callable[..., Api]) -> None:
    api = make_api(**{"centres.api_user": "apiuser", "centres.api_password": "pair-pass"})
    keys.create("boss", "admin", LOCAL_ADMIN)
    key = keys.create("apiuser", "operator", LOCAL_ADMIN, org="other")["key"]
    number = executor.new_cluster(executor.Access("10.0.0.7", password="x"), kind="slurm", org=ORG)
    assert api(f"{PCAPI_PATH}/operation", data={"id": number}, headers={"X-API-Key": key}).json["status"] is False
