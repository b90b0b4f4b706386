"""How is the server asked? One session, time limits, and repeats only where a repeat can do no harm.

A read is repeated when the connection breaks or the server is busy. A change is repeated only when it surely did not
happen: the connection could not be made, or the server said 429 or 503 with the time to wait.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests

from retire_cluster_client.errors import ClusterError, ConnectionFailedError, RequestTimeoutError, of_answer

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
BUSY = frozenset({502, 503, 504})
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 8.0


class Transport:
    """Requests below `<base>/api/v1`. `timeout_s` is for each answer; `patience_s` the longest wait that a 429 or 503 may
    ask for, all repeats together. May be used by several threads: each has a session of its own."""

    def __init__(self, base_url: str, *, api_key: str | None, timeout_s: float, retries: int, patience_s: float,
                 product: str) -> None:
        self.root = _root(base_url)
        self.timeout_s = timeout_s
        self._headers = {"Accept": "application/json", "X-Client": product}
        if api_key:
            self._headers["X-API-Key"] = api_key
        self._retries = retries
        self._patience_s = patience_s
        self._local = threading.local()

    def call(self, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Any = None,
             raw: bool = False, also: tuple[int, ...] = ()) -> Any:
        """The `data` of the answer (`raw`: all of it). Raises ClusterError, unless the answer has a status of `also` and data."""
        where = path if path.startswith("/health") else f"/api/v1{path}"
        answer = self.send(method, where, params=params, body=body, also=also)
        found = _json(answer)
        if raw:
            return found
        if not isinstance(found, Mapping) or "data" not in found:
            raise ClusterError(f"{self.root} does not answer like a Retire-Cluster server", http_status=answer.status_code)
        return found["data"]

    def send(self, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Any = None,
             also: tuple[int, ...] = ()) -> requests.Response:
        """One answer with a status below 400, after as many repeats as are harmless."""
        waited, turn = 0.0, 0
        while True:
            try:
                return self._once(method, path, params=params, body=body, also=also)
            except ClusterError as error:
                pause_s = self._pause(error, method, turn)
                if pause_s is None or waited + pause_s > self._patience_s:
                    raise
            time.sleep(pause_s)
            waited, turn = waited + pause_s, turn + 1

    def open_stream(self, path: str, *, params: Mapping[str, Any], last_id: str | None, idle_s: float) -> requests.Response:
        """An event stream; `idle_s` without a byte is a broken connection."""
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
        return self._once("GET", f"/api/v1{path}", params=params, headers=headers, stream=True, timeout_s=idle_s)

    def close(self) -> None:
        """Close this thread's connections."""
        session = getattr(self._local, "session", None)
        if session is not None:
            session.close()
            del self._local.session

    def _once(self, method: str, path: str, *, params: Mapping[str, Any] | None, body: Any = None, stream: bool = False,
              headers: Mapping[str, str] | None = None, timeout_s: float | None = None,
              also: tuple[int, ...] = ()) -> requests.Response:
        given = {key: _text(value) for key, value in (params or {}).items() if value is not None}
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        try:
            answer = self._session().request(method, self.root + path, params=given, json=body, stream=stream,
                                             headers=dict(headers or {}), timeout=(min(limit_s, 10.0), limit_s),
                                             allow_redirects=False)
        except requests.exceptions.ConnectTimeout as error:
            raise _unreached(self.root, error) from None
        except requests.exceptions.Timeout:
            raise RequestTimeoutError(f"{self.root} did not answer {method} {path} within {limit_s:g} s") from None
        except requests.exceptions.RequestException as error:
            raise _unreached(self.root, error) from None
        if answer.status_code >= 300 and not (answer.status_code in also and _has_data(answer)):
            with answer:
                raise of_answer(answer.status_code, _json(answer), reason=answer.reason or "", retry_after_s=_retry_after(answer),
                                request_id=answer.headers.get("X-Request-ID", ""))
        return answer

    def _pause(self, error: ClusterError, method: str, turn: int) -> float | None:
        """Seconds until the next try, None when there must be none."""
        if turn >= self._retries:
            return None
        doubled = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**turn) * random.uniform(0.75, 1.25)  # noqa: S311
        if error.http_status == 429 or (error.http_status == 503 and error.retry_after_s is not None):
            return error.retry_after_s if error.retry_after_s is not None else doubled
        never_sent = isinstance(error, ConnectionFailedError) and error.details.get("sent") is False
        if never_sent or (method in SAFE and (error.http_status in BUSY or error.http_status == 0)):
            return doubled
        return None

    def _session(self) -> requests.Session:
        session = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.trust_env = False  # a .netrc would replace our key, a proxy would see it
            session.headers.update(self._headers)
        return session


def _root(base_url: str) -> str:
    found = base_url.strip().rstrip("/").removesuffix("/api/v1").rstrip("/")
    parts = urlsplit(found)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"base_url: {base_url!r} is not a URL such as http://localhost:8081")
    return found


def _unreached(root: str, error: requests.exceptions.RequestException) -> ConnectionFailedError:
    text = str(error)
    sent = not (isinstance(error, requests.exceptions.ConnectTimeout) or "NewConnectionError" in text
                or "Failed to establish" in text or "NameResolution" in text)
    why = "the connection broke" if sent else "it cannot be reached"
    return ConnectionFailedError(f"{root}: {why}", details={"sent": sent})


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return [_text(one) for one in value] if isinstance(value, (list, tuple)) else value


def _json(answer: requests.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def _has_data(answer: requests.Response) -> bool:
    found = _json(answer)
    return isinstance(found, Mapping) and isinstance(found.get("data"), Mapping)


def _retry_after(answer: requests.Response) -> float | None:
    try:
        return max(0.0, float(answer.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None
