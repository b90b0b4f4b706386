"""How is an API server asked, and what do its refusals mean? One place for limits, repeats, pages and error codes.

Objects are plain dicts, as they came: what a newer server adds is kept. A request is repeated only when nothing can
have happened (it was never sent, or refused as one too many) or when doing it twice is the same as once.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import urllib3
from kubernetes.client.exceptions import ApiException, OpenApiException
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from cloudsched.drivers.base import AUTH, DENIED, ENDPOINT, OTHER, QUOTA, REQUEST, DriverError
from cloudsched.drivers.kubernetes.access import Access

Object = dict[str, Any]
JSON, MERGE, APPLY = "application/json", "application/merge-patch+json", "application/apply-patch+yaml"
MANAGER = "cloudsched"
PAGE = 500
CONNECT_S = 5.0
ATTEMPTS = 4
# Of one object, and of a list: a server takes the first that it knows, and refuses (406) the one that does not fit.
METADATA_ONLY, METADATA_LIST = (f"application/json;as=PartialObjectMetadata{sort};g=meta.k8s.io;v=v1,application/json"
                                for sort in ("", "List"))
_MAX_MESSAGE = 600
_END_OF_MESSAGE = 150
_NEVER_SENT = (NewConnectionError, ConnectTimeoutError, NameResolutionError, ProxyError)


class ApiRefused(DriverError):
    """The server said no. `status`: of HTTP; `reason`: Kubernetes' own word (`NotFound`, `AlreadyExists`, ...);
    `causes`: `[{"reason", "message", "field"}]`; `retry_after_s`: when to come back, or None."""

    def __init__(self, message: str, *, status: int, reason: str, causes: list[Object], retry_after_s: float | None,
                 code: int, transient: bool) -> None:
        super().__init__(message, code=code, transient=transient)
        self.status, self.reason, self.causes, self.retry_after_s = status, reason, causes, retry_after_s


class Api:
    """One server. Safe to use from several threads."""

    def __init__(self, access: Access, *, timeout_s: float = 30.0, pause: Callable[[float], None] = time.sleep) -> None:
        self.access = access
        self.timeout_s = timeout_s
        self._pause = pause

    def get(self, path: str, *, accept: str = JSON, **query: Any) -> Object:
        """One object, or one page of a list."""
        return self.send("GET", path, query=query, accept=accept, repeat=True)[1]

    def find(self, path: str, *, accept: str = JSON) -> Object | None:
        """One object; None when it is not there."""
        try:
            return self.get(path, accept=accept)
        except ApiRefused as refused:
            if refused.status == 404:
                return None
            raise

    def pages(self, path: str, *, accept: str = JSON, **query: Any) -> Iterator[Object]:
        """The pages of a list, each with its `items` and the version of the whole. A list that takes too long to read
        (410) is gone on with as it is now, as the server offers, or read anew when nothing was given out."""
        token = ""
        while True:
            try:
                page = self.get(path, accept=accept, limit=PAGE, **query, **({"continue": token} if token else {}))
            except ApiRefused as refused:
                if refused.status != 410 or not token:
                    raise
                raise ListExpired(path) from refused
            yield page
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return

    def items(self, path: str, *, accept: str = JSON, **query: Any) -> list[Object]:
        """Everything in a list."""
        return self.listed(path, accept=accept, **query)[0]

    def listed(self, path: str, *, accept: str = JSON, **query: Any) -> tuple[list[Object], str]:
        """Everything in a list, and the version from which to watch on. Items carry their kind."""
        for attempt in range(ATTEMPTS):
            found: list[Object] = []
            version = kind = api_version = ""
            try:
                for page in self.pages(path, accept=accept, **query):
                    version = version or str((page.get("metadata") or {}).get("resourceVersion", ""))
                    kind, api_version = str(page.get("kind", "")).removesuffix("List"), str(page.get("apiVersion", ""))
                    found += page.get("items") or []
            except ListExpired:
                if attempt == ATTEMPTS - 1:
                    raise
                continue
            for one in found:
                one.setdefault("kind", kind)
                one.setdefault("apiVersion", api_version)
            return found, version
        raise AssertionError("unreachable")

    def send(self, method: str, path: str, body: Any = None, *, query: Mapping[str, Any] | None = None,
             content_type: str = JSON, accept: str = JSON, repeat: bool = False) -> tuple[int, Object]:
        """One request, within the time limit with all its repeats; the status and the answer. `repeat`: doing it twice is
        the same as once. Raises ApiRefused for an answer that says no, DriverError (ENDPOINT) when there is none."""
        deadline = time.monotonic() + self.timeout_s
        attempt = 0
        while True:
            attempt += 1
            try:
                return self._once(method, path, body, query, content_type, accept, deadline)
            except DriverError as error:
                pause_s = _pause_before(error, attempt, repeat=repeat)
                if pause_s is None or time.monotonic() + pause_s >= deadline:
                    raise
            self._pause(pause_s)

    def stream(self, path: str, *, read_timeout_s: float, **query: Any) -> urllib3.HTTPResponse:
        """An answer to be read as it comes; to be closed by the caller."""
        response = self._request("GET", path, None, query, JSON, "*/*", timeout=(CONNECT_S, read_timeout_s))
        if response.status >= 400:
            try:
                data = response.read(65536)
            except HTTPError:
                data = b""
            finally:
                response.close()
            raise _refusal(response, data, f"GET {path}")
        return response

    def _once(self, method: str, path: str, body: Any, query: Mapping[str, Any] | None, content_type: str, accept: str,
              deadline: float) -> tuple[int, Object]:
        left = max(0.1, deadline - time.monotonic())
        response = self._request(method, path, body, query or {}, content_type, accept,
                                 timeout=(min(CONNECT_S, left), left))
        try:
            data = _read(response, deadline)
        except (HTTPError, OSError, TimeoutError) as error:
            raise self.unreachable(error) from None
        finally:
            response.release_conn()
        if response.status >= 300:
            raise _refusal(response, data, f"{method} {path}")
        try:
            answer = json.loads(data)
        except ValueError:
            raise DriverError(f"{self.access.server}: the answer to {method} {path} is not JSON", code=ENDPOINT) from None
        return response.status, answer if isinstance(answer, dict) else {"items": answer}

    def _request(self, method: str, path: str, body: Any, query: Mapping[str, Any], content_type: str, accept: str, *,
                 timeout: tuple[float, float]) -> urllib3.HTTPResponse:
        client = self.access.client
        headers = {"Accept": accept} | ({"Content-Type": content_type} if body is not None else {})
        pairs = [(name, value) for name, value in query.items() if value not in (None, "")]
        try:
            method, url, headers, body, _ = client.param_serialize(
                method, path, query_params=pairs, header_params=headers, body=body, auth_settings=["BearerToken"])
            headers["User-Agent"] = MANAGER
            ask: Callable[..., Any] = client.rest_client.request
            response: urllib3.HTTPResponse = ask(method, url, headers=headers, body=body, _request_timeout=timeout).response
            return response
        except (HTTPError, OpenApiException, OSError) as error:
            raise self.unreachable(error) from None

    def unreachable(self, error: Exception) -> DriverError:
        """No answer. The text of the library is not repeated: it may hold the URL with its query."""
        why = _why(error)
        failed = DriverError(f"{self.access.server} cannot be reached: {why}", code=ENDPOINT,
                             transient=why != _UNTRUSTED)
        failed.details["never_sent"] = isinstance(error, _NEVER_SENT)
        return failed


class ListExpired(DriverError):
    """A list changed faster than its pages were read."""

    def __init__(self, path: str) -> None:
        super().__init__(f"the list {path} expired while it was read", code=OTHER, transient=True)


_UNTRUSTED = "its certificate is not trusted"
_WHYS: tuple[tuple[type[Exception], str], ...] = (
    (NameResolutionError, "its name is not known"), (NewConnectionError, "the connection is refused"),
    (ConnectTimeoutError, "no connection within the time limit"), (ReadTimeoutError, "no answer within the time limit"),
    (TimeoutError, "no answer within the time limit"), (ProxyError, "the proxy does not connect"), (SSLError, _UNTRUSTED))


def _why(error: Exception) -> str:
    if isinstance(error, ApiException):  # the library's own word for trouble with TLS
        return _UNTRUSTED
    return next((text for sort, text in _WHYS if isinstance(error, sort)), "the connection broke")


def _read(response: urllib3.HTTPResponse, deadline: float) -> bytes:
    """The whole body, however slowly it drips, within the limit."""
    parts: list[bytes] = []
    while True:
        part = response.read1(1 << 20)
        if not part:
            return b"".join(parts)
        parts.append(part)
        if time.monotonic() > deadline:
            response.close()
            raise TimeoutError


def _pause_before(error: DriverError, attempt: int, *, repeat: bool) -> float | None:
    """How long to wait before the next attempt; None: there is none."""
    if attempt >= ATTEMPTS:
        return None
    if isinstance(error, ApiRefused):
        throttled = error.status == 429 and not _blocked(error)
        if throttled or (repeat and error.status in (500, 502, 503, 504) and error.transient):
            return error.retry_after_s if error.retry_after_s is not None else _backoff_s(attempt)
        return None
    never_sent = bool(error.details.get("never_sent"))
    return _backoff_s(attempt) if error.transient and (repeat or never_sent) else None


def _backoff_s(attempt: int) -> float:
    return 0.05 * 3 ** (attempt - 1) * (0.75 + random.random() / 2)  # noqa: S311


def _blocked(error: ApiRefused) -> bool:
    """A disruption budget says no, not the server's own limit."""
    return any(one.get("reason") == "DisruptionBudget" for one in error.causes) or "disruption budget" in error.message


def _refusal(response: urllib3.HTTPResponse, data: bytes, asked: str) -> ApiRefused:
    try:
        body = json.loads(data)
    except ValueError:
        body = {}
    if not isinstance(body, dict) or body.get("kind") != "Status":
        body = {"message": data[:200].decode("utf-8", "replace").strip() or response.reason or "", "reason": ""}
    return refusal_of(body, status=response.status, asked=asked, retry_after=response.headers.get("Retry-After"))


def refusal_of(body: Mapping[str, Any], *, status: int, asked: str = "", retry_after: str | None = None) -> ApiRefused:
    """A Status body as an error with our result code."""
    message, reason = str(body.get("message") or ""), str(body.get("reason") or "")
    details = body.get("details") or {}
    causes = [one for one in details.get("causes") or () if isinstance(one, dict)]
    code, transient = _meaning(status, message, causes)
    text = {401: "the credentials are not valid (any more)"}.get(status) or message or f"HTTP {status}"
    return ApiRefused(_short(text) + ("" if message or not asked else f" ({asked})"), status=status, reason=reason,
                      causes=causes, retry_after_s=_seconds(retry_after, details.get("retryAfterSeconds")), code=code,
                      transient=transient)


def _short(text: str) -> str:
    """Without its middle when it is long: a value that is refused is told in full before the reason."""
    if len(text) <= _MAX_MESSAGE:
        return text
    return f"{text[:_MAX_MESSAGE - _END_OF_MESSAGE]} ... {text[-_END_OF_MESSAGE:]}"


def _meaning(status: int, message: str, causes: list[Object]) -> tuple[int, bool]:
    """Result code, and whether the same call may succeed later by itself."""
    if status == 403:
        if "exceeded quota" in message or "failed quota" in message:
            return QUOTA, False
        if "status unknown for quota" in message:  # it was made a moment ago
            return QUOTA, True
        terminating = any(one.get("reason") == "NamespaceTerminating" for one in causes)
        return (OTHER, True) if terminating else (DENIED, False)
    if status in (401, 407):
        return AUTH, False
    if status in (409, 410, 429):
        return OTHER, True
    if status >= 500:
        return ENDPOINT, True
    return REQUEST, False


def _seconds(*given: Any) -> float | None:
    for value in given:
        try:
            return min(60.0, max(0.0, float(value)))
        except (TypeError, ValueError):
            continue
    return None
