"""How does an error look on the wire? RFC 9457 problems, for every kind of error and every way it came up."""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import Any

import msgspec

from cloudsched.errors import CloudschedError, Invalid, RateLimited

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_S = 1
_encode = msgspec.json.Encoder(enc_hook=str).encode

# Kind of error -> HTTP status. A kind that is not here is a mistake of ours: 500.
STATUS = {
    "invalid": 400, "not_found": 404, "conflict": 409, "stale": 412, "gone": 410, "unauthenticated": 401,
    "forbidden": 403, "too_large": 413, "rate_limited": 429, "unavailable": 503, "unsupported": 409, "driver": 502,
    "sealed": 500,
}
STATUS_LINE = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}
Headers = list[tuple[str, str]]


class HttpProblem(CloudschedError):
    """A refusal that only HTTP knows: 404 of a route, 405, 406, 415."""

    kind = "http"

    def __init__(self, status: int, message: str, *, headers: Headers | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or []


def render(error: BaseException, *, request_id: str = "") -> tuple[int, Headers, bytes]:
    """(status, headers, body) of an error. What we did not foresee is logged, and told without its text."""
    if isinstance(error, RecursionError):
        error = Invalid("the body is nested too deeply")
    if not isinstance(error, CloudschedError):
        log.error("request %s failed", request_id, exc_info=error)
        return problem(500, "internal", "the server made a mistake; its log has the details under this request",
                       extra={"request_id": request_id} if request_id else {})
    if isinstance(error, HttpProblem):
        return problem(error.status, "http", error.message, headers=error.headers)
    status = STATUS.get(error.kind, 500)
    extra: dict[str, Any] = dict(error.details)
    if isinstance(error, Invalid) and error.errors:
        extra["errors"] = [{"field": e.field, "message": e.message, "allowed": e.allowed} for e in error.errors]
    return problem(status, error.kind, error.message, extra=extra, headers=_headers(error, status))


def problem(status: int, kind: str, detail: str, *, extra: dict[str, Any] | None = None,
            headers: Headers | None = None) -> tuple[int, Headers, bytes]:
    """One problem document; members of `extra` that RFC 9457 defines itself are left out."""
    title = HTTPStatus(status).phrase
    name = title.lower().replace(" ", "-") if kind == "http" else kind.replace("_", "-")
    own = {"type": f"urn:cloudsched:problem:{name}", "title": title, "status": status, "detail": detail}
    body = _encode({**own, **{k: v for k, v in (extra or {}).items() if k not in own}})
    return status, [("Content-Type", CONTENT_TYPE), *(headers or [])], body


def _headers(error: CloudschedError, status: int) -> Headers:
    if isinstance(error, RateLimited):
        return [("Retry-After", str(max(1, math.ceil(error.retry_after_s))))]
    if status in (429, 503):
        return [("Retry-After", str(RETRY_AFTER_S))]
    if status == 401:
        return [("WWW-Authenticate", 'Bearer realm="cloudsched"')]
    return []
