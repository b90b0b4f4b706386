"""How is a controller driven over slurmrestd? The same verbs as with commands, in the words of five API versions.

v0.0.37 and v0.0.38 give plain numbers and words; from v0.0.39 on numbers come as `{"set", "infinite", "number"}`, words as
lists, and exit codes as objects; only from then on hosts can be drained, and a batch script be warned of its end.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.slurm import restforms
from cloudsched.drivers.slurm.commands import checked_ids, checked_node
from cloudsched.drivers.slurm.model import ClusterNode, JobRecord, Partition, Submission
from cloudsched.drivers.slurm.options import SlurmOptions
from cloudsched.drivers.slurm.refusals import refusal

ANSWER_BYTES = 256 << 20
# Error numbers of slurmrestd that the text of their answer does not tell apart.
_NOT_KNOWN = frozenset({2017, 2021})  # invalid job id; already completing or completed
_ENDED = ("invalid job id", "already completing", "already finished", "unknown job")


class RestController:
    """slurmrestd at `rest_url`."""

    def __init__(self, options: SlurmOptions) -> None:
        self._options = options
        self._version = options.rest_version
        self._number = int(self._version.rpartition(".")[2])
        self._user = options.rest_user or user_in(options.rest_token)
        self._accounting: bool | None = None
        self.can_drain = self.can_warn = self._number >= restforms.OBJECTS_FROM

    # -- the controller ----------------------------------------------------------------------------------------

    def ping(self) -> str:
        found = self._get("/ping").get("pings") or []
        for one in found:
            if one.get("ping") == "UP" or one.get("pinged") == "UP" or one.get("responding") is True:
                return f"Slurmctld({one.get('mode', 'primary')}) at {one.get('hostname', '?')} is UP"
        raise refusal("ping", "Unable to contact slurm controller")

    def facts(self) -> Mapping[str, str]:
        """The REST API does not show the configuration."""
        return {}

    def has_accounting(self) -> bool:
        """Asked once: does slurmrestd have a slurmdbd behind it?"""
        if self._accounting is None:
            status, body = self._call("GET", f"/slurmdb/{self._version}/diag")
            self._accounting = status == 200 and not _errors(body)
        return self._accounting

    # -- jobs --------------------------------------------------------------------------------------------------

    def check(self, submission: Submission) -> str:
        """There is no trial over REST: the partition is looked at."""
        names = [one.name for one in self.partitions()]
        if submission.partition and submission.partition not in names:
            raise refusal("partitions", f"Invalid partition name specified: {submission.partition}")
        return f"partitions: {', '.join(names)}"

    def submit(self, submission: Submission) -> str:
        body = self._good("POST", "/job/submit", restforms.submission(submission, self._number))
        job_id = body.get("job_id") or (body.get("result") or {}).get("job_id")
        if not isinstance(job_id, int) or job_id <= 0:
            raise DriverError("slurmrestd took the job and gave no id", code=base.OTHER, transient=True)
        return str(job_id)

    def cancel(self, ids: Sequence[str]) -> None:
        """One call for each: the API knows no other way in all of these versions. A whole array is one id."""
        for one in checked_ids(ids):
            status, body = self._call("DELETE", f"/slurm/{self._version}/job/{one}")
            errors = [error for error in _errors(body) if error.get("error_number", error.get("error_code")) not in _NOT_KNOWN
                      and not any(word in _said(error).lower() for word in _ENDED)]  # fmt: skip
            if errors:
                raise refusal(f"cancel {one}", "\n".join(_said(error) for error in errors))
            if status >= 500 and not _errors(body):
                raise refusal(f"cancel {one}", f"HTTP status {status}")

    def jobs(self, *, names: Iterable[str] = (), ids: Iterable[str] = ()) -> list[JobRecord]:
        wanted, named = {one.partition("_")[0] for one in checked_ids(ids)}, set(names)
        if len(wanted) == 1 and not named:
            status, body = self._call("GET", f"/slurm/{self._version}/job/{next(iter(wanted))}")
            if status != 200 or _errors(body):
                body = {"jobs": []} if _only_unknown(body) else self._checked("GET job", status, body)
        else:
            body = self._get("/jobs")
        found = []
        for row in body.get("jobs") or []:
            if not wanted and self._user and row.get("user_name") not in (None, "", self._user):
                continue
            found += [record for record in restforms.jobs(row) if (not wanted or record.base_id in wanted)
                      and (not named or record.name in named)]  # fmt: skip
        return found

    def history(self, ids: Sequence[str]) -> list[JobRecord] | None:
        if not self.has_accounting():
            return None
        found: list[JobRecord] = []
        for one in sorted({one.partition("_")[0] for one in checked_ids(ids)}, key=int):
            status, body = self._call("GET", f"/slurmdb/{self._version}/job/{one}")
            if status == 200:
                found += [restforms.account(row) for row in body.get("jobs") or [] if row.get("partition")]
        return found

    # -- the cluster -------------------------------------------------------------------------------------------

    def partitions(self) -> list[Partition]:
        return [restforms.partition(row) for row in self._get("/partitions").get("partitions") or []]

    def nodes(self) -> list[ClusterNode]:
        return [restforms.node(row) for row in self._get("/nodes").get("nodes") or []]

    def set_node(self, name: str, state: str, reason: str) -> None:
        if not self.can_drain:
            raise DriverError(f"drain: slurmrestd {self._version} cannot change hosts; v0.0.39 can", code=base.REQUEST)
        body = {"state": [state], **({"reason": reason} if reason else {})}
        self._good("POST", f"/node/{quote(checked_node(name), safe='')}", body)

    # -- calling -----------------------------------------------------------------------------------------------

    def _get(self, path: str) -> dict[str, Any]:
        return self._good("GET", path)

    def _good(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        status, answer = self._call(method, f"/slurm/{self._version}{path}", body)
        return self._checked(f"{method} {path}", status, answer)

    def _checked(self, doing: str, status: int, answer: dict[str, Any]) -> dict[str, Any]:
        errors = _errors(answer)
        if errors and self._options.rest_token and all(one.get("error") == "Unspecified error" for one in errors):
            raise DriverError(f"{doing}: slurmrestd gives no reason; the usual one is a token that is wrong or has run out",
                              code=base.AUTH)  # fmt: skip
        if errors:
            raise refusal(doing, "\n".join(_said(error) for error in errors))
        if status in (401, 403, 511):
            raise DriverError(f"{doing}: slurmrestd does not take the token ({status})", code=base.AUTH)
        if status == 404:
            raise DriverError(f"{doing}: slurmrestd does not know it; rest_version is {self._version}", code=base.ENDPOINT)
        if status >= 300:
            code, transient = (base.ENDPOINT, True) if status >= 500 else (base.OTHER, False)
            raise DriverError(f"{doing}: slurmrestd answered {status}", code=code, transient=transient)
        return answer

    def _call(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        try:
            return self._called(method, path, body)
        except (ConnectionResetError, http.client.RemoteDisconnected) as error:
            if method != "GET":
                raise _away(error) from error
        try:  # slurmrestd hangs up now and then when many ask at once: what only reads is asked again
            return self._called(method, path, body)
        except (ConnectionResetError, http.client.RemoteDisconnected) as error:
            raise _away(error) from error

    def _called(self, method: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        headers = {"Accept": "application/json"}
        if self._options.rest_token:
            headers["X-SLURM-USER-TOKEN"] = self._options.rest_token
        if self._options.rest_token and self._user:
            headers["X-SLURM-USER-NAME"] = self._user
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        prefix = "" if self._options.rest_url.startswith("unix:") else urlsplit(self._options.rest_url).path.rstrip("/")
        connection = _connection(self._options.rest_url, self._options.command_limit_s)
        try:
            connection.request(method, prefix + path, body=data, headers=headers)
            answer = connection.getresponse()
            return answer.status, _json(answer.read(ANSWER_BYTES))
        except (ConnectionResetError, http.client.RemoteDisconnected):
            raise
        except (OSError, http.client.HTTPException) as error:
            raise _away(error) from error
        finally:
            connection.close()


def _away(error: Exception) -> DriverError:
    why = getattr(error, "strerror", None) or type(error).__name__
    return DriverError(f"slurmrestd cannot be reached: {why}", code=base.ENDPOINT, transient=True)


def user_in(token: str) -> str:
    """The user that a JWT is for; empty when it does not say."""
    try:
        payload = token.split(".")[1]
        facts = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return str(facts.get("sun") or facts.get("username") or "")
    except (IndexError, ValueError, AttributeError):
        return ""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a socket file."""

    def __init__(self, path: str, *, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _connection(url: str, timeout_s: float) -> http.client.HTTPConnection:
    if url.startswith("unix:"):
        return _UnixConnection(os.path.normpath(url.removeprefix("unix:")), timeout=timeout_s)
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname or "", parts.port, timeout=timeout_s)


def _json(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data) if data else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _errors(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [one for one in body.get("errors") or [] if isinstance(one, dict)]


def _said(error: Mapping[str, Any]) -> str:
    words = (error.get("error"), error.get("description"))
    return ": ".join(str(word) for word in words if word) or f"error {error.get('error_number', error.get('error_code'))}"


def _only_unknown(body: Mapping[str, Any]) -> bool:
    errors = _errors(body)
    return bool(errors) and all(any(word in _said(error).lower() for word in _ENDED) for error in errors)
