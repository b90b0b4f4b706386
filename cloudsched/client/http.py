"""How is one call made? Keep-alive, typed refusals, and only those retries that cannot do a thing twice.

A call may be repeated when it is idempotent by its method (GET, PUT, DELETE) or made so (a POST that creates
carries an `Idempotency-Key`; the other POSTs of the API set a wish and may be said twice). Standard library
alone: a command line must start at once.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from cloudsched import __version__
from cloudsched.client.errors import BusyError, ConflictError, ServerAway, from_answer
from cloudsched.client.sse import EventReader, ServerEvent
from cloudsched.client.tries import Tries

API = "/api/v2"
PIECE_BYTES = 64 * 1024
_REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE"})
_BROKEN = (http.client.HTTPException, OSError)
_ENDED = frozenset({"succeeded", "failed", "timeout", "cancelled"})  # states of jobs


class Answer(NamedTuple):
    """An answer below 400: `data` is parsed JSON (None for an empty body), `headers` by lower-case name."""

    status: int
    headers: dict[str, str]
    data: Any

    @property
    def etag(self) -> str | None:
        return self.headers.get("etag")


class Client:
    """The native API at `base_url`; paths are given below `/api/v2`. One instance serves one thread.

    `timeout_s`: the longest silence on a connection. `patience_s`: how long calls that may be repeated are,
    once the server has answered this client (a restart is waited for); one that never answered gets a second.
    `follow_patience_s`: the same for what is followed (output, events, records); `on_away` is called once each time
    the server is lost while something is followed. Raises ApiError kinds and ServerAway.
    """

    def __init__(
        self,
        base_url: str,
        key: str | None = None,
        *,
        timeout_s: float = 30.0,
        patience_s: float = 30.0,
        follow_patience_s: float = 120.0,
        on_away: Callable[[ServerAway], None] | None = None,
        user: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urlsplit(base_url)
        self.base_url = base_url.rstrip("/")
        self.timeout_s = timeout_s
        self.patience_s = patience_s
        self.follow_patience_s = follow_patience_s
        self.on_away = on_away
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._secure else 80)
        self._prefix = parts.path.rstrip("/")
        self._headers = {"Accept": "application/json", "User-Agent": f"cloudsched/{__version__}"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        if user and user.isascii() and user.isprintable():
            self._headers["X-Cloudsched-User"] = user
        self._sleep = sleep
        self._monotonic = monotonic
        self._connection: http.client.HTTPConnection | None = None
        self._met = False
        self._away_told = False

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the kept connection; the client can be used again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # --- calls with a JSON answer

    def get(self, path: str, **params: Any) -> Any:
        """GET; the parsed body. A parameter that is None is left out, a list goes by comma."""
        return self.call("GET", path, params=params).data

    def post(self, path: str, body: Any = None, **params: Any) -> Any:
        """POST of a wish that may be said twice (cancel, drain, enable ...)."""
        return self.call("POST", path, params=params, body=body, repeatable=True).data

    def create(self, path: str, body: Any, **params: Any) -> Any:
        """POST that makes something: carries a fresh Idempotency-Key, so that a retry makes it once."""
        headers = {"Idempotency-Key": os.urandom(16).hex()}
        return self.call("POST", path, params=params, body=body, headers=headers, repeatable=True).data

    def patch(self, path: str, body: Any, *, if_match: str | None = None) -> Any:
        """PATCH, never repeated; with `if_match` only when the thing is still that version (ConflictError)."""
        return self.call("PATCH", path, body=body, headers={"If-Match": if_match} if if_match else None).data

    def delete(self, path: str, **params: Any) -> Any:
        """DELETE; the parsed body."""
        return self.call("DELETE", path, params=params).data

    def items(self, path: str, *, limit: int | None = None, **params: Any) -> Iterator[dict[str, Any]]:
        """The items of a list, over all its pages, at most `limit` of them (None: all)."""
        left, cursor = limit, None
        while left is None or left > 0:
            size = 1000 if left is None else min(left, 1000)
            page = self.get(path, **params, limit=size, cursor=cursor)
            items = page["items"][:left]
            yield from items
            cursor = page.get("next")
            if not cursor:
                return
            left = None if left is None else left - len(items)

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """One call; `body` is sent as JSON unless it is bytes. `repeatable` None: by the method."""
        payload, all_headers = self._payload(body, headers)
        repeatable = method in _REPEATABLE if repeatable is None else repeatable
        response = self._send(
            method, _target(path, params), payload, all_headers, repeatable, timeout_s=timeout_s
        )
        status, found, raw = response
        return Answer(status, found, _parsed(found, raw))

    # --- calls with a long or binary answer

    def output(
        self,
        job: int | str,
        stream: str = "stdout",
        *,
        offset: int = 0,
        follow: bool = False,
        attempt: int | None = None,
    ) -> Iterator[bytes]:
        """The output of a job in pieces.

        With `follow` until the job has ended, whatever happens to connections and server meanwhile; without `attempt`
        the newest one's and then those of the attempts that follow.
        """
        if not follow:
            yield from self._output(job, stream, offset, attempt, follow=False)
            return
        found = self._job(job)
        number = attempt or max(1, found["attempt"])
        while True:
            for piece in self._output(job, stream, offset, number, follow=True):
                offset += len(piece)
                yield piece
            # What was known before the bytes counts: of an ended attempt they were all there.
            if attempt is None and found["attempt"] > number:
                number, offset = number + 1, 0
            elif found["state"] in _ENDED or found["attempt"] > number:
                return
            found = self._job(job)
            if found["state"] not in _ENDED and found["attempt"] <= number:
                self._sleep(0.2)  # a server that stops ends its answers, too

    def has_ended(self, job: int | str) -> bool:
        """Has this job ended? A server that is away is waited for as long as when something is followed."""
        return self._job(job)["state"] in _ENDED

    def records(
        self, path: str, *, over: Callable[[], bool] = lambda: True, **params: Any
    ) -> Iterator[dict[str, Any]]:
        """Records of collected logs as they come, resumed where a connection broke; when the server ends them and
        they were `over` before."""
        tries = self._tries(follow=True, told=False)
        while True:
            was_over = over()
            connection, response = self._open(
                path, {**params, "follow": 1}, {"Accept": "application/x-ndjson"}, self._tries(follow=True)
            )
            try:
                while line := response.readline():
                    tries.alive()
                    if line.strip():
                        record = json.loads(line)
                        params["cursor"] = record.pop("cursor")
                        yield record
                if was_over:
                    return
                self._sleep(0.2)
            except TimeoutError:
                continue
            except (*_BROKEN, ValueError) as error:
                tries.pause(self._away(error))
            finally:
                connection.close()

    def download(self, path: str, file: BinaryIO, **params: Any) -> int:
        """GET `path` into `file`; the number of bytes. ServerAway when the answer was cut."""
        connection, response = self._open(path, params, {"Accept": "*/*"}, self._tries(follow=False))
        size = 0
        try:
            while piece := self._piece(response):
                size += file.write(piece)
        finally:
            connection.close()
        return size

    def upload(self, path: str, data: bytes) -> Any:
        """PUT bytes."""
        return self.call("PUT", path, body=data).data

    def events(
        self, since: int | None = None, *, last_id: str | None = None, **filters: Any
    ) -> Iterator[ServerEvent]:
        """The event stream without an end; a broken connection is resumed after the last event read."""
        reader = EventReader(last_id)
        tries = self._tries(follow=True, told=False)
        while True:
            headers = {"Accept": "text/event-stream"}
            params = {**filters, "since": since}
            if reader.last_id is not None:
                headers["Last-Event-ID"] = reader.last_id
                del params["since"]
            connection, response = self._open("/events", params, headers, self._tries(follow=True))
            if response.headers.get_content_type() != "text/event-stream":
                connection.close()
                raise ServerAway(self.base_url, "it does not stream events (a proxy in between?)")
            try:
                for event in reader.read(response):
                    tries.alive()
                    yield event
                self._sleep(reader.retry_s if reader.retry_s is not None else 0.2)
            except TimeoutError:
                continue
            except _BROKEN as error:
                tries.pause(self._away(error))
            finally:
                connection.close()

    # --- the wire

    def _payload(self, body: Any, headers: Mapping[str, str] | None) -> tuple[bytes | None, dict[str, str]]:
        found = {**self._headers, **(headers or {})}
        if body is None:
            return None, found
        if isinstance(body, bytes):
            return body, {**found, "Content-Type": "application/octet-stream"}
        return json.dumps(body, separators=(",", ":")).encode(), {**found, "Content-Type": "application/json"}

    def _send(
        self,
        method: str,
        target: str,
        payload: bytes | None,
        headers: dict[str, str],
        repeatable: bool,
        *,
        timeout_s: float | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """The whole answer below 400, repeated with back-off where that is harmless."""
        deadline: float | None = None
        pause_s = 0.1
        while True:
            try:
                return self._exchange(method, target, payload, headers, repeatable, timeout_s)
            except BusyError as error:
                failure: Exception = error
                wait_s = max(error.retry_after_s, pause_s)
                if not repeatable or not error.retry_after_s:
                    raise
            except ConflictError as error:
                if "Idempotency-Key" not in headers or "still at work" not in error.detail:
                    raise
                failure, wait_s = error, pause_s  # our own first try, whose connection broke, is not done yet
            except _BROKEN as error:
                self.close()
                failure = ServerAway(self.base_url, _reason(error))
                wait_s = pause_s
                if not repeatable and not isinstance(error, ConnectionRefusedError):
                    raise failure from None
            now = self._monotonic()
            deadline = deadline if deadline is not None else now + (self.patience_s if self._met else 1.0)
            if now + wait_s > deadline:
                raise failure from None
            self._sleep(wait_s)
            pause_s = min(pause_s * 2, 5.0)

    def _exchange(
        self,
        method: str,
        target: str,
        payload: bytes | None,
        headers: dict[str, str],
        repeatable: bool,
        timeout_s: float | None,
    ) -> tuple[int, dict[str, str], bytes]:
        if not repeatable:
            self.close()  # a kept connection may be dead already, and then nobody knows whether the call arrived
        fresh = self._connection is None
        connection = self._connection = self._connection or self._connect()
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s or self.timeout_s)
        try:
            connection.request(method, self._prefix + target, body=payload, headers=headers)
            response = connection.getresponse()
            raw = response.read()
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            if fresh:
                raise
            self.close()  # the server had closed the idle connection
            return self._exchange(method, target, payload, headers, repeatable, timeout_s)
        self._met, self._away_told = True, False
        found = {name.lower(): value for name, value in response.getheaders()}
        if response.status >= 400:
            raise _refusal(response.status, response.reason, found, raw)
        return response.status, found, raw

    # --- answers that are followed, each on a connection of its own (threads may share the client for these)

    def _output(
        self, job: int | str, stream: str, offset: int, attempt: int | None, *, follow: bool
    ) -> Iterator[bytes]:
        """One answer to its end, resumed where a connection broke."""
        tries = self._tries(follow=follow, told=False)
        while True:
            params = {"stream": stream, "offset": offset, "follow": 1 if follow else None, "attempt": attempt}
            connection, response = self._open(
                f"/jobs/{segment(job)}/output", params, {"Accept": "text/plain"}, self._tries(follow=follow)
            )
            try:
                while piece := response.read1(PIECE_BYTES):
                    offset += len(piece)
                    tries.alive()
                    yield piece
                return
            except _BROKEN as error:
                if not (follow and isinstance(error, TimeoutError)):  # that one is silent, not broken
                    tries.pause(self._away(error))
            finally:
                connection.close()

    def _job(self, job: int | str) -> dict[str, Any]:
        tries = self._tries(follow=True)
        while True:
            connection, response = self._open(f"/jobs/{segment(job)}", {}, {}, tries)
            try:
                found: dict[str, Any] = json.loads(response.read())
                return {**found, "attempt": int(found.get("attempt") or 0)}
            except (*_BROKEN, ValueError) as error:
                tries.pause(self._away(error))
            finally:
                connection.close()

    def _open(
        self, path: str, params: Mapping[str, Any], headers: Mapping[str, str], tries: Tries
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """A connection of its own with an answer whose body has not been read."""
        while True:
            try:
                found = self._opened(self._prefix + _target(path, params), {**self._headers, **headers})
                self._met, self._away_told = True, False
                return found
            except BusyError as error:
                if not error.retry_after_s:
                    raise
                tries.pause(error, error.retry_after_s)
            except _BROKEN as error:
                tries.pause(self._away(error))

    def _opened(
        self, target: str, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = self._connect()
        try:
            connection.request("GET", target, headers=dict(headers))
            response = connection.getresponse()
            if response.status < 400:
                return connection, response
            raw = response.read()
        except _BROKEN:
            connection.close()
            raise
        connection.close()
        self._met = True
        found = {name.lower(): value for name, value in response.getheaders()}
        raise _refusal(response.status, response.reason, found, raw)

    def _piece(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read(PIECE_BYTES)
        except _BROKEN as error:
            raise self._away(error) from None

    def _away(self, error: Exception) -> ServerAway:
        return ServerAway(self.base_url, _reason(error))

    def _tries(self, *, follow: bool, told: bool = True) -> Tries:
        """`told`: not of an answer that broke off; when nobody answers after that, it is told then. Of what is not followed
        it never is."""
        patience_s = self.follow_patience_s if follow else self.patience_s
        return Tries(
            lambda: patience_s if self._met else 1.0, sleep=self._sleep,
            monotonic=self._monotonic, told=self._tell_away if follow and told else None,
        )  # fmt: skip

    def _tell_away(self, failure: Exception) -> None:
        if self._met and self.on_away is not None and isinstance(failure, ServerAway) and not self._away_told:
            self._away_told = True
            self.on_away(failure)

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=self.timeout_s)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


def segment(name: int | str) -> str:
    """A name as one path segment: `/`, `#`, blanks and the like are escaped."""
    return quote(str(name), safe="")


def _target(path: str, params: Mapping[str, Any] | None) -> str:
    given = ((key, ",".join(map(str, value)) if isinstance(value, list) else value) for key, value in (params or {}).items())
    query = urlencode([(key, value) for key, value in given if value not in (None, "")])
    return API + path + ("?" + query if query else "")


def _parsed(headers: Mapping[str, str], raw: bytes) -> Any:
    if not raw:
        return None
    if "json" in headers.get("content-type", ""):
        return json.loads(raw)
    return raw.decode("utf-8", "replace")


def _refusal(status: int, reason: str, headers: Mapping[str, str], raw: bytes) -> Exception:
    error = from_answer(status, reason, raw)
    if isinstance(error, BusyError):
        error.retry_after_s = _seconds(headers.get("retry-after"))
    return error


def _seconds(text: str | None) -> float:
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 1.0  # a date: the server's clock and ours may differ, so only "not at once" is read from it


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, socket.gaierror):
        return "unknown host name"
    if isinstance(error, http.client.IncompleteRead):
        return "the answer was cut"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
