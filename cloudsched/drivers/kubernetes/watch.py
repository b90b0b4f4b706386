"""What changes in the cluster, without missing anything unsaid? A watch that goes on after whatever may happen to it.

A connection that breaks is opened again from the last version seen: nothing is lost. Where the server has forgotten that
version (410), everything is listed anew: what happened between cannot be told one by one, and the watch says so (`gap`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError

from cloudsched.drivers.base import DriverError
from cloudsched.drivers.kubernetes.client import Api, ApiRefused, Object, refusal_of
from cloudsched.drivers.kubernetes.kinds import Resource

PRESENT, ADDED, MODIFIED, DELETED, SYNCED, GAP = "present", "added", "modified", "deleted", "synced", "gap"
_SORTS = {"ADDED": ADDED, "MODIFIED": MODIFIED, "DELETED": DELETED}
_TURN_S = 240.0
_SLACK_S = 15.0
_MAX_BACKOFF_S = 10.0
_MAX_LINE = 8 << 20
_REPEATED = (ADDED, MODIFIED)


@dataclass(frozen=True, slots=True)
class Change:
    """One change. `type`: present (it was there when the list was read), added, modified, deleted, synced (the list has
    been read, `object` is empty), gap (changes were missed; what is there follows as present, what is not as deleted).
    `version`: from which `since` goes on after this change; empty while a list is given out."""

    type: str
    object: Object = field(default_factory=dict)
    version: str = ""


def watch(api: Api, resource: Resource, *, namespace: str = "", selector: str = "", fields: str = "", since: str = "",
          stop: threading.Event | None = None, turn_s: float = _TURN_S) -> Iterator[Change]:
    """Changes for ever, or until `stop` is set (it is heard within moments, even while nothing happens).

    Without `since`, what is there comes first. Trouble with the network is waited out. Raises DriverError when the
    server does not let us watch (AUTH, DENIED) or does not know the kind.
    """
    return _Watch(api, resource, namespace, selector, fields, stop or threading.Event(), turn_s).run(since)


class _Watch:
    def __init__(self, api: Api, resource: Resource, namespace: str, selector: str, fields: str, stop: threading.Event,
                 turn_s: float) -> None:
        self._api, self._path = api, resource.path(namespace)
        self._resource = resource
        self._query = {"labelSelector": selector, "fieldSelector": fields}
        self._stop, self._turn_s = stop, turn_s
        self._known: dict[str, Object] | None = None  # uid -> name and namespace; None: never listed
        self._version = ""
        self._failures = 0
        self._heard = False

    def run(self, since: str) -> Iterator[Change]:
        self._version = since
        lost = False
        while not self._stop.is_set():
            try:
                if not self._version:
                    yield from self._list(lost=lost)
                    lost = False
                self._heard = False
                yield from self._turn()
                if not self._heard:  # even a quiet turn ends with a word of where we are
                    self._wait(None)
            except DriverError as error:
                if _is_too_old(error):
                    self._version, lost = "", True
                elif not error.transient:
                    raise
                else:
                    self._wait(error)

    def _list(self, *, lost: bool) -> Iterator[Change]:
        found, version = self._api.listed(self._path, **self._query)
        if lost:
            yield Change(GAP)
        there = {str(one["metadata"]["uid"]): _mark(one) for one in found}
        for uid, thing in (self._known or {}).items():
            if uid not in there:
                yield Change(DELETED, thing)
        self._known = there
        for one in found:
            yield Change(PRESENT, one)
        self._version = version
        yield Change(SYNCED, version=version)

    def _turn(self) -> Iterator[Change]:
        """One request; its end is nothing special."""
        response = self._api.stream(self._path, read_timeout_s=self._turn_s + _SLACK_S, watch="true", allowWatchBookmarks="true",
                                    resourceVersion=self._version, timeoutSeconds=int(self._turn_s), **self._query)
        with _closed_by(self._stop, response):
            for line in lines_of(response):
                if self._stop.is_set():
                    return
                self._failures, self._heard = 0, True
                change = self._read(json.loads(line))
                if change is not None:
                    yield change

    def _read(self, event: Object) -> Change | None:
        thing = event["object"]
        if event["type"] == "ERROR":
            raise refusal_of(thing, status=int(thing.get("code") or 500))
        self._version = str(thing["metadata"]["resourceVersion"])
        if event["type"] not in _SORTS:
            return None
        thing.setdefault("kind", self._resource.kind)
        thing.setdefault("apiVersion", self._resource.api_version)
        if self._known is not None:
            uid = str(thing["metadata"]["uid"])
            if event["type"] == "DELETED":
                self._known.pop(uid, None)
            else:
                self._known[uid] = _mark(thing)
        return Change(_SORTS[event["type"]], thing, self._version)

    def _wait(self, error: DriverError | None) -> None:
        self._failures += 1
        backoff_s = min(_MAX_BACKOFF_S, 0.02 * 2 ** min(self._failures, 10))
        self._stop.wait(getattr(error, "retry_after_s", None) or backoff_s)


def lines_of(response: urllib3.HTTPResponse) -> Iterator[bytes]:
    """The lines of an answer as they come; a connection that breaks is its end. The last line may lack its end."""
    rest = b""
    while True:
        try:
            piece = response.read1(65536)
        except (HTTPError, OSError, ValueError, AttributeError):  # broken, or closed from another thread
            return
        if not piece:
            if rest and response.headers.get("Content-Type", "").startswith("text"):
                yield rest  # a container's last words; half an event is none
            return
        *whole, rest = (rest + piece).split(b"\n")
        if len(rest) > _MAX_LINE:
            raise DriverError(f"a line of more than {_MAX_LINE >> 20} MiB in a stream")
        yield from (one for one in whole if one)


@contextmanager
def _closed_by(stop: threading.Event, response: urllib3.HTTPResponse) -> Iterator[None]:
    """Closes the connection when `stop` is set, so that a reader that waits for it wakes up."""
    over = threading.Event()

    def wait() -> None:
        while not over.is_set():
            if stop.wait(0.2):
                _shut(response)
                return

    watcher = threading.Thread(target=wait, name="kubernetes-watch-stop", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        response.close()


def _shut(response: urllib3.HTTPResponse) -> None:
    try:
        response.shutdown()
    except (AttributeError, OSError, ValueError, RuntimeError):  # it has ended by itself
        pass


def _is_too_old(error: DriverError) -> bool:
    if not isinstance(error, ApiRefused):
        return False
    return error.status == 410 or error.reason in ("Expired", "Gone") or any(
        one.get("reason") == "ResourceVersionTooLarge" for one in error.causes)


def _mark(thing: Object) -> Object:
    """Enough of an object to say that it has gone."""
    metadata: dict[str, Any] = {key: thing["metadata"][key] for key in ("name", "namespace", "uid") if key in thing["metadata"]}
    return {"kind": thing.get("kind", ""), "apiVersion": thing.get("apiVersion", ""), "metadata": metadata}
