"""The contract's examples of resource instances."""

from __future__ import annotations

import threading
import time
from typing import Any

from tests.dialects.kboss.conftest import ORG
from tests.dialects.kboss.seed.form import EXAMPLES, SEALED, Differs, Entry
from tests.dialects.kboss.seed.world import CENTRE, CLUSTER, CPCPODYAML, World

KEY = "evfldtxjkr3jd8zxnfhd5"
_NEW, _LIST, _UPDATE, _DELETE = (f"{verb} {CPCPODYAML}/{name}_cpcpodyaml.dspy" for verb, name in (
    ("POST", "new"), ("GET", "get"), ("POST", "update"), ("POST", "delete")))
_SEALED = "secrets are read as sealed tokens (contract: calls)"
_BESIDE = "the request's tables have it: what was bought is shown whole"
_STATE = "how the instance is: the contract has it on the dashboard of pods alone"
_SPACE = "4hbm8atruisou2bs24t-n-miwuhbeedm8mwafpiq8ps"
_TAKEN = [{"kind": kind, "name": name, "action": "deleted"} for kind, name in (
    ("StatefulSet", f"{KEY}-statefulset"), ("Service", f"{KEY}-service"), ("PersistentVolumeClaim", f"data-{KEY}-statefulset-0"),
    ("Secret", f"{KEY}-secret"), ("ServiceAccount", f"{_SPACE}-serviceaccount"), ("Namespace", _SPACE))]
SOON = "look at the live dashboard in 10 seconds"
# The example's own answer says what was asked for.
GIVEN: dict[str, Any] = {
    **{name: value for name, value in EXAMPLES[_NEW]["answers"][0]["data"].items() if name in EXAMPLES[_NEW]["parameters"]},
    "source_gpu": "0", "cpu_model": "STANDARD", "gpu_model": "", "disk_sys_limit": "20Gi", "userid": "kyy-运营"}
CHANGED: dict[str, Any] = {
    name: value for name, value in EXAMPLES[_UPDATE]["answers"][0]["data"].items() if name in EXAMPLES[_UPDATE]["parameters"]}


def shop(world: World) -> None:
    """A cluster with stock in its books."""
    world.kube.add_node("node-0", labels={"kyy-gpu": "false"})
    world.one_cluster()
    for kind, model, amount in (("cpu", "STANDARD", "16"), ("memory", "STANDARD", "64"), ("disk", "SYS", "500"),
                                ("disk", "DATA", "1000")):
        world.part(world.keys(), kind, model, "1", stock=amount)
    world.instance_keys.ids.append(KEY)


def _bought(world: World) -> None:
    shop(world)
    world.ok(f"{CPCPODYAML}/new_cpcpodyaml.dspy", GIVEN)


def _settled(world: World) -> None:
    """Bought, and its claim is made as well."""
    _bought(world)
    deadline = time.monotonic() + 30
    while not world.kube.things("PersistentVolumeClaim"):
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def _beside() -> tuple[Differs, ...]:
    asked = {"source_gpu": 0, "cpu_model": "STANDARD", "gpu_model": "", "memory_model": "STANDARD", "disk_sys_limit": "20Gi",
             "source_replicasetmax": 0, "source_schedule": ""}
    now = {"orgid": ORG, "state": "applied", "state_text": "已部署", "live": "", "reason": ""}
    return (*(Differs(f"data.rows.0.{name}", value, _BESIDE, before="row_num_") for name, value in asked.items()),
            *(Differs(f"data.rows.0.{name}", value, _STATE, before="row_num_") for name, value in now.items()))


ENTRIES = (
    Entry(_NEW, 1, GIVEN, shop, {"msg": f"resource instance added; {SOON}"}, (
        Differs("data.source_authpasswd", SEALED, _SEALED),)),
    Entry(_NEW, 1, GIVEN, shop, {"msg": f"resource instance added; {SOON}"}, flags={"centres.reveal_secrets": "yes"},
          name="revealed"),
    Entry(_LIST, 1, {"cpcid": CENTRE, "clusterid": CLUSTER}, _bought, {
        "msg": "resource instances listed", "data.rows.0.state_text": "deployed"}, (
        Differs("data.rows.0.source_authpasswd", SEALED, _SEALED), *_beside())),
    Entry(_UPDATE, 1, CHANGED, _bought, {"msg": f"resource instance updated; {SOON}"}, (
        Differs("data.source_authpasswd", SEALED, _SEALED),)),
    Entry(_DELETE, 1, {"id": KEY, "orgid": ORG}, _settled, {"msg": f"resource instance deleted with everything of it; {SOON}"}, (
        Differs("objects", _TAKEN, "says what was taken away (contract: delete removes exactly what was created)"),)),
)
