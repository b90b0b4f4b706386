"""The contract's examples of compute centres."""

from __future__ import annotations

from tests.dialects.kboss.conftest import ORG
from tests.dialects.kboss.seed.form import SEALED, Differs, Entry
from tests.dialects.kboss.seed.world import World

KEPT_SEALED = "secrets are read as sealed tokens (contract: calls)"
CAPITAL = {"name": "首都算力中心1", "pcapi_url": "https://centre.example.com", "api_user": "apiuser", "api_pwd": "<password>",
           "contactname": "ops", "contactphone": "13800000000", "enable_date": "2025-05-16", "expire_date": "2026-06-17"}
_LIST, _ADD, _UPDATE, _DELETE = (f"{verb} /dev/cpcc/cpclist/{name}_cpclist.dspy" for verb, name in (
    ("GET", "get"), ("POST", "add"), ("POST", "update"), ("POST", "delete")))


def _two(world: World) -> None:
    world.centre("-z2r4CFb-7rcfugNn2wIr", **CAPITAL)
    world.centre("AROU9udKtPNyh0AZtO_WY", name="测试pcapi", pcapi_url="https://trial.example.com", enable_date="2025-04-13",
                 expire_date="2025-04-18")


def _third(world: World) -> None:
    world.centre("gOHOm7Wm01OPnBUFeeVi8", **{**CAPITAL, "pcapi_url": "https://trial.example.com", "name": "首都算力中心2"})


def _to_delete(world: World) -> None:
    world.centre("u8swLRSlyDt7IGpJurPVZ", **CAPITAL)


ENTRIES = (
    Entry(_LIST, 1, {"page": "1", "rows": "20", "sort": "id", "orgid": ORG}, _two, {"msg": "compute centres listed"},
          (Differs("data.rows.*.api_pwd", SEALED, KEPT_SEALED),)),
    Entry(_ADD, 1, {**CAPITAL, "orgid": ORG}, lambda world: world.keys.ids.append("9Luu-tbsJmEEcJxoAkumM"),
          {"msg": "compute centre added"}, (Differs("data.api_pwd", SEALED, KEPT_SEALED),)),
    Entry(_ADD, 1, {**CAPITAL, "orgid": ORG}, lambda world: world.keys.ids.append("9Luu-tbsJmEEcJxoAkumM"),
          {"msg": "compute centre added"}, flags={"centres.reveal_secrets": "yes"}, name="revealed"),
    Entry(_UPDATE, 1, {**CAPITAL, "id": "gOHOm7Wm01OPnBUFeeVi8", "name": "首都算力中心3", "api_user": "修改后数据1"}, _third,
          {"msg": "compute centre updated"}, (Differs("data.api_pwd", SEALED, KEPT_SEALED),)),
    Entry(_UPDATE, 2, {**CAPITAL, "id": ""}, _third, {"msg": "no compute centre id (cpcid)"}),
    Entry(_DELETE, 1, {"id": "u8swLRSlyDt7IGpJurPVZ", "orgid": ORG}, _to_delete, {"msg": "compute centre removed"}),
)
