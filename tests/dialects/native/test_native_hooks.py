"""Do webhooks and the switch of alerts answer over the native API, by role, without secrets?"""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloudsched.services import keys
from cloudsched.services.caller import LOCAL_ADMIN

from .conftest import Api

URL = "https://hooks.example.com/services/T0000000000000000000000000/x?token=verysecret"


def _key(role: str) -> str:
    return str(keys.create(role, role, LOCAL_ADMIN)["key"])


def test_a_webhook_from_its_making_to_its_end(api: Api) -> None:
    made = api.post("/webhooks", json={"name": "chat", "url": URL, "kinds": ["job.fail", "cluster."]})
    assert made.status_code == 201, made.text
    assert len(made.json["secret"]) > 30 and made.json["kinds"] == ["job.fail", "cluster."]
    assert made.json["url"] == "https://hooks.example.com/services/***/x?token=***"
    again = api.post("/webhooks", json={"name": "chat", "url": URL})
    assert again.status_code == 409
    listed = api.get("/webhooks").json
    assert [one["name"] for one in listed["items"]] == ["chat"] and listed["next"] is None
    assert "secret" not in json.dumps(listed).replace("verysecret", "x") and "verysecret" not in json.dumps(listed)
    assert api.get("/webhooks/chat").json["enabled"] is True
    tried = api.post("/webhooks/chat/test")
    assert (tried.status_code, tried.json["state"], tried.json["kind"]) == (202, "pending", "webhook.test")
    found = api.get("/webhooks/chat/deliveries?state=pending").json["items"]
    assert [one["id"] for one in found] == [tried.json["id"]]
    assert api.post("/webhooks/chat/disable").json["enabled"] is False
    assert api.post("/webhooks/chat/test").status_code == 409
    assert api.post("/webhooks/chat/enable").json["enabled"] is True
    assert api.post("/webhooks/chat/retry").json == {"retried": 0}
    assert api("DELETE", "/webhooks/chat").status_code == 204
    assert api("DELETE", "/webhooks/chat").status_code == api.get("/webhooks/chat").status_code == 404


def test_a_secret_may_be_given_and_a_retry_makes_one_hook(api: Api) -> None:
    body = {"name": "chat", "url": URL, "secret": "sixteen characters"}
    first = api.post("/webhooks", json=body, headers={"Idempotency-Key": "k1"})
    second = api.post("/webhooks", json=body, headers={"Idempotency-Key": "k1"})
    assert first.json == second.json and first.json["secret"] == "sixteen characters"


def test_deliveries_are_paged(api: Api) -> None:
    api.post("/webhooks", json={"name": "chat", "url": URL})
    numbers = [api.post("/webhooks/chat/test").json["id"] for _ in range(3)]
    first = api.get("/webhooks/chat/deliveries?limit=2").json
    rest = api.get(f"/webhooks/chat/deliveries?limit=2&cursor={first['next']}").json
    assert [one["id"] for one in first["items"] + rest["items"]] == numbers[::-1] and rest["next"] is None


@pytest.mark.parametrize(("body", "field"), [
    ({"name": "a"}, "url"), ({"url": URL}, "name"), ({"name": "a", "url": "http://example.com"}, "url"),
    ({"name": "a", "url": URL, "kinds": "job."}, "kinds"), ({"name": "a", "url": URL, "kinds": ["A B"]}, "kinds"),
    ({"name": "a", "url": URL, "since": 10**9}, "since"), ({"name": "a", "url": URL, "since": "x"}, "since"),
    ({"name": "a", "url": URL, "secret": "short"}, "secret"), ({"name": "a", "url": URL, "colour": 1}, "colour")])
def test_bad_input_is_named(api: Api, body: dict[str, Any], field: str) -> None:
    answer = api.post("/webhooks", json=body)
    assert answer.status_code == 400, answer.text
    assert any(error["field"].startswith(field) for error in answer.json["errors"]), answer.json


def test_roles(api: Api) -> None:
    admin, operator, viewer = _key("admin"), _key("operator"), _key("viewer")
    made = {"name": "chat", "url": URL}
    assert api.post("/webhooks", json=made, key=operator).status_code == 403
    assert api.post("/webhooks", json=made, key=admin).status_code == 201
    assert api.get("/webhooks", key=viewer).status_code == api.get("/webhooks/chat/deliveries", key=viewer).status_code == 403
    assert api.get("/webhooks", key=operator).status_code == 200
    assert api("DELETE", "/webhooks/chat", key=operator).status_code == 403
    assert api("PUT", "/alerts/clients/me", json={"on": False}, key=viewer).status_code == 403


def test_the_switch_of_alerts(api: Api) -> None:
    assert api.get("/alerts/clients/my%2Fteam").json == {"client": "my/team", "on": True}
    assert api("PUT", "/alerts/clients/my%2Fteam", json={"on": False}).json == {"client": "my/team", "on": False}
    assert api.get("/alerts/clients/my%2Fteam").json["on"] is False
    assert api("PUT", "/alerts/clients/me", json={"on": "perhaps"}).status_code == 400
    assert api("PUT", "/alerts/clients/me", json={}).status_code == 400
