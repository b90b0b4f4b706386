"""The contract's examples of parts and their stock."""

from __future__ import annotations

from typing import Any

from tests.dialects.kboss.seed.form import EXAMPLES, Differs, Entry
from tests.dialects.kboss.seed.world import CENTRE, CLUSTER, CPCWIDGET, OTHER_CLUSTER, World

XEON = "INTEL(R) XEON(R) PLATINUM 8582C"
_ADD, _LIST, _UPDATE, _DELETE, _GPUS = (f"{verb} {CPCWIDGET}/{name}.dspy" for verb, name in (
    ("POST", "add_cpcwidget"), ("GET", "get_cpcwidget"), ("POST", "update_cpcwidget"), ("POST", "delete_cpcwidget"),
    ("GET", "obtaining_gpuinfo")))
_NEW = {"cpcid": CENTRE, "clusterid": CLUSTER, "type": "cpu", "resource_unit": "m", "unit_price": "1.99", "model": XEON,
        "stock": "0", "charge_unit": "小时", "account_unit": "元", "add_opt": "no"}
_ROWS: list[dict[str, Any]] = EXAMPLES[_LIST]["answers"][0]["data"]["rows"]
_CARDS: dict[str, int] = EXAMPLES[_GPUS]["answers"][0]["data"]
_ELSEWHERE = "另一个算力集群(不同算力中心下)显卡型号XXX-12G"
_EMPTY = "the contract's example is an empty object"
_BY_NAME = "models stand in the order of their names: an object's members have none in the contract"


def two_clusters(world: World) -> None:
    world.centre()
    world.master()
    world.cluster(cluster_name="朝阳区")
    world.worker()
    world.cluster(OTHER_CLUSTER, host="1cV3nLWGD_YLqXm9OUWKU", cluster_name="通州区")


def _next(world: World) -> None:
    world.one_cluster()
    world.at("2025-06-03 16:24:28")
    world.keys.ids.append("SwaVSlL6RtORQrNTqAGi6")


def _known(world: World) -> None:
    world.one_cluster()
    world.part("SwaVSlL6RtORQrNTqAGi6", "cpu", XEON, "1.99", resource_unit="m")


def _fourteen(world: World) -> None:
    two_clusters(world)
    for row in _ROWS:
        for number, book in enumerate(row["import_export"]):
            world.at(row["update_time"])
            world.part(row["id"], row["type"], row["model"], str(row["unit_price"]), resource_unit=row["resource_unit"],
                       clusterid=book["clusterid"], stock=str(book["stock"]), add_opt="yes" if number else "no")


def _priced(world: World) -> None:
    world.one_cluster()
    world.part("YnTYUrOhKTB_WjuK8zNj5", "gpu", "RTX5090-32G", "6")


def _cards(world: World) -> None:
    world.one_cluster()
    for model, count in _CARDS.items():
        world.part(world.keys(), "gpu", model, "6", stock=str(count))


def _cards_everywhere(world: World) -> None:
    _cards(world)
    world.centre("-z2r4CFb-7rcfugNn2wIr", name="首都算力中心1")
    world.part(world.keys(), "gpu", _ELSEWHERE, "6", stock="1", cpcid="-z2r4CFb-7rcfugNn2wIr", clusterid="")


ENTRIES = (
    Entry(_ADD, 1, _NEW, _known, {"msg": "this part exists already: edit it"}),
    Entry(_ADD, 2, _NEW, _next, {"msg": "part added"}),
    Entry(_LIST, 1, {"cpcid": CENTRE}, _fourteen, {"msg": "parts listed"}, (
        *(Differs(f"data.rows.{place}.row_num_", place + 1, "the table of the answer has it") for place in range(len(_ROWS))),
        Differs("data.rows.5.import_export", _ROWS[5]["import_export"][::-1],
                "books stand in the order of their clusters' ids, always; the contract says nothing of an order"))),
    Entry(_UPDATE, 1, {"id": "YnTYUrOhKTB_WjuK8zNj5", "cpcid": CENTRE, "unit_price": "0.0009", "type": "gpu",
                       "model": "RTX5090-32G"}, _priced, {"msg": "part updated"}),
    Entry(_DELETE, 1, {"id": "YnTYUrOhKTB_WjuK8zNj5", "cpcid": CENTRE}, _priced, {"msg": "part removed"}, (
        Differs("status", True, _EMPTY), Differs("msg", "删除算力部件成功", _EMPTY),
        Differs("data", {"cpcid": CENTRE, "id": "YnTYUrOhKTB_WjuK8zNj5"}, _EMPTY))),
    Entry(_GPUS, 1, {"cpcid": CENTRE, "clusterid": CLUSTER}, _cards_everywhere, {"msg": "free GPUs listed"},
          (Differs("data", dict(sorted(_CARDS.items())), _BY_NAME),)),
    Entry(_GPUS, 2, {}, _cards_everywhere, {"msg": "free GPUs listed"},
          (Differs("data", dict(sorted({**_CARDS, _ELSEWHERE: 1}.items())), _BY_NAME),)),
)
