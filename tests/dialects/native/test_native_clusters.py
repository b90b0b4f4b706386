"""Clusters of every dialect: looked at and taken away through the native API."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cloudsched.services import clusters as service
from cloudsched.store import clusters, db

from .conftest import Api


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api()


def made(key: str, **values: object) -> int:
    facts = {"key": key, "name": key, "kind": "spark", "origin": "elsewhere", **values}
    return db.write(lambda tx: clusters.insert(tx, facts, at=1000.0))


def test_list_show_and_pages(api: Api) -> None:
    numbers = [made(f"c{index}", kind="flink" if index else "spark", secrets="sealed:1:x") for index in range(3)]
    page = api.get("/clusters?limit=2").json
    assert [one["id"] for one in page["items"]] == numbers[:0:-1] and page["next"]
    assert [one["id"] for one in api.get(f"/clusters?limit=2&cursor={page['next']}").json["items"]] == numbers[:1]
    assert [one["key"] for one in api.get("/clusters?kind=spark").json["items"]] == ["c0"]
    assert api.get("/clusters?state=running").json["items"] == []
    shown = api.get("/clusters/c1")
    assert shown.json["id"] == numbers[1] and shown.json["nodes"] == [] and "sealed" not in shown.text
    assert api.get(f"/clusters/{numbers[1]}").json == shown.json


def test_its_nodes_are_named_on_both_sides(api: Api) -> None:
    number, (node, _) = made("c0"), api.node("n1")
    db.write(lambda tx: clusters.add_node(tx, number, node, role="worker", name="w1", at=1001.0))
    (member,) = api.get("/clusters/c0").json["nodes"]
    assert (member["node"], member["role"], member["name"]) == ("n1", "worker", "w1")
    assert api.get("/nodes/n1").json["cluster"] == "c0"


def test_termination_is_wanted_once(api: Api) -> None:
    made("c0")
    first, second = api("DELETE", "/clusters/c0"), api("DELETE", "/clusters/c0")
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json["goal"] == second.json["goal"] == "end"
    events = [one["kind"] for one in api.get("/events?subject_kind=cluster").json["items"]]
    assert events == ["cluster.request", "cluster.terminate_request"]


def test_a_dialect_is_told_of_the_end_of_its_clusters(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, str, str]] = []
    monkeypatch.setitem(service._ends, "elsewhere", lambda tx, cluster, actor, reason: told.append((cluster.key, actor, reason)))
    made("c0")
    api("DELETE", "/clusters/c0")
    api("DELETE", "/clusters/c0")
    assert [(key, reason) for key, _, reason in told] == [("c0", "asked for")]


@pytest.mark.parametrize(("path", "status", "word"), [
    ("/clusters/none", 404, "none"), ("/clusters?kind=mesos", 422, "kind"), ("/clusters?state=up", 422, "state"),
])
def test_bad_questions(api: Api, path: str, status: int, word: str) -> None:
    answer = api.get(path)
    assert answer.status_code in (status, 400) and word in answer.text
