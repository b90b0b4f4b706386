"""Who may call which route: every route with every role, and the guards in front of all of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from cloudsched.dialects.native.hot import PATH
from cloudsched.services.caller import ROLES

# The two hot routes are answered before Flask; their roles are stated here a second time on purpose.
HOT = {("GET", PATH): "viewer", ("POST", PATH): "submitter"}


def every_route(api: Any) -> list[tuple[str, str, str | None]]:
    """(method, path, least role) of every route there is."""
    found = []
    for rule in api.app.flask.url_map.iter_rules():
        if rule.endpoint in ("static", "api-docs.openapi_json"):
            continue
        path = rule.build(dict.fromkeys(rule.arguments, "999999"), append_unknown=False)[1]
        view = api.app.flask.view_functions[rule.endpoint]
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            found.append((method, path, HOT.get((method, rule.rule), view.role)))
    return found


@pytest.fixture
def keys(api: Any) -> dict[str, str]:
    """role -> key."""
    made = {"admin": api.post("/keys", json={"name": "k-admin", "role": "admin"}).json["key"]}
    for role in ROLES[:-1]:
        made[role] = api.post("/keys", json={"name": f"k-{role}", "role": role}, key=made["admin"]).json["key"]
    return made


def test_every_route_with_every_role(api: Any, keys: dict[str, str]) -> None:
    routes = every_route(api)
    assert len(routes) > 40
    for (method, path, least), role in itertools.product(routes, ROLES):
        body = {"json": {}} if method in ("POST", "PATCH") else {}
        answer = api(method, path, key=keys[role], **body)
        refused = least is not None and ROLES.index(role) < ROLES.index(least)
        assert (answer.status_code == 403) == refused, (method, path, role, answer.text)
        assert answer.status_code < 500, (method, path, role, answer.text)
        answer.close()


def test_every_route_without_a_key(api: Any, keys: dict[str, str]) -> None:
    for method, path, least in every_route(api):
        answer = api(method, path)
        assert (answer.status_code == 401) == (least is not None), (method, path, answer.text)
        if least is not None:
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert answer.content_type == "application/problem+json"


def test_key_may_be_sent_in_three_ways(api: Any, keys: dict[str, str]) -> None:
    import base64

    key = keys["viewer"]
    basic = base64.b64encode(f"any:{key}".encode()).decode()
    assert api.get("/nodes", key=key).status_code == 200
    for value in (f"Bearer {key}", f"Basic {basic}"):
        assert api.get("/nodes", headers={"Authorization": value}).status_code == 200
    for value in ("Bearer", "Digest x", "Basic !!", f"Bearer {key}x"):
        assert api.get("/nodes", headers={"Authorization": value}).status_code == 401


def test_a_revoked_key_ends_at_once(api: Any, keys: dict[str, str]) -> None:
    number = next(one["id"] for one in api.get("/keys", key=keys["admin"]).json["items"] if one["role"] == "viewer")
    assert api.get("/nodes", key=keys["viewer"]).status_code == 200
    assert api("DELETE", f"/keys/{number}", key=keys["admin"]).status_code == 204
    assert api.get("/nodes", key=keys["viewer"]).status_code == 401
    assert api("DELETE", f"/keys/{number}", key=keys["admin"]).status_code == 404


def test_keys_are_shown_once(api: Any, keys: dict[str, str]) -> None:
    text = api.get("/keys", key=keys["admin"]).text + api.get("/events?limit=1000", key=keys["admin"]).text
    assert all(key.startswith("cs_") and key not in text for key in keys.values())


def test_first_key_is_an_admins_and_the_last_one_stays(api: Any) -> None:
    assert api.post("/keys", json={"name": "x", "role": "viewer"}).status_code == 409
    admin = api.post("/keys", json={"name": "x", "role": "admin"}).json
    viewer = api.post("/keys", json={"name": "y", "role": "viewer"}, key=admin["key"]).json
    assert api("DELETE", f"/keys/{admin['id']}", key=admin["key"]).status_code == 409
    assert api("DELETE", f"/keys/{viewer['id']}", key=admin["key"]).status_code == 204
    assert api("DELETE", f"/keys/{admin['id']}", key=admin["key"]).status_code == 204
    assert api.get("/nodes").status_code == 200  # no key is in force any more


@pytest.mark.parametrize("environ", [
    {"HTTP_HOST": "evil.example"}, {"HTTP_HOST": "evil.example:8100"}, {"HTTP_HOST": "127.0.0.1.evil.example"}])
def test_foreign_host_names_are_refused_without_keys(api: Any, environ: dict[str, str]) -> None:
    assert api.get("/nodes", headers={"Host": environ["HTTP_HOST"]}).status_code == 403


def test_foreign_host_names_are_fine_with_a_key(api: Any, keys: dict[str, str]) -> None:
    assert api.get("/nodes", headers={"Host": "cluster.example"}, key=keys["viewer"]).status_code == 200


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Origin": "null"},
                                     {"Sec-Fetch-Site": "cross-site"}])
def test_foreign_pages_change_nothing(api: Any, headers: dict[str, str]) -> None:
    assert api.post("/jobs", json={"command": ["true"]}, headers=headers).status_code == 403
    assert api.post("/jobs/cancel", json={"user": "x"}, headers=headers).status_code == 403
    assert api.get("/jobs/count").json["total"] == 0


def test_own_page_may_change_things(api: Any) -> None:
    headers = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert api.post("/jobs", json={"command": ["true"]}, headers=headers).status_code == 201


def test_others_come_in_by_key_alone(api: Any) -> None:
    assert api.get("/nodes", address="10.0.0.1").status_code == 401
    assert api.get("/nodes", headers={"X-Forwarded-For": "10.0.0.1"}).status_code == 401
    assert api.get("/nodes", address="::ffff:127.0.0.1").status_code == 200


def test_allow_list(make_api: Callable[..., Any]) -> None:
    api = make_api(**{"access.native_networks": "10.0.0.0/8"})
    assert api.get("/nodes", address="192.168.0.1").status_code == 403
    assert api.get("/nodes", address="10.1.2.3").status_code == 401
    assert api.get("/nodes").status_code == 200


def test_wrong_keys_are_slowed_down(api: Any, keys: dict[str, str]) -> None:
    answers = [api.get("/nodes", key=f"cs_{number}").status_code for number in range(21)]
    assert answers == [401] * 20 + [429]
    refused = api.get("/nodes", key="cs_x")
    assert int(refused.headers["Retry-After"]) > 0
    assert api.get("/nodes", key="cs_x", address="10.0.0.9").status_code == 401  # others are not touched


def test_user_header_names_the_local_caller(api: Any) -> None:
    headers = {"X-Cloudsched-User": "ada"}
    made = api.post("/jobs", json={"command": ["true"]}, headers=headers).json["id"]
    assert api.get(f"/jobs/{made}").json["user"] == "ada"


def test_submitters_change_their_own_jobs_alone(api: Any, keys: dict[str, str]) -> None:
    mine = api.post("/jobs", json={"command": ["true"]}, key=keys["submitter"]).json["id"]
    other = api.post("/jobs", json={"command": ["true"]}, key=keys["admin"]).json["id"]
    assert api.post(f"/jobs/{other}/cancel", key=keys["submitter"]).status_code == 403
    assert api.post("/jobs/cancel", json={"user": "k-admin"}, key=keys["submitter"]).status_code == 403
    assert api.post(f"/jobs/{mine}/cancel", key=keys["submitter"]).json["state"] == "cancelled"
    assert api.get(f"/jobs/{other}", key=keys["viewer"]).json["state"] == "queued"
