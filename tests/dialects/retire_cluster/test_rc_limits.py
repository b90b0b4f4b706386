"""The 101st write, the 1001st read, the 11th stream; exact under concurrency; headers; what is not counted (contract 6, 18.7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cloudsched import clock
from cloudsched.clock import ManualClock
from cloudsched.dialects.retire_cluster.front import Front
from cloudsched.services import ratelimits

HEADERS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")


@pytest.fixture
def time_passes(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    manual = ManualClock(1_767_341_084.0)
    monkeypatch.setattr(clock, "now", manual.now)
    return manual


@pytest.fixture
def api(make_api: Callable[..., Any], time_passes: ManualClock) -> Iterator[Any]:
    yield make_api()
    ratelimits.reset()


def told(answer: Any) -> list[int]:
    return [int(answer.headers[name]) for name in HEADERS]


def use(api: Any, times: int, kind: str = "read", identity: str = "address:127.0.0.1") -> None:
    """As if so many requests had come."""
    front: Front = api.app
    for _ in range(times):
        ratelimits.count(identity, kind, limit=front.limits._most[kind], window_s=front.limits._window_s)


def test_the_1001st_read_and_the_101st_write(api: Any, time_passes: ManualClock) -> None:
    end = int(time_passes.now()) + 900
    assert told(api.get("/tasks/types")) == [1000, 999, end]
    use(api, 998)
    assert told(api("HEAD", "/tasks/types")) == [1000, 0, end]
    refused = api.get("/tasks/types")
    assert (refused.status_code, refused.json["error_code"]) == (429, "RATE_LIMIT_EXCEEDED")
    assert told(refused) == [1000, 0, end] and refused.headers["Retry-After"] == "900"
    for _ in range(100):
        written = api.post("/tasks/nobody/cancel")
        assert written.status_code == 404
    assert told(written) == [100, 0, end]
    refused = api.post("/tasks/nobody/cancel")
    assert refused.status_code == 429 and told(refused) == [100, 0, end]
    assert api.post("/tasks", json={"task_type": "echo", "payload": {}}).status_code == 429
    time_passes.advance(450)
    assert api.get("/tasks/types").headers["Retry-After"] == "450"
    time_passes.advance(451)
    assert told(api.get("/tasks/types")) == [1000, 999, int(time_passes.now()) + 900]


def test_identities_are_apart(make_api: Callable[..., Any], time_passes: ManualClock) -> None:
    api = make_api(**{"retire_cluster.write_limit": 2, "retire_cluster.auth": "no",
                      "retire_cluster.api_keys": "key-one,key-two"})

    def write(**kw: Any) -> int:
        return int(api.delete("/tasks/x", **kw).status_code)

    assert [write() for _ in range(3)] == [404, 404, 429]
    assert write(address="127.0.0.2") == 404
    assert [write(key="key-one") for _ in range(3)] == [404, 404, 429]
    assert write(key="key-one", address="127.0.0.3") == 429 and write(key="key-two") == 404
    assert write(key="wrong") == 429  # not a key: the address counts


def test_what_is_not_counted(make_api: Callable[..., Any], time_passes: ManualClock) -> None:
    api = make_api(**{"retire_cluster.read_limit": 1, "retire_cluster.write_limit": 1})
    for _ in range(3):
        answer = api.get("/health")
        assert answer.status_code == 200 and HEADERS[0] not in answer.headers
        assert api("OPTIONS", "/tasks").status_code == 200
    assert api.get("/nowhere").status_code == 404 and api.get("/nowhere").status_code == 429
    off = make_api(**{"retire_cluster.read_limit": 1, "retire_cluster.rate_limit": False})
    for _ in range(3):
        answer = off.get("/tasks/types")
        assert answer.status_code == 200 and HEADERS[0] not in answer.headers


def test_refusals_for_want_of_a_key_are_counted(make_api: Callable[..., Any], time_passes: ManualClock) -> None:
    api = make_api(**{"retire_cluster.auth": "yes", "retire_cluster.api_keys": "key-one:read", "retire_cluster.read_limit": 2})
    assert [api.get("/devices", key=f"guess{n}").status_code for n in range(4)] == [401, 401, 429, 429]
    assert told(api.get("/config", key="key-one")) [:2] == [2, 1]
    assert api.put("/config", key="key-one").headers["X-RateLimit-Remaining"] == "99"  # 403, and counted


def test_exact_under_fifty_threads(make_api: Callable[..., Any], time_passes: ManualClock) -> None:
    api = make_api(**{"retire_cluster.write_limit": 60})
    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(lambda _: api.delete("/tasks/x").status_code, range(100)))
    assert (found.count(404), found.count(429)) == (60, 40)


def test_the_eleventh_stream(api: Any) -> None:
    paths = ("/monitor/stream", "/stream/devices", "/stream/logs") * 4
    opened = [api.get(path, buffered=False) for path in paths[:10]]
    assert all(one.status_code == 200 for one in opened)
    assert [int(one.headers["X-RateLimit-Remaining"]) for one in opened] == list(range(9, -1, -1))
    refused = api.get("/monitor/stream")
    assert (refused.status_code, refused.json["error_code"]) == (429, "RATE_LIMIT_EXCEEDED")
    assert told(refused)[:2] == [10, 0] and refused.headers["Retry-After"]
    other = api.get("/monitor/stream", address="127.0.0.9", buffered=False)
    assert other.status_code == 200
    next(iter(opened[0].response))
    opened[0].close()
    again = api.get("/monitor/stream", buffered=False)
    assert again.status_code == 200
    for one in (*opened[1:], other, again):
        one.close()


def test_places_of_a_process_that_died_come_back(api: Any, time_passes: ManualClock) -> None:
    for _ in range(10):
        assert ratelimits.take_stream("address:127.0.0.1", limit=10)
    assert api.get("/monitor/stream").status_code == 429
    time_passes.advance(ratelimits.STREAM_LEASE_S + 1)
    again = api.get("/monitor/stream", buffered=False)
    assert again.status_code == 200
    again.close()
