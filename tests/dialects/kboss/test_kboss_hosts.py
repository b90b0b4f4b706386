"""What an operator may not do with the secrets of centres and hosts, as the API says it."""

from __future__ import annotations

from cloudsched.services import keys
from cloudsched.services.caller import LOCAL_ADMIN
from tests.dialects.kboss.conftest import CENTRE, HOST, ORG, Api

THERE = {"pcapi_url": "https://evil.example.com", "api_pwd": "mine"}


def test_a_centre_is_led_elsewhere_by_its_password_or_an_admin(api: Api) -> None:
    centre = api.centre()
    path = f"{CENTRE}/update_cpclist.dspy"
    assert api.no(path, id=centre, pcapi_url=THERE["pcapi_url"]) == "参数 api_pwd 错误: 修改 pcapi_url 时必须重新输入"
    api.host(centre)
    admin, operator = (keys.create(role, role, LOCAL_ADMIN, org=ORG)["key"] for role in ("admin", "operator"))
    api.key = operator
    answer = api(path, data={"id": centre, **THERE}, headers={"Accept-Language": "en"})
    assert answer.status_code == 403 and "another pcapi_url needs the role admin" in answer.json["msg"]
    assert api.ok(path, id=centre, api_pwd="", contactname="x")["pcapi_url"] == "local"
    api.key = admin
    assert api.ok(path, id=centre, **THERE)["pcapi_url"] == THERE["pcapi_url"]


def test_a_host_is_led_elsewhere_by_its_password(api: Api) -> None:
    host = api.host(api.centre())
    api.language = "en"
    path = f"{HOST}/update_cpcnode.dspy"
    assert api.no(path, id=host, ip="10.9.9.9") == "parameter adminpwd: must be given anew with another ip"
    assert api.ok(path, id=host, ip="10.9.9.9", adminpwd="new")["ip"] == "10.9.9.9"
    assert "options.nothing" in api.no(path, id=host, options='{"nothing": 1}')
