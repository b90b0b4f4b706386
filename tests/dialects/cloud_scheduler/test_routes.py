"""Does each request reach the right operation? Paths, parameters, names with any character, 404, 405, 413."""

from __future__ import annotations

import io
import socket
from dataclasses import replace

import pytest
from flask.testing import FlaskClient

from cloudsched.dialects.cloud_scheduler import admin_app, info_app
from cloudsched.dialects.cloud_scheduler.rawpath import raw_path
from cloudsched.settings import Settings
from cloudsched.store import clouds
from cloudsched.store.db import Database
from cloudsched.testing.factories import make_cloud, make_job, make_node

from .pool import FixedPool
from .server import serve


@pytest.fixture
def database(sqlite_database: Database) -> Database:
    return sqlite_database


INFO_PATHS = [
    "/", "/cloud", "/cloud/config", "/clusters", "/clusters.json", "/clusters/alpha", "/clusters/alpha.json",
    "/clusters/alpha/vms", "/clusters/alpha/vms/1001", "/clusters/alpha/vms/1001.json", "/vms", "/vms/resources",
    "/jobs?state=new", "/jobs/x", "/jobs/x.json", "/job-pool.json", "/job_pools.json", "/developer-info",
    "/developer_info", "/diff-types", "/failures/boot", "/failures/image", "/failures?type=boot", "/failures?type=image",
    "/ips", "/shared-objs", "/thread-heart-beats"]
ADMIN_GETS = ["/cloud-aliases", "/user-limits"]


def test_every_path_answers_get_and_head_and_nothing_else(info: FlaskClient, pool: FixedPool) -> None:
    for path in INFO_PATHS:
        answer = info.get(path)
        assert answer.status_code == 200, path
        head = info.head(path)
        assert (head.status_code, head.get_data()) == (200, b""), path
        assert head.content_length == len(answer.get_data())
        for method in ("PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"):
            wrong = info.open(path, method=method)
            assert wrong.status_code == 405, (method, path)
            assert {"GET", "HEAD"} <= set(wrong.headers["Allow"].split(", ")), path


@pytest.mark.parametrize("path", [
    *(path.partition("?")[0] + "/" for path in INFO_PATHS[1:]), "/nothing", "/clouds/alpha", "/cloud-aliases",
    "/user-limits", "/RPC2/", "/clusters//vms", "/clusters/a/b", "/clusters/a/vms/b/c", "/jobs", "/failures",
    "/failures?type=disk", "/failures/disk", "/failures?type=", "/vms?metric=", "/vms?metric=ALL", "/vms?metric=x",
    "/clusters/alpha/vms?metric=", "/clusters/no/vms?metric=x", "/Clusters", "/job-pool", "/clusters%2ejson"])
def test_not_found(info: FlaskClient, pool: FixedPool, path: str) -> None:
    answer = info.get(path)
    assert (answer.status_code, answer.get_data(as_text=True)) == (404, "not found")
    assert answer.content_type == "text/plain; charset=utf-8"
    assert info.head(path).status_code == 404


@pytest.mark.parametrize(("method", "path", "form"), [
    ("PUT", "/", {}), ("PUT", "/", {"log_level": "LOUD"}), ("PUT", "/", {"log_level": ""}), ("POST", "/", {}),
    ("POST", "/", {"action": "stop"}), ("PUT", "/clouds/alpha", {}), ("PUT", "/clouds/alpha", {"action": "x"}),
    ("PUT", "/clouds/alpha", {"action": "x", "allocations": "3"}), ("PUT", "/clouds/alpha", {"action": ""}),
    ("PUT", "/clouds/alpha/vms", {}), ("PUT", "/clouds/alpha/vms", {"action": "shutdown"}),
    ("PUT", "/clouds/alpha/vms", {"action": "force_retire"}), ("POST", "/clouds/alpha/vms", {"action": "force_retire"}),
    ("PUT", "/clouds/alpha/vms", {"action": "remove"}), ("PUT", "/clouds/alpha/vms", {"action": "remove", "count": "2"}),
    ("PUT", "/clouds/alpha/vms", {"action": "reset_override_state", "count": "all"}),
    ("POST", "/clouds/alpha/vms", {"action": "shutdown", "count": "all"}), ("POST", "/clouds/alpha/vms", {"count": "all"}),
    ("DELETE", "/clouds/alpha/vms", {"count": "2"}), ("DELETE", "/clouds/alpha/vms", {"count": ""}),
    ("PUT", "/clouds/alpha/vms/1001", {}), ("PUT", "/clouds/alpha/vms/1001", {"action": "explode"}),
    ("POST", "/clouds/alpha/vms/1001", {"action": "shutdown"}), ("POST", "/clouds/alpha/vms/1001", {}),
    ("POST", "/users/zoe", {}), ("POST", "/users/zoe", {"refresh": "everything"}),
    ("POST", "/users/", {"refresh": "job_proxy"}), ("PUT", "/clouds/", {"action": "enable"}),
    ("GET", "/clusters", {}), ("GET", "/jobs", {}), ("GET", "/vms", {}), ("GET", "/cloud", {}),
    ("POST", "/user-limits/", {}), ("PUT", "/clouds/alpha/", {"action": "enable"})])
def test_operations_not_found_change_nothing(
        admin: FlaskClient, pool: FixedPool, method: str, path: str, form: dict[str, str]) -> None:
    from cloudsched.store import events

    before = events.last_id()
    answer = admin.open(path, method=method, data=form)
    assert (answer.status_code, answer.get_data(as_text=True)) == (404, "not found")
    assert admin.open(path, method=method, query_string=form).status_code == 404
    assert events.last_id() == before


@pytest.mark.parametrize(("method", "path", "allowed"), [
    ("GET", "/", "POST, PUT"), ("GET", "/clouds/alpha", "PUT"), ("POST", "/clouds/alpha", "PUT"),
    ("DELETE", "/clouds/alpha", "PUT"), ("GET", "/clouds/alpha/vms", "DELETE, POST, PUT"),
    ("GET", "/clouds/alpha/vms/1001", "DELETE, POST, PUT"), ("PUT", "/cloud-aliases", "GET, HEAD, POST"),
    ("DELETE", "/user-limits", "GET, HEAD, POST"), ("GET", "/users/zoe", "POST"), ("PUT", "/users/zoe", "POST"),
    ("GET", "/RPC2", "POST"), ("OPTIONS", "/", "POST, PUT")])
def test_wrong_method(admin: FlaskClient, pool: FixedPool, method: str, path: str, allowed: str) -> None:
    answer = admin.open(path, method=method)
    assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)


def test_root_of_the_info_port(info: FlaskClient) -> None:
    assert info.put("/").status_code == 405
    assert info.post("/", data={"action": "reconfig"}).status_code == 405
    assert info.get("/RPC2").headers["Allow"] == "POST"


# parameters: contract 1.1


@pytest.mark.parametrize("how", ["query_string", "data"])
def test_parameters_in_either_place(admin: FlaskClient, pool: FixedPool, how: str) -> None:
    def ask(method: str, path: str, **given: str) -> str:
        answer = admin.open(path, method=method, **{how: given})
        assert answer.status_code == 200
        return answer.get_data(as_text=True)

    assert ask("PUT", "/clouds/beta", action="enable") == "Cloud: beta enabled."
    assert ask("PUT", "/clouds/beta", allocations="5") == "Attempt adjustment on cloud beta, change to 5 slots"
    assert ask("POST", "/", action="quick_shutdown") == ""
    assert ask("POST", "/users/u", refresh="vm_proxy") == ""
    assert ask("PUT", "/clouds/alpha/vms/1001", action="force_retire", count="9") == "Retired VM 1001 on alpha."
    assert ask("DELETE", "/clouds/beta/vms", count="all") == "Removed all VMs from beta."


def test_the_query_wins_and_the_last_of_each_place(admin: FlaskClient, pool: FixedPool) -> None:
    def text(path: str, body: str) -> str:
        return admin.put(path, data=body, content_type="application/x-www-form-urlencoded").get_data(as_text=True)

    assert text("/clouds/beta?action=enable", "action=disable") == "Cloud: beta enabled."
    assert text("/clouds/beta?action=enable&action=disable", "action=enable") == "Cloud: beta disabled."
    assert text("/clouds/beta", "action=disable&action=enable&extra=1") == "Cloud: beta enabled."
    assert text("/clouds/beta?allocations=6", "action=disable") == "Cloud: beta disabled."  # action decides
    assert text("/clouds/beta", "allocations=2&allocations=7") == "Attempt adjustment on cloud beta, change to 7 slots"


def test_forms_in_parts_and_other_bodies(admin: FlaskClient, pool: FixedPool) -> None:
    parts = admin.put("/clouds/beta", data={"action": "enable"}, content_type="multipart/form-data")
    assert parts.get_data(as_text=True) == "Cloud: beta enabled."
    for content_type in ("application/json", "text/plain", "application/octet-stream"):
        assert admin.put("/clouds/beta", data=b"action=enable", content_type=content_type).status_code == 404
        query = admin.put("/clouds/beta?action=enable", data=b"\xff\0{", content_type=content_type)
        assert query.status_code == 200
    assert admin.put("/clouds/beta?action=disable", data=b"", headers={"Content-Type": ""}).status_code == 200
    assert admin.post("/user-limits").status_code == 200
    assert admin.put("/clouds/beta", data=b"action=\xff\xfe&%zz=%", content_type=FORM).status_code == 404


FORM = "application/x-www-form-urlencoded"


def test_a_body_is_no_parameters_for_get(info: FlaskClient, pool: FixedPool) -> None:
    assert info.get("/jobs", data={"state": "new"}).status_code == 404


def test_too_large_a_body(settings: Settings, database: Database, pool: FixedPool) -> None:
    small = replace(settings, web=replace(settings.web, max_body_mb=1))
    for app in (info_app(small), admin_app(small)):
        answer = app.test_client().post("/RPC2", data=b"x" * (2 << 20), content_type="text/xml")
        assert answer.status_code == 413
    answer = admin_app(small).test_client().put("/clouds/beta", data=b"a=" + b"x" * (2 << 20), content_type=FORM)
    assert answer.status_code == 413
    beta = clouds.by_name("beta")
    assert beta and not beta.enabled


# names: contract 1.2

NAMES = ["a/b", "a b", "a?b#c", "a%b", "a%2Fb", "a.b", "a@b:c", "ä☃", "..", "UPPER", "{name}", "a+b", "'; --", "~x"]


@pytest.mark.parametrize("name", NAMES)
def test_any_character_in_names(info: FlaskClient, admin: FlaskClient, pool: FixedPool, name: str) -> None:
    from urllib.parse import quote

    cloud = make_cloud(name)
    make_node(cloud, name)
    job = make_job(key=f"{name}#77.0#1", batch_id=77)
    quoted = quote(name, safe="")
    assert info.get(f"/clusters/{quoted}").get_data(as_text=True).startswith(
        f"Cluster Info: {name}\nCluster: {name.lower()} \nADDRESS")
    assert f'"name": {ascii_json(name.lower())}' in info.get(f"/clusters/{quoted}.json").get_data(as_text=True)
    assert "not found" not in info.get(f"/clusters/{quoted}/vms/{quoted}").get_data(as_text=True)
    assert f'"id": {ascii_json(name)}' in info.get(f"/clusters/{quoted}/vms/{quoted}.json").get_data(as_text=True)
    assert info.get(f"/clusters/{quoted}/vms?metric=total").get_data(as_text=True) == "1"
    assert ".0#1" in info.get(f"/jobs/{quote(job.key, safe='')}").get_data(as_text=True)
    assert admin.put(f"/clouds/{quoted}", data={"action": "enable"}).get_data(as_text=True) == f"Cloud: {name} enabled."
    reset = admin.put(f"/clouds/{quoted}/vms/{quoted}", data={"action": "reset_override_state"})
    assert reset.get_data(as_text=True) == f"Reset state of {name} on {name}"
    assert admin.post(f"/users/{quoted}", data={"refresh": "job_proxy"}).status_code == 200


def ascii_json(text: str) -> str:
    import json

    return json.dumps(text)


def test_names_are_decoded_once_and_echoed_as_written(info: FlaskClient, pool: FixedPool) -> None:
    assert info.get("/clusters/a%252Fb").get_data(as_text=True).startswith("Cluster Info: a%2Fb\n")
    assert info.get("/clusters/ALPHA").get_data(as_text=True).startswith("Cluster Info: ALPHA\nCluster: alpha ")
    # A final .json is no part of the name, unless it is written in another way.
    assert info.get("/clusters/alpha.json").content_type == "application/json"
    assert info.get("/clusters/alpha%2Ejson").get_data(as_text=True).endswith("Cluster named alpha.json not found.")
    assert info.get("/clusters/alpha.json.json").get_data(as_text=True) == "{}"


@pytest.mark.parametrize("piece", ["%ff%fe", "%00", "a%00b", "%c0%af", "%ed%a0%80", "%", "%zz", "%F0%9F%98"])
def test_binary_names_are_simply_unknown(info: FlaskClient, admin: FlaskClient, pool: FixedPool, piece: str) -> None:
    assert info.get(f"/clusters/{piece}").get_data(as_text=True).endswith(" not found.")
    assert info.get(f"/clusters/alpha/vms/{piece}").get_data(as_text=True).endswith(" not found.\n")
    assert info.get(f"/jobs/{piece}").get_data(as_text=True) == "Job not found."
    assert admin.put(f"/clouds/{piece}?action=enable").get_data(as_text=True).startswith("Could not find cloud ")
    assert admin.put(f"/clouds/alpha/vms/{piece}?action=remove").get_data(as_text=True).startswith("Could not find VM ID: ")
    assert admin.post(f"/users/{piece}?refresh=vm_proxy").get_data() == b""
    assert admin.put(f"/clouds/alpha?allocations={piece}").status_code == 200


def test_over_a_real_socket(settings: Settings, database: Database, pool: FixedPool) -> None:
    """Request targets as they come: absolute form, bytes beyond ASCII, the raw path of the server."""
    make_cloud("a/b")
    with serve(info_app(settings)) as port:
        assert b"Cluster: a/b " in raw(port, b"GET /clusters/a%2Fb HTTP/1.0\r\n\r\n")
        assert b"Cluster: a/b " in raw(port, b"GET http://localhost/clusters/a%2Fb HTTP/1.0\r\n\r\n")
        assert raw(port, b"GET /clusters/a/b HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 404")
        assert b"Cloud Scheduler version" in raw(port, b"GET http://localhost HTTP/1.0\r\n\r\n")
        for path in (b"/clusters//", b"*", b"/clusters/%2F/"):
            assert raw(port, b"GET " + path + b" HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\nnot found"), path


@pytest.mark.parametrize(("target", "path"), [
    ("/clusters/a%2Fb?x=/y", "/clusters/a%2Fb"), ("http://host:1/a%2Fb?x", "/a%2Fb"), ("http://host", "/"),
    ("/a\xc3\xa4%20\xff", "/a%C3%A4%20%FF"), ("/a;b=c,d~e", "/a;b=c,d~e"), ("//a", "/%2Fa"), ("*", "*")])
def test_raw_path(target: str, path: str) -> None:
    assert raw_path({"RAW_URI": target, "PATH_INFO": "/decoded"}) == path
    assert raw_path({"REQUEST_URI": target, "PATH_INFO": "/decoded"}) == path


def test_a_server_that_hides_the_raw_path(settings: Settings, database: Database, pool: FixedPool) -> None:
    seen = {}

    def start(status: str, headers: object) -> None:
        seen["status"] = status

    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/clusters/a b%\xc3\xa4", "SERVER_NAME": "x", "SERVER_PORT": "1",
               "wsgi.url_scheme": "http", "wsgi.input": None, "SERVER_PROTOCOL": "HTTP/1.1"}
    body = b"".join(info_app(settings)(environ, start)).decode()  # type: ignore[arg-type]
    assert (seen["status"], body.split("\n")[0]) == ("200 OK", "Cluster Info: a b%ä")


def raw(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        found = b""
        while piece := connection.recv(65536):
            found += piece
    return found


def test_a_body_that_was_cut_off_does_nothing(pool: FixedPool, settings: Settings) -> None:
    with serve(admin_app(settings)) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"PUT /clouds/alpha HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
                           b"Content-Length: 14\r\n\r\nallocations=1")
        connection.shutdown(socket.SHUT_WR)
        found = connection.recv(65536)
    assert b" 400 " in found.partition(b"\r\n")[0]
    assert clouds.all_clouds()[0].max_slots == 10


def test_a_body_behind_a_server_that_does_not_tell_of_its_end(admin: FlaskClient, pool: FixedPool) -> None:
    """As gunicorn hands it over: the end of the stream is the end of the body, however long it was to be."""
    form = {"CONTENT_TYPE": "application/x-www-form-urlencoded", "wsgi.input_terminated": True}
    cut = {**form, "wsgi.input": io.BytesIO(b"action=disable"), "CONTENT_LENGTH": "50"}
    assert admin.put("/clouds/alpha", environ_overrides=cut).status_code == 400
    chunks = {**form, "wsgi.input": io.BytesIO(b"action=disable&x=" + b"a" * (33 << 20)), "CONTENT_LENGTH": ""}
    assert admin.put("/clouds/alpha", environ_overrides=chunks).status_code == 413
    assert clouds.all_clouds()[0].enabled == 1
    whole = {**form, "wsgi.input": io.BytesIO(b"action=disable"), "CONTENT_LENGTH": ""}
    assert admin.put("/clouds/alpha", environ_overrides=whole).text == "Cloud: alpha disabled."


# errors of the server itself


def test_server_error(info: FlaskClient, pool: FixedPool, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloudsched.services import pool as pools

    def broken() -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(pools, "pool", broken)
    answer = info.get("/ips")
    assert (answer.status_code, answer.get_data(as_text=True)) == (500, "internal server error")


def test_database_away(info: FlaskClient, pool: FixedPool, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloudsched.errors import Unavailable
    from cloudsched.services import pool as pools

    def away() -> None:
        raise Unavailable("the database is away: host db refused")

    monkeypatch.setattr(pools, "pool", away)
    answer = info.get("/ips")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


# answers shown again


def test_kept_answers_change_with_every_event(info: FlaskClient, admin: FlaskClient, pool: FixedPool) -> None:
    assert "beta" in info.get("/cloud").get_data(as_text=True)
    assert "False" in info.get("/cloud").get_data(as_text=True)
    admin.put("/clouds/beta?action=enable")
    assert "False" not in info.get("/cloud").get_data(as_text=True)
    before = info.get("/jobs?state=new").get_data(as_text=True)
    make_job()
    assert len(info.get("/jobs?state=new").get_data(as_text=True).splitlines()) == len(before.splitlines()) + 1


def test_kept_answers_are_not_rendered_again(
        info: FlaskClient, pool: FixedPool, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloudsched.services import pool_views

    first = info.get("/jobs?state=new").get_data()
    monkeypatch.setattr(pool_views, "job_list", None)
    assert info.get("/jobs?state=new").get_data() == first
