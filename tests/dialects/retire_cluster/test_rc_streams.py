"""The monitor stream: unnamed events, types, device filter, ids, resume without a hole, gaps, keep-alive; the web streams;
and the thread that all streams share (contract 9.6, 9.9)."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloudsched.client.sse import EventReader, ServerEvent
from cloudsched.dialects.retire_cluster import limits, monitor
from cloudsched.services import streams
from cloudsched.store import events
from cloudsched.store.db import write


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LOOK_S", 0.01)
    monkeypatch.setattr(monitor, "UPDATES_EVERY_S", 0.0)


class Watcher:
    """One open stream of the WSGI client."""

    def __init__(self, api: Any, path: str, **headers: str) -> None:
        self.answer = api.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()}, buffered=False)
        assert self.answer.status_code == 200, self.answer.text
        self.raw: list[bytes] = []
        self.events = EventReader().read(self._lines())

    def _lines(self) -> Iterator[bytes]:
        for piece in self.answer.response:
            self.raw.append(piece)
            yield from (line + b"\n" for line in piece.split(b"\n")[:-1])

    def next(self, kind: str = "") -> ServerEvent:
        """The next event, or the next of a type."""
        return next(event for event in self.events if not kind or event.data.get("type") == kind)

    def types(self, count: int) -> list[str]:
        return [self.next().data["type"] for _ in range(count)]


@pytest.fixture
def watch(api: Any) -> Iterator[Callable[..., Watcher]]:
    opened: list[Watcher] = []

    def start(path: str = "/monitor/stream", **headers: str) -> Watcher:
        opened.append(Watcher(api, path, **headers))
        return opened[-1]

    yield start
    for one in opened:
        one.answer.close()


def test_a_task_from_beginning_to_end(api: Any, device: Any, watch: Callable[..., Watcher]) -> None:
    stream = watch("/monitor/stream?types=tasks")
    task = api.submit()
    assert device.work() == task
    seen = [stream.next() for _ in range(3)]
    assert [one.data["type"] for one in seen] == ["task_submitted", "task_started", "task_completed"]
    assert {one.data["task_id"] for one in seen} == {task} and {one.data["task_type"] for one in seen} == {"echo"}
    assert seen[-1].data["device_id"] == "android-001" and seen[-1].data["status"] == "completed"
    assert {one.kind for one in seen} == {"message"} and all(one.data["timestamp"].endswith("Z") for one in seen)
    assert [int(one.id) for one in seen if one.id] == sorted(int(one.id) for one in seen if one.id)
    assert stream.raw[0].startswith(b":") and not any(b"event:" in piece for piece in stream.raw)
    headers = stream.answer.headers
    assert (headers["Cache-Control"], headers["X-Accel-Buffering"]) == ("no-cache", "no")
    assert headers["Content-Type"].startswith("text/event-stream")


def test_failures_and_cancels(api: Any, device: Any, watch: Callable[..., Watcher]) -> None:
    stream = watch("/monitor/stream?types=tasks")
    gone, bad = api.submit(), api.submit()
    api.delete(f"/tasks/{gone}")
    device.done(device.take(), None, status="failed", error_message="no")
    found = {stream.next("task_cancelled").data["task_id"], stream.next("task_failed").data["task_id"]}
    assert found == {gone, bad}


def test_devices(api: Any, watch: Callable[..., Watcher], make_device: Callable[..., Any]) -> None:
    stream = watch("/monitor/stream?types=devices")
    threading.Timer(0.0, lambda: make_device("android-001").beat(cpu_usage=45.2)).start()
    assert stream.next("device_registered").data["device_id"] == "android-001"
    update = stream.next("device_update")
    assert (update.id, update.data["device_id"], update.data["status"]) == (None, "android-001", "online")
    while update.data["cpu_usage"] != 45.2:
        update = stream.next("device_update")
    assert update.data["memory_usage"] == 40.0
    api.delete("/devices/android-001")
    assert stream.next("device_removed").data["device_id"] == "android-001"


def test_logs_and_all(api: Any, device: Any, watch: Callable[..., Watcher]) -> None:
    stream, logs = watch(), watch("/monitor/stream?types=logs")
    task = api.submit()
    entry = logs.next()
    assert (entry.data["type"], entry.data["level"], entry.data["message"]) == ("log_entry", "info", f"task {task} was submitted")
    first, second = stream.next("task_submitted"), stream.next("log_entry")
    assert (first.id, second.id) == (None, entry.id)  # the number stands on the last line of its event


def test_one_device(api: Any, device: Any, make_device: Callable[..., Any], watch: Callable[..., Watcher]) -> None:
    other = make_device("other")
    stream = watch("/monitor/stream?types=tasks,logs&device_id=other")
    for name in ("android-001", "other"):
        api.submit(device_id=name)
    assert device.work() and other.work()
    seen = [stream.next().data for _ in range(4)]
    assert {one["device_id"] for one in seen} == {"other"}


def test_resume_without_a_hole(api: Any, device: Any, watch: Callable[..., Watcher]) -> None:
    stream = watch("/monitor/stream?types=tasks")
    tasks = [api.submit() for _ in range(4)]
    first = stream.next()
    assert first.id and first.data["task_id"] == tasks[0]
    again = watch("/monitor/stream?types=tasks", Last_Event_ID=first.id)
    assert [again.next().data["task_id"] for _ in range(3)] == tasks[1:]
    begin = watch("/monitor/stream?types=tasks", Last_Event_ID="0")
    assert [begin.next().data["task_id"] for _ in range(4)] == tasks


def test_a_hole_is_told(api: Any, watch: Callable[..., Watcher]) -> None:
    tasks = [api.submit() for _ in range(5)]
    ids = [event.id for event in events.since(0) if event.kind == "job.submit"]
    write(lambda tx: tx.run("DELETE FROM event WHERE id <= ?", (ids[2],)))
    stream = watch("/monitor/stream?types=tasks", Last_Event_ID=str(ids[0]))
    gap = stream.next()
    assert (gap.data["type"], gap.data["from"], gap.data["to"], gap.id) == ("gap", ids[0] + 1, ids[2], str(ids[2]))
    assert [stream.next().data["task_id"] for _ in range(2)] == tasks[3:]
    beyond = watch("/monitor/stream?types=tasks", Last_Event_ID="999999")
    assert beyond.next().data["type"] == "gap"


def test_without_an_id_it_begins_now(api: Any, watch: Callable[..., Watcher]) -> None:
    api.submit()
    stream = watch("/monitor/stream?types=tasks")
    later = api.submit()
    assert stream.next().data["task_id"] == later


def test_signs_of_life(api: Any, watch: Callable[..., Watcher], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_S", 0.0)
    stream = watch("/monitor/stream?types=tasks")
    pieces = iter(stream.answer.response)
    assert next(pieces).startswith(b":") and next(pieces) == b": keep-alive\n\n"


def test_web_streams(api: Any, device: Any, watch: Callable[..., Watcher], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "LOGS_EVERY_S", 0.0)
    devices = watch("/stream/devices").next()
    assert devices.kind == "device_update" and devices.data["devices"][0]["id"] == "android-001" and devices.data["timestamp"]
    logs = watch("/stream/logs?device=android-001")
    task = api.submit(device_id="android-001")
    device.work()
    seen = []
    for event in logs.events:
        seen.append(event)
        if event.kind == "log" and "completed" in event.data["message"]:
            break
    assert f"task {task} completed on android-001" in [one.data.get("message") for one in seen if one.kind == "log"]
    assert next(event for event in logs.events if event.kind == "heartbeat").data == {}


# the thread that all streams share


class Counting:
    """A source that says what it is told to."""

    heartbeat = b":\n\n"

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.said: list[bytes | None] = []

    def first(self) -> bytes:
        return b"first"

    def more(self, feed: streams.Feed, now: float) -> bytes | None:
        return self.said.pop(0) if self.said else b""

    def closed(self) -> None:
        self.ended.set()


@pytest.fixture
def shared(api: Any) -> Iterator[Callable[..., socket.socket]]:
    thread = streams._Shared()
    sockets: list[socket.socket] = []

    def take(source: Any, protocol: str = "HTTP/1.0") -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.settimeout(30)
        sockets.append(theirs)
        thread.take(streams.Stream(source, {"SERVER_PROTOCOL": protocol}, kind="events"), ours)
        return theirs

    yield take
    for one in sockets:
        one.close()
    running = thread._thread
    if running is not None:
        running.join(30)
    thread.close()


def test_what_is_said_arrives_and_the_end_too(shared: Any) -> None:
    source = Counting()
    source.said = [b"one", None]
    assert shared(source).recv(100) == b"one"
    assert source.ended.wait(30)
    source = Counting()
    source.said = [b"one", None]
    chunked = shared(source, "HTTP/1.1")
    data = b""
    while piece := chunked.recv(100):
        data += piece
    assert data == b"3\r\none\r\n0\r\n\r\n" and source.ended.wait(30)


def test_one_that_hangs_up_frees_its_place(shared: Any) -> None:
    source = Counting()
    shared(source).close()
    assert source.ended.wait(30)


def test_one_that_does_not_read_holds_up_nobody(shared: Any) -> None:
    slow, quick = Counting(), Counting()
    slow.said = [b"x" * (1 << 22), b"later"]
    lazy, reader = shared(slow), shared(quick)
    deadline = time.monotonic() + 30
    while slow.said != [b"later"] and time.monotonic() < deadline:
        time.sleep(0.01)
    quick.said = [b"quick"]
    assert reader.recv(100) == b"quick" and slow.said == [b"later"]  # it is not asked again before it has read
    left = (1 << 22) + 5
    while left:
        left -= len(lazy.recv(1 << 20))
    assert slow.said == []


def test_a_source_that_fails_ends_alone(shared: Any) -> None:
    class Broken(Counting):
        def more(self, feed: streams.Feed, now: float) -> bytes:
            raise ValueError("a mistake")

    bad, good = Broken(), Counting()
    closed, reader = shared(bad), shared(good)
    assert closed.recv(100) == b"" and bad.ended.wait(30)
    good.said = [b"still here"]
    assert reader.recv(100) == b"still here"


def test_monitor_streams_on_the_shared_thread(api: Any, device: Any, shared: Any) -> None:
    common = monitor.Shared(api.app.limits)
    start = events.last_id(), None
    readers = [shared(monitor.Monitor(common, ("tasks",), None, start, lambda: None)) for _ in range(50)]
    task = api.submit()
    for one in readers:
        assert json.loads(one.recv(4096).split(b"data: ")[1])["task_id"] == task
    assert sum(thread.name == "streams" for thread in threading.enumerate()) == 1


def test_feed_reads_what_it_has_not_kept(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "KEPT", 3)
    feed = streams.Feed()
    feed.refresh()
    start = feed.last
    for _ in range(3):
        api.submit()
        feed.refresh()
    api.submit()
    api.submit()
    feed.refresh()
    found, gap = feed.after(start)
    assert gap is None and [event.kind for event in found].count("job.submit") == 5
    assert len(feed._kept) == 3 and [event.id for event in feed.after(feed.last - 2)[0]] == [feed.last - 1, feed.last]
    assert feed.after(feed.last) == ([], None)



def test_no_room_gives_the_place_back(make_api: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    api = make_api(**{"retire_cluster.streams_max": 1})
    thread = streams._Shared()
    monkeypatch.setattr(streams, "_shared", thread)
    thread._most = 0
    answer = api.get("/monitor/stream")
    assert (answer.status_code, answer.json["error_code"]) == (503, "SERVICE_UNAVAILABLE") and answer.headers["Retry-After"]
    assert not limits._kept._ids
    thread._most = 1
    again = api.get("/monitor/stream", buffered=False)
    assert again.status_code == 200
    again.close()
    thread.close()
