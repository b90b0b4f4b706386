"""Does any XML-RPC client work, and nothing it may send do harm? A real client over a real socket."""

from __future__ import annotations

import http.client
import re
import xmlrpc.client
from collections.abc import Iterator
from typing import Any

import pytest

from cloudsched.dialects.cloud_scheduler import admin_app, info_app
from cloudsched.dialects.cloud_scheduler.calls import Call
from cloudsched.dialects.cloud_scheduler.xmlrpc import Endpoint
from cloudsched.settings import Settings
from cloudsched.store import clouds, events
from cloudsched.store.db import Database
from cloudsched.testing.factories import make_cloud, make_node

from .pool import FixedPool
from .server import serve

INFO_METHODS = [
    "get_version", "get_cloud_resources", "get_cloud_config_values", "get_cluster_resources", "get_json_resource",
    "get_cluster_info", "get_json_cluster", "get_vm_stats", "get_total_vms", "get_total_vms_cloud", "get_vm_info",
    "get_json_vm", "get_newjobs", "get_schedjobs", "get_highjobs", "get_idlejobs", "get_runningjobs",
    "get_completejobs", "get_heldjobs", "get_job", "get_json_job", "get_missing_vm_list", "get_vm_startup_time",
    "get_vm_job_run_times", "get_cluster_vm_resources", "get_json_jobpool", "get_developer_information",
    "get_ips_munin", "get_diff_types", "get_job_failure_reasons", "get_image_failures", "check_shared_objs",
    "get_thread_heart_beats"]
ADMIN_METHODS = [
    "change_log_level", "cloud_resources_reconfig", "perform_quick_shutdown", "enable_cloud", "disable_cloud",
    "adjust_cloud_allocation", "delete_all_vm_entry_cloud", "delete_vm_entry", "shutdown_cluster_count",
    "shutdown_cluster_all", "shutdown_vm", "force_retire_count_vm", "force_retire_all_vm", "force_retire_vm",
    "reset_override_state", "refresh_job_proxy_user", "refresh_vm_proxy_user", "list_cloud_alias",
    "cloud_alias_reload", "list_user_limits", "user_limit_reload"]
SYSTEM = ["system.listMethods", "system.methodHelp", "system.methodSignature"]
ARGUMENTS = {
    "get_cluster_info": 1, "get_json_cluster": 1, "get_total_vms_cloud": 1, "get_vm_info": 2, "get_json_vm": 2, "get_job": 1,
    "get_json_job": 1, "change_log_level": 1, "enable_cloud": 1, "disable_cloud": 1, "adjust_cloud_allocation": 2,
    "delete_all_vm_entry_cloud": 1, "delete_vm_entry": 2, "shutdown_cluster_count": 2, "shutdown_cluster_all": 1,
    "shutdown_vm": 2, "force_retire_count_vm": 2, "force_retire_all_vm": 1, "force_retire_vm": 2, "reset_override_state": 2,
    "refresh_job_proxy_user": 1, "refresh_vm_proxy_user": 1}
OPTIONAL = {"get_vm_stats": 1}
BOOLEANS = {"cloud_alias_reload", "user_limit_reload"}


@pytest.fixture
def database(sqlite_database: Database) -> Database:
    return sqlite_database


@pytest.fixture
def info_port(pool: FixedPool, settings: Settings) -> Iterator[int]:
    with serve(info_app(settings)) as port:
        yield port


@pytest.fixture
def admin_port(pool: FixedPool, settings: Settings) -> Iterator[int]:
    with serve(admin_app(settings, wait_limit_s=0.0)) as port:
        yield port


def proxy(port: int, path: str = "") -> Any:
    return xmlrpc.client.ServerProxy(f"http://127.0.0.1:{port}{path}")


def fault(call: Any, *args: Any) -> str:
    with pytest.raises(xmlrpc.client.Fault) as caught:
        call(*args)
    assert caught.value.faultCode == 1
    text: str = caught.value.faultString
    return text


def post(port: int, body: bytes, path: str = "/RPC2", content_type: str = "text/xml") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", path, body, {"Content-Type": content_type})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_introspection(info_port: int, admin_port: int) -> None:
    for port, methods in ((info_port, INFO_METHODS), (admin_port, ADMIN_METHODS)):
        with proxy(port) as server:
            assert server.system.listMethods() == sorted(methods + SYSTEM)
            assert server.system.methodHelp(methods[0]) == ""
            assert server.system.methodSignature(methods[0]) == "signatures not supported"
            assert "takes 0 arguments" in fault(server.system.listMethods, 1)


def test_every_method_with_too_few_and_too_many_arguments(info_port: int, admin_port: int) -> None:
    before = events.last_id()
    for port, methods in ((info_port, INFO_METHODS), (admin_port, ADMIN_METHODS)):
        with proxy(port) as server:
            for method in methods:
                call, wanted = getattr(server, method), ARGUMENTS.get(method, 0)
                if wanted:
                    assert "arguments" in fault(call, *["x"] * (wanted - 1))
                assert "arguments" in fault(call, *["x"] * (wanted + OPTIONAL.get(method, 0) + 1))
    assert events.last_id() == before


def test_every_method_answers_a_string_or_a_boolean(info_port: int, admin_port: int) -> None:
    for port, methods in ((info_port, INFO_METHODS), (admin_port, ADMIN_METHODS)):
        with proxy(port) as server:
            for method in methods:
                arguments = ["INFO"] if method == "change_log_level" else ["alpha", "1"][:ARGUMENTS.get(method, 0)]
                result = getattr(server, method)(*arguments)
                assert type(result) is (bool if method in BOOLEANS else str), method


def test_ports_do_not_share_methods(info_port: int, admin_port: int) -> None:
    with proxy(info_port) as info, proxy(admin_port) as admin:
        assert 'method "enable_cloud" is not supported' in fault(info.enable_cloud, "alpha")
        assert 'method "get_version" is not supported' in fault(admin.get_version)
        assert 'method "_system._list" is not supported' in fault(getattr(info, "_system._list"))
    beta = clouds.by_name("beta")
    assert beta and not beta.enabled


def test_paths_of_clients(info_port: int, admin_port: int) -> None:
    for path in ("", "/RPC2", "/"):
        with proxy(info_port, path) as server:
            assert server.get_total_vms() == "4"
    with proxy(admin_port) as server:
        assert server.list_user_limits() == "{}"
    call = xmlrpc.client.dumps((), "list_user_limits").encode()
    assert post(admin_port, call, path="/")[0] == 404  # POST / has another meaning there
    assert post(info_port, call, path="/RPC2/")[0] == 404
    assert post(info_port, call, path="/", content_type="text/plain")[0] == 405


def test_line_ends_in_a_name_come_back(info_port: int) -> None:
    call = xmlrpc.client.dumps(("NAME",), "get_cluster_info").replace("NAME", "a&#13;&#10;b&#13;c")
    status, body = post(info_port, call.encode())
    assert (status, xmlrpc.client.loads(body)[0][0]) == (200, "Cluster Info: a\r\nb\rc\nCluster named a\r\nb\rc not found.")


def test_numbers_as_strings_and_ints(admin_port: int) -> None:
    with proxy(admin_port) as server:
        assert server.adjust_cloud_allocation("beta", 7) == "Attempt adjustment on cloud beta, change to 7 slots"
        assert server.adjust_cloud_allocation("beta", "7") == "VM slots already set at 7. Nothing to do."
        assert server.shutdown_vm("alpha", 9999) == "Could not find VM with ID: 9999 on Cluster: alpha."
        assert server.shutdown_cluster_count("alpha", "many") == "Unable to shutdown many VMs, use a number."


@pytest.mark.parametrize("value", [True, 1.5, ["alpha"], {"a": 1}, xmlrpc.client.Binary(b"alpha"),
                                   xmlrpc.client.DateTime("20260101T00:00:00")])
def test_arguments_of_another_type_are_faults(admin_port: int, value: object) -> None:
    before = events.last_id()
    with proxy(admin_port) as server:
        assert "not a string or int" in fault(server.enable_cloud, value)
    assert events.last_id() == before


def test_faults_of_bad_values(admin_port: int) -> None:
    with proxy(admin_port) as server:
        assert "LOUD" in fault(server.change_log_level, "LOUD")


def test_multicall(info_port: int) -> None:
    with proxy(info_port) as server:
        many = xmlrpc.client.MultiCall(server)
        many.get_total_vms()
        many.nothing()
        many.get_total_vms_cloud("alpha")
        results = many()
        assert (results[0], results[2]) == ("4", "3")
        assert "is not supported" in fault(results.__getitem__, 1)
        assert "list of at most" in fault(server.system.multicall, [{"methodName": "get_version", "params": []}] * 101)
        nested = server.system.multicall([{"methodName": "system.multicall", "params": [[]]}, 7, {"params": []}])
        assert [each["faultCode"] for each in nested] == [1, 1, 1]


def test_text_of_every_language_and_none_that_xml_cannot_carry(info_port: int) -> None:
    with proxy(info_port) as server:
        assert server.get_cluster_info("ä☃😀 <&>\"'") == (
            "Cluster Info: ä☃😀 <&>\"'\nCluster named ä☃😀 <&>\"' not found.")
        make_node(make_cloud("gamma"), user="bell\x07", vm_type="esc\x1b")
        assert "bell\ufffd" in server.get_cluster_vm_resources()


BOMB = b"""<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;"><!ENTITY d "&c;&c;&c;&c;&c;&c;&c;&c;&c;&c;">]>
<methodCall><methodName>get_cluster_info</methodName><params><param><value>&d;</value></param></params></methodCall>"""
OUTSIDE = b"""<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>
<methodCall><methodName>get_job</methodName><params><param><value>&e;</value></param></params></methodCall>"""


def call_with(value: bytes) -> bytes:
    return (b"<methodCall><methodName>get_job</methodName><params><param><value>" + value
            + b"</value></param></params></methodCall>")


@pytest.mark.parametrize("body", [
    b"", b"\0", b"not xml", b"<", b"<methodCall>", b"<methodCall></methodCall>", b"<a/>", BOMB, OUTSIDE,
    b"<!DOCTYPE methodCall><methodCall><methodName>get_version</methodName></methodCall>",
    b"\xff\xfe<\0", b'<?xml version="1.0" encoding="utf-7"?><methodCall/>', b'<?xml version="1.0" encoding="x"?><a/>',
    b"<methodResponse><params><param><value>x</value></param></params></methodResponse>",
    call_with(b"<int>x</int>"), call_with(b"<int></int>"), call_with(b"<boolean>7</boolean>"), call_with(b"<nil/>"),
    call_with(b"<double>many</double>"), call_with(b"<base64>%%%</base64>"), call_with(b"<int>" + b"9" * 5000 + b"</int>"),
    call_with(b"<struct><member><value>x</value></member></struct>"), call_with(b"<array></array>"),
    call_with(b"<thing>x</thing>"), call_with(b"\xff"), call_with(b"&unknown;"), call_with(b"&#0;"),
    call_with(b"<array><data><value>" * 200 + b"</value></data></array>" * 200), call_with(b"<int>1</int>" * 30_000),
    b"<methodCall><methodName>get_job</methodName></methodCall>",
    b"<methodCall><methodName></methodName></methodCall>", b"<methodCall><methodName>a</methodName><methodName>b"
    b"</methodName></methodCall>", b"<methodCall><params><param><value>x</value></param></params></methodCall>"])
def test_bad_requests_are_faults(body: bytes) -> None:
    endpoint = xmlrpc_endpoint()
    with pytest.raises(xmlrpc.client.Fault) as caught:
        xmlrpc.client.loads(endpoint.answer(body))
    assert caught.value.faultCode == 1
    assert "internal" not in caught.value.faultString
    assert not re.search("root:|lollol", caught.value.faultString)


def test_bad_request_over_the_wire(info_port: int, admin_port: int) -> None:
    for port in (info_port, admin_port):
        status, body = post(port, BOMB)
        assert status == 200
        assert b"document types and entities are not allowed" in body
        status, body = post(port, call_with(b"x" * (2 << 20)))
        assert (status, body) == (413, b"the body is larger than allowed")


def test_an_error_inside_is_a_fault_without_details(
        info_port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from cloudsched.services import pool as pools

    def broken() -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(pools, "pool", broken)
    with proxy(info_port) as server:
        assert fault(server.get_ips_munin) == "Exception:internal server error"
    assert "secret detail" in caplog.text


def xmlrpc_endpoint() -> Any:
    return Endpoint([Call("get_job", lambda layout, name: name, (), required=("jobid",)),
                     Call("get_version", lambda layout: "1", ())])
