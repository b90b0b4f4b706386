"""What goes over the streams? The monitor stream of contract 9.6 and the two web streams of 9.9.

The monitor's events have no `event:` line, so that a browser's plain message handler sees them. `id:` is the number in the
event sequence, on the last line of its event, so that `Last-Event-ID` resumes without a hole; where retention has removed
events in between, an event of the type `gap` says so. Device updates are states, not history: they carry no id.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable

import msgspec

from cloudsched import clock
from cloudsched.dialects.retire_cluster import limits, params, render, words
from cloudsched.dialects.retire_cluster.envelope import wrong_parameter
from cloudsched.dialects.retire_cluster.routing import Answer, Call
from cloudsched.services import devices, watch
from cloudsched.services.streams import Feed, Source, Stream
from cloudsched.services.watch import Gap

CLASSES = ("devices", "tasks", "logs")
QUERY: tuple[params.Param, ...] = (params.Words("types", CLASSES), params.Text("device_id"))
LOGS_QUERY: tuple[params.Param, ...] = (params.Text("device"),)
UPDATES_EVERY_S, UPDATES_KEPT, UPDATES_PAGE = 1.0, 5000, 1000
DEVICES_EVERY_S, LOGS_EVERY_S = 5.0, 1.0
HEADERS = [("Content-Type", "text/event-stream; charset=utf-8"), ("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no")]
ALIVE = b": keep-alive\n\n"
_encode = msgspec.json.Encoder(enc_hook=str).encode
Leave = Callable[[], None]


class Updates:
    """What devices reported in the last seconds, looked up once for all streams. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: list[int] = []
        self._kept: list[tuple[str, bytes]] = []
        self._last = 0
        self._since: float | None = None
        self._looked_at = 0.0
        self._joined: tuple[tuple[int, int], bytes] = ((-1, -1), b"")

    def begin(self) -> int:
        """A stream begins: what is heard from now on is for it. The number of the newest update."""
        with self._lock:
            if self._since is None:
                self._since = clock.now()
            return self._last

    def after(self, mark: int, device_id: str | None, now: float) -> tuple[bytes, int]:
        """The updates after a mark as lines of a stream, and the next mark."""
        with self._lock:
            if now - self._looked_at >= UPDATES_EVERY_S:
                self._looked_at = now
                self._look()
            if mark >= self._last:
                return b"", self._last
            if device_id is None and self._joined[0] == (mark, self._last):
                return self._joined[1], self._last
            found = self._kept[bisect_right(self._numbers, mark):]
            data = b"".join(line for name, line in found if device_id in (None, name))
            if device_id is None:
                self._joined = (mark, self._last), data
            return data, self._last

    def _look(self) -> None:
        while self._since is not None:
            found = devices.updates(self._since, limit=UPDATES_PAGE)
            for one in found:
                self._last += 1
                self._numbers.append(self._last)
                self._kept.append((one.device_id, _message(_update(one))))
                self._since = one.at
            if len(found) < UPDATES_PAGE:
                break
        del self._kept[:-UPDATES_KEPT], self._numbers[:-UPDATES_KEPT]


def _update(one: devices.Update) -> bytes:
    return _encode({"type": "device_update", "device_id": one.device_id, "status": "online" if one.online else "offline",
                    "cpu_usage": one.cpu_usage, "memory_usage": one.memory_usage, "timestamp": render.time(one.at)})


class Monitor:
    """One monitor stream."""

    heartbeat = ALIVE

    def __init__(self, shared: Shared, types: tuple[str, ...], device_id: str | None, start: tuple[int, Gap | None],
                 leave: Leave) -> None:
        self._shared, self._types, self._device_id = shared, types, device_id
        self._mark, self._leave = shared.updates.begin(), leave
        self._position, self._gap = start

    def first(self) -> bytes:
        return b": the stream has begun\nretry: 2000\n\n" + (_gap(self._gap) if self._gap else b"")

    def more(self, feed: Feed, now: float) -> bytes:
        limits.renew_places()
        found, gap = feed.after(self._position)
        pieces = []
        if gap is not None:
            pieces.append(_gap(gap))
            self._position = gap.position
        if found:
            pieces += [self._said(line) for line in self._shared.lines.of(found)]
            self._position = found[-1].id
        if "devices" in self._types:
            updates, self._mark = self._shared.updates.after(self._mark, self._device_id, now)
            pieces.append(updates)
        return b"".join(pieces)

    def _said(self, line: words.Line) -> bytes:
        if self._device_id is not None and line.device_id != self._device_id:
            return b""
        said = [_message(data) for kind, data in line.spoken if kind in self._types]
        if said:
            said[-1] = b"id: %d\n%s" % (line.id, said[-1])
        return b"".join(said)

    def closed(self) -> None:
        self._leave()


class _Timed:
    """A web stream that says something every so often: `due` is what."""

    heartbeat = ALIVE

    def __init__(self, leave: Leave, *, every_s: float) -> None:
        self._leave, self._every_s, self._due = leave, every_s, 0.0

    def first(self) -> bytes:
        return b": the stream has begun\n\n"

    def more(self, feed: Feed, now: float) -> bytes:
        limits.renew_places()
        if now < self._due:
            return b""
        self._due = now + self._every_s
        return self.due(feed, now)

    def due(self, feed: Feed, now: float) -> bytes:
        raise NotImplementedError

    def closed(self) -> None:
        self._leave()


class DeviceList(_Timed):
    """The web stream of all devices (contract 9.9)."""

    def __init__(self, shared: Shared, leave: Leave) -> None:
        super().__init__(leave, every_s=DEVICES_EVERY_S)
        self._shared = shared

    def due(self, feed: Feed, now: float) -> bytes:
        return b"event: device_update\n" + self._shared.device_list(now)


class LogLines(_Timed):
    """The web stream of the log (contract 9.9)."""

    def __init__(self, shared: Shared, device_id: str | None, position: int, leave: Leave) -> None:
        super().__init__(leave, every_s=LOGS_EVERY_S)
        self._shared, self._device_id, self._position = shared, device_id, position

    def due(self, feed: Feed, now: float) -> bytes:
        found, gap = feed.after(self._position)
        self._position = found[-1].id if found else gap.position if gap else self._position
        pieces = [b"event: log\n" + _message(_encode(line.entry)) for line in self._shared.lines.of(found)
                  if line.entry.level != "debug" and self._device_id in (None, line.device_id)]
        return b"".join([*pieces, b"event: heartbeat\ndata: {}\n\n"])


class Shared:
    """What the streams of one process have in common."""

    def __init__(self, allowed: limits.Limits) -> None:
        self.lines, self.updates = words.Lines(), Updates()
        self._limits = allowed
        self._lock = threading.Lock()
        self._devices: tuple[float, bytes] = (float("-inf"), b"")

    def device_list(self, now: float) -> bytes:
        """All devices as a message, at most a second old."""
        with self._lock:
            if now - self._devices[0] >= 1.0:
                shown = [render.device(view) for view in devices.listed().items]
                self._devices = now, _message(_encode({"timestamp": render.now(), "devices": shown}))
            return self._devices[1]

    # handlers

    def monitor(self, call: Call) -> Answer:
        """Follow what happens, as server-sent events."""
        types, device_id = call.query["types"], call.query["device_id"]
        if device_id is not None:
            devices.get(device_id)
        start = _start(call, watch.last_id())
        return self._opened(call, lambda leave: Monitor(self, types, device_id, start, leave))

    def web_devices(self, call: Call) -> Answer:
        """Follow the devices, as server-sent events with names."""
        return self._opened(call, lambda leave: DeviceList(self, leave))

    def web_logs(self, call: Call) -> Answer:
        """Follow the log, as server-sent events with names."""
        device_id = call.query["device"]
        if device_id is not None:
            devices.get(device_id)
        newest = watch.last_id()
        return self._opened(call, lambda leave: LogLines(self, device_id, newest, leave))

    def _opened(self, call: Call, make: Callable[[Leave], Source]) -> Answer:
        if call.environ["REQUEST_METHOD"] == "HEAD":
            return Answer(body=[], headers=[*HEADERS])
        headers, leave = self._limits.enter(call.who.identity)
        try:
            body = Stream(make(leave), call.environ, kind="events")
        except Exception:
            leave()
            raise
        return Answer(body=body, headers=[*HEADERS, *headers])


def _start(call: Call, newest: int) -> tuple[int, Gap | None]:
    """Where to go on: after `Last-Event-ID`, else now; and what is missing there."""
    given = call.environ.get("HTTP_LAST_EVENT_ID", "").strip()
    if not given:
        return newest, None
    if not given.isascii() or not given.isdigit() or len(given) > 18:
        raise wrong_parameter("Last-Event-ID", f"{given[:40]!r} is no event number", "the id of an event of this stream")
    if int(given) > newest:  # seen in another life of this database: a backup was restored
        return newest, Gap(newest + 1, int(given), newest)
    return int(given), None


def _gap(gap: Gap) -> bytes:
    said = {"type": "gap", "from": gap.first, "to": gap.last, "timestamp": render.now()}
    return b"id: %d\n%s" % (gap.position, _message(_encode(said)))


def _message(data: bytes) -> bytes:
    return b"data: %s\n\n" % data
