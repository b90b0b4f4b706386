"""The contract's examples of devices."""

from __future__ import annotations

from tests.dialects.kboss.seed.centres import KEPT_SEALED
from tests.dialects.kboss.seed.form import SEALED, Differs, Entry
from tests.dialects.kboss.seed.world import CENTRE, World

_LIST, _ADD, _UPDATE, _DELETE, _IDLE = (f"{verb} /dev/cpcc/cpcnode/{name}.dspy" for verb, name in (
    ("GET", "get_cpcnode"), ("POST", "add_cpcnode"), ("POST", "update_cpcnode"), ("POST", "delete_cpcnode"),
    ("GET", "get_cpcidle_device")))
GPU = {"cpcid": CENTRE, "ip": "192.168.0.8", "name": "gpu设备1", "devicetype": "1", "sshport": "22", "adminuser": "apiuser",
       "adminpwd": "<password>", "node_status": "0", "enable_date": "2025-05-16", "export_date": "2026-06-17"}
# What the tables of parameters have and the examples, which are older, have not.
STOCK = {"external_ip": "未设置", "cpu_model": "STANDARD", "cpu_stock": "16", "memory_model": "STANDARD", "memory_stock": "64",
         "sysdisk_stock": "100", "datadisk_stock": "500", "gpu_model": "RTX4090-24G", "gpu_stock": "2", "role": "worker"}
_ECHOED = "what else was given is answered with it; the example was written before the table had it"


def _three(world: World) -> None:
    world.centre()
    world.worker()
    world.master()
    world.host("ULwkzAj-pF-RYkJde3hbS", name="假算力设备", ip="192.168.110.120", enable_date="2025-06-04",
               export_date="2025-06-04", role="master")
    world.cluster()
    world.join()


def _known(world: World) -> None:
    world.centre()
    world.host("E71hIuIKvTr5D2w2Sxnc9", **{**GPU, "devicetype": "0"})


def _next(world: World) -> None:
    world.centre()
    world.keys.ids.append("DeolAhhh_sE6UE9DMqDSa")


def _two(world: World) -> None:
    world.centre()
    world.master(node_status="1")
    world.host("XLUBumc_RzHBStQfpi5u0", **GPU)


def _to_delete(world: World) -> None:
    world.centre()
    world.host("Za8rOOFoacMZnbKoTVig2", **GPU)


def _echoed(before: str) -> tuple[Differs, ...]:
    """Members of STOCK where they stand among the others, which are in the order of their names."""
    places = {"cpu_model": "devicetype", "cpu_stock": "devicetype", "datadisk_stock": "devicetype", "external_ip": before,
              "gpu_model": before, "gpu_stock": before, "memory_model": "name", "memory_stock": "name", "role": "sshport"}
    return (*(Differs(f"data.{name}", STOCK[name], _ECHOED, before=place) for name, place in places.items()),
            Differs("data.sysdisk_stock", STOCK["sysdisk_stock"], _ECHOED, before="id" if before == "ip" else ""))


ENTRIES = (
    Entry(_LIST, 1, {"cpcid": CENTRE, "page": "1", "rows": "10", "sort": "id"}, _three, {
        "msg": "devices listed", "data.rows.*.external_ip": "not set", "data.rows.0.node_status_text": "occupied",
        "data.rows.1.node_status_text": "occupied", "data.rows.2.node_status_text": "idle",
        "data.rows.0.devicetype_text": "virtual machine", "data.rows.1.devicetype_text": "virtual machine",
        "data.rows.2.devicetype_text": "physical machine"}, (
        Differs("data.rows.*.adminpwd", SEALED, KEPT_SEALED),
        Differs("data.rows.2.clusterid", None, "an idle device is in no cluster"),
        Differs("data.rows.*.cluster_name", "测试离线安装控制节点", "the table of the answer has it", before="row_num_"),
        Differs("data.rows.2.cluster_name", "", "it is in no cluster"))),
    Entry(_LIST, 2, {"page": "1", "rows": "10"}, lambda world: None, {"msg": "no compute centre id (cpcid)"}),
    Entry(_ADD, 1, GPU, _next, {"msg": "device added"}, (Differs("data.adminpwd", SEALED, KEPT_SEALED),)),
    Entry(_ADD, 1, {**GPU, **STOCK}, _next, {"msg": "device added", "data.external_ip": "not set"},
          (Differs("data.adminpwd", SEALED, KEPT_SEALED), *_echoed("ip")), name="whole"),
    Entry(_UPDATE, 1, {**GPU, "id": "E71hIuIKvTr5D2w2Sxnc9", "name": "gpu设备122cccc"}, _known, {"msg": "device updated"},
          flags={"centres.reveal_secrets": "yes"}, name="revealed"),
    Entry(_UPDATE, 1, {**GPU, **STOCK, "id": "E71hIuIKvTr5D2w2Sxnc9", "name": "gpu设备122cccc"}, _known,
          {"msg": "device updated", "data.external_ip": "not set"},
          (Differs("data.adminpwd", SEALED, KEPT_SEALED), *_echoed("id")), name="whole"),
    Entry(_DELETE, 1, {"id": "Za8rOOFoacMZnbKoTVig2"}, _to_delete, {"msg": "device removed"}),
    Entry(_IDLE, 1, {"cpcid": CENTRE}, _two, {"msg": "idle devices listed"},
          (Differs("data.*.adminpwd", SEALED, KEPT_SEALED),)),
)
