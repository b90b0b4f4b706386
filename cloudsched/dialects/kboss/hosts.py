"""How are the machines of a centre (devices, `cpcnode`) listed, added, changed and removed by this API?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cloudsched.dialects.kboss.calls import Answer, Call, Refusal, Route, ok, register_texts
from cloudsched.services.centre import centre_hosts, centres
from cloudsched.services.centre.centre_hosts import Host
from cloudsched.services.centre.centres import Centre

FIELDS = ("ip", "name", "devicetype", "sshport", "adminuser", "adminpwd", "node_status", "external_ip", "cpu_model", "cpu_stock",
          "memory_model", "memory_stock", "sysdisk_stock", "datadisk_stock", "gpu_model", "gpu_stock", "role", "enable_date",
          "export_date", "options")
_NEEDED = ("ip", "name", "adminuser", "adminpwd")
# What answers to changes always hold; what else was given comes back with it.
_ECHOED = ("adminpwd", "adminuser", "devicetype", "enable_date", "export_date", "ip", "name", "node_status", "sshport")
_IDLE = ("id", "name", "clusterid", "node_status", "ip", "devicetype", "sshport", "adminuser", "adminpwd", "cpcid", "enable_date",
         "export_date")
_PATH = "/dev/cpcc/cpcnode"


def listed(call: Call) -> Answer:
    """All machines of a centre, a page of them or all."""
    centre = centres.find(call.required("cpcid", "missing_centre_id").strip(), scope=call.scope)
    page = call.page
    order, down = page.order(centre_hosts.ORDER, "id")
    total, rows = centre_hosts.page(centre, order=order, down=down, limit=page.rows, offset=page.offset)
    return ok(call, "hosts_listed", {"total": total, "rows": _rows(call, centre, rows, page.offset + 1)})


def idle(call: Call) -> Answer:
    """The machines that a cluster can be made of."""
    centre = centres.find(call.required("cpcid", "missing_centre_id").strip(), scope=call.scope)
    _, rows = centre_hosts.page(centre, idle=True)
    found = _rows(call, centre, rows, 1)
    return ok(call, "hosts_idle", [{name: row[name] for name in _IDLE} for row in found])


def add(call: Call) -> Answer:
    """A new machine."""
    centre = centres.find(call.required("cpcid", "missing_centre_id").strip(), scope=call.scope)
    for name in _NEEDED:
        call.required(name)
    made = centre_hosts.add(centre, _given(call), actor=call.actor, settings=call.settings, dry_run=call.dry_run)
    echo = _echo(call, made)
    return ok(call, "host_added", {**{name: echo[name] for name in echo if name != "id"}, "id": made.key})


def change(call: Call) -> Answer:
    """Other facts of a machine."""
    host = _host(call)
    changed = centre_hosts.change(host, _given(call), actor=call.actor, settings=call.settings, dry_run=call.dry_run)
    return ok(call, "host_changed_ok", _echo(call, changed))


def remove(call: Call) -> Answer:
    """A machine goes, when it is idle."""
    host = _host(call)
    centre_hosts.remove(host, actor=call.actor, dry_run=call.dry_run)
    return ok(call, "host_removed", {"id": host.key})


def _rows(call: Call, centre: Centre, rows: Iterable[tuple[Any, ...]], first: int) -> list[dict[str, Any]]:
    """Rows of a list, in one go: there may be ten thousand."""
    status, kind = ({value: call.say(f"{name}_{value}") for value in ("0", "1")} for name in ("node_status", "devicetype"))
    external = {centre_hosts.NOT_SET: call.say("not_set")}
    secret = call.secret if call.settings.centres.reveal_secrets else str
    return [{
        "id": key, "cpcid": centre.key, "name": name, "clusterid": cluster or None, "node_status": occupied, "ip": ip,
        "devicetype": devicetype, "sshport": sshport, "adminuser": user, "adminpwd": secret(password), "enable_date": begins,
        "export_date": ends, "external_ip": external.get(outside, outside), "cpu_model": cpu_model, "cpu_stock": cpu,
        "memory_model": memory_model, "memory_stock": memory, "sysdisk_stock": sysdisk, "datadisk_stock": datadisk,
        "gpu_model": gpu_model, "gpu_stock": gpu, "role": role, "node_status_text": status[occupied],
        "devicetype_text": kind[devicetype], "cluster_name": cluster_name or "", "row_num_": number}
        for number, (key, name, cluster, occupied, ip, devicetype, sshport, user, password, begins, ends, outside, cpu_model, cpu,
                     memory_model, memory, sysdisk, datadisk, gpu_model, gpu, role, cluster_name) in enumerate(rows, first)]


def _host(call: Call) -> Host:
    if not (call.text("id") or "").strip():
        raise Refusal("missing_host_id")
    host = centre_hosts.find_host(call.required("id").strip(), scope=call.scope)
    wanted = (call.text("cpcid") or "").strip()
    if wanted and wanted != host.centre_key:
        raise Refusal("no_host", id=host.key)
    return host


def _given(call: Call) -> dict[str, Any]:
    found = {name: value for name in FIELDS if (value := call.text(name, most=4096)) is not None}
    if found.get("external_ip") == call.say("not_set"):
        found["external_ip"] = centre_hosts.NOT_SET
    return found


def _echo(call: Call, host: Host) -> dict[str, Any]:
    """What was asked for, as it is now; numbers as texts, as this API's changes answer them."""
    names = {*_ECHOED, *(name for name in FIELDS if call.given(name))} - {"options"}
    found = {name: str(getattr(host, name)) for name in names}
    found |= {"adminpwd": call.secret(host.adminpwd), "cpcid": host.centre_key, "id": host.key}
    if found.get("external_ip") == centre_hosts.NOT_SET:
        found["external_ip"] = call.say("not_set")
    return dict(sorted(found.items()))


register_texts({
    "hosts_listed": ("获取算力设备成功", "devices listed"),
    "hosts_idle": ("获取空闲设备成功", "idle devices listed"),
    "host_added": ("新增算力设备成功", "device added"),
    "host_changed_ok": ("更新算力中心成功", "device updated"),  # the contract's own words, though it is a device
    "host_removed": ("删除算力设备成功", "device removed"),
    "missing_host_id": ("无算力设备ID", "no device id"),
    "no_host": ("算力设备不存在: {id}", "there is no device {id}"),
    "host_exists": ("该地址已被设备 {name} 使用: {address}", "device {name} of this centre has the address {address}"),
    "host_exists_there": ("该地址已被算力中心 {centre} 的设备 {name} 使用: {address}",
                          "device {name} of the compute centre {centre} has the address {address}, and the same executor"),
    "host_taken": ("该地址已被其他设备使用: {address}", "another device that the same executor serves has the address {address}"),
    "host_in_cluster": ("设备 {name} 已加入集群, 请先移出集群", "device {name} is in a cluster: take it out first"),
    "host_fixed": ("设备 {name} 已加入集群, 不能修改 {field}, 请先移出集群",
                   "device {name} is in a cluster that knows it by its {field}: take it out first"),
    "host_occupied": ("设备 {name} 正被占用", "device {name} is occupied"),
    "host_changed": ("设备 {name} 已被他人修改, 请刷新后重试", "device {name} was changed meanwhile"),
    "bad_user": ("参数 {field} 错误: {value} 不是有效的用户名", "parameter {field}: {value} is no user name"),
    "bad_address": ("参数 {field} 错误: {value} 不是IP地址或主机名",
                    "parameter {field}: {value} is neither an IP address nor a host name"),
    "not_set": ("未设置", "not set"),
    "node_status_0": ("空闲", "idle"),
    "node_status_1": ("占用", "occupied"),
    "devicetype_0": ("虚拟机", "virtual machine"),
    "devicetype_1": ("物理机", "physical machine"),
})

ROUTES = (
    Route(f"{_PATH}/get_cpcnode.dspy", listed, role="viewer"),
    Route(f"{_PATH}/get_cpcidle_device.dspy", idle, role="viewer"),
    Route(f"{_PATH}/add_cpcnode.dspy", add),
    Route(f"{_PATH}/update_cpcnode.dspy", change),
    Route(f"{_PATH}/delete_cpcnode.dspy", remove),
)
