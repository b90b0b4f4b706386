"""The contract's examples of prices, and of products that fit nowhere."""

from __future__ import annotations

import json
from typing import Any

from tests.dialects.kboss.seed.form import EXAMPLES, Differs, Entry
from tests.dialects.kboss.seed.parts import XEON
from tests.dialects.kboss.seed.world import CENTRE, CLUSTER, World

_PRICE, _FIT = "GET /dev/cpcc/cpcwidget/accrual_price.dspy", "GET /dev/cpcc/cpcbuy/determine_accommodat.dspy"
# As the contract writes it.
WHOLE = {"resources": [{"type": "cpu", "model": XEON, "amount": 4},
                       {"type": "memory", "model": "Samsung DDR4 DIMMs", "amount": 8192},
                       {"type": "disk", "model": "DATA", "amount": 512}, {"type": "gpu", "model": "RTX5090-32G", "amount": 2}],
         "duration": 2, "duration_unit": "天"}
_LINES: list[dict[str, Any]] = WHOLE["resources"]  # type: ignore[assignment]
_ONE_HOUR = {"cpcid": CENTRE, "resources": json.dumps(_LINES), "duration": "1", "duration_unit": "小时"}
_UNKNOWN = json.dumps([*_LINES[:3], {**_LINES[3], "model": "RTXs5090-32G"}])
_PRICED = "parts priced"
_NO_MODEL = "there is no gpu part of model RTXs5090-32G"
_SHORT = "memory Samsung DDR4 DIMMs: not enough in stock (stock: 1280, asked for: 8192)"
_NO_TYPE = "there is no part of this type"
_GREY = ("5436-f-gdsb--ewrewrerrtwt", "6787jhgvgjhv32412343142jvgj")


def sell(world: World, *, memory: str = "65536") -> None:
    """The parts of the examples."""
    world.one_cluster()
    world.part(world.keys(), "cpu", XEON, "1.5", stock="64")
    world.part(world.keys(), "memory", "Samsung DDR4 DIMMs", "0.005", resource_unit="Mi", stock=memory)
    world.part(world.keys(), "disk", "DATA", "0.01", stock="4096")
    world.part(world.keys(), "gpu", "RTX5090-32G", "6", stock="8")


def _nothing(world: World) -> None:
    """A centre that sells nothing."""
    world.centre()


def _little(world: World) -> None:
    sell(world, memory="1280")


def _room(world: World) -> None:
    """Much in the books, little on the node that has the label."""
    world.kube.add_node("node-0", cores=8, labels={"kyy-gpu": "false"})
    world.kube.add_node("node-1", cores=32, labels={"kyy-gpu": "true"})
    sell(world)


def product(key: str, cores: int) -> dict[str, Any]:
    return {"productid": key, "resources": [{"type": "cpu", "model": XEON, "amount": cores}]}


def _two_days() -> tuple[Differs, ...]:
    """48 times the price of an hour."""
    details = EXAMPLES[_PRICE]["answers"][0]["data"]["price_details"]
    why = "the request is for two days, the contract's answer is of an hour"
    subtotals = (288, 1966.08, 245.76, 576)
    assert [round(one["subtotal"] * 48, 2) for one in details] == list(subtotals)
    return (Differs("data.total_price", 3075.84, why), Differs("data.price_details.*.duration", 2, why),
            Differs("data.price_details.*.duration_unit", "天", why), Differs("data.duration", 2, why),
            Differs("data.duration_unit", "天", why),
            *(Differs(f"data.price_details.{place}.subtotal", value, why) for place, value in enumerate(subtotals)))


ENTRIES = (
    Entry(_PRICE, 0, {"cpcid": CENTRE, "resources": json.dumps(WHOLE)}, sell,
          {"msg": _PRICED, "data.message": "all lines priced"}, _two_days(), name="two-days"),
    Entry(_PRICE, 1, {**_ONE_HOUR, "clusterid": CLUSTER}, sell, {"msg": _PRICED, "data.message": "all lines priced"}),
    Entry(_PRICE, 2, {**_ONE_HOUR, "resources": _UNKNOWN}, sell,
          {"msg": _NO_MODEL, "data.message": _NO_MODEL, "data.price_details.3.error": _NO_MODEL}),
    Entry(_PRICE, 3, _ONE_HOUR, _little, {"msg": _SHORT, "data.message": _SHORT, "data.price_details.1.error": _SHORT}),
    # Its answer has a number where the others have a text: it was said in JSON.
    Entry(_PRICE, 4, {"cpcid": CENTRE, "resources": _LINES, "duration": 1, "duration_unit": "小时"}, _nothing,
          {"msg": _NO_TYPE, "data.message": _NO_TYPE, "data.price_details.*.error": _NO_TYPE}, way="json"),
    Entry(_FIT, 1, {"cpcid": CENTRE, "clusterid": CLUSTER, "kyylabels": "kyy-gpu=false", "resources": json.dumps(
        [product(_GREY[0], 16), product("fits", 4), product(_GREY[1], 32)])}, _room, {"msg": "products that fit nowhere listed"}),
)
