"""The contract's examples of labels."""

from __future__ import annotations

from tests.dialects.kboss.conftest import ORG
from tests.dialects.kboss.seed.form import Differs, Entry
from tests.dialects.kboss.seed.world import CENTRE, CLUSTER, CPCLABEL, NODE, World

_LIST, _ADD, _DELETE, _SETUP = (f"{verb} {CPCLABEL}/{name}_cpclabel.dspy" for verb, name in (
    ("GET", "get"), ("POST", "add"), ("POST", "delete"), ("POST", "setup")))
_FOUR = (
    ("3h1CPE1jv7TwF52A4urJd", "非GPU设备", "1", "kyy-gpu", "false", "2025-05-28 14:42:04"),
    ("APP5429j81a4kBmmrhi52", "GPU设备", "1", "kyy-gpu", "true", "2025-05-28 14:42:06"),
    ("Fx1xo6bXcFLp9pLLXgpRN", "测试标签", "0", "kyy-test", "ok", "2025-05-28 14:42:21"),
    ("mfbiVzlAtd87H1cX_b81X", "cd", "0", "kyy-we", "qwe", "2025-05-28 14:42:24"))
_NO_CENTRE = "the route has no parameter for a centre that could be missing: labels are an organisation's"
_NEW = {"name": "mysql8资源实例", "labeltype": "0", "label_key": "kyy-app", "label_value": "mysql8", "orgid": ORG}


def _four(world: World) -> None:
    for key, name, labeltype, label_key, label_value, at in _FOUR:
        world.at(at)
        world.keys.ids.append(key)
        world.ok(f"{CPCLABEL}/add_cpclabel.dspy", {"name": name, "labeltype": labeltype, "label_key": label_key,
                                                   "label_value": label_value, "orgid": ORG})


def _next(world: World) -> None:
    world.at("2025-05-27 14:13:00")
    world.keys.ids.append("BvJGOTjpDelumxH5Uo0Qz")


def _to_delete(world: World) -> None:
    world.keys.ids.append("6bi3hfxxVqMM7hy-OuitEa")
    world.ok(f"{CPCLABEL}/add_cpclabel.dspy", _NEW)


def _with_node(world: World) -> None:
    world.kube.add_node(NODE)
    world.one_cluster()


ENTRIES = (
    Entry(_LIST, 1, {"orgid": ORG}, _four, {"msg": "labels listed"}),
    Entry(_LIST, 2, {}, lambda world: None, {"msg": "labels listed"}, (
        Differs("status", True, _NO_CENTRE),
        Differs("msg", "获取资源标签成功", _NO_CENTRE), Differs("data", {"total": 0, "rows": []}, _NO_CENTRE))),
    Entry(_ADD, 1, _NEW, _next, {"msg": "label added"}),
    Entry(_DELETE, 1, {"id": "6bi3hfxxVqMM7hy-OuitEa", "orgid": ORG}, _to_delete, {"msg": "label removed"}),
    Entry(_SETUP, 1, {"cpcid": CENTRE, "clusterid": CLUSTER, "label": "kyy-gpu=false", "worker_node": NODE, "opt": "label",
                      "orgid": ORG}, _with_node, {"msg": "node label set"}),
)
