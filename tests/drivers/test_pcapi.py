"""The client of a remote centre's pcapi: what is sent, what is understood, and one clear error for everything else."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs

import pytest

from cloudsched.drivers import pcapi
from cloudsched.drivers.pcapi import Pcapi, PcapiError, PcapiRefused
from cloudsched.testing.faultproxy import Answered, FaultProxy
from cloudsched.testing.httpserver import HttpServer

PASSWORD = "Pa55-w0rd-api"


class _Centre(BaseHTTPRequestHandler):
    """Says yes, and what it was told."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        form = {name: values[0] for name, values in parse_qs(
            self.rfile.read(int(self.headers["Content-Length"])).decode(), keep_blank_values=True).items()}
        seen = {"path": self.path, "form": form, "language": self.headers["Accept-Language"],
                "who": base64.b64decode(self.headers["Authorization"].partition(" ")[2]).decode()}
        self.reply(200, {"status": form.get("fail") is None, "info": "operate success" if "fail" not in form else "swap is on",
                         "data": seen})

    def reply(self, status: int, body: Any) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    with HttpServer(_Centre) as centre, FaultProxy(centre.url) as found:
        yield found


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[Pcapi]:
    made = Pcapi(proxy.url + "/", user="apiuser", password=PASSWORD, connect_timeout_s=5, read_timeout_s=20)
    yield made
    made.close()


def test_a_call_is_a_form_with_basic_authorization(client: Pcapi, proxy: FaultProxy) -> None:
    found = client.call("new_cluster", {"host": "10.0.0.1", "port": 22, "psssword": "s&=ü", "async": True, "options": {"a": 1},
                                        "kubeconfig": None})
    assert found == {"path": "/pcapi/api/v1/cluster/common/new_cluster", "who": f"apiuser:{PASSWORD}", "language": "en",
                     "form": {"host": "10.0.0.1", "port": "22", "psssword": "s&=ü", "async": "true", "options": '{"a": 1}'}}
    assert all("s%26" not in asked.path for asked in proxy.asked)


def test_a_no_is_the_centres_own(client: Pcapi) -> None:
    with pytest.raises(PcapiRefused, match="swap is on") as caught:
        client.call("new_cluster", {"fail": "1"})
    assert caught.value.data["form"] == {"fail": "1"} and not caught.value.transient
    assert client.ask("new_cluster", {"fail": "1"})[:2] == (False, "swap is on")


@pytest.mark.parametrize(("fault", "say", "transient"), [
    ({"kind": "unreachable"}, "pcapi_away", True),
    ({"kind": "answer_lost"}, "pcapi_away", True),
    ({"kind": "stall", "pause_s": 0.5}, "pcapi_away", True),
    ({"kind": "answer", "answer": Answered(503)}, "pcapi_away", True),
    ({"kind": "answer", "answer": Answered(401)}, "pcapi_denied", False),
    ({"kind": "answer", "answer": Answered(403)}, "pcapi_denied", False),
    ({"kind": "answer", "answer": Answered(404)}, "pcapi_strange", False),
    ({"kind": "answer", "answer": Answered(200, b"<html>")}, "pcapi_strange", False),
    ({"kind": "answer", "answer": Answered(200, b'{"a": 1}')}, "pcapi_strange", False),
    ({"kind": "answer", "answer": Answered(200, b"[" * 100_000)}, "pcapi_strange", False),
    ({"kind": "answer", "answer": Answered(302, b"", {"Location": "http://127.0.0.1:1/"})}, "pcapi_strange", False),
])
def test_one_clear_error_for_each_trouble(client: Pcapi, proxy: FaultProxy, fault: dict[str, Any], say: str,
                                          transient: bool) -> None:
    proxy.schedule(**fault)
    with pytest.raises(PcapiError) as caught:
        client.call("operation", {"id": 1, "psssword": "s3cret"})
    error = caught.value
    assert error.details["say"] == say and error.transient is transient
    assert proxy.url in error.message and PASSWORD not in error.message and "s3cret" not in error.message
    assert client.call("operation", {"id": 1})["form"] == {"id": "1"}


def test_a_bare_list_is_an_answer(client: Pcapi, proxy: FaultProxy) -> None:
    proxy.schedule("answer", answer=Answered(200, b'["a"]'))
    assert client.call("determine_accommodat", {}) == ["a"]


def test_time_limits_and_sizes(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Pcapi(proxy.url, user="a", password="b", read_timeout_s=0.1)
    proxy.schedule("stall", pause_s=3.0)
    with pytest.raises(PcapiError, match=r"no answer within 0\.1 s"):
        client.call("operation", {})
    monkeypatch.setattr(pcapi, "ANSWER_MOST", 10)
    with pytest.raises(PcapiError, match="too long"):
        client.call("operation", {}, read_timeout_s=20)
    client.close()


@pytest.mark.parametrize(("url", "reason"), [
    ("http://127.0.0.1:{port}", "connection refused"), ("http://name.invalid", "cannot be reached"),
    ("https://127.0.0.1:{port}", "connection refused")])
def test_nobody_there(free_port: int, url: str, reason: str) -> None:
    with pytest.raises(PcapiError, match=reason):
        Pcapi(url.format(port=free_port), user="a", password="b").call("operation", {})


def test_no_password_is_shown() -> None:
    assert PASSWORD not in repr(Pcapi("http://x", user="a", password=PASSWORD))
