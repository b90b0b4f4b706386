"""Who are we to the server? Joining, the node's secret, and what is remembered of it in the work directory."""

from __future__ import annotations

import binascii
import json
import os
import time

from cloudsched.agent import log
from cloudsched.agent.wire import Unreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cloudsched.agent.wire import Answer, Connection

JOIN_PATH = "/api/v2/agent/join"
SYNC_PATH = "/api/v2/agent/sync"
JOIN_TIMEOUT_S = 30.0
ANSWER_MARGIN_S = 15.0


class Gone(Exception):
    """The server says that this node is no more."""


class Unknown(Exception):
    """The server does not know our secret, or refuses the token."""


class Busy(Exception):
    """The server asks to come back later."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Session:
    """The node's identity; `secret` changes with each join."""

    def __init__(self, folder: str, *, server: str, token: str, name: str | None, profile: dict[str, Any]) -> None:
        self._file = os.path.join(folder, "agent.json")
        self._server = server
        self._token = token
        self._profile = profile
        self.instance = binascii.hexlify(os.urandom(8)).decode()
        self.name = name
        self.node_id: int | None = None
        self.secret = ""
        self.heartbeat_s = 10.0
        self.long_poll_s = 20.0
        self.doubtful_at = float("-inf")  # when an answer, and with it a claim, may have been lost
        self._remember_from_disk()

    @property
    def joined(self) -> bool:
        return self.node_id is not None

    def headers(self) -> dict[str, str]:
        """Authorization as of now."""
        return {"Authorization": "Bearer %s.%s" % (self.node_id, self.secret)}

    def join(self, connection: Connection) -> dict[str, Any]:
        """Join and return the server's facts (for `welcome`); raises Gone, Unknown, Busy, Unreachable."""
        body = {"token": self._token, "name": self.name, "profile": self._profile, "instance": self.instance}
        answer = _post(connection, JOIN_PATH, body, {}, JOIN_TIMEOUT_S)
        if answer.status in (409, 410):
            raise Gone(_detail(answer))
        if answer.status == 401:
            raise Unknown(_detail(answer))
        facts = _checked(answer, (200, 201))
        if not isinstance(facts.get("node_id"), int) or not isinstance(facts.get("secret"), str):
            raise Unreachable("the answer to join is not one of a cloudsched server")
        return facts

    def welcome(self, facts: dict[str, Any]) -> None:
        """Take over what a join answered, and keep it for the next start."""
        self.node_id = facts["node_id"]
        self.secret = facts["secret"]
        self.name = str(facts.get("name") or self.name or self.node_id)
        self.heartbeat_s = _seconds(facts.get("heartbeat_s"), self.heartbeat_s)
        self.long_poll_s = _seconds(facts.get("long_poll_s"), self.long_poll_s)
        kept = {"server": self._server, "node_id": self.node_id, "name": self.name, "secret": self.secret}
        kept["instance"] = self.instance
        write_private(self._file, json.dumps(kept))

    def sync(self, connection: Connection, body: dict[str, Any]) -> dict[str, Any]:
        """One sync; raises Gone (410), Unknown (401), Busy, Unreachable."""
        body["instance"] = self.instance
        timeout_s = float(body.get("wait_s") or 0.0) + ANSWER_MARGIN_S
        resent = connection.resent
        try:
            answer = _post(connection, SYNC_PATH, body, self.headers(), timeout_s)
        except Unreachable:
            self.doubtful_at = time.monotonic()
            raise
        if connection.resent != resent:
            self.doubtful_at = time.monotonic()
        if answer.status == 410:
            raise Gone(_detail(answer))
        if answer.status == 401:
            raise Unknown(_detail(answer))
        return _checked(answer, (200,))

    def forget(self) -> None:
        """The node is gone: its secret is of no use any more."""
        try:
            os.unlink(self._file)
        except OSError:
            pass

    def _remember_from_disk(self) -> None:
        try:
            with open(self._file) as file:
                kept = json.load(file)
            if kept["server"] != self._server or (self.name and kept["name"] != self.name):
                return
            self.node_id, self.name, self.secret = int(kept["node_id"]), str(kept["name"]), str(kept["secret"])
        except (OSError, ValueError, KeyError, TypeError):
            return


def write_private(path: str, text: str) -> None:
    """Replace `path` in one step; only we can read it."""
    beside = path + ".new"
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    os.replace(beside, path)


def _post(
    connection: Connection, path: str, body: dict[str, Any], headers: dict[str, str], timeout_s: float
) -> Answer:
    data = json.dumps(body, separators=(",", ":")).encode()
    headers = dict(headers)
    headers["Content-Type"] = "application/json"
    return connection.request("POST", path, body=data, headers=headers, timeout_s=timeout_s)


def _checked(answer: Answer, good: tuple[int, ...]) -> dict[str, Any]:
    if answer.status in (429, 503):
        raise Busy("the server is busy (%d)" % answer.status, answer.retry_after_s(1.0))
    if answer.status not in good:
        raise Unreachable("the server answered %d: %s" % (answer.status, _detail(answer)))
    try:
        facts = json.loads(answer.body)
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise Unreachable("the answer is not JSON as the protocol says")
    return facts


def _detail(answer: Answer) -> str:
    try:
        facts = json.loads(answer.body)
        return str(facts.get("detail") or facts.get("title"))
    except (ValueError, AttributeError):
        log.say("debug", "an error answer without a problem body", status=answer.status)
        return "status %d" % answer.status


def _seconds(value: Any, default: float) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 3600
    return float(value) if good else default
