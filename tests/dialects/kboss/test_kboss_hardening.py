"""What a hostile or clumsy caller must not get: keys by path, others' pods, half a list, a thousandfold stock."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudsched.domain.instances import names_of
from cloudsched.errors import Invalid, NotFound
from cloudsched.services.centre import centres, dashboards, executor, parts
from tests.dialects.kboss.conftest import ORG, Api
from tests.services import shop as shops
from tests.services.shop import Shop

QUOTE, FREE = "/dev/cpcc/cpcwidget/accrual_price.dspy", "/dev/cpcc/cpcbuy/determine_accommodat.dspy"


@pytest.fixture
def shop(api: Api) -> Iterator[Shop]:
    with shops.opened(api.settings) as made:
        yield made


@pytest.mark.parametrize("path", ["/etc/shadow", "/nonexistent", "~/.ssh/id_rsa", "x"])
def test_a_key_is_a_text_never_a_file_of_the_server(path: str) -> None:
    with pytest.raises(Invalid, match="key: is not the text of a private key") as told:
        executor.access_from({"host": "h", "user": "root", "key": path})
    assert "Is a directory" not in str(told.value) and "No such" not in str(told.value)


def test_a_list_may_be_given_by_its_members(api: Api) -> None:
    centre = centres.add({"name": "c"}, org=ORG, actor="ann", settings=api.settings)
    for kind, model, price in (("cpu", "X", "1.5"), ("memory", "Y", "0.005")):
        parts.add(centre.key, kind=kind, model=model, unit_price=price, stock=100, cluster_key="", actor="ann")
    asked = [{"type": "cpu", "model": "X", "amount": 4}, {"type": "memory", "model": "Y", "amount": 8192}]

    def total(query: str) -> Any:
        answer = api(f"{QUOTE}?cpcid={centre.key}&duration=1&duration_unit=小时&orgid={ORG}&{query}", method="GET")
        return answer.json["data"]["total_price"]

    one_by_one = "&".join(f"resources={json.dumps(one)}" for one in asked)
    assert total(one_by_one) == total(f"resources={json.dumps(asked)}") == 6.04


def test_anything_else_given_twice_is_refused(api: Api) -> None:
    path = "/dev/cpcc/cpclist/get_cpclist.dspy"
    answer = api(f"{path}?page=1&page=2", method="GET")
    assert (answer.status_code, answer.json["msg"]) == (400, "参数重复: page")
    assert api(f"{path}?page=1&page=1", method="GET").json["status"]


def test_stock_is_added_in_the_unit_that_was_said(api: Api) -> None:
    centre = centres.add({"name": "c"}, org=ORG, actor="ann", settings=api.settings)
    parts.add(centre.key, kind="cpu", model="X", unit_price="1", resource_unit="核", stock=2, cluster_key="k", actor="ann")
    parts.add(centre.key, kind="cpu", model="X", unit_price="1", resource_unit="m", stock=1000, cluster_key="k", add_stock=True,
              actor="ann")
    (found,) = parts.listed(centre.key)
    assert found.stock == 3000


def test_another_organisation_sees_its_own_pods_alone(shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spaces = [names_of("x", cluster=shop.cluster, org=org, engine="").namespace for org in (ORG, "other")]
    rows = [{"namespace": space, "name": "p"} for space in (*spaces, "kube-system")]
    monkeypatch.setattr(dashboards, "_of_place", lambda place, what: rows)
    see = lambda scope, what=dashboards.PODS: dashboards.of_cluster(shop.cluster, what, shop.settings, scope=scope)  # noqa: E731
    assert see(None) == see(shop.centre.org) == rows
    assert see("other") == [rows[1]]
    with pytest.raises(NotFound):
        see("other", dashboards.NODES)
