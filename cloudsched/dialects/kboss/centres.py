"""How are compute centres listed, added, changed and removed by this API? And who did what there (cpcaudit)?"""

from __future__ import annotations

from typing import Any

from cloudsched.dialects.kboss import words
from cloudsched.dialects.kboss.calls import Answer, Call, Route, ok, register_texts
from cloudsched.services.centre import centre_audit, centres
from cloudsched.services.centre.centres import Centre

FIELDS = ("name", "pcapi_url", "api_user", "api_pwd", "enable_date", "expire_date", "contactname", "contactphone")
_NEEDED = ("name",)
_PATH = "/dev/cpcc/cpclist"


def listed(call: Call) -> Answer:
    """The centres of the caller's organisation."""
    rows = [_row(call, centre) for centre in centres.listed(scope=call.scope)]
    return ok(call, "centres_listed", call.page.of(rows))


def add(call: Call) -> Answer:
    """A new centre."""
    for name in _NEEDED:
        call.required(name)
    made = centres.add(_given(call), org=call.org, actor=call.actor, settings=call.settings, dry_run=call.dry_run)
    row = _row(call, made)
    return ok(call, "centre_added", {**{name: row[name] for name in sorted(row) if name != "id"}, "id": made.key})


def change(call: Call) -> Answer:
    """Other facts of a centre."""
    centre = _centre(call)
    changed = centres.change(centre, _given(call), actor=call.actor, settings=call.settings, admin=call.caller.may("admin"),
                             dry_run=call.dry_run)
    row = _row(call, changed)
    return ok(call, "centre_changed", {name: row[name] for name in sorted(row) if name != "orgid"})


def remove(call: Call) -> Answer:
    """A centre goes, when nothing is in it."""
    centre = _centre(call)
    centres.remove(centre, actor=call.actor, dry_run=call.dry_run)
    return ok(call, "centre_removed", {"id": centre.key, "orgid": centre.org})


def audit(call: Call) -> Answer:
    """Who did what: changes of centres, hosts, clusters, instances, parts and budgets, newest first."""
    page = call.page
    size = page.rows or 100
    total, rows = centre_audit.page(
        scope=call.scope, limit=size, offset=(page.page - 1) * size, kind=call.text("kind", "", most=100) or "",
        actor=call.text("user", "", most=200) or "", since=call.text("since", "", most=40) or "")
    first = (page.page - 1) * size + 1
    return ok(call, "audit_listed", {"total": total, "rows": [
        {**row, "data": _told(call, row["data"]), "row_num_": number} for number, row in enumerate(rows, first)]})


def _told(call: Call, data: dict[str, Any]) -> dict[str, Any]:
    sentences = ("why", "reason", "detail", "error")
    return {name: words.told(value, call.language) if name in sentences and isinstance(value, str) else value
            for name, value in data.items()}


def _centre(call: Call) -> Centre:
    return centres.find(call.required("id", "missing_centre_id").strip(), scope=call.scope)


def _given(call: Call) -> dict[str, str]:
    return {name: value for name in FIELDS if (value := call.text(name, most=4096)) is not None}


def _row(call: Call, centre: Centre) -> dict[str, Any]:
    return {"id": centre.key, "name": centre.name, "orgid": centre.org, "pcapi_url": centre.pcapi_url,
            "api_user": centre.api_user, "api_pwd": call.secret(centre.api_pwd), "enable_date": centre.enable_date,
            "expire_date": centre.expire_date, "contactname": centre.contactname, "contactphone": centre.contactphone}


register_texts({
    "centres_listed": ("算力中心数据查询成功", "compute centres listed"),
    "centre_added": ("新建算力中心成功", "compute centre added"),
    "centre_changed": ("更新算力中心成功", "compute centre updated"),
    "centre_removed": ("删除算力中心成功", "compute centre removed"),
    "no_centre": ("算力中心不存在: {id}", "there is no compute centre {id}"),
    "centre_exists": ("算力中心名称已存在: {name}", "there is a compute centre named {name} already"),
    "centre_in_use": ("算力中心 {name} 正在使用, 不能删除 (设备: {hosts}, 集群: {clusters})",
                      "compute centre {name} is in use and stays (devices: {hosts}, clusters: {clusters})"),
    "bad_url": ("参数 {field} 错误: {value} (允许: 空, local, http://HOST:PORT, https://HOST:PORT)",
                "parameter {field}: {value} (allowed: nothing, local, http://HOST:PORT, https://HOST:PORT)"),
    "bad_token": ("参数 {field} 错误: 已加密的值只能原样传回",
                  "parameter {field}: an encrypted value may only be given back where it was read"),
    "secret_anew": ("参数 {field} 错误: 修改 {changed} 时必须重新输入",
                    "parameter {field}: must be given anew with another {changed}"),
    "centre_led_elsewhere": ("权限不足: 算力中心 {name} 有设备或集群, 修改 {field} 需要角色 admin",
                             "compute centre {name} has devices or clusters: another {field} needs the role admin"),
    "bad_name": ("参数 {field} 错误: 必须是可显示的文字且不能为空", "parameter {field}: must be printable and not empty"),
    "bad_order": ("参数 {field} 错误: {ends} 早于 {first} {begins}", "parameter {field}: {ends} is before {first} {begins}"),
    "audit_listed": ("获取操作记录成功", "audit listed"),
})

ROUTES = (
    Route(f"{_PATH}/get_cpclist.dspy", listed, role="viewer"),
    Route(f"{_PATH}/add_cpclist.dspy", add),
    Route(f"{_PATH}/update_cpclist.dspy", change),
    Route(f"{_PATH}/delete_cpclist.dspy", remove),
    Route("/dev/cpcc/cpcaudit/get_audit.dspy", audit, role="operator", changes=False),
)
