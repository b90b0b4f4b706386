"""Document view, list view, filters, sorting, paging (contract 8, 9.3, 9.4); CORS (contract 7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

PRODUCT = {"User-Agent": "retire-cluster-python-client/1.0.0"}


@pytest.fixture
def fleet(api: Any, make_device: Callable[..., Any]) -> Any:
    make_device("b-laptop", role="compute", platform="linux", platform_details={"machine": "x86_64", "python_version": "3.10.4"},
                tags=["linux", "gpu-capable"], has_gpu=True).beat(cpu_usage=10, memory_usage=90)
    make_device("a-phone").beat(cpu_usage=70, memory_usage=10)
    make_device("c-nas", role="nas", platform="linux", platform_details={"machine": "armv7l"}, tags=["linux"]).beat(
        cpu_usage=40, memory_usage=50)
    return api


def ids(api: Any, query: str, **kw: Any) -> list[str]:
    data = api.data(f"/devices{query}", **kw)
    return [one["device_id"] for one in (data["devices"] if isinstance(data, dict) else data)]


WHICH_VIEW = [
    ("", False), ("?limit=5", False), ("?status=online&role=mobile", False), ("?page=1", True), ("?page_size=10", True),
    ("?platform=linux", True), ("?tags=linux", True), ("?view=list", True), ("?view=document&page=1&tags=linux", False),
]


def test_which_view(fleet: Any) -> None:
    for query, listed in WHICH_VIEW:
        answer = fleet.get(f"/devices{query}")
        assert isinstance(answer.json["data"], list) is listed and ("pagination" in answer.json) is listed


def test_the_product_name_chooses_the_list_view(fleet: Any) -> None:
    for path in ("/devices", "/tasks"):
        assert isinstance(fleet.data(path, headers=PRODUCT), list)
        assert isinstance(fleet.data(f"{path}?view=document", headers=PRODUCT), dict)
        assert isinstance(fleet.data(path, headers={"User-Agent": "curl/8"}), dict)


def test_filters_and_sorting(fleet: Any) -> None:
    assert ids(fleet, "") == ids(fleet, "?sort=name") == ["a-phone", "b-laptop", "c-nas"]
    assert ids(fleet, "?sort=cpu") == ["a-phone", "c-nas", "b-laptop"]
    assert ids(fleet, "?sort=memory") == ["b-laptop", "c-nas", "a-phone"]
    assert sorted(ids(fleet, "?sort=last_seen")) == ["a-phone", "b-laptop", "c-nas"]
    assert ids(fleet, "?role=nas") == ["c-nas"] and len(ids(fleet, "?role=all")) == 3 and ids(fleet, "?role=none") == []
    assert ids(fleet, "?platform=LINUX") == ["b-laptop", "c-nas"] and ids(fleet, "?platform=android") == ["a-phone"]
    assert ids(fleet, "?tags=linux&tags=gpu-capable") == ["b-laptop"]
    data = fleet.data("/devices?status=offline")
    assert (data["total"], data["online"], data["offline"], data["count"]) == (0, 3, 0, 0)
    data = fleet.data("/devices?limit=1")
    assert (data["total"], data["count"]) == (3, 1)


def test_pages(fleet: Any) -> None:
    answer = fleet.get("/devices?page=2&page_size=2").json
    assert [one["device_id"] for one in answer["data"]] == ["c-nas"]
    assert answer["pagination"] == {"page": 2, "page_size": 2, "total_items": 3, "total_pages": 2, "has_next": False,
                                    "has_previous": True}
    assert fleet.get("/devices?page_size=5000").json["pagination"]["page_size"] == 100
    assert fleet.get("/devices?page=99").json["data"] == [] and fleet.get("/devices?page=1").json["pagination"]["page_size"] == 20
    assert fleet.get(f"/tasks?page={10**17}").json["data"] == []


def test_rows(fleet: Any) -> None:
    row = fleet.data("/devices?tags=gpu-capable")[0]
    assert (row["platform"], row["status"], row["capabilities"]["has_gpu"], row["role"]) == ("linux", "online", True, "compute")
    assert isinstance(row["uptime"], str)


def test_tasks_in_both_views(fleet: Any) -> None:
    first = fleet.submit(priority="low")
    second = fleet.submit("sleep", {"duration": 1}, priority="urgent", device_id="a-phone")
    third = fleet.submit(requirements={"required_role": "compute"})
    fleet.delete(f"/tasks/{third}")
    data = fleet.data("/tasks")
    assert [one["task_id"] for one in data["tasks"]] == [third, second, first]
    assert [one["status"] for one in data["tasks"]] == ["cancelled", "pending", "pending"]
    assert {name: data[name] for name in ("total", "pending", "running", "completed", "failed", "cancelled")} == {
        "total": 3, "pending": 2, "running": 0, "completed": 0, "failed": 0, "cancelled": 1}
    rows = fleet.get("/tasks?page=1&page_size=2").json
    assert [one["status"] for one in rows["data"]] == ["cancelled", "queued"] and rows["pagination"]["total_items"] == 3

    def found(query: str) -> list[str]:
        return [one["task_id"] for one in fleet.data(f"/tasks?{query}")["tasks"]]

    assert found("status=cancelled") == [third] and found("status=PENDING") == found("status=queued") == [second, first]
    assert found("task_type=sleep") == found("priority=urgent") == found("device_id=a-phone") == [second]
    assert found("since=2100-01-01T00:00:00Z") == found("status=timeout") == [] and len(found("since=0")) == 3
    assert found("limit=1") == [third]
    data = fleet.data("/tasks?status=cancelled")
    assert (data["total"], data["pending"]) == (1, 2)  # the counters ignore the status
    row = next(one for one in fleet.data("/tasks?view=list") if one["task_id"] == second)
    assert (row["priority"], row["assigned_at"], row["retry_count"]) == ("urgent", None, 0)


# CORS


def test_any_origin_without_credentials(api: Any) -> None:
    for answer in (api.get("/devices", headers={"Origin": "http://evil.example"}), api.get("/nowhere"),
                   api("OPTIONS", "/tasks", headers={"Origin": "http://a.example", "Access-Control-Request-Method": "POST"})):
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in answer.headers
        assert {"X-Request-ID", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"} <= set(
            answer.headers["Access-Control-Expose-Headers"].split(", "))
    assert answer.headers["Access-Control-Allow-Methods"] == "GET, POST, PUT, DELETE, OPTIONS"
    assert answer.headers["Access-Control-Allow-Headers"] == "Content-Type, Authorization, X-API-Key"
    assert (answer.status_code, answer.data) == (200, b"")


def test_a_list_of_origins(make_api: Callable[..., Any]) -> None:
    api = make_api(**{"retire_cluster.cors_origins": "http://a.example,http://b.example"})
    good = api.get("/health", headers={"Origin": "http://b.example"})
    bad = api.get("/health", headers={"Origin": "http://evil.example"})
    assert good.headers["Access-Control-Allow-Origin"] == "http://b.example" and good.headers["Vary"] == "Origin"
    assert "Access-Control-Allow-Origin" not in bad.headers and bad.headers["Vary"] == "Origin"


def test_cors_off(make_api: Callable[..., Any]) -> None:
    api = make_api(**{"retire_cluster.cors": False})
    for answer in (api.get("/health"), api("OPTIONS", "/tasks")):
        assert answer.status_code == 200 and not [name for name in answer.headers if name[0].startswith("Access-Control")]
