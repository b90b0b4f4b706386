"""What does bad input get? A clear answer below 500 that changes nothing."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from cloudsched.testing.instance import Answer, Instance

from .rows import value

pytestmark = pytest.mark.e2e

JSON = {"Content-Type": "application/json"}
XML = {"Content-Type": "text/xml"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
NAMES = ["\x00", "a\nb", "é", "日本", "../../etc/passwd", "%", "%2F", "a/b", "#", "?", " ", "'; DROP TABLE job; --", "\\", "\x7f",
         "x" * 5000, "\u202e", "{}", "[]", "null", "-1", "0", "1e309", "9" * 40, "\udc80"]
COUNTED = ("job", "node", "cloud", "api_key", "join_token", "user_limit", "cloud_alias", "operation")


@pytest.fixture(autouse=True)
def _changes_nothing(house: Instance) -> Iterator[None]:
    """No row appears or goes, whatever was sent, and the server goes on."""
    before = {table: value(house, f"SELECT count(*) FROM {table}") for table in COUNTED}
    yield
    assert {table: value(house, f"SELECT count(*) FROM {table}") for table in COUNTED} == before
    assert house.answers()


def _refused(answer: Answer, *statuses: int) -> Answer:
    assert 400 <= answer.status < 500, (answer.status, answer.text[:500])
    assert not statuses or answer.status in statuses, (answer.status, answer.text[:500])
    assert "Traceback" not in answer.text
    assert answer.text.strip()
    return answer


BODIES: list[tuple[Any, str]] = [
    ("", ""), ("{", ""), ("nonsense", ""), ("[]", ""), ("null", ""), ('"text"', ""), ("{}", "command"),
    ({"command": "not a list"}, "command"), ({"command": []}, "command"), ({"command": [1]}, "command"),
    ({"command": ["x"], "cores": "two"}, "cores"), ({"command": ["x"], "cores": 0}, "cores"),
    ({"command": ["x"], "cores": 1.5}, "cores"),
    ({"command": ["x"], "memory_mb": -1}, "memory_mb"), ({"command": ["x"], "memory_mb": 10**30}, "memory_mb"),
    ({"command": ["x"], "unknown_field": 1}, "unknown_field"), ({"command": ["x"], "kind": "magic"}, "kind"),
    ({"command": ["x"], "env": {"A B": "x"}}, "env"), ({"command": ["x"], "env": []}, "env"),
    ({"command": ["x"], "time_limit_s": -5}, "time_limit_s"), ({"command": ["x"], "max_retries": 101}, "max_retries"),
    ({"command": ["x"], "after_ok": [999_999_999]}, "after_ok"), ({"command": ["x"], "after_ok": "1"}, "after_ok"),
    ({"command": ["x"], "array": {"size": 0}}, "array"), ({"command": ["x"], "array": {"size": 10**9}}, "array"),
    ({"command": ["x"], "input_files": [{"name": "../up", "content_base64": ""}]}, "input_files"),
    ({"command": ["x"], "input_files": [{"name": "a", "content_base64": "?"}]}, "input_files"),
    ({"command": ["x"], "output_files": ["/etc/passwd"]}, "output_files"),
    ({"jobs": []}, "jobs"), ({"jobs": [{"command": ["x"]}, {"command": 1}]}, "jobs[1]"),
    ({"command": ["x"], "name": "a\0b"}, "name"),
    ({"jobs": [{"command": ["x"], "after_ok": ["#1"]}, {"command": ["x"], "after_ok": ["#0"]}]}, "after_ok"),
    ('{"command": ["x"], "priority": NaN}', ""), ("[" * 100_000, ""), ('{"command": ["\\ud800"]}', ""), (b"\xff\xfe\x00", ""),
]


@pytest.mark.parametrize("index", range(len(BODIES)))
def test_job_bodies(house: Instance, index: int) -> None:
    body, field = BODIES[index]
    raw = body if isinstance(body, bytes | str) else json.dumps(body)
    answer = _refused(house.call("POST", "/api/v2/jobs", raw, headers=JSON), 400, 404, 409, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json
    assert told["status"] == answer.status and told["detail"]
    if field:
        assert field.partition("[")[0] in answer.text, answer.text


def test_bodies_over_the_limit(house: Instance) -> None:
    """The announced length is enough to refuse; the bytes need not be sent."""
    for port in (house.native, house.info, house.admin):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(b"POST /api/v2/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                               b"Content-Length: 99999999999\r\n\r\n{")
            assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
    with socket.create_connection(("127.0.0.1", house.native), timeout=20) as connection:
        connection.sendall(b"POST /api/v2/jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
        try:
            for _ in range(40):
                connection.sendall(piece)
            connection.sendall(b"0\r\n\r\n")
        except OSError:
            pass  # refused before everything was sent
        else:
            assert connection.recv(4096).split()[1] == b"413"


def test_requests_that_are_no_http(house: Instance) -> None:
    for raw in (b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
                b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5000 + b"\r\n"):
        with socket.create_connection(("127.0.0.1", house.native), timeout=20) as connection:
            connection.sendall(raw)
            answer = connection.recv(4096)
        assert not answer.startswith(b"HTTP/1.1 5"), (raw[:40], answer[:200])


@pytest.mark.parametrize("path", ["jobs/{}", "jobs/{}/output", "jobs/{}/files", "nodes/{}", "clouds/{}",
                                  "operations/{}", "why/job/{}",
                                  "why/node/{}", "trace/{}"])
def test_native_names(house: Instance, path: str) -> None:
    for name in NAMES:
        raw = quote(name, safe="", errors="surrogateescape")
        answer = house.call("GET", "/api/v2/" + path.format(raw))
        assert answer.status in (400, 404, 414), (path, name, answer.status, answer.text[:300])


@pytest.mark.parametrize("query", ["limit=0", "limit=-1", "limit=x", "limit=99999999999999999999", "cursor=%00", "cursor=zzz",
                                   "order=sideways", "state=unknown", "state=", "limit=1&limit=2", "nonsense=1",
                                   "%FF=%FE", "state=%00"])
def test_native_queries(house: Instance, query: str) -> None:
    answer = house.call("GET", f"/api/v2/jobs?{query}")
    assert answer.status < 500, answer.text[:300]
    if query != "state=":
        assert answer.status == 400, (query, answer.status, answer.text[:200])


def test_wrong_methods_and_media(house: Instance) -> None:
    _refused(house.call("DELETE", "/api/v2/jobs"), 405)
    _refused(house.call("PATCH", "/api/v2/jobs/1", "{}", headers=JSON), 404, 405)
    _refused(house.call("POST", "/api/v2/jobs", "a=b", headers=FORM), 415)
    _refused(house.call("GET", "/api/v2/no/such/thing"), 404)
    _refused(house.call("POST", "/api/v2/jobs", '{"kind":"noop"}', headers={**JSON, "Idempotency-Key": "x" * 5000}), 400)
    _refused(house.call("GET", "/api/v2/events", headers={"Accept": "text/event-stream", "Last-Event-ID": "zzz"}), 400)


CLOUDS: list[Any] = [{}, {"name": ""}, {"name": "x"}, {"name": "x", "kind": "no-such-kind"},
                     {"name": "x", "kind": "local", "slots": "many"},
                     {"name": "x", "kind": "local", "slots": -7}, {"name": "x", "kind": "local", "surprise": 1},
                     {"name": "local-a", "kind": "local", "slots": 1, "memory_mb": 64},
                     {"name": "a\0b", "kind": "local", "slots": 1, "memory_mb": 64}, [], "text", None]


@pytest.mark.parametrize("body", CLOUDS)
def test_clouds(house: Instance, body: Any) -> None:
    _refused(house.call("POST", "/api/v2/clouds", json.dumps(body), headers=JSON))


@pytest.mark.parametrize("what, body", [
    ("keys", {"name": "x", "role": "emperor"}), ("keys", {}), ("nodes/tokens", {"cloud": "none"}),
    ("nodes/tokens", {"ttl_s": "long"}),
    ("jobs/cancel", {}), ("jobs/cancel", {"ids": "all"}), ("jobs/cancel", {"ids": [True]}), ("jobs/cancel", {"state": "odd"}),
    ("jobs/1e9/cancel", None), ("nodes/none/drain", None), ("agent/join", {"token": "wrong", "profile": {}}), ("agent/join", {}),
    ("agent/join", []), ("agent/sync", {"want": 1}),
])
def test_other_bodies(house: Instance, what: str, body: Any) -> None:
    _refused(house.call("POST", f"/api/v2/{what}", body))


def test_agent_calls_with_a_forged_secret(house: Instance) -> None:
    for bearer in ("", "1", "1.", "1.wrong", "x.y", "9" * 30 + ".z", "-1.a"):
        headers = {**JSON, "Authorization": f"Bearer {bearer}"}
        _refused(house.call("POST", "/api/v2/agent/sync", '{"want": 1}', headers=headers), 401)
        _refused(house.call("POST", "/api/v2/agent/output?job=1&attempt=1&stream=stdout&offset=0", b"x",
                            headers={"Authorization": f"Bearer {bearer}"}), 401)
        _refused(house.call("GET", "/api/v2/agent/files/1/name", headers=headers), 401)


BOMB = ('<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "lol">'
        + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
        + ']><methodCall><methodName>&j;</methodName></methodCall>')
FILE = ('<?xml version="1.0"?><!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><methodCall><methodName>&x;</methodName>'
        "</methodCall>")
CALL = "<methodCall><methodName>{}</methodName><params>{}</params></methodCall>"


@pytest.mark.parametrize("body", [
    BOMB, FILE, "", "<", "<methodCall>", "not xml", "<a/>", "\x00", CALL.format("no_such", ""), CALL.format("get_vm_info", ""),
    CALL.format("get_cluster_info", "<param><value><array><data/></array></value></param>"),
    CALL.format("get_cluster_info", "<param/>"),
    CALL.format("get_version", "<param><value>x</value></param>" * 50), "<methodCall>" + "<value>" * 10_000,
    CALL.format("__class__", ""), CALL.format("system.multicall", "<param><value><int>1</int></value></param>"),
    "<?xml version='1.0' encoding='no-such'?><methodCall/>", b"\xff\xfe<\x00m\x00"], ids=range(18))
def test_xml(house: Instance, body: str | bytes) -> None:
    for port in (house.info, house.admin):
        answer = house.call("POST", "/RPC2", body, headers=XML, port=port, timeout_s=10)
        assert answer.status in (200, 400, 413), answer.status
        if answer.status == 200:
            assert "<fault>" in answer.text, answer.text[:300]
        assert "root:" not in answer.text and "lollol" not in answer.text
        assert len(answer.body) < 10_000


def test_xml_over_the_limit(house: Instance) -> None:
    body = CALL.format("get_version", "<param><value>" + "x" * 3_000_000 + "</value></param>")
    answer = house.call("POST", "/RPC2", body, headers=XML, port=house.info)
    assert answer.status == 413 or "<fault>" in answer.text


def test_classic_names_and_parameters(house: Instance) -> None:
    for name in NAMES:
        raw = quote(name, safe="", errors="surrogateescape")
        for path in (f"/clusters/{raw}", f"/clusters/{raw}.json", f"/clusters/{raw}/vms/{raw}", f"/jobs/{raw}",
                     f"/jobs?state={raw}",
                     f"/vms?metric={raw}", f"/failures?type={raw}"):
            assert house.call("GET", path, port=house.info).status < 500, (path, name)
        for path, form in ((f"/clouds/{raw}", "action=disable"), (f"/clouds/{raw}/vms/{raw}", "action=shutdown"),
                           ("/clouds/local-a", f"action={raw}"), ("/clouds/local-a", f"allocations=x{raw}"),
                           ("/clouds/local-a/vms", f"action=shutdown&count=x{raw}"), ("/", f"log_level={raw}"),
                           (f"/users/{raw}", f"refresh={raw}")):
            answer = house.call("PUT" if "users" not in path else "POST", path, form, headers=FORM, port=house.admin)
            assert answer.status < 500, (path, form, answer.text[:200])


@pytest.mark.parametrize("form", ["action=shutdown", "action=remove", "action=force_retire", "count=all", "",
                                  "action=remove&count=1",
                                  "action=shutdown&count=", "action=reset_override_state"])
def test_what_destroys_never_means_all_by_default(house: Instance, form: str) -> None:
    answer = house.call("PUT", "/clouds/local-a/vms", form, headers=FORM, port=house.admin)
    if form == "action=shutdown&count=":
        assert answer.status < 500
    else:
        assert answer.status == 404, (form, answer.status, answer.text[:200])


def test_duplicated_parameters(house: Instance) -> None:
    for port, path in ((house.info, "/vms?metric=total&metric=all"), (house.info, "/jobs?state=new&state=held"),
                       (house.native, "/api/v2/jobs?limit=1&limit=5"), (house.native, "/api/v2/events?since=1&since=2")):
        assert house.call("GET", path, port=port).status < 500
    answer = house.call("PUT", "/clouds/local-a?allocations=3", "allocations=4&allocations=5", headers=FORM, port=house.admin)
    assert answer.status < 500
    house.call("PUT", "/clouds/local-a", "allocations=4", headers=FORM, port=house.admin)


def test_noise(house: Instance) -> None:
    """Bytes at random, from a fixed seed, on every port and in every place."""
    chance = random.Random(20)
    paths = ["/", "/RPC2", "/clouds/local-a",
             *(f"/api/v2/{name}" for name in ("jobs", "clouds", "agent/join", "agent/sync", "keys"))]
    for _ in range(150):
        body = bytes(chance.randrange(256) for _ in range(chance.randrange(200)))
        port, path = chance.choice((house.native, house.info, house.admin)), chance.choice(paths)
        kind = chance.choice((*(given["Content-Type"] for given in (JSON, XML, FORM)), "multipart/form-data; boundary=x"))
        answer = house.call(chance.choice(("POST", "PUT")), path, body, headers={"Content-Type": kind}, port=port)
        assert answer.status < 500, (path, body, answer.text[:300])
